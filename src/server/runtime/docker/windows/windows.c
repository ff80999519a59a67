#include "server/runtime/docker/windows/windows.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "fmt/tar.h"
#include "server/errors.h"
#include "server/runtime/docker/container.h"
#include "server/runtime/docker/execd.h"

#define OEM_DIR "oem" // in the root of the container; the guest finds it as C:\OEM

static const char *const devices[] = {"/dev/kvm", "/dev/net/tun"};
static const char *const capabilities[] = {"NET_ADMIN", "NET_RAW"};
const unsigned windows_ports[GUEST_PORTS] = {EXECD_PORT, 8080, 3389, 8006};
static const char *const udp_port = "3389/udp"; // RDP's faster half

int windows_port_index(unsigned port) {
    for (int i = 0; i < GUEST_PORTS; i++)
        if (windows_ports[i] == port)
            return i;
    return -1;
}

// ---- whether it can be ----

int windows_check(const struct docker *d, struct error *err) {
    if (!d->settings.execd_image)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "platform.os: Windows guests need runtime.execd_image");
    if (d->host_network)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "platform.os: a Windows guest needs a network of its own, which it "
                            "administers; docker.network_mode = \"host\" has none");
    if (docker_publishes_openly(d))
        return error_server(err, ERR_INVALID_PARAMETER,
                            "platform.os: a Windows guest's execd knows no token, and "
                            "docker.publish_host %.60s would show it to the network; publish it on "
                            "a loopback address",
                            d->settings.publish_host);
    for (size_t i = 0; i < ARRAY_SIZE(devices) && engine_is_socket(d->engine); i++)
        if (access(devices[i], F_OK))
            return error_server(err, ERR_INVALID_PARAMETER,
                                "platform.os: Windows guests need %s, which this host has not",
                                devices[i]);
    return 0;
}

bool windows_is_device(const char *message) {
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
        if (strstr(message, devices[i]))
            return true;
    return false;
}

// ---- the volume ----

int windows_volume(struct docker *d, const char *id, json_t *binds, struct error *err) {
    char name[VOLUME_NAME_SIZE];
    (void)snprintf(name, sizeof name, WINDOWS_OEM "%.40s", id);
    cleanup_json json_t *body =
        json_pack("{s:s,s:o}", "Name", name, "Labels", docker_owner_labels(d, id));
    const struct engine_call c = {.method = "POST", .path = "/volumes/create", .body = body};
    if (engine_do(d->engine, &c, NULL, err))
        return error_wrap(err, "volume %s", name);
    return json_array_append_new(binds, json_sprintf("%s:/" OEM_DIR ":rw", name))
               ? error_set(err, ENOMEM, "out of memory")
               : 0;
}

// ---- the container ----

// The value of the last one, "" for none; all of them go. Valid as long as *ret_gone is.
static const char *take_variable(json_t *env, const char *name, json_t **ret_gone) {
    const char *value = "";
    for (size_t i = json_array_size(env); i-- > 0;) {
        json_t *one = json_array_get(env, i);
        if (!docker_assigns(json_string_value(one), name))
            continue;
        if (!*ret_gone) {
            *ret_gone = json_incref(one);
            value = json_string_value(one) + strlen(name) + 1;
        }
        (void)json_array_remove(env, i);
    }
    return value;
}

static void set_variable(json_t *env, const char *name, uint64_t value, const char *unit) {
    cleanup_json json_t *gone = NULL;
    if (!value)
        return; // the image has its own default
    (void)take_variable(env, name, &gone);
    json_array_append_new(env, json_sprintf("%s=%llu%s", name, (unsigned long long)value, unit));
}

static bool has_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; *at; at += strcspn(at, ","), at += strspn(at, ","))
        if (strncmp(at, word, n) == 0 && (at[n] == ',' || !at[n]))
            return true;
    return false;
}

// What the guest's machine lets through: the user's ports, and then those that are published.
static void add_user_ports(json_t *env) {
    cleanup_json json_t *gone = NULL;
    const char *asked = take_variable(env, "USER_PORTS", &gone);
    struct strbuf list cleanup_strbuf;
    strbuf_init(&list, strlen(asked) + 64);
    (void)strbuf_adds(&list, asked);
    for (size_t i = 0; i < GUEST_PORTS; i++) {
        char port[8];
        (void)snprintf(port, sizeof port, "%u", windows_ports[i]);
        if (!has_word(asked, port))
            (void)strbuf_addf(&list, "%s%s", list.len ? "," : "", port);
    }
    json_array_append_new(env, json_sprintf("USER_PORTS=%s", list.data));
}

static void shape_environment(const struct sandbox_spec *s, json_t *env) {
    static const char *const ours[] = {"EXECD_ACCESS_TOKEN_SHA256", "EXECD"}; // of no use there
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
        cleanup_json json_t *gone = NULL;
        (void)take_variable(env, ours[i], &gone);
    }
    set_variable(env, "CPU_CORES", (s->cpu_millis + 999) / 1000, "");
    set_variable(env, "RAM_SIZE", s->memory_bytes >> 30, "G");
    set_variable(env, "DISK_SIZE", s->disk_bytes >> 30, "G");
    add_user_ports(env);
}

static void shape_host(json_t *host) {
    static const char *const limits[] = {"Memory", "NanoCpus", "DeviceRequests"};
    json_t *drop = json_object_get(host, "CapDrop"), *list = json_array(), *add = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) // they are the guest's, not the machine's
        (void)json_object_del(host, limits[i]);
    for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
        for (size_t k = json_array_size(drop); k-- > 0;)
            if (strcasecmp(json_string_value(json_array_get(drop, k)), capabilities[i]) == 0)
                (void)json_array_remove(drop, k);
        json_array_append_new(add, json_string(capabilities[i]));
    }
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
        json_array_append_new(list,
                              json_pack("{s:s,s:s,s:s}", "PathOnHost", devices[i],
                                        "PathInContainer", devices[i], "CgroupPermissions", "rwm"));
    (void)json_object_set_new(host, "CapAdd", add);
    (void)json_object_set_new(host, "Devices", list);
}

static void publish(const struct docker *d, const char *port, json_t *exposed, json_t *bindings) {
    (void)json_object_set_new(exposed, port, json_object());
    (void)json_object_set_new(
        bindings, port,
        json_pack("[{s:s,s:s}]", "HostIp", d->settings.publish_host, "HostPort", ""));
}

int windows_shape(const struct docker *d, const struct sandbox_spec *s, json_t *body,
                  struct error *err) {
    json_t *host = json_object_get(body, "HostConfig");
    json_t *exposed = json_object(), *bindings = json_object();
    (void)json_object_del(body, "Entrypoint"); // the image's own starts the machine
    shape_environment(s, json_object_get(body, "Env"));
    shape_host(host);
    for (size_t i = 0; i < GUEST_PORTS; i++) {
        char port[16];
        (void)snprintf(port, sizeof port, "%u/tcp", windows_ports[i]);
        publish(d, port, exposed, bindings);
    }
    publish(d, udp_port, exposed, bindings);
    return json_object_set_new(body, "ExposedPorts", exposed) ||
                   json_object_set_new(host, "PortBindings", bindings)
               ? error_set(err, ENOMEM, "out of memory")
               : 0;
}

// ---- install.bat and execd.exe ----

static int read_files(struct docker *d, const char *helper, struct strbuf *archive,
                      struct error *err) {
    static const char *const names[] = {"install.bat", "execd.exe"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct strbuf data cleanup_strbuf;
        char path[32], target[32];
        strbuf_init(&data, EXECD_FILE_MAX);
        (void)snprintf(path, sizeof path, "/%s", names[i]);
        (void)snprintf(target, sizeof target, OEM_DIR "/%s", names[i]);
        if (docker_helper_read(d, helper, path, &data, err))
            return error_wrap(err, "runtime.execd_image %.200s: %s, for Windows guests",
                              d->settings.execd_image, path);
        if (tar_add_file(archive, target, 0644, data.data, data.len))
            return error_set(err, ENOMEM, "out of memory");
    }
    return tar_end(archive) ? error_set(err, ENOMEM, "out of memory") : 0;
}

static int fetch(struct docker *d, struct strbuf *archive, struct error *err) {
    const struct image_request q = {.reference = d->settings.execd_image};
    struct image_info image;
    char helper[CONTAINER_ID_SIZE];
    if (!docker_image_ready(d, &q, &image) && docker_image_ensure(d, &q, &image, err)) {
        struct error cause = *err; // no image of the user's, so no 400
        return engine_is_away(err)
                   ? -1
                   : error_set(err, cause.kind, "runtime.execd_image: %s", cause.message);
    }
    if (docker_helper_make(d, image.id, NULL, helper, err))
        return -1;
    int r = read_files(d, helper, archive, err);
    docker_helper_remove(d, helper);
    return r;
}

int windows_bring(struct docker *d, const char *container, struct error *err) {
    char path[ENGINE_PATH_MAX];
    struct strbuf archive cleanup_strbuf;
    strbuf_init(&archive, 2 * (EXECD_FILE_MAX + 65536));
    (void)snprintf(path, sizeof path, "/containers/%s/archive?path=/", container);
    if (fetch(d, &archive, err))
        return -1;
    const struct engine_call c = {
        .method = "PUT", .path = path, .data = archive.data, .len = archive.len};
    return engine_do(d->engine, &c, NULL, err);
}
