#include "execd/metrics/cgroup.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/parse.h"

enum { FILE_MAX = 256 * 1024, LEVELS_MAX = 32 };

// Directory of our cgroup in one hierarchy, and how much of its path belongs to the mount point.
struct place {
    bool found, v2;
    char dir[PATH_MAX];
    size_t top;
};

static bool read_file(const char *dir, const char *name, struct strbuf *sb) {
    char path[PATH_MAX];
    struct error ignored; // not there: another source is asked
    strbuf_clear(sb);
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return false;
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && fd_read_all(fd, sb, &ignored) == 0;
}

// The number that begins a text; what is no number ("max", "-1") is false.
static bool number_at(const char *text, uint64_t *ret) {
    return parse_u64n(text, strspn(text, "0123456789"), 0, UINT64_MAX, ret) == 0;
}

static bool read_number(const char *dir, const char *name, uint64_t *ret) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, FILE_MAX);
    return read_file(dir, name, &sb) && number_at(sb.data, ret);
}

// The number behind "key " at the beginning of a line.
static bool keyed(const char *text, const char *key, uint64_t *ret) {
    size_t len = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, len) && (line[len] == ' ' || line[len] == ':'))
            return number_at(line + len + 1 + strspn(line + len + 1, " \t"), ret);
    }
    return false;
}

static bool read_keyed(const char *dir, const char *name, const char *key, uint64_t *ret) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, FILE_MAX);
    return read_file(dir, name, &sb) && keyed(sb.data, key, ret);
}

// ---- where our cgroup is ----

static bool in_list(const char *list, size_t len, const char *word) {
    size_t word_len = strlen(word);
    for (size_t at = 0; at < len;) {
        size_t n = 0;
        while (at + n < len && list[at + n] != ',')
            n++;
        if (n == word_len && !memcmp(list + at, word, n))
            return true;
        at += n + 1;
    }
    return false;
}

// The path of /proc/self/cgroup for a controller; NULL: the unified one.
static bool own_path(const char *cgroups, const char *controller, char path[PATH_MAX]) {
    for (const char *line = cgroups; *line;) {
        const char *list = strchr(line, ':'), *colon = list ? strchr(list + 1, ':') : NULL;
        size_t len = strcspn(line, "\n");
        if (!colon || colon > line + len)
            return false;
        size_t list_len = (size_t)(colon - list) - 1;
        if (controller ? in_list(list + 1, list_len, controller) : list_len == 0) {
            (void)snprintf(path, PATH_MAX, "%.*s", (int)(line + len - colon - 1), colon + 1);
            return true;
        }
        line += len + (line[len] == '\n');
    }
    return false;
}

// Fields of one line of mountinfo: 4 root, 5 mount point; behind " - " type, source, options.
static bool match_mount(char *line, const char *controller, const char **ret_root,
                        const char **ret_point) {
    char *behind = strstr(line, " - ");
    char *fields[5] = {line};
    for (size_t i = 1; i < ARRAY_SIZE(fields); i++) {
        fields[i] = fields[i - 1] ? strchr(fields[i - 1], ' ') : NULL;
        if (!fields[i])
            return false;
        *fields[i]++ = 0;
    }
    char *end = strchr(fields[4], ' ');
    if (!behind || !end)
        return false;
    *end = 0;
    *ret_root = fields[3];
    *ret_point = fields[4];
    const char *type = behind + 3, *options = strrchr(type, ' ');
    if (!controller)
        return !strncmp(type, "cgroup2 ", 8);
    return !strncmp(type, "cgroup ", 7) && options &&
           in_list(options + 1, strlen(options + 1), controller);
}

struct tables {
    const char *root;
    struct strbuf mounts, cgroups;
};

// `probe`: a file that our cgroup has when it is the right one.
static void find(const struct tables *t, const char *controller, const char *probe,
                 struct place *ret) {
    char path[PATH_MAX], *save = NULL;
    *ret = (struct place){.v2 = !controller};
    if (!own_path(t->cgroups.data, controller, path))
        return;
    cleanup_free char *lines = strdup(t->mounts.data);
    cleanup_strbuf struct strbuf probed;
    strbuf_init(&probed, FILE_MAX);
    for (char *line = lines ? strtok_r(lines, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        const char *root, *point;
        if (!match_mount(line, controller, &root, &point))
            continue;
        // the mount shows the hierarchy from `root` on; a path that is not below it belongs to
        // another cgroup namespace, and then the mount point itself is all that can be ours
        size_t root_len = strcmp(root, "/") ? strlen(root) : 0;
        const char *rest = !strncmp(path, root, root_len) ? path + root_len : "";
        ret->top = (size_t)snprintf(ret->dir, PATH_MAX, "%s%s", t->root, point);
        (void)snprintf(ret->dir, PATH_MAX, "%s%s%s", t->root, point, strcmp(rest, "/") ? rest : "");
        ret->found = read_file(ret->dir, probe, &probed);
        if (!ret->found) {
            ret->dir[ret->top < PATH_MAX ? ret->top : 0] = 0;
            ret->found = read_file(ret->dir, probe, &probed);
        }
        if (ret->found)
            return;
    }
}

// A controller belongs to one hierarchy only: to v1 when there is one with its name.
static void find_either(const struct tables *t, const char *controller, const char *probe1,
                        const char *probe2, struct place *ret) {
    find(t, controller, probe1, ret);
    if (!ret->found)
        find(t, NULL, probe2, ret);
}

// Calls f for our cgroup and each above it, up to the mount point: the smallest limit counts.
static void upwards(const struct place *p, void (*f)(const char *dir, bool v2, struct usage *u),
                    struct usage *u) {
    char dir[PATH_MAX];
    memcpy(dir, p->dir, sizeof dir);
    for (int level = 0; level < LEVELS_MAX; level++) {
        f(dir, p->v2, u);
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < p->top)
            return;
        *slash = 0;
    }
}

// ---- processor ----

static void apply_quota(const char *dir, bool v2, struct usage *u) {
    uint64_t quota, period;
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, FILE_MAX);
    if (v2) {
        const char *space = read_file(dir, "cpu.max", &sb) ? strchr(sb.data, ' ') : NULL;
        if (!space || !number_at(sb.data, &quota) || !number_at(space + 1, &period))
            return;
    } else if (!read_number(dir, "cpu.cfs_quota_us", &quota) ||
               !read_number(dir, "cpu.cfs_period_us", &period)) {
        return;
    }
    if (quota && period && (double)quota / (double)period < u->cpus)
        u->cpus = (double)quota / (double)period;
}

// user nice system idle iowait irq softirq steal (guest time is part of user), in ticks.
static uint64_t machine_cpu_ns(const char *root) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, FILE_MAX);
    uint64_t busy = 0, ticks;
    if (!read_file(root, "proc/stat", &sb) || strncmp(sb.data, "cpu ", 4) != 0)
        return 0;
    const char *p = sb.data + 3;
    for (int i = 0; i < 8 && *p == ' '; i++) {
        p += strspn(p, " ");
        if (number_at(p, &ticks) && i != 3 && i != 4)
            busy += ticks;
        p += strcspn(p, " \n");
    }
    return busy * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK));
}

static void read_cpu(const struct tables *t, struct usage *u) {
    struct place p;
    cpu_set_t set;
    u->cpus = !sched_getaffinity(0, sizeof set, &set) ? CPU_COUNT(&set)
                                                      : (double)sysconf(_SC_NPROCESSORS_ONLN);
    find_either(t, "cpu", "cpu.cfs_quota_us", "cpu.max", &p);
    if (p.found)
        upwards(&p, apply_quota, u);
    u->at_ns = clock_boot_ns();
    find_either(t, "cpuacct", "cpuacct.usage", "cpu.stat", &p);
    if (p.found && !p.v2 && read_number(p.dir, "cpuacct.usage", &u->cpu_ns))
        return;
    uint64_t us;
    if (p.found && p.v2 && read_keyed(p.dir, "cpu.stat", "usage_usec", &us))
        u->cpu_ns = us * 1000;
    else
        u->cpu_ns = machine_cpu_ns(t->root);
}

// ---- memory ----

static void apply_limit(const char *dir, bool v2, struct usage *u) {
    uint64_t limit;
    if (read_number(dir, v2 ? "memory.max" : "memory.limit_in_bytes", &limit) &&
        limit < u->memory_max)
        u->memory_max = limit;
}

static void machine_memory(const char *root, struct usage *u) {
    uint64_t total = 0, available = 0;
    (void)read_keyed(root, "proc/meminfo", "MemTotal", &total);
    (void)read_keyed(root, "proc/meminfo", "MemAvailable", &available);
    u->memory_max = total * 1024;
    u->memory = total > available ? (total - available) * 1024 : 0;
}

static void read_memory(const struct tables *t, struct usage *u) {
    struct place p;
    uint64_t current, inactive = 0;
    machine_memory(t->root, u);
    find_either(t, "memory", "memory.usage_in_bytes", "memory.current", &p);
    if (!p.found)
        return;
    upwards(&p, apply_limit, u);
    if (!read_number(p.dir, p.v2 ? "memory.current" : "memory.usage_in_bytes", &current))
        return;
    (void)read_keyed(p.dir, "memory.stat", p.v2 ? "inactive_file" : "total_inactive_file",
                     &inactive);
    u->memory = current > inactive ? current - inactive : 0;
    if (u->memory > u->memory_max)
        u->memory = u->memory_max;
}

void usage_read(const char *root, struct usage *ret) {
    struct tables t = {.root = *root ? root : ""};
    *ret = (struct usage){0};
    strbuf_init(&t.mounts, FILE_MAX);
    strbuf_init(&t.cgroups, FILE_MAX);
    (void)read_file(root, "proc/self/mountinfo", &t.mounts); // without them: the machine
    (void)read_file(root, "proc/self/cgroup", &t.cgroups);
    read_cpu(&t, ret);
    read_memory(&t, ret);
    strbuf_free(&t.mounts);
    strbuf_free(&t.cgroups);
}

double usage_percent(const struct usage *before, const struct usage *now) {
    double span = (double)(now->at_ns - before->at_ns) * now->cpus;
    if (now->cpu_ns <= before->cpu_ns || span <= 0)
        return 0;
    double percent = 100 * (double)(now->cpu_ns - before->cpu_ns) / span;
    return percent < 100 ? percent : 100;
}
