#include "server/runtime/oci/image/manifest.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/errors.h"

#define INVALID(err, ...) error_server(err, ERR_R_IMAGE_INVALID, __VA_ARGS__)

const char *platform_host_arch(void) {
#if defined(__x86_64__)
    return "amd64";
#elif defined(__aarch64__)
    return "arm64";
#elif defined(__riscv) && __riscv_xlen == 64
    return "riscv64";
#elif defined(__powerpc64__)
    return "ppc64le";
#elif defined(__s390x__)
    return "s390x";
#elif defined(__i386__)
    return "386";
#else
    return "arm";
#endif
}

bool digest_valid(const char *text) {
    return strlen(text) == DIGEST_TEXT_SIZE - 1 && !strncmp(text, "sha256:", 7) &&
           strspn(text + 7, "0123456789abcdef") == SHA256_HEX_SIZE - 1;
}

// ---- media types ----

enum role { ROLE_NONE, ROLE_INDEX, ROLE_IMAGE, ROLE_CONFIG, ROLE_LAYER, ROLE_FOREIGN };
static const struct {
    const char *type;
    enum role role;
    bool docker;
} media_types[] = {
    {"application/vnd.oci.image.index.v1+json", ROLE_INDEX, false},
    {"application/vnd.oci.image.manifest.v1+json", ROLE_IMAGE, false},
    {"application/vnd.oci.image.config.v1+json", ROLE_CONFIG, false},
    {"application/vnd.oci.image.layer.v1.tar", ROLE_LAYER, false},
    {"application/vnd.oci.image.layer.v1.tar+gzip", ROLE_LAYER, false},
    {"application/vnd.oci.image.layer.v1.tar+zstd", ROLE_LAYER, false},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar", ROLE_FOREIGN, false},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", ROLE_FOREIGN, false},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", ROLE_FOREIGN, false},
    {"application/vnd.docker.distribution.manifest.list.v2+json", ROLE_INDEX, true},
    {"application/vnd.docker.distribution.manifest.v2+json", ROLE_IMAGE, true},
    {"application/vnd.docker.container.image.v1+json", ROLE_CONFIG, true},
    {"application/vnd.docker.image.rootfs.diff.tar", ROLE_LAYER, true},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", ROLE_LAYER, true},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar", ROLE_FOREIGN, true},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ROLE_FOREIGN, true},
};

static enum role role_of(const char *type, bool *ret_docker) {
    for (size_t i = 0; type && i < ARRAY_SIZE(media_types); i++)
        if (!strcmp(type, media_types[i].type)) {
            *ret_docker |= media_types[i].docker;
            return media_types[i].role;
        }
    return ROLE_NONE;
}

// ---- members ----

// Go's JSON readers take "Layers" for "layers", ours does not: such a document says two things.
static int exact_names(const json_t *j, const char *what, const char *const *names,
                       struct error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)j, key, value) {
        for (const char *const *n = names; *n; n++)
            if (!strcasecmp(key, *n) && strcmp(key, *n) != 0)
                return INVALID(err, "ambiguous %s: member \"%.40s\" beside \"%s\"", what, key, *n);
    }
    return 0;
}

static json_t *read_document(const char *text, size_t len, const char *what, struct error *err) {
    json_error_t why;
    if (len > MANIFEST_MAX) {
        (void)INVALID(err, "the image's %s has %zu bytes; at most %d are read", what, len,
                      (int)MANIFEST_MAX);
        return NULL;
    }
    // the last of two equal members wins here, the first elsewhere
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (j && json_typeof(j) == JSON_OBJECT)
        return j;
    if (j)
        (void)INVALID(err, "the image's %s is not a JSON object", what);
    else
        // without jansson's own words: they quote what a registry may have fetched for us
        (void)INVALID(err, "the image's %s is not sound JSON: line %d, column %d", what, why.line,
                      why.column);
    json_decref(j);
    return NULL;
}

static int optional_text(const json_t *j, const char *name, const char *what, const char **ret,
                         struct error *err) {
    const json_t *v = json_object_get(j, name);
    *ret = json_string_value(v);
    if (v && !*ret && json_typeof(v) != JSON_NULL)
        return INVALID(err, "%s of the image's %s is not a string", name, what);
    return 0;
}

static int read_blob(const json_t *j, const char *what, struct blob *ret, const char **ret_type,
                     struct error *err) {
    static const char *const names[] = {"mediaType", "digest", "size", "urls", "platform", NULL};
    const char *digest = NULL, *type = NULL;
    const json_t *size = json_object_get(j, "size");
    if (!json_is_object(j))
        return INVALID(err, "the image's %s is not an object", what);
    if (exact_names(j, what, names, err) || optional_text(j, "digest", what, &digest, err) ||
        optional_text(j, "mediaType", what, &type, err))
        return -1;
    if (!digest || !digest_valid(digest))
        return INVALID(err, "the image's %s has the digest \"%.100s\"; only sha256 is accepted",
                       what, digest ? digest : "");
    if (!size || json_typeof(size) != JSON_INTEGER || json_integer_value(size) < 0)
        return INVALID(err, "the image's %s has no size", what);
    memcpy(ret->digest, digest, sizeof ret->digest);
    ret->bytes = (uint64_t)json_integer_value(size);
    *ret_type = type;
    return 0;
}

// ---- image manifests ----

static int read_layers(const json_t *layers, struct manifest *m, struct error *err) {
    size_t i, count = json_array_size(layers);
    json_t *item;
    if (!json_is_array(layers) || !count)
        return INVALID(err, "the image has no layers");
    if (count > MANIFEST_LAYERS_MAX)
        return INVALID(err, "the image has %zu layers; at most %d are accepted", count,
                       (int)MANIFEST_LAYERS_MAX);
    json_array_foreach(layers, i, item) {
        const char *type = NULL;
        if (read_blob(item, "layer", &m->layer[i], &type, err))
            return -1;
        enum role role = role_of(type, &m->docker);
        if (role == ROLE_FOREIGN || json_array_size(json_object_get(item, "urls")))
            return INVALID(err, "layer %zu of the image is to be fetched from elsewhere", i);
        if (role != ROLE_LAYER)
            return INVALID(err, "layer %zu of the image is of the type \"%.100s\"", i,
                           type ? type : "");
        m->zstd |= type && strstr(type, "+zstd");
        if (m->layer_bytes + m->layer[i].bytes < m->layer_bytes)
            return INVALID(err, "the sizes of the image's layers are absurd");
        m->layer_bytes += m->layer[i].bytes;
    }
    m->layers = (unsigned)count;
    return 0;
}

static int read_image(const json_t *j, struct manifest *m, struct error *err) {
    const char *type = NULL;
    const json_t *config = json_object_get(j, "config");
    m->kind = MANIFEST_IMAGE;
    if (!config)
        return INVALID(err, "the image's manifest names no config");
    if (read_blob(config, "config", &m->config, &type, err))
        return -1;
    if (role_of(type, &m->docker) != ROLE_CONFIG)
        return INVALID(err, "not an image of a file system: its config is of the type \"%.100s\"",
                       type ? type : "");
    if (m->config.bytes > MANIFEST_MAX)
        return INVALID(err, "the image's config has %llu bytes; at most %d are read",
                       (unsigned long long)m->config.bytes, (int)MANIFEST_MAX);
    return read_layers(json_object_get(j, "layers"), m, err);
}

// ---- indexes ----

struct choice {
    const struct platform *want;
    struct blob best, plain; // for the platform; the only one without a platform
    char variant[32];        // of best
    unsigned plains;
    bool found;
};

struct entry {
    const char *os, *arch, *variant;
};

static int read_platform(const json_t *j, struct entry *ret, struct error *err) {
    if (optional_text(j, "os", "platform", &ret->os, err) ||
        optional_text(j, "architecture", "platform", &ret->arch, err) ||
        optional_text(j, "variant", "platform", &ret->variant, err))
        return -1;
    if (!ret->variant)
        ret->variant = "";
    return 0;
}

static bool wanted(const struct entry *e, const struct platform *want) {
    return e->os && e->arch && !strcmp(e->os, want->os) && !strcmp(e->arch, want->arch) &&
           (!want->variant || !strcmp(e->variant, want->variant));
}

// What two readers would choose differently is an error: equal platforms, different digests.
static int consider(struct choice *c, const json_t *platform, const struct blob *b,
                    struct error *err) {
    struct entry e = {.os = NULL};
    if (!json_is_object(platform)) {
        c->plains += !c->plains || strcmp(c->plain.digest, b->digest) != 0;
        c->plain = *b;
        return 0;
    }
    if (read_platform(platform, &e, err))
        return -1;
    if (!wanted(&e, c->want))
        return 0;
    if (c->found && !strcmp(c->variant, e.variant) && strcmp(c->best.digest, b->digest) != 0)
        return INVALID(err, "ambiguous index: two images for %s/%s%s%s", e.os, e.arch,
                       *e.variant ? "/" : "", e.variant);
    if (c->found && *e.variant) // one for all variants is preferred, else the first
        return 0;
    c->found = true;
    c->best = *b;
    (void)snprintf(c->variant, sizeof c->variant, "%s", e.variant);
    return 0;
}

static int read_index(const json_t *j, const struct platform *want, struct manifest *m,
                      struct error *err) {
    const json_t *list = json_object_get(j, "manifests");
    struct choice c = {.want = want};
    size_t i, count = json_array_size(list);
    json_t *item;
    m->kind = MANIFEST_INDEX;
    if (!json_is_array(list) || count > MANIFEST_INDEX_MAX)
        return INVALID(err, "the image's index is not a list of at most %d manifests",
                       (int)MANIFEST_INDEX_MAX);
    json_array_foreach(list, i, item) {
        struct blob b;
        const char *type = NULL;
        if (read_blob(item, "index", &b, &type, err))
            return -1;
        enum role role = role_of(type, &m->docker);
        if (role != ROLE_IMAGE && role != ROLE_INDEX)
            continue; // signatures and the like
        if (consider(&c, json_object_get(item, "platform"), &b, err))
            return -1;
    }
    if (!c.found && c.plains > 1)
        return INVALID(err, "ambiguous index: %u images without a platform; give one", c.plains);
    if (!c.found && !c.plains)
        return INVALID(err, "the image has nothing for the platform %s/%s", want->os, want->arch);
    m->chosen = c.found ? c.best : c.plain;
    if (m->chosen.bytes > MANIFEST_MAX)
        return INVALID(err, "the image's manifest has %llu bytes; at most %d are read",
                       (unsigned long long)m->chosen.bytes, (int)MANIFEST_MAX);
    return 0;
}

// ---- documents ----

static int read_either(const json_t *j, const struct platform *want, struct manifest *m,
                       struct error *err) {
    static const char *const names[] = {"schemaVersion", "mediaType", "manifests", "layers",
                                        "config",        "fsLayers",  NULL};
    const char *type;
    if (exact_names(j, "manifest", names, err) ||
        optional_text(j, "mediaType", "manifest", &type, err))
        return -1;
    if (json_integer_value(json_object_get(j, "schemaVersion")) != 2 ||
        json_object_get(j, "fsLayers"))
        return INVALID(err, "the image's manifest is not of schema version 2; push it again with a "
                            "current tool");
    bool index = json_object_get(j, "manifests"),
         image = json_object_get(j, "layers") || json_object_get(j, "config");
    if (index && image)
        return INVALID(err, "ambiguous manifest: it has \"manifests\" beside \"layers\" or "
                            "\"config\"");
    if (!index && !image)
        return INVALID(err, "the image's manifest has neither \"manifests\" nor \"layers\"");
    enum role role = role_of(type, &m->docker);
    if (type && role != (index ? ROLE_INDEX : ROLE_IMAGE))
        return INVALID(err, "ambiguous manifest: mediaType \"%.100s\" on an %s", type,
                       index ? "index" : "image");
    return index ? read_index(j, want, m, err) : read_image(j, m, err);
}

int manifest_parse(const char *text, size_t len, const char *expected, const struct platform *want,
                   struct manifest *ret, struct error *err) {
    memset(ret, 0, sizeof *ret);
    memcpy(ret->digest, "sha256:", 7);
    sha256_hex(text, len, ret->digest + 7);
    if (expected && strcmp(ret->digest, expected) != 0)
        return INVALID(err, "the image's manifest is corrupt: it hashes to %s instead of %s",
                       ret->digest, expected);
    cleanup_json json_t *j = read_document(text, len, "manifest", err);
    return j ? read_either(j, want, ret, err) : -1;
}

static int check_platform(const json_t *j, const struct platform *want, struct image_config *c,
                          struct error *err) {
    struct entry e = {.os = NULL};
    if (read_platform(j, &e, err))
        return -1;
    // a single manifest of another architecture is served without a murmur (oci-runtime.md 1.1)
    const struct platform any = {want->os, want->arch, *e.variant ? want->variant : NULL};
    if (!wanted(&e, &any))
        return INVALID(err, "the image is for the platform %.20s/%.20s, not for %s/%s",
                       e.os ? e.os : "", e.arch ? e.arch : "", want->os, want->arch);
    if (image_config_plain(c, e.os, e.arch, err))
        return -1;
    free(c->variant);
    c->variant = strdup(e.variant);
    return c->variant ? 0 : error_set(err, ENOMEM, "out of memory");
}

int manifest_parse_config(const char *text, size_t len, const struct platform *want,
                          struct image_config *ret, struct error *err) {
    static const char *const names[] = {"os", "architecture", "variant", "config", "rootfs", NULL};
    struct image_config c = {0};
    cleanup_json json_t *j = read_document(text, len, "config", err);
    if (!j || exact_names(j, "config", names, err) || check_platform(j, want, &c, err) ||
        image_config_read(json_object_get(j, "config"), &c, err)) {
        image_config_clear(&c);
        return -1;
    }
    *ret = c;
    return 0;
}
