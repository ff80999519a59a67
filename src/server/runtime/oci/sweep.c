#include "server/runtime/oci/sweep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"

enum { RUNTIMES_MS = 5000, PAUSE_MS = 2, ARGV_MAX = 16384 };

// Whether the process was started with "--root" and our directory as neighbours in its arguments.
static bool works_for(const char *pid, const char *state_path) {
    char path[300];
    cleanup_strbuf struct strbuf sb;
    struct error ignored;
    strbuf_init(&sb, ARGV_MAX);
    (void)snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    (void)fd_read_all(fd, &sb, &ignored); // a longer command line is none of ours
    size_t wish = strlen(state_path) + 1;
    for (size_t i = 0; i + 7 + wish <= sb.len + 1; i++)
        if ((!i || !sb.data[i - 1]) && !memcmp(sb.data + i, "--root", 7) &&
            !memcmp(sb.data + i + 7, state_path, wish))
            return true;
    return false;
}

static int kill_runtimes(const char *state_path) {
    int n = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        uint64_t pid;
        if (!parse_u64(e->d_name, 2, INT32_MAX, &pid) && works_for(e->d_name, state_path) &&
            !kill((pid_t)pid, SIGKILL))
            n++;
    }
    if (d)
        (void)closedir(d);
    return n;
}

int sweep_runtimes(const char *state_path, struct error *err) {
    int64_t end = clock_boot_ms() + RUNTIMES_MS;
    while (kill_runtimes(state_path)) {
        struct timespec t = {
            .tv_nsec = PAUSE_MS * 1000000L}; // strangers' children: nothing tells us of their end
        if (clock_boot_ms() > end)
            return error_set(err, EBUSY,
                             "a runtime program of an earlier server (--root %s) survives SIGKILL",
                             state_path);
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
    }
    return 0;
}

// ---- what exists ----

struct census {
    struct map ids;
    bool failed;
};

static int note(const char *id, void *arg) {
    struct census *c = arg;
    if (strlen(id) < SANDBOX_ID_SIZE && map_put(&c->ids, id, c))
        c->failed = true;
    return 0;
}

static void note_entries(struct census *c, int dir) {
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            (void)note(e->d_name, c);
    (void)closedir(d);
}

static void take_census(struct oci *o, struct census *c) {
    map_init(&c->ids);
    c->failed = false;
    note_entries(c, o->sandboxes);
    note_entries(c, o->state);
    (void)cgroups_each(&o->cgroups, note, c);
    (void)cgroups_each(&o->egress_groups, note, c);
    (void)network_each(o->network, note, c);
}

struct filling {
    struct runtime_found *items;
    size_t count;
};

static bool fill(const char *key, void *value, void *arg) {
    struct filling *f = arg;
    (void)value;
    (void)snprintf(f->items[f->count++].id, SANDBOX_ID_SIZE, "%s", key);
    return true;
}

int sweep_list(struct oci *o, struct runtime_found **ret_found, size_t *ret_count,
               struct error *err) {
    struct census c;
    take_census(o, &c);
    struct filling f = {.items = calloc(c.ids.count + 1, sizeof *f.items)};
    if (f.items && !c.failed)
        map_each(&c.ids, fill, &f);
    bool failed = !f.items || c.failed;
    map_clear(&c.ids);
    if (failed) {
        free(f.items);
        return error_set(err, ENOMEM, "out of memory");
    }
    *ret_found = f.items;
    *ret_count = f.count;
    return 0;
}

static bool is_live(const char *id, void *arg) {
    return box_find(arg, id) != NULL;
}

// One that has ended has none; its address goes back to the pool.
static bool has_link(const char *id, void *arg) {
    const struct box *b = box_find(arg, id);
    return b && b->has_net;
}

int sweep_all(struct oci *o, struct error *err) {
    struct runtime_found *found = NULL;
    size_t count = 0, swept = 0;
    if (sweep_list(o, &found, &count, err))
        return -1;
    int r = 0;
    for (size_t i = 0; !r && i < count; i++)
        if (!is_live(found[i].id, o)) {
            r = sandbox_destroy(o, found[i].id, err);
            swept++;
        }
    free(found);
    if (swept)
        log_info("swept %zu sandboxes that nobody owns", swept);
    return r ? -1 : network_sweep(o->network, has_link, o, err);
}
