#include "server/runtime/docker/sidecar/sidecar.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/encode.h"
#include "base/log.h"
#include "fmt/json.h"
#include "fmt/tar.h"
#include "server/errors.h"
#include "server/runtime/docker/container.h"
#include "server/runtime/docker/sidecar/servers.h"

#define POLICY_DIR  "/var/egress" // of our image
#define POLICY_FILE "policy.json"

enum {
    NAME_SIZE = 64,
    POLICY_INLINE_MAX = 64 * 1024, // one variable holds 128 KiB at most
    POLICY_MAX = 4 << 20,
    MEMORY = 128 << 20,
    PIDS = 64,
    PAUSE_MIN_MS = 2,
    PAUSE_MAX_MS = 100,
    LOG_TAIL = 400
};

static void name_of(const char *id, char name[NAME_SIZE]) {
    (void)snprintf(name, NAME_SIZE, "sandbox-egress-%s", id);
}

int docker_sidecar_check(const struct docker *d, struct error *err) {
    const char *mode = d->settings.network_mode;
    char servers[SERVERS_TEXT_MAX];
    if (!d->settings.egress_image)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: egress.image is not set; `make images` builds one");
    if (mode && strcmp(mode, "bridge") != 0)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: docker.network_mode = \"%.60s\" has no room for a "
                            "policy; leave it out, or set it to \"bridge\"",
                            mode);
    if (d->settings.secure_runtime)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: secure_runtime \"%.60s\" brings a network stack of its "
                            "own, which no policy filters",
                            d->settings.secure_runtime);
    servers_of(d, servers);
    if (!*servers && !mode && !engine_is_podman(d->engine))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: set egress.dns_upstream; this host names no DNS server "
                            "for it, and the engine's own one is filtered like the sandbox");
    return 0;
}

// ---- the image ----

static int ensure_image(struct docker *d, struct image_info *ret, struct error *err) {
    const struct image_request q = {.reference = d->settings.egress_image};
    cleanup_json json_t *inherited = NULL;
    size_t i;
    const json_t *name;
    if (!docker_image_ready(d, &q, ret) && docker_image_ensure(d, &q, ret, err))
        return error_wrap(err, "egress.image");
    if (docker_image_inherited(d, ret->id, &inherited, err))
        return -1;
    json_array_foreach(json_object_get(inherited, "labels"), i, name) {
        if (strcmp(json_string_value(name), LABEL_EGRESS) == 0)
            return 0;
    }
    return error_server(err, ERR_INVALID_PARAMETER,
                        "egress.image %.200s: it has no label \"" LABEL_EGRESS "\", so its egress "
                        "is another one, which may open when it ends; `make images` builds ours",
                        d->settings.egress_image);
}

void docker_sidecar_prepare(struct docker *d) {
    struct strbuf path cleanup_strbuf;
    struct error err;
    strbuf_init(&path, ENGINE_PATH_MAX);
    if (!d->settings.egress_image)
        return;
    (void)strbuf_adds(&path, "/images/");
    engine_escape(&path, d->settings.egress_image);
    (void)strbuf_adds(&path, "/json");
    const struct engine_call c = {.method = "GET", .path = path.data};
    if (engine_do(d->engine, &c, NULL, &err))
        log_warning("egress.image: %s; the first create with a networkPolicy pulls it",
                    err.message);
}

// ---- the container ----

static void add(json_t *env, const char *name, const char *value) {
    json_array_append_new(env, json_sprintf("OPENSANDBOX_EGRESS_%s=%s", name, value));
}

static json_t *environment_of(const struct docker *d, const struct provision_request *q) {
    char digest[SHA256_HEX_SIZE], servers[SERVERS_TEXT_MAX];
    const struct pairs *asked = &q->spec->egress_env;
    json_t *env = json_array();
    sha256_hex(q->egress_token, strlen(q->egress_token), digest);
    servers_of(d, servers);
    for (size_t i = 0; i < asked->count; i++) // where the policy is kept is ours to say
        if (asked->items[i].value &&
            strcmp(asked->items[i].name, "OPENSANDBOX_EGRESS_POLICY_FILE") != 0)
            json_array_append_new(
                env, json_sprintf("%s=%s", asked->items[i].name, asked->items[i].value));
    add(env, "POLICY_FILE", POLICY_DIR "/" POLICY_FILE); // what changes outlives a worker
    add(env, "MODE", d->settings.egress_names_only ? "dns" : "dns+nft");
    add(env, "TOKEN_SHA256", digest);
    add(env, "SANDBOX_ID", q->id);
    if (*servers)
        add(env, "DNS_UPSTREAM", servers);
    if (strlen(q->spec->network_policy) <= POLICY_INLINE_MAX)
        add(env, "RULES", q->spec->network_policy);
    return env;
}

static json_t *host_of(const struct docker *d) {
    json_t *host = json_pack("{s:s,s:[s],s:[s],s:[s],s:o}", "NetworkMode", d->network, "CapDrop",
                             "ALL", "CapAdd", "NET_ADMIN", "SecurityOpt", "no-new-privileges:true",
                             "LogConfig", docker_log_config(d));
    if (d->settings.egress_disable_ipv6)
        json_object_set_new(host, "Sysctls",
                            json_pack("{s:s,s:s,s:s}", "net.ipv6.conf.all.disable_ipv6", "1",
                                      "net.ipv6.conf.default.disable_ipv6", "1",
                                      "net.ipv6.conf.lo.disable_ipv6", "1"));
    if (!d->no_limits) {
        json_object_set_new(host, "PidsLimit", json_integer(PIDS));
        json_object_set_new(host, "Memory", json_integer(MEMORY));
    }
    if (d->publish)
        json_object_set_new(host, "PortBindings",
                            json_pack("{s:[{s:s,s:s}],s:[{s:s,s:s}]}", "44772/tcp", "HostIp",
                                      d->settings.publish_host, "HostPort", "", "18080/tcp",
                                      "HostIp", d->settings.publish_host, "HostPort", ""));
    return host;
}

static json_t *body_of(const struct docker *d, const struct provision_request *q,
                       const char *image) {
    json_t *labels = docker_owner_labels(d, q->id);
    json_object_set_new(labels, LABEL_SIDECAR_FOR, json_string(q->id));
    json_t *body = json_pack("{s:s,s:o,s:o,s:o}", "Image", image, "Env", environment_of(d, q),
                             "Labels", labels, "HostConfig", host_of(d));
    if (d->publish)
        json_object_set_new(body, "ExposedPorts",
                            json_pack("{s:{},s:{}}", "44772/tcp", "18080/tcp"));
    return body;
}

static int create(struct docker *d, const struct provision_request *q, const char *image,
                  char ret_container[CONTAINER_ID_SIZE], struct error *err) {
    char path[ENGINE_PATH_MAX], name[NAME_SIZE];
    cleanup_json json_t *reply = NULL;
    cleanup_json json_t *body = body_of(d, q, image);
    if (!body)
        return error_set(err, ENOMEM, "out of memory");
    name_of(q->id, name);
    (void)snprintf(path, sizeof path, "/containers/create?name=%s", name);
    const struct engine_call c = {.method = "POST", .path = path, .body = body};
    if (engine_do(d->engine, &c, &reply, err)) {
        if (err->kind == ENOENT)
            docker_image_forget(d);
        return -1;
    }
    const char *id = json_string_value(json_object_get(reply, "Id"));
    if (!id || strlen(id) < 12 || strlen(id) >= CONTAINER_ID_SIZE)
        return error_set(err, EPROTO, "the engine tells no id of the new container");
    (void)snprintf(ret_container, CONTAINER_ID_SIZE, "%s", id);
    return 0;
}

// A policy that no variable holds is there as the file of the one that was kept last.
static int put_policy(struct docker *d, const char *container, const char *policy,
                      struct error *err) {
    char path[ENGINE_PATH_MAX];
    struct strbuf archive cleanup_strbuf;
    strbuf_init(&archive, POLICY_MAX);
    if (strlen(policy) <= POLICY_INLINE_MAX)
        return 0;
    if (tar_add_file(&archive, POLICY_FILE, 0600, policy, strlen(policy)) || tar_end(&archive))
        return error_set(err, E2BIG, "the policy is longer than %d bytes", POLICY_MAX);
    (void)snprintf(path, sizeof path, "/containers/%s/archive?path=" POLICY_DIR, container);
    const struct engine_call c = {
        .method = "PUT", .path = path, .data = archive.data, .len = archive.len};
    return engine_do(d->engine, &c, NULL, err);
}

static int start(struct docker *d, const char *container, struct error *err) {
    char path[ENGINE_PATH_MAX];
    (void)snprintf(path, sizeof path, "/containers/%s/start", container);
    const struct engine_call c = {.method = "POST", .path = path};
    return engine_do(d->engine, &c, NULL, err);
}

// ---- until it is healthy ----

static int ended(struct docker *d, const char *id, struct error *err) {
    char name[NAME_SIZE];
    struct strbuf log cleanup_strbuf;
    struct error ignored;
    name_of(id, name);
    strbuf_init(&log, 65536);
    (void)docker_container_logs(d, name, "&tail=20", &log, &ignored);
    const char *tail = log.len > LOG_TAIL ? log.data + log.len - LOG_TAIL : log.data;
    return error_set(err, ECHILD, "it ended before the policy was in force%s%s",
                     log.len ? "; its last output: " : "", tail);
}

// 0: `b` reaches it; -1 with ESRCH: not yet.
static int reach(struct docker *d, const char *id, struct box *b, struct error *err) {
    cleanup_json json_t *container = NULL;
    if (docker_sidecar_inspect(d, id, &container, err))
        return err->kind == ENOENT ? ended(d, id, err) : -1;
    return docker_box_reach(d, container, container, b, err);
}

static int await_health(struct docker *d, const char *id, struct box *b, struct error *err) {
    int64_t end = clock_boot_ms() + d->settings.egress_ready_ms, pause = PAUSE_MIN_MS;
    bool reached = false;
    for (;;) {
        int r = 0;
        struct error why = {0};
        if (!reached || pause == PAUSE_MAX_MS) { // it may have ended meanwhile
            struct box found = {.net_fd = -1, .policy = true};
            if (reach(d, id, &found, &why) && why.kind != ESRCH)
                return *err = why, -1;
            if (b->net_fd >= 0)
                (void)close(b->net_fd);
            *b = found;
            reached = why.kind != ESRCH;
        }
        if (reached)
            r = docker_ask(d, b, EGRESS_PORT, "/healthz", &why);
        if (r > 0)
            return 0;
        if (r < 0 || clock_boot_ms() > end)
            return error_set(err, why.kind ? why.kind : ETIMEDOUT,
                             "the policy was not in force within %lld ms "
                             "(egress.readiness_timeout_seconds): %s",
                             (long long)d->settings.egress_ready_ms, why.message);
        docker_pause_ms(pause);
        pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
    }
}

static int make(struct docker *d, const struct provision_request *q,
                char ret_container[CONTAINER_ID_SIZE], struct box *b, struct error *err) {
    struct image_info image;
    if (ensure_image(d, &image, err) || create(d, q, image.id, ret_container, err) ||
        put_policy(d, ret_container, q->spec->network_policy, err) ||
        start(d, ret_container, err) || await_health(d, q->id, b, err))
        return error_wrap(err, "network policy");
    return 0;
}

int docker_sidecar_start(struct docker *d, const struct provision_request *q,
                         char ret_container[CONTAINER_ID_SIZE], struct box *ret,
                         struct error *err) {
    struct box b = {.net_fd = -1};
    if (docker_sidecar_check(d, err))
        return -1;
    int r = make(d, q, ret_container, &b, err);
    if (b.net_fd >= 0)
        (void)close(b.net_fd); // the sandbox's own is opened behind the sandbox's own process
    if (r)
        return -1;
    b.net_fd = -1;
    *ret = b;
    return 0;
}

// ---- afterwards ----

int docker_sidecar_inspect(struct docker *d, const char *id, json_t **ret, struct error *err) {
    cleanup_json json_t *container = NULL;
    struct inspection i;
    if (engine_get(d->engine, &container, err, "/containers/sandbox-egress-%s/json", id))
        return -1;
    docker_inspection_of(container, &i);
    if (!i.alive)
        return error_set(err, ENOENT, "the network policy's container of sandbox %s has ended", id);
    *ret = TAKE_PTR(container);
    return 0;
}

// One that does not run, or is not there, is fine.
static int kill_container(struct docker *d, const char *name, struct error *err) {
    char path[ENGINE_PATH_MAX];
    (void)snprintf(path, sizeof path, "/containers/%s/kill", name);
    const struct engine_call c = {.method = "POST", .path = path};
    if (engine_do(d->engine, &c, NULL, err) == 0)
        return 0;
    return err->kind == ENOENT || err->kind == EBUSY ? engine_forgive(err) : -1;
}

int docker_sidecar_lost(struct docker *d, const char *id, struct error *err) {
    char name[NAME_SIZE];
    (void)snprintf(name, sizeof name, "sandbox-%s", id);
    log_warning(
        "sandbox %s: its network policy's container has ended, and its network with it; the "
        "sandbox is ended, too",
        id);
    return kill_container(d, name, err);
}

int docker_sidecar_stop(struct docker *d, const char *id, struct error *err) {
    char name[NAME_SIZE];
    name_of(id, name);
    return kill_container(d, name, err);
}

int docker_sidecar_remove(struct docker *d, const char *id, struct error *err) {
    char name[NAME_SIZE];
    name_of(id, name);
    return docker_container_remove(d, name, err);
}
