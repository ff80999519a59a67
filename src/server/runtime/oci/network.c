// For now: an unconnected network namespace for each sandbox, made on the spot (the links, rules and stock follow).
#include "server/runtime/oci/network.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

struct network {
    bool user_namespaces;
    uint32_t id_base;
};

struct network *network_new(const struct oci_settings *s, bool user_namespaces, struct error *err) {
    struct network *n = calloc(1, sizeof *n);
    if (!n)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    n->user_namespaces = user_namespaces;
    n->id_base = s->id_base;
    return n;
}

void network_free(struct network *n) { free(n); }

static int open_of(pid_t pid, const char *name) {
    char path[48];
    (void)snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int map_ids(pid_t pid, uint32_t base, struct error *err) {
    char path[48], text[48];
    (void)snprintf(text, sizeof text, "0 %u 65536", base);
    (void)snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    if (fd_write_text(AT_FDCWD, path, text, err))
        return -1;
    (void)snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    return fd_write_text(AT_FDCWD, path, text, err);
}

int network_take(struct network *n, const char *id, struct network_entry *ret, struct error *err) {
    unsigned long flags = CLONE_NEWNET | (n->user_namespaces ? CLONE_NEWUSER : 0UL);
    (void)id;
    pid_t holder = (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (!holder) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            (void)pause();
    }
    if (holder < 0)
        return error_errno(err, errno, "namespaces of the sandbox");
    int r = n->user_namespaces ? map_ids(holder, n->id_base, err) : 0;
    cleanup_close int net = open_of(holder, "net"), user = n->user_namespaces ? open_of(holder, "user") : -1;
    int saved = errno;
    (void)kill(holder, SIGKILL);
    (void)waitpid(holder, NULL, 0);
    if (!r && (net < 0 || (n->user_namespaces && user < 0)))
        r = error_errno(err, saved, "namespaces of the sandbox");
    if (r)
        return -1;
    *ret = (struct network_entry){.net_fd = TAKE_FD(net), .user_fd = TAKE_FD(user)};
    return 0;
}

int network_adopt(struct network *n, const char *id, const char *address, struct network_entry *e, struct error *err) {
    (void)n, (void)id, (void)address, (void)e, (void)err;
    return 0;
}

void network_release(struct network *n, const char *id, struct network_entry *e) {
    (void)n, (void)id;
    if (e->net_fd >= 0)
        (void)close(e->net_fd);
    if (e->user_fd >= 0)
        (void)close(e->user_fd);
}

int network_each(struct network *n, int (*each)(const char *id, void *arg), void *arg) {
    (void)n, (void)each, (void)arg;
    return 0;
}

int network_sweep(struct network *n, bool (*live)(const char *id, void *arg), void *arg, struct error *err) {
    (void)n, (void)live, (void)arg, (void)err;
    return 0;
}

const char *network_resolv_conf(const struct network *n) {
    (void)n;
    return "";
}
