// The body of a container's create: a sandbox in the engine's words (docker-runtime.md 1.4 to 1.7,
// compat-1.1.1.md D3).
#include "server/runtime/docker/container.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/handoff.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/windows/windows.h"

enum { NANOS_PER_MILLI = 1000000 };

json_t *docker_owner_labels(const struct docker *d, const char *id) {
    return json_pack("{s:s,s:s}", LABEL_ID, id, LABEL_SERVER, d->settings.instance);
}

static void add_expiry(json_t *labels, const struct sandbox_spec *s) {
    char text[CLOCK_TEXT_MAX];
    if (!s->timeout_s) {
        json_object_set_new(labels, LABEL_MANUAL, json_string("true"));
        return;
    }
    // for the eyes of people and of other servers; ours is in the store
    clock_format(clock_wall_us() + s->timeout_s * 1000000, text);
    size_t n = strlen(text);
    if (n && text[n - 1] == 'Z')
        (void)snprintf(text + n - 1, sizeof text - n + 1, "+00:00");
    json_object_set_new(labels, LABEL_EXPIRES, json_string(text));
}

// Where the sidecar has the sandbox's ports.
static void add_port_label(json_t *labels, const struct container_place *place) {
    if (place->published && place->published->port)
        json_object_set_new(labels, LABEL "embedding-proxy-port",
                            json_sprintf("%u", place->published->port));
}

static json_t *labels_of(struct docker *d, const struct provision_request *q,
                         const json_t *inherited, const struct container_place *place) {
    const struct sandbox_spec *s = q->spec;
    json_t *labels = json_object();
    size_t i;
    const json_t *name;
    // a container has its image's labels too: those that would mean something are made empty
    json_array_foreach(json_object_get(inherited, "labels"), i, name)
        json_object_set_new(labels, json_string_value(name), json_string(""));
    for (i = 0; i < s->metadata.count; i++)
        json_object_set_new(labels, s->metadata.items[i].name,
                            json_string(s->metadata.items[i].value));
    cleanup_json json_t *own = docker_owner_labels(d, q->id);
    (void)json_object_update(labels, own);
    add_expiry(labels, s);
    if (s->platform_os)
        json_object_set_new(labels, LABEL "platform-os", json_string(s->platform_os));
    if (s->platform_arch)
        json_object_set_new(labels, LABEL "platform-arch", json_string(s->platform_arch));
    if (s->snapshot_id)
        json_object_set_new(labels, LABEL "snapshot-id", json_string(s->snapshot_id));
    add_port_label(labels, place);
    return labels;
}

static void add_variable(json_t *env, const char *name, const char *value) {
    json_array_append_new(env, json_sprintf("%s=%s", name, value));
}

bool docker_assigns(const char *assignment, const char *name) {
    size_t n = strlen(name);
    return strncmp(assignment, name, n) == 0 && assignment[n] == '=';
}

static bool sets(const json_t *env, const char *name) {
    size_t i;
    const json_t *one;
    json_array_foreach(env, i, one) {
        if (docker_assigns(json_string_value(one), name))
            return true;
    }
    return false;
}

// What a foreign bootstrap.sh goes by (docker-runtime.md 2.4): words to start execd with.
static void add_foreign(const struct docker *d, unsigned port, json_t *env) {
    char text[64] = EXECD_DIR "/execd";
    if (d->host_network)
        (void)snprintf(text, sizeof text, EXECD_DIR "/execd -port %u", port);
    add_variable(env, "EXECD", text);
}

static json_t *environment_of(struct docker *d, const struct provision_request *q,
                              const json_t *inherited, unsigned port) {
    const struct pairs *request = &q->spec->env;
    json_t *env = json_array();
    const json_t *name;
    size_t k;
    for (size_t i = 0; i < request->count; i++)
        if (request->items[i].value)
            add_variable(env, request->items[i].name, request->items[i].value);
    for (docker_list p = d->settings.sandbox_env; p && *p; p++) { // the request's go over them
        bool again = false;
        for (size_t i = 0; i < request->count; i++)
            again |= docker_assigns(*p, request->items[i].name);
        if (!again)
            json_array_append_new(env, json_string(*p));
    }
    add_variable(env, "OPENSANDBOX_ID", q->id); // nobody overrides these
    add_variable(env, "EXECD_ACCESS_TOKEN_SHA256", q->token_sha256_hex);
    if (q->spec->lifecycle)
        add_variable(env, LIFECYCLE_VARIABLE, q->spec->lifecycle);
    if (d->foreign_execd)
        add_foreign(d, port, env);
    json_array_foreach(json_object_get(inherited, "env"), k, name) {
        if (!sets(env,
                  json_string_value(name))) // a name alone takes it away; Podman can but empty it
            json_array_append_new(env, json_sprintf("%s%s", json_string_value(name),
                                                    engine_is_podman(d->engine) ? "=" : ""));
    }
    return env;
}

static json_t *command_of(const struct sandbox_spec *s) {
    json_t *command = json_array();
    for (size_t i = 0; i < s->entrypoint_count; i++)
        json_array_append_new(command, json_string(s->entrypoint[i]));
    return command;
}

// On the host's network every execd needs a port of its own.
static json_t *entrypoint_of(const struct docker *d, unsigned port) {
    char text[16];
    if (d->foreign_execd)
        return json_pack("[s]", EXECD_DIR "/bootstrap.sh");
    (void)snprintf(text, sizeof text, "%u", port);
    if (d->host_network)
        return json_pack("[s,s,s,s,s]", EXECD_DIR "/execd", "--port", text, "init", "--");
    return json_pack("[s,s,s]", EXECD_DIR "/execd", "init", "--");
}

static json_t *security_of(const struct docker *d) {
    json_t *list = json_array();
    if (d->settings.no_new_privileges)
        json_array_append_new(list, json_string("no-new-privileges:true"));
    if (d->settings.apparmor_profile)
        json_array_append_new(list, json_sprintf("apparmor=%s", d->settings.apparmor_profile));
    if (d->seccomp)
        json_array_append_new(list, json_sprintf("seccomp=%s", d->seccomp));
    return list;
}

static void add_limits(const struct docker *d, const struct sandbox_spec *s, json_t *host) {
    if (d->no_limits)
        return; // who asked for some and may not have none was refused
    uint64_t pids = s->pids ? s->pids : d->settings.default_pids;
    json_object_set_new(host, "PidsLimit", json_integer((json_int_t)pids));
    if (s->memory_bytes)
        json_object_set_new(host, "Memory", json_integer((json_int_t)s->memory_bytes));
    if (s->cpu_millis)
        json_object_set_new(host, "NanoCpus",
                            json_integer((json_int_t)s->cpu_millis * NANOS_PER_MILLI));
}

// A sandbox's output must not fill the host's disk.
json_t *docker_log_config(const struct docker *d) {
    return json_pack("{s:s,s:{s:s}}", "Type",
                     engine_is_podman(d->engine) ? "k8s-file" : "json-file", "Config", "max-size",
                     "16m");
}

static bool lists(const json_t *list, const char *word) {
    size_t i;
    const json_t *one;
    json_array_foreach(list, i, one) {
        if (strcasecmp(json_string_value(one), word) == 0)
            return true;
    }
    return false;
}

// Whatever is configured: who could change the rules, or write frames past them, has no policy.
static json_t *dropped(const struct docker *d, bool policy) {
    static const char *const always[] = {"NET_ADMIN", "NET_RAW"};
    json_t *drop = json_array();
    for (docker_list p = d->settings.drop_capabilities; p && *p; p++)
        json_array_append_new(drop, json_string(*p));
    for (size_t i = 0; i < ARRAY_SIZE(always) && policy; i++)
        if (!lists(drop, always[i]) && !lists(drop, "ALL"))
            json_array_append_new(drop, json_string(always[i]));
    return drop;
}

static json_t *host_of(const struct docker *d, const struct provision_request *q, json_t *binds,
                       const struct container_place *place) {
    bool joins = *place->sidecar;
    json_t *network =
        joins ? json_sprintf("container:%s", place->sidecar) : json_string(d->network);
    json_t *host =
        json_pack("{s:o,s:o,s:o,s:O,s:o}", "NetworkMode", network, "CapDrop", dropped(d, joins),
                  "SecurityOpt", security_of(d), "Binds", binds, "LogConfig", docker_log_config(d));
    add_limits(d, q->spec, host);
    if (q->spec->gpus) {
        int64_t count = q->spec->gpus == SPEC_GPUS_ALL ? -1 : (int64_t)q->spec->gpus;
        json_object_set_new(host, "DeviceRequests",
                            json_pack("[{s:s,s:I,s:[],s:[[s]],s:{}}]", "Driver", "", "Count",
                                      (json_int_t)count, "DeviceIDs", "Capabilities", "gpu",
                                      "Options"));
    }
    if (d->settings.secure_runtime)
        json_object_set_new(host, "Runtime", json_string(d->settings.secure_runtime));
    if (d->publish && !joins)
        json_object_set_new(host, "PortBindings",
                            json_pack("{s:[{s:s,s:s}]}", "44772/tcp", "HostIp",
                                      d->settings.publish_host, "HostPort", ""));
    return host;
}

json_t *docker_container_body(struct docker *d, const struct provision_request *q,
                              const char *image, const json_t *inherited, json_t *binds,
                              const struct container_place *place, struct error *err) {
    json_t *host = host_of(d, q, binds, place);
    json_t *body = json_pack("{s:s,s:o,s:o,s:o,s:o,s:o}", "Image", image, "Entrypoint",
                             entrypoint_of(d, place->host_port), "Cmd", command_of(q->spec), "Env",
                             environment_of(d, q, inherited, place->host_port), "Labels",
                             labels_of(d, q, inherited, place), "HostConfig", host);
    if (!body) {
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
        return NULL;
    }
    if (d->publish && !*place->sidecar)
        json_object_set_new(body, "ExposedPorts", json_pack("{s:{}}", "44772/tcp"));
    if (spec_is_windows(q->spec) && windows_shape(d, q->spec, body, err))
        json_decref(TAKE_PTR(body));
    return body;
}
