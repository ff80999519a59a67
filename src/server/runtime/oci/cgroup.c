#include "server/runtime/oci/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/parse.h"
#include "base/path.h"

enum { FREEZE_TRY_MS = 10, FREEZE_MS = 2000, REMOVE_MS = 2000, PAUSE_US = 200, DEPTH_MAX = 8 };

// v1 has no event for "empty" and none for "frozen": the state is read again after a moment, within
// a deadline.
static void pause_briefly(void) {
    struct timespec t = {.tv_nsec = PAUSE_US * 1000L};
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL); // woken early: we only look again sooner
}

static bool names_controller(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ",");
        if (len == n && !memcmp(p, name, n))
            return true;
        p += len + (p[len] == ',');
    }
    return false;
}

static int find_tree(const struct cgroups *c, const char *controller) {
    if (c->v2)
        return 0;
    for (unsigned i = 0; i < c->count; i++)
        if (!c->trees[i].plain && names_controller(c->trees[i].name, controller))
            return (int)i;
    return -1;
}

bool cgroups_have(const struct cgroups *c, const char *controller) {
    return find_tree(c, controller) >= 0;
}

static int add_tree(struct cgroups *c, const char *name, int fd, bool plain, bool hidden) {
    if (c->count == CGROUP_TREES_MAX || strlen(name) >= CGROUP_NAME_MAX) {
        (void)close(fd); // more hierarchies than any kernel has controllers
        return -1;
    }
    struct cgroup_tree *t = &c->trees[c->count++];
    *t = (struct cgroup_tree){.fd = fd, .plain = plain, .hidden = hidden};
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    return 0;
}

// A hierarchy that no mount shows. crun would make plain directories in the place of its mount
// point and leave them.
static void add_hidden(struct cgroups *c, int root, const char *name) {
    int fs = fsopen("cgroup", FSOPEN_CLOEXEC);
    if (fs < 0)
        return;
    for (const char *p = name; *p;) {
        char one[CGROUP_NAME_MAX];
        size_t len = strcspn(p, ",");
        (void)snprintf(one, sizeof one, "%.*s", (int)len, p);
        (void)fsconfig(fs, FSCONFIG_SET_FLAG, one, NULL, 0); // a refusal shows at CMD_CREATE
        p += len + (p[len] == ',');
    }
    int mount =
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ? -1 : fsmount(fs, FSMOUNT_CLOEXEC, 0);
    (void)close(fs);
    if (mount < 0)
        return;
    (void)mkdirat(root, name, 0755); // the launchers' mount point; it may be there
    (void)add_tree(c, name, mount, false, true);
}

static bool is_known(const struct cgroups *c, const char *name) {
    for (unsigned i = 0; i < c->count; i++)
        if (!strcmp(c->trees[i].name, name) && !c->trees[i].plain)
            return true;
    return false;
}

// Lines of /proc/self/cgroup: "4:memory:/path", "1:name=systemd:/", "0::/path".
static void read_self(struct cgroups *c, int root, char *text) {
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        list++;
        bool own = c->v2 ? !*list : names_controller(list, "pids");
        if (!c->v2 && *list && strncmp(list, "name=", 5) != 0 && !is_known(c, list) &&
            find_tree(c, list) < 0)
            add_hidden(c, root, list);
        int t = own ? find_tree(c, "pids") : -1;
        if (t >= 0 && !c->trees[t].hidden) {
            char procs[4200];
            (void)snprintf(procs, sizeof procs, ".%s/cgroup.procs", path);
            c->self_procs = openat(c->trees[t].fd, procs, O_WRONLY | O_CLOEXEC);
        }
    }
}

static int scan_root(struct cgroups *c, int root, struct error *err) {
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return error_errno(err, errno, "%s", c->root);
    }
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(root, e->d_name, &st, AT_SYMLINK_NOFOLLOW) ||
            !S_ISDIR(st.st_mode))
            continue; // links are other names of joint hierarchies
        int tree = openat(root, e->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (tree < 0)
            continue;
        bool plain = faccessat(tree, "cgroup.procs", F_OK, 0) != 0;
        char controllers[512];
        struct error none; // v1 has no such file
        if (!fd_read_text(tree, "cgroup.controllers", controllers, sizeof controllers, &none))
            c->cover_unified = controllers[0] != '\0';
        (void)add_tree(c, e->d_name, tree, plain, false);
    }
    (void)closedir(d);
    return 0;
}

int cgroups_open(struct cgroups *c, const char *root, const char *self, const char *parent,
                 struct error *err) {
    *c = (struct cgroups){.memory = -1, .pids = -1, .freezer = -1, .self_procs = -1};
    (void)snprintf(c->root, sizeof c->root, "%s", root);
    (void)snprintf(c->parent, sizeof c->parent, "%s", parent);
    cleanup_close int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "no control groups at %s: mount them", root);
    c->v2 = !faccessat(fd, "cgroup.controllers", F_OK, 0);
    struct error ignored;
    if (c->v2)
        (void)add_tree(c, "", TAKE_FD(fd), false, false);
    else if (scan_root(c, fd, err))
        return -1;
    char text[8192];
    if (!fd_read_text(AT_FDCWD, self, text, sizeof text, &ignored))
        read_self(c, fd, text);
    c->memory = find_tree(c, "memory");
    c->pids = find_tree(c, "pids");
    c->freezer = find_tree(c, "freezer");
    if (c->memory < 0 || c->pids < 0 || c->freezer < 0) {
        const char *missing = c->memory < 0 ? "memory" : c->pids < 0 ? "pids" : "freezer";
        cgroups_close(c);
        return error_set(err, ENOTSUP,
                         "the control group controller \"%s\" is missing below %s: mount it, or "
                         "boot with it enabled",
                         missing, root);
    }
    // v2: the files of swap exist below the root only; crun writes them when the kernel has them
    c->swap_limit =
        c->v2 || !faccessat(c->trees[c->memory].fd, "memory.memsw.limit_in_bytes", F_OK, 0);
    return 0;
}

void cgroups_drop(const struct cgroups *c) {
    for (unsigned i = 0; i < c->count; i++)
        (void)unlinkat(c->trees[i].fd, c->parent, AT_REMOVEDIR); // stays while somebody lives in it
}

void cgroups_close(struct cgroups *c) {
    cgroups_drop(c);
    for (unsigned i = 0; i < c->count; i++)
        (void)close(c->trees[i].fd);
    if (c->self_procs >= 0)
        (void)close(c->self_procs);
    c->count = 0;
    c->self_procs = -1;
}

void cgroups_beside(const struct cgroups *c, const char *suffix, struct cgroups *ret) {
    *ret = *c;
    ret->self_procs = -1;
    (void)snprintf(ret->parent, sizeof ret->parent, "%.40s%.20s", c->parent, suffix);
}

const char *cgroups_layout(const struct cgroups *c) {
    if (c->v2)
        return "v2";
    return is_known(c, "unified") ? "hybrid" : "v1";
}

// ---- one sandbox ----

static bool name_ok(const char *id) {
    return *id && *id != '.' && !strchr(id, '/') && strlen(id) < CGROUP_NAME_MAX;
}

static void group_path(const struct cgroups *c, const char *id, const char *file, char path[256]) {
    (void)snprintf(path, 256, "%s/%s%s%s", c->parent, id, file ? "/" : "", file ? file : "");
}

static int read_control(const struct cgroups *c, int tree, const char *id, const char *file,
                        char *text, size_t size, struct error *err) {
    char path[256];
    if (tree < 0)
        return error_set(err, ENOTSUP, "no control group hierarchy has %s", file);
    group_path(c, id, file, path);
    return fd_read_text(c->trees[tree].fd, path, text, size, err);
}

static int write_control(const struct cgroups *c, int tree, const char *id, const char *file,
                         const char *text, struct error *err) {
    char path[256];
    if (tree < 0)
        return error_set(err, ENOTSUP, "no control group hierarchy has %s", file);
    group_path(c, id, file, path);
    return fd_write_text(c->trees[tree].fd, path, text, err);
}

int cgroups_each(const struct cgroups *c, int (*each)(const char *id, void *arg), void *arg) {
    int r = 0;
    for (unsigned i = 0; i < c->count && !r; i++) {
        int fd = openat(c->trees[i].fd, c->parent, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d && fd >= 0)
            (void)close(fd);
        if (!d)
            continue; // nothing was ever made there
        for (struct dirent *e; !r && (e = readdir(d));) {
            struct stat st;
            if (e->d_name[0] != '.' && !fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
                S_ISDIR(st.st_mode))
                r = each(e->d_name, arg);
        }
        (void)closedir(d);
    }
    return r;
}

static int make_group(int tree, const char *path, const char *parent, bool v2, struct error *err) {
    char control[256];
    struct error ignored; // the limits are missing then, nothing else
    if (v2)
        (void)fd_write_text(tree, "cgroup.subtree_control", "+memory +pids", &ignored);
    if (mkdirat(tree, parent, 0755) < 0 && errno != EEXIST)
        return error_errno(err, errno, "control group %s", parent);
    (void)snprintf(control, sizeof control, "%.200s/cgroup.subtree_control", parent);
    if (v2)
        (void)fd_write_text(tree, control, "+memory +pids", &ignored);
    if (mkdirat(tree, path, 0755) < 0 && errno != EEXIST)
        return error_errno(err, errno, "control group %s", path);
    return 0;
}

int cgroup_make(const struct cgroups *c, const char *id, uint64_t memory_bytes, unsigned processes,
                int ret_procs[2], struct error *err) {
    const int trees[2] = {c->pids, c->memory};
    char path[256], memory[24], pids[16], procs[256];
    struct error ignored; // a kernel without this limit
    int fds[2] = {-1, -1};
    if (!name_ok(id))
        return error_set(err, EINVAL, "no sandbox can be named \"%s\"", id);
    group_path(c, id, NULL, path);
    group_path(c, id, "cgroup.procs", procs);
    (void)snprintf(memory, sizeof memory, "%llu", (unsigned long long)memory_bytes);
    (void)snprintf(pids, sizeof pids, "%u", processes);
    for (int i = 0; i < (trees[0] == trees[1] ? 1 : 2); i++) {
        int tree = c->trees[trees[i]].fd;
        int r = make_group(tree, path, c->parent, c->v2, err);
        fds[i] = r < 0 ? -1 : openat(tree, procs, O_WRONLY | O_CLOEXEC);
        if (r == 0 && fds[i] < 0)
            r = error_errno(err, errno, "%s", procs);
        if (r < 0) {
            if (fds[0] >= 0)
                (void)close(fds[0]);
            return -1;
        }
    }
    (void)write_control(c, c->pids, id, "pids.max", pids, &ignored);
    (void)write_control(c, c->memory, id, c->v2 ? "memory.max" : "memory.limit_in_bytes", memory,
                        &ignored);
    memcpy(ret_procs, fds, sizeof fds);
    return 0;
}

// v2 cannot rename: its processes move, one line of cgroup.procs each.
static int move_group(const struct cgroups *c, const char *from, const char *to,
                      struct error *err) {
    char path[256], text[4096];
    group_path(c, to, NULL, path);
    if (make_group(c->trees[0].fd, path, c->parent, true, err) < 0 ||
        read_control(c, 0, from, "cgroup.procs", text, sizeof text, err) < 0)
        return -1;
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
        if (*line && write_control(c, 0, to, "cgroup.procs", line, err) < 0 && err->kind != ESRCH)
            return -1;
    return cgroup_remove(c, from, err);
}

int cgroup_rename(const struct cgroups *c, const char *from, const char *to, struct error *err) {
    char old[256], new[256];
    if (!name_ok(from) || !name_ok(to))
        return error_set(err, EINVAL, "no sandbox can be named \"%s\"", to);
    if (c->v2)
        return move_group(c, from, to, err);
    group_path(c, from, NULL, old);
    group_path(c, to, NULL, new);
    const int trees[2] = {c->pids, c->memory}; // as cgroup_make()
    for (int i = 0; i < (trees[0] == trees[1] ? 1 : 2); i++) {
        int fd = c->trees[trees[i]].fd;
        if (renameat(fd, old, fd, new) < 0)
            return error_errno(err, errno, "control group %s", old);
    }
    return 0;
}

bool cgroup_exists(const struct cgroups *c, const char *id) {
    char path[256];
    group_path(c, id, NULL, path);
    for (unsigned i = 0; i < c->count && name_ok(id); i++)
        if (!faccessat(c->trees[i].fd, path, F_OK, AT_SYMLINK_NOFOLLOW))
            return true;
    return false;
}

bool cgroup_holds(const struct cgroups *c, const char *id, pid_t pid) {
    char name[32], text[8192], wish[256];
    struct error err;
    (void)snprintf(name, sizeof name, "/proc/%d/cgroup", pid);
    if (fd_read_text(AT_FDCWD, name, text, sizeof text, &err))
        return false;
    (void)snprintf(wish, sizeof wish, "/%s/%s", c->parent, id);
    size_t n = strlen(wish);
    for (const char *p = text; (p = strstr(p, wish)); p += n)
        if (p[n] == '\n' || p[n] == '/' || !p[n])
            return true;
    return false;
}

static bool is_frozen(const struct cgroups *c, const char *id) {
    char text[256];
    struct error err;
    if (read_control(c, c->freezer, id, c->v2 ? "cgroup.events" : "freezer.state", text,
                     sizeof text, &err))
        return false;
    return c->v2 ? strstr(text, "frozen 1") != NULL : !strcmp(text, "FROZEN");
}

bool cgroup_frozen(const struct cgroups *c, const char *id) {
    return name_ok(id) && is_frozen(c, id);
}

static int set_frozen(const struct cgroups *c, const char *id, bool frozen, struct error *err) {
    if (c->v2)
        return write_control(c, c->freezer, id, "cgroup.freeze", frozen ? "1" : "0", err);
    return write_control(c, c->freezer, id, "freezer.state", frozen ? "FROZEN" : "THAWED", err);
}

int cgroup_freeze(const struct cgroups *c, const char *id, struct error *err) {
    if (!name_ok(id))
        return error_set(err, EINVAL, "no sandbox can be named \"%s\"", id);
    int64_t end = clock_boot_ms() + FREEZE_MS;
    do {
        if (set_frozen(c, id, true, err))
            return -1;
        int64_t try_end = c->v2 ? end : clock_boot_ms() + FREEZE_TRY_MS;
        do {
            if (is_frozen(c, id))
                return 0;
            pause_briefly();
        } while (clock_boot_ms() < try_end);
        if (set_frozen(c, id, false, err))
            return -1;
    } while (clock_boot_ms() < end);
    return error_set(err, EBUSY,
                     "the processes of the sandbox did not freeze within %d ms; it runs on",
                     FREEZE_MS);
}

int cgroup_thaw(const struct cgroups *c, const char *id, struct error *err) {
    if (!name_ok(id))
        return error_set(err, EINVAL, "no sandbox can be named \"%s\"", id);
    return set_frozen(c, id, false, err);
}

int cgroup_oom_kills(const struct cgroups *c, const char *id, uint64_t *ret) {
    char text[512];
    struct error err;
    if (!name_ok(id) ||
        read_control(c, c->memory, id, c->v2 ? "memory.events" : "memory.oom_control", text,
                     sizeof text, &err))
        return -1;
    for (const char *p = text; (p = strstr(p, "oom_kill ")); p++)
        if (p == text || p[-1] == '\n')
            return parse_u64n(p + 9, strspn(p + 9, "0123456789"), 0, UINT64_MAX, ret);
    return -1;
}

static int read_number(const struct cgroups *c, int tree, const char *id, const char *file,
                       uint64_t *ret) {
    char text[32];
    struct error err;
    return name_ok(id) && !read_control(c, tree, id, file, text, sizeof text, &err)
               ? parse_u64(text, 0, UINT64_MAX, ret)
               : -1;
}

int cgroup_memory(const struct cgroups *c, const char *id, uint64_t *ret) {
    return read_number(c, c->memory, id, c->v2 ? "memory.current" : "memory.usage_in_bytes", ret);
}

int cgroup_processes(const struct cgroups *c, const char *id, uint64_t *ret) {
    return read_number(c, c->pids, id, "pids.current", ret);
}

// Pids of cgroup.procs of one group, each killed. A pid of 0 is a process outside our pid
// namespace: not ours to see.
static int kill_listed(int dir) {
    char text[16384];
    struct error err;
    int n = 0;
    if (fd_read_text(dir, "cgroup.procs", text, sizeof text, &err))
        return 0;
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        uint64_t pid;
        if (!parse_u64(line, 2, INT32_MAX, &pid) && !kill((pid_t)pid, SIGKILL))
            n++;
    }
    return n;
}

static int kill_below(int at, const char *name, int depth) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return 0;
    }
    int n = kill_listed(fd);
    for (struct dirent *e; depth > 0 && (e = readdir(d));)
        if (e->d_name[0] != '.' && e->d_type == DT_DIR)
            n += kill_below(fd, e->d_name, depth - 1);
    (void)closedir(d);
    return n;
}

int cgroup_kill(const struct cgroups *c, const char *id) {
    char path[256];
    struct error err;
    int n = 0;
    if (!name_ok(id))
        return 0;
    group_path(c, id, NULL, path);
    for (unsigned i = 0; i < c->count; i++)
        if (!c->trees[i].plain)
            n += kill_below(c->trees[i].fd, path, DEPTH_MAX);
    if (n && c->v2)
        (void)write_control(c, 0, id, "cgroup.kill", "1",
                            &err); // what forked meanwhile; kernels before 5.14 lack it
    if (n && !c->v2)
        (void)set_frozen(c, id, false, &err); // frozen tasks ignore SIGKILL until thawed
    return n;
}

// rmdir of a group and of those below it; 0 when nothing is left.
static int remove_below(int at, const char *name, int depth) {
    if (!unlinkat(at, name, AT_REMOVEDIR) || errno == ENOENT)
        return 0;
    int saved = errno, fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        errno = saved;
        return -1;
    }
    for (struct dirent *e; depth > 0 && (e = readdir(d));)
        if (e->d_name[0] != '.' && e->d_type == DT_DIR)
            (void)remove_below(fd, e->d_name, depth - 1); // told by the rmdir below
    (void)closedir(d);
    return !unlinkat(at, name, AT_REMOVEDIR) || errno == ENOENT ? 0 : -1;
}

int cgroup_remove(const struct cgroups *c, const char *id, struct error *err) {
    char path[256];
    int64_t end = 0;
    if (!name_ok(id))
        return 0;
    group_path(c, id, NULL, path);
    for (unsigned i = 0; i < c->count; i++) {
        const struct cgroup_tree *t = &c->trees[i];
        if (t->plain) {
            if (!faccessat(t->fd, path, F_OK, AT_SYMLINK_NOFOLLOW) &&
                path_remove_tree(t->fd, path, err))
                return -1;
            (void)unlinkat(t->fd, c->parent, AT_REMOVEDIR); // other ids may be in it
            continue;
        }
        while (remove_below(t->fd, path, DEPTH_MAX)) {
            int saved = errno;
            if (!end)
                end = clock_boot_ms() + REMOVE_MS;
            if (clock_boot_ms() > end)
                return error_errno(err, saved, "control group %s/%s/%s", c->root, t->name, path);
            if (saved == EBUSY)
                (void)cgroup_kill(c, id);
            pause_briefly();
        }
    }
    return 0;
}
