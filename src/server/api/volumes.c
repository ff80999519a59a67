#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/path.h"
#include "server/api/create.h"

enum { VOLUMES_MAX = 64, OPTIONS_MAX = 4096 };

#define DIGITS "0123456789"

// ---- types ----

static void pattern(struct problems *p, const struct field *f, bool ok, const char *what) {
    if (!ok)
        problem_add(p, &f->at, "string_pattern_mismatch", "String should match pattern '%s'", what);
}

// [0-9]+(.[0-9]+)? and a binary unit, or none.
static bool is_storage(const char *text) {
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    size_t digits = strspn(text, DIGITS), fraction;
    text += digits;
    if (digits && *text == '.') {
        fraction = strspn(text + 1, DIGITS);
        digits = fraction;
        text += fraction + 1;
    }
    for (size_t i = 0; digits && i < ARRAY_SIZE(units); i++)
        if (strcmp(text, units[i]) == 0)
            return true;
    return false;
}

static void read_host(struct problems *p, const struct field *f) {
    const json_t *o = field_object(p, f, false);
    if (!o)
        return;
    struct field path = field_get(&f->at, o, "path");
    const char *text = field_text(p, &path, true);
    if (text)
        pattern(p, &path, text[0] == '/', "^(/|[A-Za-z]:[\\\\/])");
}

static void read_pvc(struct problems *p, const struct field *f) {
    const json_t *o = field_object(p, f, false);
    if (!o)
        return;
    struct field claim = field_get(&f->at, o, "claimName"),
                 make = field_get(&f->at, o, "createIfNotExists");
    struct field drop = field_get(&f->at, o, "deleteOnSandboxTermination"),
                 class = field_get(&f->at, o, "storageClass");
    struct field size = field_get(&f->at, o, "storage"),
                 modes = field_get(&f->at, o, "accessModes");
    const char *text = field_text(p, &claim, true);
    if (text_length(p, &claim, text, 0, 253))
        pattern(p, &claim, is_dns_label(text, 253), "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
    (void)field_bool(p, &make, true);
    (void)field_bool(p, &drop, false);
    (void)field_text(p, &class, false);
    text = field_text(p, &size, false);
    if (text)
        pattern(p, &size, is_storage(text), "^\\d+(\\.\\d+)?(Ki|Mi|Gi|Ti|Pi|Ei)?$");
    (void)field_list(p, &modes, 0, false);
}

static void read_ossfs(struct problems *p, const struct field *f) {
    const json_t *o = field_object(p, f, false);
    if (!o)
        return;
    struct field bucket = field_get(&f->at, o, "bucket"),
                 endpoint = field_get(&f->at, o, "endpoint");
    (void)text_length(p, &bucket, field_text(p, &bucket, true), 3, 63);
    struct field version = field_get(&f->at, o, "version"),
                 options = field_get(&f->at, o, "options"),
                 id = field_get(&f->at, o, "accessKeyId"),
                 secret = field_get(&f->at, o, "accessKeySecret");
    (void)text_length(p, &endpoint, field_text(p, &endpoint, true), 1, 0);
    const char *text = field_text(p, &version, false);
    if (text && strcmp(text, "1.0") != 0 && strcmp(text, "2.0") != 0)
        problem_add(p, &version.at, "literal_error", "Input should be '1.0' or '2.0'");
    (void)field_list(p, &options, 0, false);
    (void)text_length(p, &id, field_text(p, &id, false), 1, 0);
    (void)text_length(p, &secret, field_text(p, &secret, false), 1, 0);
    if (!id.value || !secret.value)
        problem_add(p, &f->at, "value_error",
                    "Value error, accessKeyId and accessKeySecret must be given");
}

static void read_volume(struct problems *p, const struct field *f) {
    const json_t *o = field_object(p, f, true);
    const size_t before = json_array_size(p->items);
    if (!o)
        return;
    struct field name = field_get(&f->at, o, "name"), mount = field_get(&f->at, o, "mountPath");
    struct field read_only = field_get(&f->at, o, "readOnly"),
                 sub = field_get(&f->at, o, "subPath");
    struct field host = field_get(&f->at, o, "host"), pvc = field_get(&f->at, o, "pvc"),
                 ossfs = field_get(&f->at, o, "ossfs");
    const char *text = field_text(p, &name, true);
    if (text_length(p, &name, text, 0, 63))
        pattern(p, &name, is_dns_label(text, 63), "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
    text = field_text(p, &mount, true);
    if (text)
        pattern(p, &mount, text[0] == '/', "^/.*");
    (void)field_bool(p, &read_only, false);
    (void)field_text(p, &sub, false);
    read_host(p, &host);
    read_pvc(p, &pvc);
    read_ossfs(p, &ossfs);
    if (json_array_size(p->items) == before && // rules between members come last
        (host.value != NULL) + (pvc.value != NULL) + (ossfs.value != NULL) != 1)
        problem_add(p, &f->at, "value_error",
                    "Value error, exactly one of host, pvc and ossfs must be given");
}

void volumes_read(struct problems *p, const struct field *list) {
    const json_t *volumes = field_list(p, list, 0, false), *v;
    size_t i;
    if (json_array_size(volumes) > VOLUMES_MAX) {
        problem_add(p, &list->at, "too_long", "List should have at most %d items", VOLUMES_MAX);
        return;
    }
    json_array_foreach(volumes, i, v) {
        const struct field item = {.at = {.in = &list->at, .index = i},
                                   .value = json_is_null(v) ? NULL : v};
        read_volume(p, &item);
    }
}

// ---- meaning ----

static char *without_slashes(const char *path) {
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    return strndup(path, len);
}

// The sandbox's own mounts stay what they are.
static int check_mount_path(const char *path, struct error *err) {
    static const char *const own[] = {"/proc", "/sys", "/dev", "/opt/opensandbox"};
    if (!path_is_clean(path) || strcmp(path, "/") == 0)
        return error_server(
            err, ERR_VOLUME_INVALID_MOUNT_PATH,
            "mountPath \"%.200s\" must be absolute, without . and .. and //, and not the root",
            path);
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        if (path_covers(own[i], path) || path_covers(path, own[i]))
            return error_server(err, ERR_VOLUME_INVALID_MOUNT_PATH,
                                "mountPath \"%.200s\" is a mount of the sandbox itself", path);
    return 0;
}

static int check_sub_path(const char *path, struct error *err) {
    const char *p = path;
    if (*p == '/')
        return error_server(err, ERR_VOLUME_INVALID_SUB_PATH, "subPath \"%.200s\" must be relative",
                            path);
    while (*p) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.')
            return error_server(err, ERR_VOLUME_INVALID_SUB_PATH,
                                "subPath \"%.200s\" may not hold ..", path);
        p += n + (p[n] == '/');
    }
    return 0;
}

static int check_host(const struct api *a, const char *path, struct error *err) {
    if (!path || !path_is_clean(path))
        return error_server(
            err, ERR_VOLUME_INVALID_HOST_PATH,
            "host.path \"%.200s\" must be absolute, without . and .. and //, and without a final /",
            path ? path : "");
    for (char **allowed = a->config->allowed_host_paths; *allowed; allowed++) {
        char *prefix = without_slashes(*allowed);
        bool covers = prefix && path_covers(prefix, path);
        free(prefix);
        if (covers)
            return 0;
    }
    return error_server(err, ERR_VOLUME_HOST_PATH_NOT_ALLOWED,
                        "host.path \"%.200s\" lies under none of storage.allowed_host_paths", path);
}

// ---- ossfs: what a mount program of the host is told must be no more than it seems ----

// All of it of these characters: no line ends, no blanks, nothing that a program would read as
// more.
static bool is_of(const char *text, const char *others) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    for (; *text; text++)
        if (!strchr(plain, *text) && !strchr(others, *text))
            return false;
    return true;
}

static bool is_bucket(const char *text) {
    size_t n = strlen(text);
    return n >= 3 && n <= 63 && is_dns_label(text, 63);
}

// Numbers and a few words: nothing that could be the name of a file, which the program, being root,
// would write.
static bool is_value(const char *text) {
    static const char *const words[] = {"true", "false", "on",      "off",      "debug",
                                        "info", "warn",  "warning", "critical", "error"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(text, words[i]) == 0)
            return true;
    return *text >= '0' && *text <= '9' && is_of(text, "");
}

// It may not say where: neither a place on the host, nor another bucket, nor other keys.
static bool is_option(const char *text) {
    static const char *const ours[] = {"oss_",   "url",       "passwd_file", "bucket",
                                       "config", "use_cache", "tmpdir",      NULL};
    const char *value = strchr(text, '=');
    for (const char *const *p = ours; *p; p++)
        if (strncmp(text, *p, strlen(*p)) == 0)
            return false;
    return *text && *text != '-' && is_of(text, "=") && (!value || is_value(value + 1));
}

static int check_options(const json_t *list, struct volume_spec *v, struct error *err) {
    struct strbuf lines cleanup_strbuf;
    const json_t *one;
    size_t i;
    strbuf_init(&lines, OPTIONS_MAX);
    json_array_foreach(list, i, one) {
        const char *text = json_string_value(one);
        if (!text || !is_option(text))
            return error_server(err, ERR_VOLUME_INVALID_OSSFS_OPTION,
                                "ossfs option \"%.100s\": name, or name=value with a number, "
                                "true, false or a level; none that names a file, address or key",
                                text ? text : "");
        (void)strbuf_addf(&lines, "%s\n", text);
    }
    if (lines.failed)
        return error_server(err, ERR_VOLUME_INVALID_OSSFS_OPTION, "ossfs: too many options");
    v->options = lines.len ? strbuf_detach(&lines) : NULL;
    return 0;
}

static const char *text_of(const json_t *o, const char *name) {
    const char *text = json_string_value(field_get(&place_body, o, name).value);
    return text ? text : "";
}

static int check_ossfs(const json_t *o, struct volume_spec *v, struct error *err) {
    const char *bucket = text_of(o, "bucket"), *endpoint = text_of(o, "endpoint"),
               *version = text_of(o, "version"), *id = text_of(o, "accessKeyId"),
               *secret = text_of(o, "accessKeySecret");
    const char *host = strstr(endpoint, "://");
    host = host ? host + 3 : endpoint;
    v->kind = VOLUME_OSSFS;
    v->version_1 = strcmp(version, "1.0") == 0;
    if (!is_bucket(bucket))
        return error_server(err, ERR_VOLUME_INVALID_OSSFS_BUCKET, "ossfs.bucket \"%.100s\"",
                            bucket);
    if (!*host || !is_of(host, ":") ||
        (host != endpoint && strncmp(endpoint, "http://", 7) != 0 &&
         strncmp(endpoint, "https://", 8) != 0))
        return error_server(err, ERR_VOLUME_INVALID_OSSFS_ENDPOINT, "ossfs.endpoint \"%.200s\"",
                            endpoint);
    if (!*id || !*secret || !is_of(id, "") || !is_of(secret, "/+="))
        return error_server(err, ERR_VOLUME_INVALID_OSSFS_CREDENTIALS,
                            "ossfs wants accessKeyId and accessKeySecret, of plain characters");
    if (v->sub_path && !is_of(v->sub_path, "/"))
        return error_server(err, ERR_VOLUME_INVALID_SUB_PATH,
                            "subPath \"%.200s\" holds a character that no prefix may have",
                            v->sub_path);
    v->source = strdup(bucket);
    v->endpoint = strdup(endpoint);
    v->key_id = strdup(id);
    v->key_secret = strdup(secret);
    return v->source && v->endpoint && v->key_id && v->key_secret
               ? check_options(field_get(&place_body, o, "options").value, v, err)
               : error_set(err, ENOMEM, "out of memory");
}

static int check_source(const struct api *a, const json_t *o, struct volume_spec *v,
                        struct error *err) {
    struct field host = field_get(&place_body, o, "host"), pvc = field_get(&place_body, o, "pvc");
    struct problems none = {0};
    if (host.value) {
        struct field path = field_get(&host.at, host.value, "path");
        v->kind = VOLUME_HOST;
        if (check_host(a, field_text(&none, &path, true), err) < 0)
            return -1;
        v->source = strdup(json_string_value(path.value));
    } else if (pvc.value) {
        struct field claim = field_get(&pvc.at, pvc.value, "claimName");
        if (!(a->features & RUNTIME_NAMED_VOLUMES))
            return error_server(err, ERR_VOLUME_UNSUPPORTED_BACKEND,
                                "volumes: pvc is not supported by this runtime yet");
        struct field make = field_get(&pvc.at, pvc.value, "createIfNotExists");
        struct field drop = field_get(&pvc.at, pvc.value, "deleteOnSandboxTermination");
        v->kind = VOLUME_NAMED;
        v->must_exist = !field_bool(&none, &make, true);
        v->delete_with_sandbox = field_bool(&none, &drop, false);
        v->source = strdup(json_string_value(claim.value));
    } else if (a->features & RUNTIME_OSSFS) {
        return check_ossfs(json_object_get(o, "ossfs"), v, err);
    } else {
        return error_server(err, ERR_VOLUME_UNSUPPORTED_BACKEND,
                            "volumes: ossfs is not supported by this runtime");
    }
    return v->source ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int check_volume(const struct api *a, const json_t *o, struct sandbox_spec *spec,
                        struct error *err) {
    struct volume_spec *v = &spec->volumes[spec->volume_count];
    struct field name = field_get(&place_body, o, "name"),
                 mount = field_get(&place_body, o, "mountPath");
    struct field read_only = field_get(&place_body, o, "readOnly"),
                 sub = field_get(&place_body, o, "subPath");
    struct problems none = {0}; // types were checked by volumes_read()
    const char *label = json_string_value(name.value);
    if (!label)
        return error_set(err, EINVAL, "volumes: a volume has no name");
    for (size_t i = 0; i < spec->volume_count; i++)
        if (spec->volumes[i].name && strcmp(spec->volumes[i].name, label) == 0)
            return error_server(err, ERR_VOLUME_DUPLICATE_NAME,
                                "volumes: the name \"%s\" is there twice", spec->volumes[i].name);
    spec->volume_count++; // from here on spec_unref() frees it
    v->name = strdup(label);
    v->mount_path = without_slashes(json_string_value(mount.value));
    v->sub_path = sub.value ? strdup(json_string_value(sub.value)) : NULL;
    v->read_only = field_bool(&none, &read_only, false);
    if (!v->name || !v->mount_path || (sub.value && !v->sub_path))
        return error_set(err, ENOMEM, "out of memory");
    if (check_mount_path(v->mount_path, err) < 0 ||
        (v->sub_path && check_sub_path(v->sub_path, err) < 0))
        return -1;
    for (size_t i = 0; i + 1 < spec->volume_count; i++)
        if (strcmp(spec->volumes[i].mount_path, v->mount_path) == 0)
            return error_server(err, ERR_VOLUME_INVALID_MOUNT_PATH,
                                "volumes: mountPath \"%.200s\" is there twice", v->mount_path);
    return check_source(a, o, v, err);
}

int volumes_convert(const struct api *a, const json_t *list, struct sandbox_spec *spec,
                    struct error *err) {
    const json_t *o;
    size_t i;
    if (!json_array_size(list))
        return 0;
    spec->volumes = calloc(json_array_size(list), sizeof *spec->volumes);
    if (!spec->volumes)
        return error_set(err, ENOMEM, "out of memory");
    json_array_foreach(list, i, o) {
        if (check_volume(a, o, spec, err) < 0)
            return -1;
    }
    return 0;
}
