#include "server/runtime/docker/docker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "fmt/json.h"
#include "server/runtime/docker/adopt/adopt.h"
#include "server/runtime/docker/bridge/rules.h"
#include "server/runtime/docker/execd.h"
#include "server/runtime/docker/inspect/examine.h"
#include "server/runtime/docker/inspect/facts.h"
#include "server/runtime/docker/internal.h"
#include "server/runtime/docker/sidecar/sidecar.h"
#include "server/runtime/docker/ssh/forward.h"
#include "server/runtime/docker/windows/windows.h"

enum { SECCOMP_MAX = 1024 * 1024, PIDS_DEFAULT = 4096, START_MS = 30000 };

static struct docker *self(struct runtime *r) {
    return (struct docker *)r;
}

// ---- start ----

static bool has_runtime(const json_t *info, const char *name) {
    return json_object_get(json_object_get(info, "Runtimes"), name) != NULL;
}

static int check_engine(struct docker *d, struct error *err) {
    cleanup_json json_t *info = NULL;
    if (engine_get(d->engine, &info, err, "/info"))
        return -1;
    const char *name = d->settings.secure_runtime;
    if (name && !has_runtime(info, name))
        return error_set(err, ENOENT,
                         "secure_runtime: the engine has no runtime \"%.60s\"; add it to the "
                         "engine's configuration (daemon.json: runtimes)",
                         name);
    d->no_limits = !engine_can_limit(info);
    if (d->no_limits)
        log_warning("the engine cannot limit memory, processor or processes: %s",
                    d->settings.limits == DOCKER_LIMITS_ENFORCE
                        ? "creates that ask for limits are refused (docker.limits)"
                        : "sandboxes run without limits (docker.limits = \"best_effort\")");
    char text[120];
    engine_describe(d->engine, info, text, sizeof text);
    log_info("docker runtime: %s", text);
    return 0;
}

// A foreign execd knows no token: who reaches its port runs commands.
static int check_foreign(const struct docker *d, struct error *err) {
    if (!d->foreign_execd)
        return 0;
    if (d->publish && docker_publishes_openly(d))
        return error_set(err, EINVAL,
                         "runtime.execd_image: the execd in \"%.200s\" knows no token, and "
                         "docker.publish_host %.60s would show it to the network; publish it on a "
                         "loopback address, or leave runtime.execd_image out",
                         d->settings.execd_image, d->settings.publish_host);
    log_warning("runtime.execd_image: the execd in %s knows no token; this server's proxy asks for "
                "it, nobody else does",
                d->settings.execd_image);
    return 0;
}

static int docker_start(struct runtime *r, struct error *err) {
    struct docker *d = self(r);
    if (engine_negotiate(d->engine, err) || check_engine(d, err) ||
        docker_network_prepare(d, err) || docker_execd_prepare(d, err) || check_foreign(d, err))
        return -1;
    docker_sidecar_prepare(d);
    d->events = docker_events_new(d, err);
    if (!d->events)
        return -1;
    log_info("docker runtime: network %s, execd by volume %s, %s", d->network, d->execd_volume,
             d->publish ? "its port published" : "reached inside of the sandbox's network");
    return 0;
}

// ---- the table ----

static int docker_list_all(struct runtime *r, struct runtime_found **ret, size_t *ret_count,
                           struct error *err) {
    return docker_sandbox_list(self(r), ret, ret_count, err);
}
static int docker_adopt(struct runtime *r, const char *id, const struct sandbox_spec *spec,
                        const char *state, struct inspection *ret, struct error *err) {
    return docker_sandbox_adopt(self(r), id, spec, state, ret, err);
}
// Sandboxes of a reference server are its own until somebody says otherwise; that they are there is
// said.
static void tell_foreign(struct docker *d) {
    struct error ignored;
    size_t n = 0;
    if (foreign_count(d->engine, &n, &ignored) == 0 && n)
        log_warning("the engine has %zu sandboxes of another server, which are left alone; "
                    "`opensandbox-server adopt` takes them over",
                    n);
}
static int docker_sweep(struct runtime *r, struct error *err) {
    struct docker *d = self(r);
    if (docker_sandbox_sweep(d, err))
        return -1;
    tell_foreign(d);
    return 0;
}
static int ensure_image(struct runtime *r, const struct image_request *q, struct image_info *ret,
                        struct error *err) {
    bool windows = q->os && strcmp(q->os, "windows") == 0;
    return windows && windows_check(self(r), err) ? -1 : docker_image_ensure(self(r), q, ret, err);
}
static bool image_ready(struct runtime *r, const struct image_request *q, struct image_info *ret) {
    return docker_image_ready(self(r), q, ret);
}
static int provision(struct runtime *r, const struct provision_request *q,
                     struct provision_result *ret, struct error *err) {
    return docker_provision(self(r), q, ret, err);
}
static int destroy(struct runtime *r, const char *id, struct error *err) {
    return docker_sandbox_destroy(self(r), id, err);
}
static int retire(struct runtime *r, const char *id, struct error *err) {
    return docker_sandbox_retire(self(r), id, err);
}
static int pause_it(struct runtime *r, const char *id, struct error *err) {
    return docker_sandbox_freeze(self(r), id, true, err);
}
static int resume_it(struct runtime *r, const char *id, struct error *err) {
    return docker_sandbox_freeze(self(r), id, false, err);
}
static int snapshot(struct runtime *r, const char *id, const char *snapshot_id, char *ret_artifact,
                    struct error *err) {
    return docker_snapshot(self(r), id, snapshot_id, ret_artifact, err);
}
static int snapshot_find(struct runtime *r, const char *snapshot_id, char *ret_artifact,
                         struct error *err) {
    return docker_snapshot_find(self(r), snapshot_id, ret_artifact, err);
}
static int snapshot_remove(struct runtime *r, const char *snapshot_id, const char *artifact,
                           struct error *err) {
    (void)artifact; // the image is found by the snapshot's id
    return docker_snapshot_remove(self(r), snapshot_id, err);
}
static int inspect(struct runtime *r, const char *id, struct inspection *ret, struct error *err) {
    return docker_sandbox_inspect(self(r), id, ret, err);
}
static int logs(struct runtime *r, const char *id, struct strbuf *ret, struct error *err) {
    return docker_sandbox_logs(self(r), id, ret, err);
}
static int facts(struct runtime *r, const char *id, struct pairs *ret, struct error *err) {
    return docker_facts(self(r), id, ret, err);
}
// What was asked for and is not there is never kept quiet (docker-runtime.md, decision 6).
static const char *notice(const struct runtime *r, const struct sandbox_spec *s) {
    const struct docker *d = (const struct docker *)r;
    if (spec_is_windows(s))
        return s->gpus ? "A Windows guest has no GPU of the host: resourceLimits.gpu has no effect."
                       : NULL;
    return d->no_limits && (s->memory_bytes || s->cpu_millis || s->pids)
               ? "The engine cannot limit memory, processor or processes on this host: "
                 "resourceLimits have no effect (docker.limits = \"best_effort\")."
               : NULL;
}
static int dial(struct runtime *r, const char *id, unsigned port, int *ret_fd, struct error *err) {
    return docker_dial(self(r), id, port, ret_fd, err);
}

static bool relays(const struct runtime *r, const struct sandbox_spec *s, unsigned port) {
    return spec_is_windows(s) ? windows_port_index(port) < 0 : ((const struct docker *)r)->publish;
}

static void watch(struct runtime *r, struct loop *l, runtime_event_fn *event, void *arg) {
    struct docker *d = self(r);
    if (d->events)
        docker_events_deliver(d->events, l, event, arg);
}

static void stop(struct runtime *r) {
    struct docker *d = self(r);
    if (d->events)
        docker_events_stop(d->events);
}

static bool free_box(const char *key, void *value, void *arg) {
    (void)key, (void)arg;
    docker_box_free(value);
    return true;
}

static void docker_free(struct runtime *r) {
    struct docker *d = self(r);
    docker_events_free(d->events);
    bridge_rules_free(d->rules);
    map_each(&d->boxes, free_box, NULL);
    map_clear(&d->boxes);
    docker_image_clear(d);
    ssh_forwards_free(d->forwards);
    engine_free(d->engine);
    free(d->seccomp);
    (void)pthread_mutex_destroy(&d->lock);
    free(d);
}

static const struct runtime_ops ops = {.name = "docker",
                                       .code_prefix = "DOCKER",
                                       .features = RUNTIME_PAUSE | RUNTIME_PLATFORM | RUNTIME_GPU |
                                                   RUNTIME_NAMED_VOLUMES | RUNTIME_OSSFS |
                                                   RUNTIME_NETWORK_POLICY | RUNTIME_WINDOWS,
                                       .start = docker_start,
                                       .list = docker_list_all,
                                       .adopt = docker_adopt,
                                       .sweep = docker_sweep,
                                       .ensure_image = ensure_image,
                                       .image_ready = image_ready,
                                       .provision = provision,
                                       .destroy = destroy,
                                       .retire = retire,
                                       .pause = pause_it,
                                       .resume = resume_it,
                                       .snapshot = snapshot,
                                       .snapshot_find = snapshot_find,
                                       .snapshot_remove = snapshot_remove,
                                       .inspect = inspect,
                                       .logs = logs,
                                       .facts = facts,
                                       .notice = notice,
                                       .dial = dial,
                                       .relays = relays,
                                       .watch = watch,
                                       .stop = stop,
                                       .free = docker_free};

// ---- settings ----

// The engine wants a profile's text, not its name (B18).
static int read_seccomp(struct docker *d, struct error *err) {
    const char *profile = d->settings.seccomp_profile;
    struct strbuf text cleanup_strbuf, compact cleanup_strbuf;
    strbuf_init(&text, SECCOMP_MAX);
    strbuf_init(&compact, SECCOMP_MAX);
    if (!profile)
        return 0;
    if (strcmp(profile, "unconfined") == 0 || strcmp(profile, "builtin") == 0) {
        d->seccomp = strdup(profile);
        return d->seccomp ? 0 : error_set(err, ENOMEM, "out of memory");
    }
    if (fd_read_file(AT_FDCWD, profile, &text, err))
        return error_wrap(err, "docker.seccomp_profile");
    cleanup_json json_t *j = json_parse(text.data, text.len, NULL, err);
    if (!j)
        return error_wrap(err, "docker.seccomp_profile %s", profile);
    if (json_write(j, &compact) || !(d->seccomp = strbuf_detach(&compact)))
        return error_set(err, ENOMEM, "out of memory");
    return 0;
}

static int check_settings(const struct docker_settings *s, struct error *err) {
    const char *mode = s->network_mode;
    if (!s->instance || !*s->instance || !s->execd_path)
        return error_set(err, EINVAL, "instance and execd path are needed");
    if (mode && (strcmp(mode, "none") == 0 || strncmp(mode, "container:", 10) == 0))
        return error_set(err, EINVAL,
                         "docker.network_mode = \"%.60s\": sandboxes need a network of their own; "
                         "use \"bridge\", \"host\" or the name of a network",
                         mode);
    return 0;
}

static int fill(struct docker *d, struct error *err) {
    const char *mode = d->settings.network_mode;
    if (!d->settings.ossfs_root)
        d->settings.ossfs_root = "/mnt/ossfs";
    if (!d->settings.default_pids)
        d->settings.default_pids = PIDS_DEFAULT;
    if (!d->settings.start_timeout_ms)
        d->settings.start_timeout_ms = START_MS;
    if (!d->settings.egress_ready_ms)
        d->settings.egress_ready_ms = START_MS;
    d->network = mode ? mode : OWN_NETWORK;
    d->host_network = mode && strcmp(mode, "host") == 0;
    if (check_settings(&d->settings, err) || read_seccomp(d, err))
        return -1;
    d->engine = engine_new(&d->settings.engine, err);
    return d->engine ? 0 : -1;
}

struct runtime *docker_new(const struct docker_settings *s, struct error *err) {
    struct docker *d = calloc(1, sizeof *d);
    if (!d)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    d->base.ops = &ops;
    d->settings = *s;
    (void)pthread_mutex_init(&d->lock, NULL);
    map_init(&d->boxes);
    map_init(&d->ready);
    map_init(&d->inherited);
    if (fill(d, err)) {
        docker_free(&d->base);
        return NULL;
    }
    return &d->base;
}

struct engine_settings docker_engine_of_environment(int64_t stall_ms) {
    const char *host = getenv("DOCKER_HOST"), *verify = getenv("DOCKER_TLS_VERIFY");
    return (struct engine_settings){.host = host && *host ? host : NULL,
                                    .tls = verify && *verify,
                                    .cert_path = getenv("DOCKER_CERT_PATH"),
                                    .stall_ms = stall_ms};
}
