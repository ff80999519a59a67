#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fmt/json.h"
#include "server/api/api.h"

static void begin(struct strbuf *o, const char *name) {
    json_write_name(o, name);
    (void)strbuf_addc(o, '{');
}

static void end(struct strbuf *o) {
    (void)strbuf_addc(o, '}');
}

static void render_time(struct strbuf *o, const char *name, int64_t wall_us) {
    char text[CLOCK_TEXT_MAX];
    clock_format(wall_us, text);
    json_write_member(o, name, text);
}

static void render_status(struct strbuf *o, const struct sandbox *sb) {
    begin(o, "status");
    json_write_member(o, "state", sandbox_state_name(sb->state));
    if (*sb->reason)
        json_write_member(o, "reason", sb->reason);
    const char *message = sb->state == SANDBOX_RUNNING && sb->notice ? sb->notice : sb->message;
    if (*message)
        json_write_member(o, "message", message);
    render_time(o, "lastTransitionAt", sb->changed_us);
    end(o);
}

static void render_pairs(struct strbuf *o, const char *name, const struct pairs *p) {
    begin(o, name);
    for (size_t i = 0; i < p->count; i++)
        json_write_member(o, p->items[i].name, p->items[i].value);
    end(o);
}

static void render_entrypoint(struct strbuf *o, const struct sandbox_spec *s) {
    json_write_name(o, "entrypoint");
    (void)strbuf_addc(o, '[');
    for (size_t i = 0; i < s->entrypoint_count; i++) {
        json_write_comma(o);
        (void)json_write_text(o, s->entrypoint[i], strlen(s->entrypoint[i]));
    }
    (void)strbuf_addc(o, ']');
}

// Only these survive (compat-1.1.1.md L15).
static void render_extensions(struct strbuf *o, const struct sandbox_spec *s) {
    bool any = false;
    for (size_t i = 0; i < s->extensions.count; i++) {
        if (strncmp(s->extensions.items[i].name, "opensandbox.extensions.", 23) != 0)
            continue;
        if (!any)
            begin(o, "extensions");
        any = true;
        json_write_member(o, s->extensions.items[i].name, s->extensions.items[i].value);
    }
    if (any)
        end(o);
}

static void render_platform(struct strbuf *o, const struct sandbox_spec *s) {
    if (!s->platform_os)
        return;
    begin(o, "platform");
    json_write_member(o, "os", s->platform_os);
    json_write_member(o, "arch", s->platform_arch);
    end(o);
}

void render_created(const struct sandbox *sb, struct strbuf *o) {
    (void)strbuf_addc(o, '{');
    json_write_member(o, "id", sb->id);
    render_status(o, sb);
    if (sb->spec->has_metadata)
        render_pairs(o, "metadata", &sb->spec->metadata);
    render_extensions(o, sb->spec);
    render_platform(o, sb->spec);
    if (sb->expires_us)
        render_time(o, "expiresAt", sb->expires_us);
    render_time(o, "createdAt", sb->created_us);
    render_entrypoint(o, sb->spec);
    end(o);
}

static void render_origin(struct strbuf *o, const struct sandbox_spec *s) {
    if (s->snapshot_id) {
        json_write_member(o, "snapshotId", s->snapshot_id);
    } else if (s->image) {
        begin(o, "image");
        json_write_member(o, "uri", s->image);
        end(o);
    }
}

static void render_allocation(struct strbuf *o, const char *pool) {
    begin(o, "allocation");
    json_write_member(o, "mode", "pool");
    json_write_member(o, "poolRef", pool);
    json_write_member(o, "state", "allocated");
    end(o);
}

void render_sandbox(const struct sandbox *sb, struct strbuf *o) {
    (void)strbuf_addc(o, '{');
    json_write_member(o, "id", sb->id);
    render_origin(o, sb->spec);
    render_platform(o, sb->spec);
    render_status(o, sb);
    if (sb->metadata.count)
        render_pairs(o, "metadata", &sb->metadata);
    render_extensions(o, sb->spec);
    if (sb->pool)
        render_allocation(o, sb->pool);
    render_entrypoint(o, sb->spec);
    if (sb->expires_us)
        render_time(o, "expiresAt", sb->expires_us);
    render_time(o, "createdAt", sb->created_us);
    end(o);
}

void api_reply_sandbox(struct http_exchange *x, unsigned status, const struct sandbox *sb,
                       void (*render)(const struct sandbox *sb, struct strbuf *o)) {
    cleanup_strbuf struct strbuf text;
    strbuf_init(&text, SIZE_MAX / 4);
    render(sb, &text);
    http_reply_json_text(x, status, &text);
}
