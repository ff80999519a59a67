// What an inspected container of the reference server was made of.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "server/runtime/docker/adopt/parts.h"
#include "server/runtime/docker/windows/windows.h"

enum { NANOS_PER_MILLI = 1000000 };

static const json_t *labels_of(const json_t *container) {
    return json_object_get(json_object_get(container, "Config"), "Labels");
}

const char *foreign_label(const json_t *labels, const char *name) {
    const char *text = json_string_value(json_object_get(labels, name));
    return text && *text ? text : NULL; // one made empty stands for none
}

// Labels are the reference's metadata, but for those of its own and of tools.
static bool is_metadata(const char *name) {
    static const char *const others[] = {LABEL, "org.opencontainers.image.", "com.docker.",
                                         "desktop.docker."};
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        if (strncmp(name, others[i], strlen(others[i])) == 0)
            return false;
    return true;
}

static int read_metadata(struct sandbox_spec *s, const json_t *labels) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)labels, name, value) {
        const char *text = json_string_value(value);
        if (text && is_metadata(name) && pairs_add(&s->metadata, name, text))
            return -1;
    }
    s->has_metadata = s->metadata.count > 0;
    return 0;
}

static int copy_text(char **to, const char *text) {
    *to = text ? strdup(text) : NULL;
    return text && !*to ? -1 : 0;
}

static int read_labels(struct sandbox_spec *s, const json_t *labels) {
    const char *renew = foreign_label(labels, LABEL "access-renew-extend-seconds");
    if (renew && pairs_add(&s->extensions, "access.renew.extend.seconds", renew))
        return -1;
    return copy_text(&s->platform_os, foreign_label(labels, LABEL "platform-os")) ||
                   copy_text(&s->platform_arch, foreign_label(labels, LABEL "platform-arch")) ||
                   copy_text(&s->snapshot_id, foreign_label(labels, LABEL "snapshot-id"))
               ? -1
               : read_metadata(s, labels);
}

static uint64_t positive(const json_t *o, const char *name) {
    json_int_t n = json_integer_value(json_object_get(o, name));
    return n > 0 ? (uint64_t)n : 0;
}

static int read_config(struct sandbox_spec *s, const json_t *container) {
    const json_t *config = json_object_get(container, "Config"), *word;
    const json_t *host = json_object_get(container, "HostConfig");
    const json_t *command = json_object_get(config, "Cmd");
    size_t i, count = json_array_size(command);
    char **words cleanup_free = calloc(count + 1, sizeof *words);
    if (!words)
        return -1;
    json_array_foreach(command, i, word) words[i] =
        (char *)(json_is_string(word) ? json_string_value(word) : "");
    s->memory_bytes = positive(host, "Memory");
    s->cpu_millis = positive(host, "NanoCpus") / NANOS_PER_MILLI;
    s->pids = positive(host, "PidsLimit");
    return spec_set_entrypoint(s, words, count) ||
                   (!s->snapshot_id &&
                    copy_text(&s->image, json_string_value(json_object_get(config, "Image"))))
               ? -1
               : 0;
}

// execd's port as seen from the engine's host, for servers whose sandboxes are on its network.
static unsigned port_of(const json_t *container, const json_t *labels) {
    const char *mode =
        json_string_value(json_object_get(json_object_get(container, "HostConfig"), "NetworkMode"));
    const char *text = foreign_label(labels, LABEL "embedding-proxy-port");
    uint64_t port = EXECD_PORT;
    if (text && (!mode || strcmp(mode, "host") != 0) && parse_u64(text, 1, 65535, &port) < 0)
        return EXECD_PORT;
    return (unsigned)port;
}

// A guest is reached where the engine publishes it, on its own network.
static bool is_out_of_reach(const struct foreign *f, const json_t *container) {
    const char *mode =
        json_string_value(json_object_get(json_object_get(container, "HostConfig"), "NetworkMode"));
    return spec_is_windows(f->spec) && mode &&
           (strcmp(mode, "host") == 0 || strncmp(mode, "container:", 10) == 0);
}

static void find_problem(struct foreign *f, const json_t *container, const json_t *labels) {
    const char *name = json_string_value(json_object_get(container, "Name"));
    if (name && *name == '/')
        name++;
    if (!name || strncmp(name, "sandbox-", 8) != 0 || strcmp(name + 8, f->id) != 0)
        (void)snprintf(f->problem, sizeof f->problem,
                       "its container is called \"%.60s\", so that server did not make it",
                       name ? name : "");
    else if (foreign_label(labels, LABEL "ossfs-mounts"))
        (void)snprintf(f->problem, sizeof f->problem,
                       "it has ossfs mounts, which only the server that made them can release");
    else if (is_out_of_reach(f, container))
        (void)snprintf(f->problem, sizeof f->problem,
                       "it is a Windows guest without a network of its own");
}

static void read_times(struct foreign *f, const json_t *container, const json_t *labels) {
    const char *created = json_string_value(json_object_get(container, "Created"));
    const char *expires = foreign_label(labels, LABEL_EXPIRES);
    if (!created || clock_parse(created, &f->created_us) < 0)
        f->created_us = clock_wall_us();
    if (expires && clock_parse(expires, &f->expires_us) < 0)
        (void)snprintf(f->problem, sizeof f->problem, "its label " LABEL_EXPIRES " is no time");
    if (f->expires_us > f->created_us) // what is asked is not kept: nearly that
        f->spec->timeout_s = (f->expires_us - f->created_us + 999999) / 1000000;
}

int foreign_describe(const json_t *container, struct foreign *f, struct error *err) {
    const json_t *labels = labels_of(container), *state = json_object_get(container, "State");
    const char *id = json_string_value(json_object_get(container, "Id"));
    const char *image = json_string_value(json_object_get(container, "Image"));
    f->spec = spec_new();
    if (!f->spec || read_labels(f->spec, labels) || read_config(f->spec, container))
        return error_set(err, ENOMEM, "out of memory");
    f->paused = json_is_true(json_object_get(state, "Paused"));
    (void)snprintf(f->image_id, sizeof f->image_id, "%s", image ? image : "");
    (void)snprintf(f->state, sizeof f->state, "{\"container\":\"%.79s\",\"port\":%u}", id ? id : "",
                   port_of(container, labels));
    read_times(f, container, labels);
    find_problem(f, container, labels);
    return 0;
}

static bool is_mounted(const json_t *container, const char *volume) {
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(container, "Mounts"), i, one) {
        const char *name = json_string_value(json_object_get(one, "Name"));
        if (name && strcmp(name, volume) == 0)
            return true;
    }
    return false;
}

// An image's labels are a container's too: what is not mounted in it was never made for it.
char *foreign_volumes(const json_t *container) {
    const char *text = foreign_label(labels_of(container), LABEL_MANAGED_BY);
    const char *id = foreign_label(labels_of(container), LABEL_ID);
    char oem[VOLUME_NAME_SIZE];
    struct error ignored;
    cleanup_json json_t *names = text ? json_parse(text, strlen(text), NULL, &ignored) : NULL;
    cleanup_json json_t *kept = json_array();
    const json_t *one;
    size_t i;
    json_array_foreach(names, i, one) {
        if (json_is_string(one) && is_mounted(container, json_string_value(one)))
            json_array_append(kept, (json_t *)one);
    }
    (void)snprintf(oem, sizeof oem, WINDOWS_OEM "%.40s", id ? id : "");
    if (is_mounted(container, oem))
        json_array_append_new(kept, json_string(oem));
    return json_array_size(kept) ? json_dumps(kept, JSON_COMPACT) : NULL;
}
