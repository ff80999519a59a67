// What diagnoses show of a sandbox. At any time, also beside another call for it: what is used is
// copied under the lock.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "server/errors.h"
#include "server/runtime/oci/exit.h"
#include "server/runtime/oci/sandbox.h"

struct view {
    int dir;
    pid_t pid;
    char address[64];
};

static int look(struct oci *o, const char *id, struct view *ret, struct error *err) {
    *ret = (struct view){.dir = -1};
    (void)pthread_mutex_lock(&o->lock);
    const struct box *b = map_get(&o->boxes, id);
    if (b && b->dir >= 0) {
        ret->dir = fcntl(b->dir, F_DUPFD_CLOEXEC, 0);
        ret->pid = b->pid;
        (void)snprintf(ret->address, sizeof ret->address, "%s", b->net.address_text);
    }
    (void)pthread_mutex_unlock(&o->lock);
    return ret->dir < 0 ? error_server(err, ERR_R_SANDBOX_NOT_FOUND, "no sandbox %s", id) : 0;
}

int sandbox_logs(struct oci *o, const char *id, struct strbuf *ret, struct error *err) {
    struct view v;
    if (look(o, id, &v, err) < 0)
        return -1;
    cleanup_close int dir = v.dir;
    return exit_logs(dir, ret, err);
}

static int add_number(struct pairs *ret, const char *name, uint64_t value, const char *unit) {
    char text[48];
    (void)snprintf(text, sizeof text, "%llu%s", (unsigned long long)value, unit);
    return pairs_add(ret, name, text);
}

static int add_end(struct pairs *ret, const struct inspection *end) {
    int r = 0;
    if (end->oom)
        r = pairs_add(ret, "OOMKilled", "True");
    if (!r && end->exit_code >= 0)
        r = add_number(ret, "Exit Code", (uint64_t)end->exit_code, "");
    if (!r && end->signal)
        r = add_number(ret, "Signal", (uint64_t)end->signal, "");
    return r;
}

static int add_use(struct oci *o, const char *id, const struct view *v, struct pairs *ret) {
    uint64_t n;
    int r = add_number(ret, "Process", (uint64_t)v->pid, "");
    if (!r && *v->address)
        r = pairs_add(ret, "IP Address", v->address);
    if (!r && !cgroup_memory(&o->cgroups, id, &n))
        r = add_number(ret, "Memory Used", n >> 20, " MiB");
    if (!r && !cgroup_processes(&o->cgroups, id, &n))
        r = add_number(ret, "Processes", n, "");
    if (!r && !cgroup_oom_kills(&o->cgroups, id, &n))
        r = add_number(ret, "OOM Kills", n, "");
    return r;
}

int sandbox_facts(struct oci *o, const char *id, struct pairs *ret, struct error *err) {
    struct view v;
    struct inspection end;
    if (look(o, id, &v, err) < 0)
        return -1;
    cleanup_close int dir = v.dir;
    int r = exit_load(dir, &end) ? add_end(ret, &end) : add_use(o, id, &v, ret);
    return r < 0 ? error_set(err, ENOMEM, "out of memory") : 0;
}
