// What is done to a sandbox after its create; and what the engine tells of it.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/internal.h"
#include "server/runtime/docker/sidecar/sidecar.h"
#include "server/runtime/docker/ssh/forward.h"
#include "server/runtime/docker/windows/windows.h"

enum { REMOVAL_TRIES = 100, REMOVAL_PAUSE_MS = 100, LOG_LINES = 10000 };

// ---- boxes ----

struct box *docker_box_new(void) {
    struct box *b = calloc(1, sizeof *b);
    if (b)
        b->net_fd = -1;
    return b;
}

void docker_box_free(struct box *b) {
    if (!b)
        return;
    if (b->net_fd >= 0)
        (void)close(b->net_fd);
    free(b);
}

int docker_box_put(struct docker *d, const char *id, struct box *b, struct error *err) {
    (void)pthread_mutex_lock(&d->lock);
    struct box *old = map_get(&d->boxes, id);
    int r = map_put(&d->boxes, id, b);
    (void)pthread_mutex_unlock(&d->lock);
    if (r)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    docker_box_free(old);
    return 0;
}

static void stop_forwarding(struct docker *d, const struct box *b) {
    const unsigned ports[] = {b->port, b->egress_port};
    for (size_t i = 0; i < ARRAY_SIZE(ports); i++)
        if (ports[i])
            ssh_forward_drop(d->forwards, ports[i]);
    for (size_t i = 0; i < GUEST_PORTS; i++)
        if (b->guest_ports[i] && b->guest_ports[i] != b->port)
            ssh_forward_drop(d->forwards, b->guest_ports[i]);
}

static struct box *box_take(struct docker *d, const char *id) {
    (void)pthread_mutex_lock(&d->lock);
    struct box *b = map_remove(&d->boxes, id);
    (void)pthread_mutex_unlock(&d->lock);
    if (b && d->forwards)
        stop_forwarding(d, b);
    return b;
}

void docker_box_drop(struct docker *d, const char *id) {
    docker_box_free(box_take(d, id));
}

// ---- what the engine says ----

static const json_t *state_of(const json_t *container) {
    return json_object_get(container, "State");
}

void docker_inspection_of(const json_t *container, struct inspection *ret) {
    const json_t *s = state_of(container);
    const char *finished = json_string_value(json_object_get(s, "FinishedAt"));
    *ret = (struct inspection){.exit_code = -1};
    ret->alive = json_is_true(json_object_get(s, "Running")) ||
                 json_is_true(json_object_get(s, "Restarting"));
    ret->paused = json_is_true(json_object_get(s, "Paused"));
    if (ret->alive || ret->paused) { // Podman says of a paused one that it does not run
        ret->alive = true;
        return;
    }
    json_int_t code = json_integer_value(json_object_get(s, "ExitCode"));
    ret->exit_code = code >= 0 && code <= 255 ? (int)code : -1;
    ret->oom = json_is_true(json_object_get(s, "OOMKilled"));
    if (finished && clock_parse(finished, &ret->ended_us) < 0)
        ret->ended_us = 0;
    if (ret->ended_us <= 0 || ret->ended_us > clock_wall_us())
        ret->ended_us = clock_wall_us(); // year 1, or another clock
}

// An address that ports were published on can be dialled, unless it stands for all of them.
static const char *published_host(const struct docker *d) {
    const char *host = d->settings.publish_host;
    if (host && strcmp(host, "0.0.0.0") != 0 && strcmp(host, "::") != 0)
        return host;
    return engine_is_socket(d->engine) ? "127.0.0.1" : engine_name(d->engine);
}

static unsigned published_port(const json_t *settings, unsigned inside) {
    char name[16];
    (void)snprintf(name, sizeof name, "%u/tcp", inside);
    const json_t *binding =
        json_array_get(json_object_get(json_object_get(settings, "Ports"), name), 0);
    const char *port = json_string_value(json_object_get(binding, "HostPort"));
    uint64_t number = 0;
    return port && parse_u64(port, 1, 65535, &number) == 0 ? (unsigned)number : 0;
}

// The bridge's address, and where execd is published.
static void read_network(struct docker *d, const json_t *container, struct box *b) {
    const json_t *n = json_object_get(container, "NetworkSettings");
    json_t *networks = json_object_get(n, "Networks"), *one;
    const char *name, *text = json_string_value(json_object_get(n, "IPAddress"));
    json_object_foreach(networks, name, one) {
        if (!text || !*text)
            text = json_string_value(json_object_get(one, "IPAddress"));
    }
    if (text && *text)
        b->address = inet_addr(text);
    if (b->address == INADDR_NONE)
        b->address = 0;
    b->port = published_port(n, EXECD_PORT);
    b->egress_port = published_port(n, EGRESS_PORT);
    for (size_t i = 0; i < GUEST_PORTS && b->guest; i++)
        b->guest_ports[i] = published_port(n, windows_ports[i]);
    (void)snprintf(b->host, sizeof b->host, "%s", published_host(d));
}

int docker_box_reach(struct docker *d, const json_t *container, const json_t *network,
                     struct box *b, struct error *err) {
    const char *id = json_string_value(json_object_get(container, "Id"));
    if (!id || strlen(id) < 12 || strlen(id) >= sizeof b->container)
        return error_set(err, EPROTO, "the engine tells no id of the container");
    (void)snprintf(b->container, sizeof b->container, "%s", id);
    if (d->host_network) {
        (void)snprintf(b->host, sizeof b->host, "127.0.0.1");
        return 0;
    }
    read_network(d, network, b);
    if (d->publish || b->guest)
        return b->port || !network ? 0
                                   : error_set(err, EPROTO,
                                               "the engine published no port for execd; see "
                                               "docker.publish_ports and docker.publish_host");
    json_int_t pid = json_integer_value(json_object_get(state_of(container), "Pid"));
    return docker_namespace_open((int)pid, id, &b->net_fd, err);
}

static int inspect_container(struct docker *d, const char *id, json_t **ret, struct error *err) {
    return engine_get(d->engine, ret, err, "/containers/sandbox-%s/json", id);
}

int docker_sandbox_inspect(struct docker *d, const char *id, struct inspection *ret,
                           struct error *err) {
    cleanup_json json_t *container = NULL;
    (void)pthread_mutex_lock(&d->lock);
    const struct box *b = map_get(&d->boxes, id);
    bool known = b != NULL;
    if (known)
        *ret = b->ended ? b->end
                        : (struct inspection){.alive = true, .paused = b->paused, .exit_code = -1};
    (void)pthread_mutex_unlock(&d->lock);
    if (known)
        return 0; // the event stream keeps it true
    if (inspect_container(d, id, &container, err))
        return err->kind == ENOENT
                   ? error_server(err, ERR_R_SANDBOX_NOT_FOUND, "the engine has no sandbox %s", id)
                   : -1;
    docker_inspection_of(container, ret);
    return 0;
}

// ---- pause and resume ----

static int frozen_as_wanted(struct docker *d, const char *id, bool pause, struct error *err) {
    cleanup_json json_t *container = NULL;
    struct error cause = *err;
    struct inspection i;
    if (inspect_container(d, id, &container, err))
        return -1;
    docker_inspection_of(container, &i);
    if (!i.alive)
        return error_server(err, pause ? ERR_R_SANDBOX_NOT_RUNNING : ERR_R_SANDBOX_NOT_PAUSED,
                            "sandbox %s has ended", id);
    if (i.paused == pause)
        return engine_forgive(err); // somebody was faster
    return error_server(err, pause ? ERR_R_SANDBOX_PAUSE_FAILED : ERR_R_SANDBOX_RESUME_FAILED, "%s",
                        cause.message);
}

int docker_sandbox_freeze(struct docker *d, const char *id, bool pause, struct error *err) {
    char path[ENGINE_PATH_MAX];
    (void)snprintf(path, sizeof path, "/containers/sandbox-%s/%s", id, pause ? "pause" : "unpause");
    const struct engine_call c = {.method = "POST", .path = path};
    if (engine_do(d->engine, &c, NULL, err)) {
        if (engine_is_away(err))
            return -1;
        if (err->kind == ENOENT)
            return error_server(err, ERR_R_SANDBOX_NOT_FOUND, "the engine has no sandbox %s", id);
        if (frozen_as_wanted(d, id, pause, err))
            return -1;
    }
    (void)pthread_mutex_lock(&d->lock);
    struct box *b = map_get(&d->boxes, id);
    if (b)
        b->paused = pause;
    (void)pthread_mutex_unlock(&d->lock);
    return 0;
}

// ---- the end ----

void docker_pause_ms(int64_t ms) {
    const struct timespec t = {.tv_nsec = ms * 1000000};
    (void)nanosleep(&t, NULL);
}

// The engine says "in progress" while another removal runs: that one's end is ours.
static int await_removal(struct docker *d, const char *name, struct error *err) {
    for (int i = 0; i < REMOVAL_TRIES; i++) {
        cleanup_json json_t *container = NULL;
        if (engine_get(d->engine, &container, err, "/containers/%s/json", name))
            return err->kind == ENOENT ? engine_forgive(err) : -1;
        docker_pause_ms(REMOVAL_PAUSE_MS);
    }
    return error_set(err, ETIMEDOUT, "the engine does not finish the removal of %s", name);
}

int docker_container_remove(struct docker *d, const char *name, struct error *err) {
    char path[ENGINE_PATH_MAX];
    (void)snprintf(path, sizeof path, "/containers/%s?force=1&v=1", name);
    const struct engine_call c = {.method = "DELETE", .path = path};
    if (engine_do(d->engine, &c, NULL, err) == 0)
        return 0;
    if (err->kind == EBUSY)
        return await_removal(d, name, err);
    return err->kind == ENOENT ? engine_forgive(err) : -1;
}

static int failed_delete(struct error *err) {
    struct error cause = *err;
    if (cause.code[0])
        return -1;
    (void)error_server(err, ERR_R_SANDBOX_DELETE_FAILED, "%s", cause.message);
    err->kind = cause.kind;
    return -1;
}

int docker_sandbox_destroy(struct docker *d, const char *id, struct error *err) {
    char name[CONTAINER_NAME_SIZE];
    struct box *b = box_take(d, id);
    bool volumes = !b || b->volumes, policy = !b || b->policy; // an unknown one may have some
    docker_box_free(b);
    (void)snprintf(name, sizeof name, "sandbox-%s", id);
    // the sidecar last: it stands before the sandbox as long as that is there
    if (docker_container_remove(d, name, err) || (policy && docker_sidecar_remove(d, id, err)))
        return failed_delete(err);
    return volumes && docker_volumes_remove(d, id, err) ? failed_delete(err) : 0;
}

// The container holds nothing but its log, which is wanted; its sidecar has nothing to do.
int docker_sandbox_retire(struct docker *d, const char *id, struct error *err) {
    (void)pthread_mutex_lock(&d->lock);
    const struct box *b = map_get(&d->boxes, id);
    bool policy = b && b->policy;
    (void)pthread_mutex_unlock(&d->lock);
    return policy ? docker_sidecar_stop(d, id, err) : 0;
}

// ---- logs ----

struct demux {
    struct strbuf *ret;
    unsigned char head[8];
    size_t have, left; // bytes of the head; bytes of the frame that are to come
    bool plain;        // no frames at all: a terminal's output
};

// Frames: stream number, three zeros, length (big-endian).
static int on_logs(void *arg, const char *data, size_t len) {
    struct demux *x = arg;
    while (len) {
        if (x->plain || x->left) {
            size_t n = x->plain || len < x->left ? len : x->left;
            (void)strbuf_add(x->ret, data, n); // more than the maximum is cut
            x->left -= x->plain ? 0 : n;
            data += n;
            len -= n;
            continue;
        }
        x->head[x->have++] = (unsigned char)*data++;
        len--;
        if (x->have < sizeof x->head)
            continue;
        x->have = 0;
        if (x->head[0] > 2 || x->head[1] || x->head[2] || x->head[3]) {
            x->plain = true;
            (void)strbuf_add(x->ret, x->head, sizeof x->head);
            continue;
        }
        x->left = (size_t)x->head[4] << 24 | (size_t)x->head[5] << 16 | (size_t)x->head[6] << 8 |
                  x->head[7];
    }
    return 0;
}

int docker_container_logs(struct docker *d, const char *container, const char *query,
                          struct strbuf *ret, struct error *err) {
    char path[ENGINE_PATH_MAX];
    struct demux x = {.ret = ret};
    (void)snprintf(path, sizeof path, "/containers/%s/logs?stdout=1&stderr=1%s", container, query);
    const struct engine_call c = {.method = "GET", .path = path, .piece = on_logs, .arg = &x};
    return engine_do(d->engine, &c, NULL, err);
}

// execd's word that it has begun is for us, and no output of the entrypoint.
static void drop_began(struct strbuf *log) {
    char *word = strstr(log->data, EXECD_BEGAN), *begin = word;
    while (begin && begin > log->data && begin[-1] != '\n')
        begin--;
    if (!begin || strncmp(begin, "{\"ts\":", 6) != 0)
        return;
    char *end = strchr(word, '\n');
    end = end ? end + 1 : log->data + log->len;
    memmove(begin, end, (size_t)(log->data + log->len - end) + 1);
    log->len -= (size_t)(end - begin);
}

int docker_sandbox_logs(struct docker *d, const char *id, struct strbuf *ret, struct error *err) {
    char name[CONTAINER_NAME_SIZE], query[32];
    (void)snprintf(name, sizeof name, "sandbox-%s", id);
    (void)snprintf(query, sizeof query, "&tail=%d", LOG_LINES);
    if (docker_container_logs(d, name, query, ret, err))
        return err->kind == ENOENT
                   ? error_server(err, ERR_R_SANDBOX_NOT_FOUND, "the engine has no sandbox %s", id)
                   : -1;
    drop_began(ret);
    return 0;
}

// ---- at the start ----

// Containers or volumes of this server, as the engine lists them.
static int list_owned(struct docker *d, const char *what, json_t **ret, struct error *err) {
    cleanup_json json_t *filters =
        json_pack("{s:[o]}", "label", json_sprintf("%s=%s", LABEL_SERVER, d->settings.instance));
    struct strbuf text cleanup_strbuf, path cleanup_strbuf;
    strbuf_init(&text, 1024);
    strbuf_init(&path, ENGINE_PATH_MAX);
    if (!filters || json_write(filters, &text))
        return error_set(err, ENOMEM, "out of memory");
    (void)strbuf_addf(&path, "%s", what);
    engine_escape(&path, text.data);
    const struct engine_call c = {.method = "GET", .path = path.data};
    return engine_do(d->engine, &c, ret, err);
}

struct ids {
    struct map seen; // id -> anything
    struct runtime_found *items;
    size_t count;
};

static int note_id(struct ids *ids, const json_t *labels, struct error *err) {
    const char *id = json_string_value(json_object_get(labels, LABEL_ID));
    if (!id || strlen(id) != SANDBOX_ID_SIZE - 1 || map_get(&ids->seen, id))
        return 0; // a helper, or known already
    struct runtime_found *more = realloc(ids->items, (ids->count + 1) * sizeof *more);
    if (!more || map_put(&ids->seen, id, ids)) {
        ids->items = more ? more : ids->items;
        return error_set(err, ENOMEM, "out of memory");
    }
    ids->items = more;
    (void)snprintf(more[ids->count++].id, SANDBOX_ID_SIZE, "%s", id);
    return 0;
}

static int gather(struct docker *d, struct ids *ids, struct error *err) {
    cleanup_json json_t *containers = NULL;
    cleanup_json json_t *volumes = NULL;
    const json_t *one;
    size_t i;
    if (list_owned(d, "/containers/json?all=1&filters=", &containers, err) ||
        list_owned(d, "/volumes?filters=", &volumes, err))
        return -1;
    json_array_foreach(containers, i, one) {
        if (note_id(ids, json_object_get(one, "Labels"), err))
            return -1;
    }
    json_array_foreach(json_object_get(volumes, "Volumes"), i, one) {
        if (note_id(ids, json_object_get(one, "Labels"), err))
            return -1;
    }
    return 0;
}

int docker_sandbox_list(struct docker *d, struct runtime_found **ret, size_t *ret_count,
                        struct error *err) {
    struct ids ids = {.count = 0};
    map_init(&ids.seen);
    int r = gather(d, &ids, err);
    map_clear(&ids.seen);
    if (r) {
        free(ids.items);
        return -1;
    }
    *ret = ids.items;
    *ret_count = ids.count;
    return 0;
}

static unsigned saved_port(const char *state) {
    struct error ignored;
    cleanup_json json_t *j =
        state && *state ? json_parse(state, strlen(state), NULL, &ignored) : NULL;
    json_int_t port = json_integer_value(json_object_get(j, "port"));
    return port > 0 && port <= 65535 ? (unsigned)port : 0;
}

// What an inspected container says goes into its box, unless the event stream was there first.
// `network`: the container whose network it has.
static int settle(struct docker *d, struct box *b, const json_t *container, const json_t *network,
                  const char *state, struct inspection *ret, struct error *err) {
    struct inspection i;
    struct box found = {
        .net_fd = -1, .port = d->host_network ? saved_port(state) : 0, .guest = b->guest};
    docker_inspection_of(container, &i);
    if (i.alive && docker_box_reach(d, container, network, &found, err))
        return -1;
    (void)pthread_mutex_lock(&d->lock);
    memcpy(b->container, found.container, sizeof b->container);
    memcpy(b->host, found.host, sizeof b->host);
    b->net_fd = found.net_fd;
    b->address = found.address;
    b->port = found.port;
    memcpy(b->guest_ports, found.guest_ports, sizeof b->guest_ports);
    b->egress_port = found.egress_port;
    b->running = true;
    b->paused = i.paused;
    if (!b->ended) {
        b->ended = !i.alive;
        b->end = i;
    }
    *ret = b->ended ? b->end : i;
    (void)pthread_mutex_unlock(&d->lock);
    return 0;
}

// The sandbox, and the sidecar that it lives behind; without that one it is ended.
static int look_for(struct docker *d, const char *id, bool policy, json_t **ret_container,
                    json_t **ret_sidecar, struct error *err) {
    struct inspection i;
    if (inspect_container(d, id, ret_container, err))
        return -1;
    docker_inspection_of(*ret_container, &i);
    if (!policy || !i.alive || docker_sidecar_inspect(d, id, ret_sidecar, err) == 0)
        return 0;
    if (err->kind != ENOENT || docker_sidecar_lost(d, id, err))
        return -1;
    json_decref(TAKE_PTR(*ret_container));
    return inspect_container(d, id, ret_container, err);
}

int docker_sandbox_adopt(struct docker *d, const char *id, const struct sandbox_spec *spec,
                         const char *state, struct inspection *ret, struct error *err) {
    cleanup_json json_t *container = NULL;
    cleanup_json json_t *sidecar = NULL;
    bool policy = spec->network_policy != NULL;
    struct box *b = docker_box_new();
    if (!b || docker_box_put(d, id, b, err)) { // first, so that the event stream knows it
        docker_box_free(b);
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    }
    b->volumes = true; // it may have some
    b->policy = policy;
    b->guest = spec_is_windows(spec);
    int r = look_for(d, id, policy, &container, &sidecar, err);
    if (!r)
        return settle(d, b, container, sidecar ? sidecar : container, state, ret, err);
    docker_box_drop(d, id);
    if (err->kind != ENOENT)
        return -1;
    *ret = (struct inspection){.exit_code = -1}; // an end of which nothing is known
    return engine_forgive(err);
}

// Containers of ours that are no sandboxes: one that was to bring execd, of a server that was
// killed meanwhile.
static int sweep_helpers(struct docker *d, struct error *err) {
    cleanup_json json_t *containers = NULL;
    const json_t *one;
    size_t i;
    if (list_owned(d, "/containers/json?all=1&filters=", &containers, err))
        return -1;
    json_array_foreach(containers, i, one) {
        const char *id = json_string_value(json_object_get(one, "Id"));
        if (id && !json_object_get(json_object_get(one, "Labels"), LABEL_ID) &&
            docker_container_remove(d, id, err))
            return -1;
    }
    return 0;
}

int docker_sandbox_sweep(struct docker *d, struct error *err) {
    struct runtime_found *found = NULL;
    size_t count = 0;
    if (sweep_helpers(d, err) || docker_sandbox_list(d, &found, &count, err))
        return -1;
    int r = 0;
    for (size_t i = 0; i < count && !r; i++) {
        (void)pthread_mutex_lock(&d->lock);
        bool known = map_get(&d->boxes, found[i].id) != NULL;
        (void)pthread_mutex_unlock(&d->lock);
        if (!known)
            r = docker_sandbox_destroy(d, found[i].id, err);
    }
    free(found);
    return r;
}
