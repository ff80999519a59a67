// A sandbox from nothing to execd's first answer: create, start, inspect; each step undone by
// destroy when a later one fails.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fmt/json.h"
#include "io/stream.h"
#include "server/errors.h"
#include "server/runtime/docker/container.h"
#include "server/runtime/docker/sidecar/sidecar.h"
#include "server/runtime/docker/windows/windows.h"

enum {
    LOOKS = 40,
    MEMORY_MIN = 6 * 1024 * 1024,
    CPU_MIN_MILLIS = 10,
    PAUSE_MIN_MS = 2,
    PAUSE_MAX_MS = 50,
    LOG_TAIL = 400
};

struct making {
    struct docker *d;
    const struct provision_request *q;
    struct provision_result *ret;
    struct box *box; // in the map from the first step on; the lock guards what others read
    char name[CONTAINER_NAME_SIZE];
    struct container_place place;
    struct box sidecar; // where its network is reached, when it has a policy
    bool over;          // it has ended already
    int64_t phase_start;
};

static void phase(struct making *m, const char *name) {
    int64_t now = clock_boot_ns();
    if (m->ret->phase_count < RUNTIME_PHASES_MAX) {
        struct runtime_phase *p = &m->ret->phases[m->ret->phase_count++];
        (void)snprintf(p->name, sizeof p->name, "%s", name);
        p->ns = now - m->phase_start;
    }
    m->phase_start = now;
}

// ---- 1. create ----

// What the user asked for and the engine refuses is the user's to mend.
static int refused(struct error *err, const char *what) {
    struct error cause = *err;
    if (engine_is_away(&cause)) {
        err->status = 500; // clients of create know no 503 (lifecycle-api.md decision 7)
        return -1;
    }
    bool asked = cause.kind == EINVAL || windows_is_device(cause.message);
    enum error_id code = asked ? ERR_INVALID_PARAMETER : ERR_R_SANDBOX_START_FAILED;
    if (cause.kind == ENOENT && strcasestr(cause.message, "image"))
        code = ERR_R_IMAGE_NOT_FOUND;
    (void)error_server(err, code, "%s: %.900s", what, cause.message);
    err->kind = cause.kind;
    return -1;
}

// What Docker refuses and Podman would try.
static int check_limits(const struct docker *d, const struct sandbox_spec *s, struct error *err) {
    if (spec_is_windows(s))
        return windows_check(d, err); // its limits are the guest's
    if (s->lifecycle && d->foreign_execd)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "lifecycle: the execd of runtime.execd_image has no init and does not "
                            "run hooks; leave it out, or unset runtime.execd_image");
    if (d->no_limits && d->settings.limits == DOCKER_LIMITS_ENFORCE &&
        (s->memory_bytes || s->cpu_millis || s->pids))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits: the engine cannot limit memory, processor or "
                            "processes on this host (control groups); run it so that it can, or "
                            "set docker.limits = \"best_effort\" to do without");
    if (s->memory_bytes && s->memory_bytes < MEMORY_MIN)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.memory is %llu bytes; at least 6Mi are needed",
                            (unsigned long long)s->memory_bytes);
    if (s->cpu_millis && s->cpu_millis < CPU_MIN_MILLIS)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "resourceLimits.cpu is %llum; at least 10m are needed",
                            (unsigned long long)s->cpu_millis);
    return 0;
}

static int choose_port(struct making *m, struct error *err) {
    struct sockaddr_in a = {.sin_port = 0};
    socklen_t len = sizeof a;
    cleanup_close int fd = listen_tcp("127.0.0.1", 0, 1, err);
    if (fd < 0)
        return -1;
    if (getsockname(fd, (struct sockaddr *)&a, &len))
        return error_errno(err, errno, "port for execd");
    m->place.host_port =
        ntohs(a.sin_port); // execd refuses to start when somebody takes it meanwhile
    return 0;
}

static json_t *body_of(struct making *m, struct error *err) {
    struct docker *d = m->d;
    bool own = false;
    cleanup_json json_t *binds = json_array();
    cleanup_json json_t *inherited = NULL;
    char snapshot[128];
    const char *known = m->q->image_id, *image = m->q->spec->image;
    if (m->q->snapshot_id) {
        (void)snprintf(snapshot, sizeof snapshot, SNAPSHOT_IMAGES ":%.64s", m->q->snapshot_id);
        known = image = snapshot;
    }
    if (!m->box->guest)
        json_array_append_new(binds, json_sprintf("%s:" EXECD_DIR ":ro", d->execd_volume));
    for (docker_list p = d->settings.sandbox_binds; p && *p; p++)
        json_array_append_new(binds, json_string(*p));
    int r = docker_volumes_prepare(d, m->q, binds, &own, err);
    m->box->volumes = own || m->box->guest; // also after a failure: the destroy takes them away
    if (r || (m->box->guest && windows_volume(d, m->q->id, binds, err)) ||
        docker_image_inherited(d, known, &inherited, err))
        return NULL;
    return docker_container_body(d, m->q, image ? image : known, inherited, binds, &m->place, err);
}

static int create(struct making *m, struct error *err) {
    char path[ENGINE_PATH_MAX];
    const struct sandbox_spec *s = m->q->spec;
    cleanup_json json_t *reply = NULL;
    cleanup_json json_t *body = body_of(m, err);
    if (!body)
        return -1;
    bool platform = s->platform_os && s->platform_arch && strcmp(s->platform_os, "linux") == 0;
    (void)snprintf(path, sizeof path, "/containers/create?name=%s%s%s", m->name,
                   platform ? "&platform=linux/" : "", platform ? s->platform_arch : "");
    const struct engine_call c = {.method = "POST", .path = path, .body = body};
    if (engine_do(m->d->engine, &c, &reply, err)) {
        if (err->kind == ENOENT)
            docker_image_forget(m->d);
        return refused(err, "the engine does not make the container");
    }
    const char *id = json_string_value(json_object_get(reply, "Id"));
    if (!id || strlen(id) < 12 || strlen(id) >= CONTAINER_ID_SIZE)
        return error_set(err, EPROTO, "the engine tells no id of the new container");
    (void)pthread_mutex_lock(&m->d->lock);
    (void)snprintf(m->box->container, sizeof m->box->container, "%s", id);
    (void)pthread_mutex_unlock(&m->d->lock);
    return 0;
}

// ---- 2. start and first answer ----

static int start(struct making *m, struct error *err) {
    char path[ENGINE_PATH_MAX];
    (void)snprintf(path, sizeof path, "/containers/%s/start", m->box->container);
    const struct engine_call c = {.method = "POST", .path = path};
    return engine_do(m->d->engine, &c, NULL, err)
               ? refused(err, "the engine does not start the container")
               : 0;
}

// The container has ended before execd was asked. When execd had begun, that was its entrypoint's
// doing: a sandbox that ran, and has ended; the event stream tells so. Otherwise there never was a
// sandbox.
static int judge_end(struct making *m, const struct inspection *i, struct error *err) {
    struct strbuf log cleanup_strbuf;
    struct error ignored;
    strbuf_init(&log, 65536);
    (void)docker_container_logs(m->d, m->name, "", &log, &ignored); // its begin is what counts
    if (strstr(log.data, EXECD_BEGAN))
        return 0;
    const char *tail = log.len > LOG_TAIL ? log.data + log.len - LOG_TAIL : log.data;
    return error_set(err, ECHILD, "the container ended%s, exit code %d%s%s%s",
                     m->box->guest ? "" : " before execd answered", i->exit_code,
                     i->oom ? " (out of memory)" : "", log.len ? "; its last output: " : "", tail);
}

// -1 with ESRCH: the engine has not heard yet that it has ended.
static int look(struct making *m, struct error *err) {
    cleanup_json json_t *container = NULL;
    struct inspection i;
    struct box found = {.net_fd = -1, .guest = m->box->guest};
    if (engine_get(m->d->engine, &container, err, "/containers/%s/json", m->box->container))
        return -1;
    docker_inspection_of(container, &i);
    m->over = !i.alive;
    if (m->over)
        return judge_end(m, &i, err);
    if (docker_box_reach(m->d, container, m->sidecar.policy ? NULL : container, &found, err))
        return -1;
    const struct box *network = m->sidecar.policy ? &m->sidecar : &found;
    (void)pthread_mutex_lock(&m->d->lock);
    m->box->net_fd = found.net_fd;
    m->box->address = network->address;
    m->box->port = m->d->host_network ? m->place.host_port : network->port;
    m->box->egress_port = network->egress_port;
    memcpy(m->box->guest_ports, found.guest_ports, sizeof found.guest_ports);
    memcpy(m->box->host, network->host, sizeof network->host);
    (void)pthread_mutex_unlock(&m->d->lock);
    return 0;
}

static int reach(struct making *m, struct error *err) {
    int r = look(m, err);
    for (int i = 0; i < LOOKS && r && err->kind == ESRCH; i++) {
        docker_pause_ms(PAUSE_MAX_MS);
        r = look(m, err);
    }
    return r ? r : engine_forgive(err);
}

static bool has_ended(struct making *m, struct inspection *ret) {
    (void)pthread_mutex_lock(&m->d->lock);
    bool ended = m->box->ended; // the event stream says so
    *ret = m->box->end;
    (void)pthread_mutex_unlock(&m->d->lock);
    return ended;
}

static int await_answer(struct making *m, struct error *err) {
    int64_t end = clock_boot_ms() + m->d->settings.start_timeout_ms, pause = PAUSE_MIN_MS;
    for (;;) {
        struct error why = {0};
        struct inspection i;
        int r = docker_ask(m->d, m->box, EXECD_PORT, "/ping", &why);
        if (r > 0)
            return 0;
        if (has_ended(m, &i))
            return judge_end(m, &i, err);
        if (r < 0 || clock_boot_ms() > end)
            return error_set(err, why.kind, "execd did not answer: %s", why.message);
        docker_pause_ms(pause);
        pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
    }
}

// ---- 3. report ----

static int report(struct making *m, struct error *err) {
    struct provision_result *r = m->ret;
    struct in_addr a = {.s_addr = m->box->address};
    int n = snprintf(r->state, sizeof r->state, "{\"container\":\"%s\",\"port\":%u}",
                     m->box->container, m->box->port);
    if (n < 0 || (size_t)n >= sizeof r->state)
        return error_set(err, EOVERFLOW, "state of the sandbox");
    if (a.s_addr)
        (void)inet_ntop(AF_INET, &a, r->address, sizeof r->address);
    (void)pthread_mutex_lock(&m->d->lock);
    m->box->running = true;
    bool ended = m->box->ended;
    (void)pthread_mutex_unlock(&m->d->lock);
    if (ended)
        docker_events_tell(m->d->events, m->q->id); // it ended between its answer and now
    return 0;
}

// First of all: the sandbox joins its network.
static int start_sidecar(struct making *m, struct error *err) {
    if (!m->q->spec->network_policy)
        return 0;
    (void)pthread_mutex_lock(&m->d->lock);
    m->box->policy = true; // a destroy looks for it from now on
    (void)pthread_mutex_unlock(&m->d->lock);
    if (docker_sidecar_start(m->d, m->q, m->place.sidecar, &m->sidecar, err))
        return -1;
    m->place.published = &m->sidecar;
    phase(m, "egress");
    return 0;
}

static int make(struct making *m, struct error *err) {
    if (check_limits(m->d, m->q->spec, err) || (m->d->host_network && choose_port(m, err)) ||
        start_sidecar(m, err))
        return -1;
    if (create(m, err))
        return -1;
    phase(m, "create");
    if (m->box->guest) {
        if (windows_bring(m->d, m->box->container, err))
            return -1;
        phase(m, "execd");
    }
    if (start(m, err))
        return -1;
    phase(m, "start");
    if (reach(m, err))
        return -1;
    phase(m, "inspect");
    if (m->box->guest)
        return report(m, err); // it boots for minutes
    if (!m->over && await_answer(m, err))
        return -1;
    phase(m, "answer");
    return report(m, err);
}

static int finish_error(struct error *err) {
    struct error cause = *err;
    if (engine_is_away(&cause))
        err->status = 500;
    if (cause.code[0])
        return -1;
    (void)error_server(err, ERR_R_SANDBOX_START_FAILED, "%s", cause.message);
    err->kind = cause.kind;
    return -1;
}

int docker_provision(struct docker *d, const struct provision_request *q,
                     struct provision_result *ret, struct error *err) {
    struct making m = {
        .d = d, .q = q, .ret = ret, .box = docker_box_new(), .sidecar = {.net_fd = -1}};
    *ret = (struct provision_result){.phase_count = 0};
    m.phase_start = clock_boot_ns();
    (void)snprintf(m.name, sizeof m.name, "sandbox-%s", q->id);
    if (m.box)
        m.box->guest = spec_is_windows(q->spec);
    if (!m.box || docker_box_put(d, q->id, m.box, err)) {
        docker_box_free(m.box);
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    }
    if (make(&m, err) == 0)
        return 0;
    struct error undo;
    bool untouched =
        err->kind == EHOSTDOWN && !m.place.sidecar[0] && !m.box->container[0] && !m.box->volumes;
    (void)finish_error(err);
    if (!untouched && err->kind == EHOSTDOWN)
        err->kind = ENOTCONN; // something is there
    if (untouched)
        docker_box_drop(d, q->id);
    else if (docker_sandbox_destroy(d, q->id, &undo) && !engine_is_away(&undo))
        (void)error_wrap(err, "cleaning up failed too (%.200s)", undo.message);
    return -1;
}
