#include "server/runtime/spec.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"

// ---- pairs ----

static struct pair *find(const struct pairs *p, const char *name) {
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->items[i].name, name) == 0)
            return &p->items[i];
    return NULL;
}

int pairs_add(struct pairs *p, const char *name, const char *value) {
    struct pair *at = find(p, name);
    char *copy cleanup_free = value ? strdup(value) : NULL;
    if (value && !copy)
        return -1;
    if (at) {
        free(at->value);
        at->value = TAKE_PTR(copy);
        return 0;
    }
    struct pair *grown = reallocarray(p->items, p->count + 1, sizeof *grown);
    if (!grown)
        return -1;
    p->items = grown;
    char *key = strdup(name);
    if (!key)
        return -1;
    p->items[p->count++] = (struct pair){.name = key, .value = TAKE_PTR(copy)};
    return 0;
}

const char *pairs_get(const struct pairs *p, const char *name) {
    const struct pair *at = find(p, name);
    return at ? at->value : NULL;
}

void pairs_clear(struct pairs *p) {
    for (size_t i = 0; i < p->count; i++) {
        free(p->items[i].name);
        free(p->items[i].value);
    }
    free(p->items);
    *p = (struct pairs){0};
}

int pairs_copy(struct pairs *to, const struct pairs *from) {
    struct pairs copy = {0};
    for (size_t i = 0; i < from->count; i++) {
        if (pairs_add(&copy, from->items[i].name, from->items[i].value) < 0) {
            pairs_clear(&copy);
            return -1;
        }
    }
    pairs_clear(to);
    *to = copy;
    return 0;
}

int pairs_patch(struct pairs *p, const struct pairs *patch) {
    struct pairs next = {0};
    for (size_t i = 0; i < p->count; i++)
        if (!find(patch, p->items[i].name) &&
            pairs_add(&next, p->items[i].name, p->items[i].value) < 0)
            goto no_memory;
    for (size_t i = 0; i < patch->count; i++)
        if (patch->items[i].value &&
            pairs_add(&next, patch->items[i].name, patch->items[i].value) < 0)
            goto no_memory;
    pairs_clear(p);
    *p = next;
    return 0;
no_memory:
    pairs_clear(&next);
    return -1;
}

static json_t *pairs_to_json(const struct pairs *p) {
    json_t *o = json_object();
    for (size_t i = 0; i < p->count; i++)
        if (json_object_set_new(o, p->items[i].name, json_string(p->items[i].value)) < 0) {
            json_decref(o);
            return NULL;
        }
    return o;
}

char *pairs_to_text(const struct pairs *p) {
    json_t *o cleanup_json = pairs_to_json(p);
    return o ? json_dumps(o, JSON_COMPACT) : NULL;
}

// ---- a spec ----

struct sandbox_spec *spec_new(void) {
    struct sandbox_spec *s = calloc(1, sizeof *s);
    if (s)
        s->refs = 1;
    return s;
}

struct sandbox_spec *spec_ref(struct sandbox_spec *s) {
    __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}

static void entrypoint_clear(struct sandbox_spec *s) {
    for (size_t i = 0; i < s->entrypoint_count; i++)
        free(s->entrypoint[i]);
    free(s->entrypoint);
    s->entrypoint = NULL;
    s->entrypoint_count = 0;
}

static void spec_free(struct sandbox_spec *s) {
    free(s->image);
    free(s->snapshot_id);
    free(s->platform_os);
    free(s->platform_arch);
    free(s->network_policy);
    free(s->lifecycle);
    entrypoint_clear(s);
    pairs_clear(&s->env);
    pairs_clear(&s->metadata);
    pairs_clear(&s->extensions);
    pairs_clear(&s->egress_env);
    for (size_t i = 0; i < s->volume_count; i++) {
        free(s->volumes[i].name);
        free(s->volumes[i].mount_path);
        free(s->volumes[i].source);
        free(s->volumes[i].sub_path);
        free(s->volumes[i].endpoint);
        free(s->volumes[i].options);
        free(s->volumes[i].key_id);
        if (s->volumes[i].key_secret)
            explicit_bzero(s->volumes[i].key_secret, strlen(s->volumes[i].key_secret));
        free(s->volumes[i].key_secret);
    }
    free(s->volumes);
    free(s);
}

void spec_unref(struct sandbox_spec *s) {
    if (s && __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) == 0)
        spec_free(s);
}
DEFINE_CLEANUP(struct sandbox_spec *, spec_unref)

bool spec_entrypoint_idles(const struct sandbox_spec *s) {
    static const char *const idle[] = {"tail", "-f", "/dev/null"};
    if (s->entrypoint_count != ARRAY_SIZE(idle))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
        if (strcmp(s->entrypoint[i], idle[i]) != 0)
            return false;
    return true;
}

bool spec_is_windows(const struct sandbox_spec *s) {
    return s->platform_os && strcmp(s->platform_os, "windows") == 0;
}

int spec_set_entrypoint(struct sandbox_spec *s, char *const *words, size_t count) {
    entrypoint_clear(s);
    s->entrypoint = calloc(count + 1, sizeof *s->entrypoint);
    while (s->entrypoint && s->entrypoint_count < count &&
           (s->entrypoint[s->entrypoint_count] = strdup(words[s->entrypoint_count])))
        s->entrypoint_count++;
    return s->entrypoint && s->entrypoint_count == count ? 0 : -1;
}

// ---- the stored form: one table for both directions; a member is left out when it is empty ----

enum member_type { MEMBER_TEXT, MEMBER_BOOL, MEMBER_COUNT, MEMBER_PAIRS };
struct member {
    const char *name;
    enum member_type type;
    size_t offset;
};

#define SPEC(name, type)                                                                           \
    { #name, type, offsetof(struct sandbox_spec, name) }
static const struct member spec_members[] = {
    SPEC(image, MEMBER_TEXT),          SPEC(snapshot_id, MEMBER_TEXT),
    SPEC(env, MEMBER_PAIRS),           SPEC(metadata, MEMBER_PAIRS),
    SPEC(extensions, MEMBER_PAIRS),    SPEC(has_metadata, MEMBER_BOOL),
    SPEC(timeout_s, MEMBER_COUNT),     SPEC(cpu_millis, MEMBER_COUNT),
    SPEC(memory_bytes, MEMBER_COUNT),  SPEC(pids, MEMBER_COUNT),
    SPEC(platform_os, MEMBER_TEXT),    SPEC(platform_arch, MEMBER_TEXT),
    SPEC(secure_access, MEMBER_BOOL),  SPEC(gpus, MEMBER_COUNT),
    SPEC(network_policy, MEMBER_TEXT), SPEC(egress_env, MEMBER_PAIRS),
    SPEC(disk_bytes, MEMBER_COUNT),    SPEC(lifecycle, MEMBER_TEXT),
    SPEC(prestart_s, MEMBER_COUNT),
};
#define VOLUME(name, type)                                                                         \
    { #name, type, offsetof(struct volume_spec, name) }
static const struct member volume_members[] = {
    VOLUME(name, MEMBER_TEXT),
    VOLUME(mount_path, MEMBER_TEXT),
    VOLUME(source, MEMBER_TEXT),
    VOLUME(sub_path, MEMBER_TEXT),
    VOLUME(read_only, MEMBER_BOOL),
    VOLUME(must_exist, MEMBER_BOOL),
    VOLUME(delete_with_sandbox, MEMBER_BOOL),
    VOLUME(endpoint, MEMBER_TEXT),
    VOLUME(options, MEMBER_TEXT),
    VOLUME(version_1, MEMBER_BOOL),
};
static const char *const volume_kinds[] = {
    [VOLUME_HOST] = "host", [VOLUME_NAMED] = "named", [VOLUME_OSSFS] = "ossfs"};

static json_t *member_to_json(const struct member *m, const void *object) {
    const void *at = (const char *)object + m->offset;
    switch (m->type) {
    case MEMBER_TEXT: return *(char *const *)at ? json_string(*(char *const *)at) : NULL;
    case MEMBER_BOOL: return *(const bool *)at ? json_true() : NULL;
    case MEMBER_COUNT: return *(const int64_t *)at ? json_integer(*(const int64_t *)at) : NULL;
    case MEMBER_PAIRS:
        return ((const struct pairs *)at)->count ? pairs_to_json((const struct pairs *)at) : NULL;
    }
    return NULL;
}

static bool member_absent(const struct member *m, const void *object) {
    const void *at = (const char *)object + m->offset;
    switch (m->type) {
    case MEMBER_TEXT: return !*(char *const *)at;
    case MEMBER_BOOL: return !*(const bool *)at;
    case MEMBER_COUNT: return !*(const int64_t *)at;
    case MEMBER_PAIRS: return !((const struct pairs *)at)->count;
    }
    return true;
}

static int members_to_json(json_t *o, const struct member *table, size_t count,
                           const void *object) {
    for (size_t i = 0; i < count; i++)
        if (!member_absent(&table[i], object) &&
            json_object_set_new(o, table[i].name, member_to_json(&table[i], object)) < 0)
            return -1;
    return 0;
}

json_t *spec_to_json(const struct sandbox_spec *s) {
    json_t *o cleanup_json = json_object();
    json_t *words = json_array();
    if (json_object_set_new(o, "entrypoint", words) < 0 ||
        members_to_json(o, spec_members, ARRAY_SIZE(spec_members), s) < 0)
        return NULL;
    for (size_t i = 0; i < s->entrypoint_count; i++)
        if (json_array_append_new(words, json_string(s->entrypoint[i])) < 0)
            return NULL;
    json_t *volumes = s->volume_count ? json_array() : NULL;
    if (s->volume_count && json_object_set_new(o, "volumes", volumes) < 0)
        return NULL;
    for (size_t i = 0; i < s->volume_count; i++) {
        const struct volume_spec *v = &s->volumes[i];
        json_t *entry = json_object();
        if (json_array_append_new(volumes, entry) < 0 ||
            json_object_set_new(entry, "kind", json_string(volume_kinds[v->kind])) < 0 ||
            members_to_json(entry, volume_members, ARRAY_SIZE(volume_members), v) < 0)
            return NULL;
    }
    return TAKE_PTR(o);
}

static int text_from_json(const json_t *j, char **ret) {
    if (!json_is_string(j) || strlen(json_string_value(j)) != json_string_length(j))
        return -1;
    free(*ret);
    *ret = strdup(json_string_value(j));
    return *ret ? 0 : -1;
}

static int pairs_from_json(const json_t *j, struct pairs *ret) {
    const char *name;
    json_t *value;
    if (!json_is_object(j))
        return -1;
    json_object_foreach((json_t *)j, name, value) {
        if (!json_is_string(value) || pairs_add(ret, name, json_string_value(value)) < 0)
            return -1;
    }
    return 0;
}

int pairs_from_text(struct pairs *p, const char *text, struct error *err) {
    json_t *o cleanup_json = json_parse(text, strlen(text), NULL, err);
    if (!o)
        return -1;
    struct pairs read = {0};
    if (pairs_from_json(o, &read) < 0) {
        pairs_clear(&read);
        return error_set(err, EINVAL, "not an object of texts");
    }
    pairs_clear(p);
    *p = read;
    return 0;
}

static int member_from_json(const struct member *m, const json_t *j, void *object) {
    void *at = (char *)object + m->offset;
    switch (m->type) {
    case MEMBER_TEXT: return text_from_json(j, at);
    case MEMBER_BOOL: *(bool *)at = true; return json_is_true(j) ? 0 : -1;
    case MEMBER_COUNT:
        *(int64_t *)at = json_integer_value(j);
        return json_is_integer(j) && *(int64_t *)at > 0 ? 0 : -1;
    case MEMBER_PAIRS: return pairs_from_json(j, at);
    }
    return -1;
}

static const struct member *member_named(const struct member *table, size_t count,
                                         const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

static int entrypoint_from_json(const json_t *j, struct sandbox_spec *s) {
    if (!json_is_array(j))
        return -1;
    s->entrypoint = calloc(json_array_size(j) + 1, sizeof(char *));
    if (!s->entrypoint)
        return -1;
    for (size_t i = 0; i < json_array_size(j); i++) {
        if (text_from_json(json_array_get(j, i), &s->entrypoint[i]) < 0)
            return -1;
        s->entrypoint_count++;
    }
    return 0;
}

static int volume_from_json(const json_t *j, struct volume_spec *v) {
    const char *name, *kind = json_string_value(json_object_get(j, "kind"));
    json_t *value;
    size_t k = 0;
    while (kind && k < ARRAY_SIZE(volume_kinds) && strcmp(kind, volume_kinds[k]) != 0)
        k++;
    if (!kind || k == ARRAY_SIZE(volume_kinds))
        return -1;
    v->kind = (enum volume_kind)k;
    json_object_foreach((json_t *)j, name, value) {
        const struct member *m = member_named(volume_members, ARRAY_SIZE(volume_members), name);
        if (m ? member_from_json(m, value, v) < 0 : strcmp(name, "kind") != 0)
            return -1;
    }
    return v->name && v->mount_path && v->source ? 0 : -1;
}

static int volumes_from_json(const json_t *j, struct sandbox_spec *s) {
    if (!json_is_array(j) || !json_array_size(j))
        return -1;
    s->volumes = calloc(json_array_size(j), sizeof *s->volumes);
    if (!s->volumes)
        return -1;
    for (size_t i = 0; i < json_array_size(j); i++) {
        s->volume_count++; // from here on spec_unref() frees it
        if (volume_from_json(json_array_get(j, i), &s->volumes[i]) < 0)
            return -1;
    }
    return 0;
}

struct sandbox_spec *spec_from_json(const json_t *j, struct error *err) {
    struct sandbox_spec *s cleanup(spec_unref_p) = spec_new();
    const char *name;
    json_t *value;
    if (!s) {
        (void)error_errno(err, ENOMEM, "sandbox spec");
        return NULL;
    }
    if (!json_is_object(j) || !json_object_get(j, "entrypoint")) {
        (void)error_set(err, EINVAL, "sandbox spec: not an object with an entrypoint");
        return NULL;
    }
    json_object_foreach((json_t *)j, name, value) {
        const struct member *m = member_named(spec_members, ARRAY_SIZE(spec_members), name);
        int r = m                                 ? member_from_json(m, value, s)
                : strcmp(name, "entrypoint") == 0 ? entrypoint_from_json(value, s)
                : strcmp(name, "volumes") == 0    ? volumes_from_json(value, s)
                                                  : -1;
        if (r < 0) {
            (void)error_set(err, EINVAL, "sandbox spec: unknown or wrong member \"%.80s\"", name);
            return NULL;
        }
    }
    return TAKE_PTR(s);
}

char *spec_to_text(const struct sandbox_spec *s) {
    json_t *o cleanup_json = spec_to_json(s);
    return o ? json_dumps(o, JSON_COMPACT) : NULL;
}

struct sandbox_spec *spec_from_text(const char *text, struct error *err) {
    json_t *o cleanup_json = json_parse(text, strlen(text), NULL, err);
    return o ? spec_from_json(o, err) : NULL;
}

int spec_hash(const struct sandbox_spec *s, uint8_t out[SHA256_SIZE]) {
    json_t *o cleanup_json = spec_to_json(s);
    char *text cleanup_free = o ? json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (!text)
        return -1;
    sha256(text, strlen(text), out);
    return 0;
}
