// What an image asks for: the `config` member of its config blob, and our own record of it.
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/path.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/oci/image/manifest.h"

#define INVALID(err, ...) error_server(err, ERR_R_IMAGE_INVALID, __VA_ARGS__)
#define PLAIN_PATH        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { TEXT_MAX = 4096 }; // a path or user

static void free_list(char **list) {
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
}

void image_config_clear(struct image_config *c) {
    char **lists[] = {c->env, c->entrypoint, c->cmd, c->volumes, c->ports};
    char *texts[] = {c->os, c->arch, c->variant, c->user, c->workdir};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        free_list(lists[i]);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        free(texts[i]);
    memset(c, 0, sizeof *c);
}

// ---- paths ----

// "/a//b/./../c/" becomes "/a/c"; ".." stops at the root. Returns whether there was a "..".
static bool normalise(const char *path, char *out) {
    size_t n = 0;
    bool up = false;
    for (const char *p = path; *p;) {
        p += strspn(p, "/");
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.') {
            up = true;
            while (n && out[--n] != '/')
                ;
        } else if (len && !(len == 1 && *p == '.')) {
            out[n++] = '/';
            memcpy(out + n, p, len);
            n += len;
        }
        p += len;
    }
    if (!n)
        out[n++] = '/';
    out[n] = '\0';
    return up;
}

static int workdir(const char *text, char **ret, struct error *err) {
    char out[TEXT_MAX + 2];
    if (!*text)
        return 0;
    if (strlen(text) > TEXT_MAX || *text != '/' || normalise(text, out))
        return INVALID(err,
                       "the image's WorkingDir \"%.100s\" is not an absolute path without "
                       "\"..\"",
                       text);
    free(*ret);
    *ret = strdup(out);
    return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

// ---- lists ----

struct collect {
    char **items;
    size_t count, bytes;
};

static int collect(struct collect *c, const char *name, const char *text, struct error *err) {
    c->bytes += strlen(text) + 1;
    if (c->bytes > IMAGE_STRINGS_BYTES_MAX)
        return INVALID(err, "the image's %s is larger than %d bytes", name,
                       (int)IMAGE_STRINGS_BYTES_MAX);
    c->items[c->count] = strdup(text);
    return c->items[c->count++] ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int collect_path(struct collect *c, const char *name, const char *text, struct error *err) {
    char out[TEXT_MAX + 2];
    if (strlen(text) > TEXT_MAX)
        return INVALID(err, "the image's %s has a path longer than %d bytes", name, (int)TEXT_MAX);
    (void)normalise(text, out); // a volume is an empty directory inside, wherever it points
    return collect(c, name, out, err);
}

// An array's strings or an object's names.
static int fill(struct collect *c, const char *name, const json_t *j, struct error *err) {
    size_t i;
    const char *key;
    json_t *item;
    json_array_foreach(j, i, item) {
        if (!json_is_string(item))
            return INVALID(err, "the image's %s holds something else than strings", name);
        if (collect(c, name, json_string_value(item), err))
            return -1;
    }
    bool paths = !strcmp(name, "Volumes");
    json_object_foreach((json_t *)j, key, item) {
        if (paths ? collect_path(c, name, key, err) : collect(c, name, key, err))
            return -1;
    }
    return 0;
}

static int read_list(const json_t *from, const char *name, json_type type, char ***ret,
                     struct error *err) {
    const json_t *j = json_object_get(from, name);
    struct collect c = {0};
    size_t count = json_is_array(j) ? json_array_size(j) : json_object_size(j);
    if (j && !json_is_null(j) && json_typeof(j) != type)
        return INVALID(err, "the image's %s is not %s", name,
                       type == JSON_ARRAY ? "a list" : "an object");
    if (count > IMAGE_STRINGS_MAX)
        return INVALID(err, "the image's %s has %zu entries; at most %d are accepted", name, count,
                       (int)IMAGE_STRINGS_MAX);
    if (!(c.items = calloc(count + 1, sizeof *c.items)))
        return error_set(err, ENOMEM, "out of memory");
    if (fill(&c, name, j, err)) {
        free_list(c.items);
        return -1;
    }
    free_list(*ret);
    *ret = c.items;
    return 0;
}

static int read_text(const json_t *from, const char *name, char **ret, struct error *err) {
    const json_t *j = json_object_get(from, name);
    if (!j || json_is_null(j))
        return 0;
    if (!json_is_string(j) || json_string_length(j) > TEXT_MAX)
        return INVALID(err, "the image's %s is not a text of at most %d bytes", name,
                       (int)TEXT_MAX);
    free(*ret);
    *ret = strdup(json_string_value(j));
    return *ret ? 0 : error_set(err, ENOMEM, "out of memory");
}

int image_config_read(const json_t *j, struct image_config *c, struct error *err) {
    static const char dir[] = "WorkingDir";
    cleanup_free char *text = NULL;
    if (j && !json_is_null(j) && !json_is_object(j))
        return INVALID(err, "the image's config is not an object");
    if (json_object_get(j, "Env") && read_list(j, "Env", JSON_ARRAY, &c->env, err))
        return -1;
    if (read_list(j, "Entrypoint", JSON_ARRAY, &c->entrypoint, err) ||
        read_list(j, "Cmd", JSON_ARRAY, &c->cmd, err) ||
        read_list(j, "Volumes", JSON_OBJECT, &c->volumes, err) ||
        read_list(j, "ExposedPorts", JSON_OBJECT, &c->ports, err) ||
        read_text(j, "User", &c->user, err) || read_text(j, dir, &text, err))
        return -1;
    return text ? workdir(text, &c->workdir, err) : 0;
}

// ---- our record ----

int image_config_plain(struct image_config *c, const char *os, const char *arch,
                       struct error *err) {
    cleanup_json json_t *env = json_pack("{s:[s]}", "Env", PLAIN_PATH);
    memset(c, 0, sizeof *c);
    c->os = strdup(os);
    c->arch = strdup(arch);
    c->variant = strdup("");
    c->user = strdup("");
    c->workdir = strdup("");
    if (!env || !c->os || !c->arch || !c->variant || !c->user || !c->workdir) {
        image_config_clear(c);
        return error_set(err, ENOMEM, "out of memory");
    }
    if (image_config_read(env, c, err)) {
        image_config_clear(c);
        return -1;
    }
    return 0;
}

static json_t *list_json(char *const *list, bool as_names) {
    json_t *j = as_names ? json_object() : json_array();
    for (; list && *list; list++)
        if (as_names)
            json_object_set_new(j, *list, json_object());
        else
            json_array_append_new(j, json_string(*list));
    return j;
}

json_t *image_config_to_json(const struct image_config *c) {
    return json_pack("{s:s,s:s,s:s,s:{s:o,s:o,s:o,s:o,s:o,s:s,s:s}}", "os", c->os, "architecture",
                     c->arch, "variant", c->variant, "config", "Env", list_json(c->env, false),
                     "Entrypoint", list_json(c->entrypoint, false), "Cmd", list_json(c->cmd, false),
                     "Volumes", list_json(c->volumes, true), "ExposedPorts",
                     list_json(c->ports, true), "User", c->user, "WorkingDir", c->workdir);
}

int image_config_from_json(const json_t *j, struct image_config *ret, struct error *err) {
    struct image_config c;
    const char *os = json_string_value(json_object_get(j, "os")),
               *arch = json_string_value(json_object_get(j, "architecture"));
    if (!os || !arch)
        return INVALID(err, "the image's record names no platform");
    if (image_config_plain(&c, os, arch, err))
        return -1;
    if (read_text(j, "variant", &c.variant, err) ||
        image_config_read(json_object_get(j, "config"), &c, err)) {
        image_config_clear(&c);
        return -1;
    }
    *ret = c;
    return 0;
}
