#include "execd/telemetry/observe.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"

enum { LINE_MAX_BYTES = 512, DEV_RECEIVED = 0, DEV_SENT = 8 };

static void close_directory(DIR **d) {
    if (*d)
        (void)closedir(*d);
}

static void close_file(FILE **f) {
    if (*f)
        (void)fclose(*f);
}

static int64_t count_processes(const char *root) {
    char path[PATH_MAX];
    int64_t count = 0;
    (void)snprintf(path, sizeof path, "%s/proc", root);
    cleanup(close_directory) DIR *d = opendir(path);
    if (!d)
        return -1;
    for (const struct dirent *e; (e = readdir(d));)
        count += isdigit((unsigned char)*e->d_name) != 0;
    return count;
}

// The field of a line at `index`, fields being separated by blanks; NULL when there is none.
static const char *field_at(const char *line, unsigned index, size_t *ret_len) {
    for (;; index--) {
        line += strspn(line, " \t");
        *ret_len = strcspn(line, " \t\n");
        if (!*ret_len)
            return NULL;
        if (!index)
            return line;
        line += *ret_len;
    }
}

static bool number_at(const char *line, unsigned index, int64_t *ret) {
    size_t len;
    uint64_t n;
    const char *text = field_at(line, index, &len);
    if (!text || parse_u64n(text, len, 0, INT64_MAX, &n) < 0)
        return false;
    *ret = (int64_t)n;
    return true;
}

static FILE *open_table(const char *root, const char *name) {
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/proc/net/%s", root, name);
    return fopen(path, "re");
}

// "  eth0: bytes packets ... (8 received, 8 sent)"
static void read_links(const char *root, struct observation *o) {
    char line[LINE_MAX_BYTES];
    cleanup(close_file) FILE *f = open_table(root, "dev");
    if (!f)
        return;
    o->received = o->sent = 0;
    while (fgets(line, sizeof line, f)) {
        const char *name = line + strspn(line, " "), *colon = strchr(name, ':');
        int64_t in, out;
        if (!colon || !strncmp(name, "lo:", 3))
            continue;
        if (number_at(colon + 1, DEV_RECEIVED, &in) && number_at(colon + 1, DEV_SENT, &out)) {
            o->received += in;
            o->sent += out;
        }
    }
}

// The kernel's own count of all families, in two lines: names, numbers. The tables of sockets would
// say the same for milliseconds of walking through those of the whole machine.
static int64_t count_established(const char *root) {
    static const char name[] = "CurrEstab";
    char line[LINE_MAX_BYTES];
    unsigned index = 0;
    int64_t n;
    cleanup(close_file) FILE *f = open_table(root, "snmp");
    while (f && fgets(line, sizeof line, f)) {
        const char *at;
        size_t len;
        if (strncmp(line, "Tcp:", 4) != 0)
            continue;
        if (index)
            return number_at(line, index, &n) ? n : -1;
        while ((at = field_at(line, ++index, &len)) &&
               (len != sizeof name - 1 || strncmp(at, name, len) != 0))
            ;
        if (!at)
            return -1;
    }
    return -1;
}

// "UDP: inuse 3 ...", "UDP6: inuse 1" in files of their own; without IPv6 there is no second one.
static int64_t count_udp(const char *root) {
    static const struct {
        const char *file, *tag;
    } tables[] = {{"sockstat", "UDP:"}, {"sockstat6", "UDP6:"}};
    char line[LINE_MAX_BYTES];
    int64_t count = -1, n;
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        cleanup(close_file) FILE *f = open_table(root, tables[i].file);
        while (f && fgets(line, sizeof line, f))
            if (!strncmp(line, tables[i].tag, strlen(tables[i].tag)) && number_at(line, 2, &n))
                count = (count < 0 ? 0 : count) + n;
    }
    return count;
}

void observe(const char *root, const struct usage *before, struct observation *ret) {
    *ret = (struct observation){.received = -1, .sent = -1};
    usage_read(root, &ret->usage);
    ret->cpu_percent = usage_percent(before, &ret->usage);
    ret->memory = (int64_t)ret->usage.memory;
    ret->processes = count_processes(root);
    read_links(root, ret);
    ret->tcp = count_established(root);
    ret->udp = count_udp(root);
}
