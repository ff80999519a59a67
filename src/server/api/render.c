#include <string.h>

#include "base/clock.h"
#include "server/api/api.h"

// Names are ours, or were in JSON: not checked again.
static void set(json_t *o, const char *name, json_t *value) {
    (void)json_object_set_new_nocheck(o, name, value);
}

static json_t *render_time(int64_t wall_us) {
    char text[CLOCK_TEXT_MAX];
    clock_format(wall_us, text);
    return json_string_nocheck(text);
}

static json_t *render_status(const struct sandbox *sb) {
    json_t *o = json_object();
    set(o, "state", json_string_nocheck(sandbox_state_name(sb->state)));
    if (*sb->reason)
        set(o, "reason", json_string(sb->reason));
    const char *message = sb->state == SANDBOX_RUNNING && sb->notice ? sb->notice : sb->message;
    if (*message)
        set(o, "message", json_string(message));
    set(o, "lastTransitionAt", render_time(sb->changed_us));
    return o;
}

static json_t *render_pairs(const struct pairs *p) {
    json_t *o = json_object();
    for (size_t i = 0; i < p->count; i++)
        set(o, p->items[i].name, json_string(p->items[i].value));
    return o;
}

static json_t *render_entrypoint(const struct sandbox_spec *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < s->entrypoint_count; i++)
        (void)json_array_append_new(list, json_string(s->entrypoint[i]));
    return list;
}

// Only these survive (compat-1.1.1.md L15).
static void add_extensions(json_t *o, const struct sandbox_spec *s) {
    json_t *map = NULL;
    for (size_t i = 0; i < s->extensions.count; i++) {
        if (strncmp(s->extensions.items[i].name, "opensandbox.extensions.", 23) != 0)
            continue;
        if (!map)
            map = json_object();
        set(map, s->extensions.items[i].name, json_string(s->extensions.items[i].value));
    }
    if (map)
        set(o, "extensions", map);
}

static void add_platform(json_t *o, const struct sandbox_spec *s) {
    if (s->platform_os)
        set(o, "platform", json_pack("{s:s, s:s}", "os", s->platform_os, "arch", s->platform_arch));
}

json_t *render_created(const struct sandbox *sb) {
    json_t *o = json_object();
    set(o, "id", json_string_nocheck(sb->id));
    set(o, "status", render_status(sb));
    if (sb->spec->has_metadata)
        set(o, "metadata", render_pairs(&sb->spec->metadata));
    add_extensions(o, sb->spec);
    add_platform(o, sb->spec);
    if (sb->expires_us)
        set(o, "expiresAt", render_time(sb->expires_us));
    set(o, "createdAt", render_time(sb->created_us));
    set(o, "entrypoint", render_entrypoint(sb->spec));
    return o;
}

static json_t *render_image(const char *uri) {
    json_t *o = json_object(); // json_pack() reads its format again for each sandbox of a page
    set(o, "uri", json_string(uri));
    return o;
}

json_t *render_sandbox(const struct sandbox *sb) {
    json_t *o = json_object();
    set(o, "id", json_string_nocheck(sb->id));
    if (sb->spec->snapshot_id)
        set(o, "snapshotId", json_string(sb->spec->snapshot_id));
    else if (sb->spec->image)
        set(o, "image", render_image(sb->spec->image));
    add_platform(o, sb->spec);
    set(o, "status", render_status(sb));
    if (sb->metadata.count)
        set(o, "metadata", render_pairs(&sb->metadata));
    add_extensions(o, sb->spec);
    if (sb->pool)
        set(o, "allocation",
            json_pack("{s:s, s:s, s:s}", "mode", "pool", "poolRef", sb->pool, "state",
                      "allocated"));
    set(o, "entrypoint", render_entrypoint(sb->spec));
    if (sb->expires_us)
        set(o, "expiresAt", render_time(sb->expires_us));
    set(o, "createdAt", render_time(sb->created_us));
    return o;
}
