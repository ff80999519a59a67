// A sandbox from nothing to its first answer: a straight line, each step undone by
// sandbox_destroy() when a later one fails.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/handoff.h"
#include "base/path.h"
#include "fmt/json.h"
#include "http/client.h"
#include "server/errors.h"
#include "server/runtime/oci/exit.h"
#include "server/runtime/oci/image/user.h"
#include "server/runtime/oci/layer.h"
#include "server/runtime/oci/probe.h"
#include "server/runtime/oci/sandbox.h"
#include "server/runtime/oci/volume/named.h"

enum {
    BACKLOG = 128,
    PASS_SOCKET = 0,
    PASS_RECORD = 1,
    PASS_LOG = 2,
    ANSWER_MAX = 4096,
    LOG_TAIL = 300,
    END_MS = 200,
    LEAVE_MS = 10000 // execd ends half a second behind its record, on an idle machine
};
enum { MEMORY_MIN = 16 * 1024 * 1024, CPU_MIN_MILLIS = 10, ID_RANGE = 65536 };

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define ENVS_FILE    "/opt/opensandbox/.env"

struct making {
    struct oci *o;
    const struct provision_request *q;
    struct provision_result *ret;
    const struct sandbox_root *root;
    struct box *box; // in the map from the first step on
    struct user user;
    struct volumes volumes;
    char path[OCI_PATH_SIZE + 64]; // sandboxes/<id>
    struct parked parked;          // an egress that was ready before; pidfd -1: none
    int image_root, bundle, pass[HANDOFF_FDS], lower;
    struct http_client *client; // its request is written before the runtime starts
    int64_t phase_start;
};

static void phase(struct making *m, const char *name, int64_t now) {
    if (m->ret->phase_count < RUNTIME_PHASES_MAX) {
        struct runtime_phase *p = &m->ret->phases[m->ret->phase_count++];
        (void)snprintf(p->name, sizeof p->name, "%s", name);
        p->ns = now - m->phase_start;
    }
    m->phase_start = now;
}

static const char *workdir(const struct making *m) {
    const char *dir = m->root->config ? m->root->config->workdir : NULL;
    return dir && *dir ? dir : "/";
}

// ---- 1. what is asked for ----

static int check_limits(const struct sandbox_spec *s, struct error *err) {
    const enum error_id code = ERR_INVALID_PARAMETER;
    if (s->memory_bytes && s->memory_bytes < MEMORY_MIN)
        return error_server(err, code,
                            "resourceLimits.memory is %llu bytes; at least 16Mi are needed",
                            (unsigned long long)s->memory_bytes);
    if (s->cpu_millis && s->cpu_millis < CPU_MIN_MILLIS)
        return error_server(err, code, "resourceLimits.cpu is %llum; at least 10m are needed",
                            (unsigned long long)s->cpu_millis);
    return 0;
}

static int find_user(struct making *m, struct error *err) {
    const struct image_config *config = m->root->config;
    m->image_root = open(m->root->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (m->image_root < 0)
        return error_errno(err, errno, "image root %s", m->root->path);
    if (user_resolve(m->image_root, config && config->user ? config->user : "", &m->user, err))
        return -1;
    if (m->o->user_namespaces && (m->user.uid >= ID_RANGE || m->user.gid >= ID_RANGE))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "the image's user %u:%u lies outside of the %d ids of a sandbox; set "
                            "oci.user_namespace = \"never\" or "
                            "rebuild the image",
                            m->user.uid, m->user.gid, ID_RANGE);
    return 0;
}

// ---- 2. files and descriptors ----

static int make_layer(struct making *m, struct error *err) {
    struct layer l = {.lower = m->image_root,
                      .id_base = m->o->user_namespaces ? m->o->settings.id_base : 0,
                      .hostname = m->q->id,
                      .address = m->box->net.address_text,
                      .resolv_conf = network_resolv_conf(m->o->network),
                      .workdir = workdir(m),
                      .restored = m->root->base && base_layers(m->root->base),
                      .uid = m->user.uid,
                      .gid = m->user.gid,
                      .volumes = &m->volumes};
    if (layer_make(m->o->sandboxes, m->q->id, &l, &m->box->dir, err))
        return -1;
    return m->root->base ? base_link(m->root->base, m->box->dir, err) : 0;
}

// The socket is bound by way of its directory's descriptor: the path of a unix socket has 107
// bytes, the store's may be longer.
static void socket_address(int dir, struct sockaddr_un *a) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/s", dir);
}

static int make_socket(struct making *m, struct error *err) {
    struct sockaddr_un a;
    socket_address(m->box->dir, &a);
    m->pass[PASS_SOCKET] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (m->pass[PASS_SOCKET] < 0 || bind(m->pass[PASS_SOCKET], (struct sockaddr *)&a, sizeof a) ||
        listen(m->pass[PASS_SOCKET], BACKLOG))
        return error_errno(err, errno, "socket of execd");
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
        return error_errno(err, errno, "connection to execd");
    m->client = http_client_new(TAKE_FD(fd));
    if (!m->client)
        return error_set(err, ENOMEM, "out of memory");
    return http_client_send(m->client, "GET", "/ping", "", NULL, 0, err);
}

static void add_variable(json_t *env, const char *name, size_t len, const char *value) {
    char key[256];
    if (!len || len >= sizeof key)
        return; // no program could ask for such a name
    (void)snprintf(key, sizeof key, "%.*s", (int)len, name);
    json_object_set_new(env, key, json_string(value));
}

static json_t *environment_of(const struct making *m) {
    json_t *env = json_pack("{s:s,s:s}", "PATH", DEFAULT_PATH, "HOME", m->user.home);
    char **const list = m->root->config ? m->root->config->env : NULL;
    for (char **p = list; p && *p; p++) {
        const char *equals = strchr(*p, '=');
        if (equals)
            add_variable(env, *p, (size_t)(equals - *p), equals + 1);
    }
    for (size_t i = 0; i < m->q->spec->env.count; i++)
        add_variable(env, m->q->spec->env.items[i].name, strlen(m->q->spec->env.items[i].name),
                     m->q->spec->env.items[i].value);
    if (!json_object_get(env, "EXECD_ENVS"))
        json_object_set_new(env, "EXECD_ENVS", json_string(ENVS_FILE));
    json_object_set_new(env, "OPENSANDBOX_ID", json_string(m->q->id)); // last: nobody overrides it
    if (m->q->spec->lifecycle)
        json_object_set_new(env, LIFECYCLE_VARIABLE, json_string(m->q->spec->lifecycle));
    else
        (void)json_object_del(env, LIFECYCLE_VARIABLE); // an image has none; it is rarely there
    return env;
}

static int write_start(struct making *m, struct error *err) {
    const struct sandbox_spec *s = m->q->spec;
    json_t *entrypoint = json_array();
    for (size_t i = 0; i < s->entrypoint_count; i++)
        json_array_append_new(entrypoint, json_string(s->entrypoint[i]));
    cleanup_json json_t *start =
        json_pack("{s:s,s:o,s:b,s:s,s:o}", "token_sha256", m->q->token_sha256_hex, "entrypoint",
                  entrypoint, "idle", !s->entrypoint_count || spec_entrypoint_idles(s), "cwd",
                  workdir(m), "env", environment_of(m));
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, HANDOFF_START_MAX);
    if (!start || json_write(start, &sb))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "env and entrypoint together are larger than %d bytes",
                            (int)HANDOFF_START_MAX);
    int fd = openat(m->box->dir, EXIT_RECORD_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    m->pass[PASS_RECORD] = fd;
    // pwrite: execd shares the file offset and reads from its beginning
    if (fd < 0 || pwrite(fd, sb.data, sb.len, 0) != (ssize_t)sb.len)
        return error_errno(err, errno ? errno : ENOSPC, "start object of execd");
    m->pass[PASS_LOG] =
        openat(m->box->dir, EXIT_LOG_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return m->pass[PASS_LOG] < 0 ? error_errno(err, errno, "log of the sandbox") : 0;
}

// ---- 3. the runtime's configuration ----

static int write_config(struct making *m, struct error *err) {
    struct oci *o = m->o;
    const struct sandbox_spec *s = m->q->spec;
    char cgroup[128], net[64], user[64], vol[OCI_PATH_SIZE + 72];
    (void)snprintf(cgroup, sizeof cgroup, "/%s/%s", o->cgroups.parent, m->q->id);
    (void)snprintf(net, sizeof net, "/proc/%d/fd/%d", getpid(), m->box->net.net_fd);
    (void)snprintf(user, sizeof user, "/proc/%d/fd/%d", getpid(), m->box->net.user_fd);
    (void)snprintf(vol, sizeof vol, "%s/vol", m->path);
    uint64_t shm = o->settings.shm_bytes;
    if (s->memory_bytes && s->memory_bytes / 2 < shm)
        shm = s->memory_bytes / 2; // its pages are charged to the sandbox
    struct bundle b = {.id = m->q->id,
                       .cgroup_path = cgroup,
                       .net_path = net,
                       .user_path = o->user_namespaces ? user : NULL,
                       .volume_dir = vol,
                       .volumes = &m->volumes,
                       .uid = m->user.uid,
                       .gid = m->user.gid,
                       .groups = m->user.groups,
                       .group_count = m->user.group_count,
                       .cpu_millis = s->cpu_millis,
                       .memory_bytes = s->memory_bytes,
                       .pids = s->pids ? s->pids : o->settings.default_pids,
                       .shm_bytes = shm,
                       .nofile_hard = o->nofile_hard};
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, BUNDLE_MAX);
    if (bundle_write(o->bundle, &b, &sb, err))
        return -1;
    if (mkdirat(o->bundles, m->q->id, 0700) ||
        (m->bundle = openat(o->bundles, m->q->id, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return error_errno(err, errno, "bundle of the sandbox");
    cleanup_close int fd =
        openat(m->bundle, "config.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, sb.data, sb.len))
        return error_errno(err, errno, "config.json of the sandbox");
    return 0;
}

// ---- 4. start and first answer ----

static int start(struct making *m, int64_t *ret_spawn_ns, struct error *err) {
    struct oci *o = m->o;
    char bundle[OCI_PATH_SIZE + 64];
    (void)snprintf(bundle, sizeof bundle, "%s/%s", o->bundles_path, m->q->id);
    struct launch l = {.id = m->q->id,
                       .path = m->path,
                       .bundle_path = bundle,
                       .dir = m->box->dir,
                       .bundle = m->bundle,
                       .volumes = &m->volumes,
                       .layers = m->root->base ? base_layers(m->root->base) : 0,
                       .time_out_ms = o->settings.start_timeout_ms};
    if (launch_lower(m->root->path, o->user_namespaces ? m->box->net.user_fd : -1, &m->lower, err))
        return -1;
    l.lower = m->lower;
    memcpy(l.pass, m->pass, sizeof l.pass);
    if (launch_run(&o->launcher, &l, &m->box->pid, ret_spawn_ns, err))
        return -1;
    if (m->box->net.user_fd >= 0)
        (void)close(TAKE_FD(
            m->box->net.user_fd)); // the sandbox holds it now; the network's is kept for dialling
    m->box->pidfd = pidfd_open(
        m->box->pid, 0); // our child by now: its number cannot be another's before we reap it
    return m->box->pidfd < 0
               ? error_errno(err, errno, "first process %d of the sandbox", m->box->pid)
               : 0;
}

// How the first process ended, when it did; the status stays for whoever reaps.
static void describe_end(int pidfd, char *text, size_t size) {
    siginfo_t info = {.si_pid = 0};
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    text[0] = '\0';
    if (poll(&p, 1, END_MS) == 1 &&
        !waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid)
        (void)snprintf(text, size, "; it %s %d",
                       info.si_code == CLD_EXITED ? "ended with status" : "was killed by signal",
                       info.si_status);
}

// Adds execd's last words, when it ended.
static int explain(struct making *m, const char *what, struct error *err) {
    cleanup_strbuf struct strbuf log;
    struct error ignored, cause = *err;
    char end[64];
    strbuf_init(&log, HANDOFF_LOG_BYTES + 64);
    (void)exit_logs(m->box->dir, &log, &ignored);
    describe_end(m->box->pidfd, end, sizeof end);
    const char *tail = log.len > LOG_TAIL ? log.data + log.len - LOG_TAIL : log.data;
    return error_set(err, cause.kind, "%s: %s%s%s%s", what, cause.message, end,
                     log.len ? "; its last output: " : "", tail);
}

static int await_answer(struct making *m, struct error *err) {
    cleanup_strbuf struct strbuf body;
    unsigned status = 0;
    strbuf_init(&body, ANSWER_MAX);
    for (int i = 0; i < HANDOFF_FDS;
         i++) { // once they are execd's alone, its end shows as the end of our connection
        (void)close(m->pass[i]);
        m->pass[i] = -1;
    }
    if (http_client_receive(m->client, &status, &body, m->o->settings.start_timeout_ms, err))
        return explain(m, "execd did not answer", err);
    if (status != 200) {
        (void)error_set(err, EPROTO, "status %u", status);
        return explain(m, "execd did not answer", err);
    }
    return 0;
}

// Execd answered, and its entrypoint has ended since: a sandbox that ran. Of what is verified the
// kernel keeps nothing for the dead; the watcher tells the end.
static bool ran_to_its_end(const struct making *m) {
    struct inspection end;
    struct pollfd p = {.fd = m->box->pidfd, .events = POLLIN};
    exit_judge(m->box->dir, EXIT_STATUS_UNKNOWN, false, &end);
    return end.has_record && poll(&p, 1, LEAVE_MS) == 1;
}

// What came to be must be what was asked for, before anybody is told of it.
static int verify(struct making *m, struct error *err) {
    struct box *b = m->box;
    uint32_t uid = (m->o->user_namespaces ? m->o->settings.id_base : 0) + m->user.uid;
    b->started = process_start_time(b->pid);
    int r = b->started && cgroup_holds(&m->o->cgroups, m->q->id, b->pid)
                ? probe_process(b->pid, uid, m->user.uid == 0, err)
                : error_set(err, EPROTO, "process %d is not in its control group", b->pid);
    return !r || ran_to_its_end(m) ? 0 : explain(m, "the sandbox is not what was asked for", err);
}

static int report(struct making *m, struct error *err) {
    struct provision_result *r = m->ret;
    cleanup_json json_t *j = json_pack(
        "{s:i,s:I,s:s,s:b,s:b,s:O*}", "pid", (int)m->box->pid, "started",
        (json_int_t)m->box->started, "address", m->box->net.address_text, "user_namespace",
        m->o->user_namespaces, "named", m->box->named, "base", m->root->base);
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, sizeof r->state - 1);
    if (!j || json_write(j, &sb))
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(r->state, sizeof r->state, "%s", sb.data);
    (void)snprintf(r->address, sizeof r->address, "%s", m->box->net.address_text);
    return watch_add(m->o->watch, m->q->id, m->box->pidfd, err);
}

// A namespace in which egress is parked, where one is wanted and ready; else one from the stock.
static int take_network(struct making *m, struct error *err) {
    struct oci *o = m->o;
    bool parked = m->q->egress_token && parking_take(o->parking, &m->parked);
    if (parked) {
        m->box->net = m->parked.net;
        m->parked.net.net_fd = -1;
    } else if (network_take(o->network, m->q->id, &m->box->net, err)) {
        return -1;
    }
    m->box->has_net = true;
    return parked ? network_name(o->network, m->q->id, &m->box->net, err) : 0;
}

static int settle_egress(struct making *m, struct error *err) {
    struct parked *p = &m->parked;
    if (egress_settle(&m->o->egress, m->q, p->dir, m->box->dir, err))
        return -1;
    m->box->egress = TAKE_FD(p->pidfd);
    parking_leave(m->o->parking, p);
    return 0;
}

// It gets ready while what follows is written.
static int begin_egress(struct making *m, struct error *err) {
    struct box *b = m->box;
    if (!m->q->egress_token)
        return 0;
    if (m->parked.pidfd >= 0)
        return settle_egress(m, err);
    return egress_prepare(&m->o->egress, m->q, b->dir, err) ||
                   egress_start(&m->o->egress, m->q->id, b->dir, b->net.net_fd, &b->egress, err)
               ? -1
               : 0;
}

// One that was parked may have been dying when it was taken: another is started in its place.
static int replace_egress(struct making *m, struct error *err) {
    struct oci *o = m->o;
    struct box *b = m->box;
    int r = egress_end(&o->egress, m->parked.name, TAKE_FD(b->egress), err);
    m->parked.name[0] = '\0';
    return r || egress_start(&o->egress, m->q->id, b->dir, b->net.net_fd, &b->egress, err) ||
                   egress_await(&o->egress, b->dir, b->egress, err)
               ? -1
               : 0;
}

// Not before: the kernel's lock is held by the early attach (oci-runtime.md 8.1) for as long as
// that saves. Until now whoever finds the group finds nobody's.
static int name_egress(struct making *m, struct error *err) {
    if (!m->parked.name[0])
        return 0;
    if (egress_name(&m->o->egress, m->parked.name, m->q->id, err))
        return -1;
    m->parked.name[0] = '\0';
    return 0;
}

// In force before the sandbox's first process; from here on its end is the keeper's business.
static int await_egress(struct making *m, struct error *err) {
    struct box *b = m->box;
    if (b->egress < 0)
        return 0;
    if (egress_await(&m->o->egress, b->dir, b->egress, err) &&
        (!m->parked.name[0] || replace_egress(m, err)))
        return -1;
    if (keeper_add(m->o->keeper, m->q->id, b->dir, b->net.net_fd, b->egress, err))
        return -1;
    b->egress = -1;
    phase(m, "egress", clock_boot_ns());
    return 0;
}

static int make(struct making *m, struct error *err) {
    int64_t spawned = 0;
    if (check_limits(m->q->spec, err) || find_user(m, err))
        return -1;
    if (take_network(m, err))
        return -1;
    phase(m, "network", clock_boot_ns());
    int user = m->o->user_namespaces ? m->box->net.user_fd : -1;
    m->box->named = named_any(m->q->spec);
    if (m->box->named && named_hold(m->o, m->q->id, m->q->spec, m->user.uid, m->user.gid, err))
        return -1;
    if (volumes_open(m->q->spec, m->o->settings.allowed_host_paths, m->o->volumes, user,
                     &m->volumes, err))
        return -1;
    if (make_layer(m, err) || begin_egress(m, err) || make_socket(m, err) || write_start(m, err))
        return -1;
    phase(m, "files", clock_boot_ns());
    if (write_config(m, err))
        return -1;
    phase(m, "config", clock_boot_ns());
    if (await_egress(m, err) || start(m, &spawned, err) || name_egress(m, err))
        return -1;
    phase(m, "launch", spawned);
    phase(m, "runtime", clock_boot_ns());
    if (await_answer(m, err) || verify(m, err) || report(m, err))
        return -1;
    phase(m, "answer", clock_boot_ns());
    return 0;
}

static void clear(struct making *m) {
    struct error ignored;     // a sweep finds what is left
    if (m->parked.pidfd >= 0) // it did not come to the sandbox
        parking_discard(m->o->parking, &m->parked);
    else if (m->parked.name[0]) // not quite
        (void)egress_end(&m->o->egress, m->parked.name, -1, &ignored);
    http_client_free(m->client);
    volumes_close(&m->volumes);
    for (int i = 0; i < HANDOFF_FDS; i++)
        if (m->pass[i] >= 0)
            (void)close(m->pass[i]);
    if (m->bundle >= 0) {
        struct error none; // the next start of the server meets what is left
        (void)close(m->bundle);
        (void)path_remove_tree(m->o->bundles, m->q->id, &none);
    }
    if (m->lower >= 0)
        (void)close(m->lower);
    if (m->image_root >= 0)
        (void)close(m->image_root);
}

// Every failure gets a code: the disk's, its own, or that of a failed start.
static int finish_error(struct error *err) {
    struct error cause = *err;
    if (cause.code[0])
        return -1;
    if (cause.kind == ENOSPC || cause.kind == EDQUOT)
        (void)error_server(err, ERR_R_DISK_FULL, "%s", cause.message);
    else
        (void)error_server(err, ERR_R_SANDBOX_START_FAILED, "%s", cause.message);
    err->kind = cause.kind;
    return -1;
}

int sandbox_provision_root(struct oci *o, const struct provision_request *q,
                           const struct sandbox_root *root, struct provision_result *ret,
                           struct error *err) {
    struct making m = {.o = o,
                       .q = q,
                       .ret = ret,
                       .root = root,
                       .parked = {.dir = -1, .pidfd = -1, .net = {.net_fd = -1, .user_fd = -1}},
                       .image_root = -1,
                       .bundle = -1,
                       .pass = {-1, -1, -1},
                       .lower = -1};
    *ret = (struct provision_result){.phase_count = 0};
    m.phase_start = clock_boot_ns();
    (void)snprintf(m.path, sizeof m.path, "%s/sandboxes/%s", o->dir_path, q->id);
    m.box = box_new(q->id);
    if (m.box && root->base && !(m.box->base = json_dumps(root->base, JSON_COMPACT))) {
        box_free(m.box);
        m.box = NULL;
    }
    if (!m.box || box_put(o, m.box, err)) {
        box_free(m.box);
        return error_set(err, ENOMEM, "out of memory");
    }
    network_busy(o->network, NETWORK_CREATE_BEGINS);
    parking_busy(o->parking, NETWORK_CREATE_BEGINS);
    int r = make(&m, err);
    network_busy(o->network, NETWORK_CREATE_ENDS);
    parking_busy(o->parking, NETWORK_CREATE_ENDS);
    clear(&m);
    if (!r)
        return 0;
    struct error undo;
    (void)finish_error(err);
    if (sandbox_destroy(o, q->id, &undo))
        (void)error_wrap(err, "cleaning up failed too (%.200s)", undo.message);
    return -1;
}

int sandbox_provision(struct oci *o, const struct provision_request *q,
                      struct provision_result *ret, struct error *err) {
    cleanup_json json_t *base =
        q->snapshot_id ? base_read(q->artifact, err) : base_of_image(o, q->image_id);
    if (!base)
        return q->snapshot_id ? -1 : error_set(err, ENOMEM, "out of memory");
    struct image *image = image_store_get(o->images, base_image(base));
    if (!image)
        return error_server(err, ERR_R_IMAGE_NOT_FOUND, "image %s is not there any more",
                            base_image(base));
    struct sandbox_root root = {.path = image->root, .config = &image->config, .base = base};
    int r = base_hold(o, base, q->id, err);
    if (!r)
        r = sandbox_provision_root(o, q, &root, ret, err);
    else
        base_release(o, q->id);
    image_put(image);
    return r;
}
