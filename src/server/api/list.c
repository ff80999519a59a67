#include <string.h>
#include <strings.h>

#include "server/api/api.h"
#include "server/api/handlers.h"
#include "server/api/paging.h"

struct filter {
    bool any_state; // no state was asked for
    bool states[SANDBOX_STATE_COUNT];
    struct url_pair *metadata;
    long metadata_count;
};

struct listing {
    struct filter filter;
    struct page page;
};

// The value of `metadata` is itself k=v&k2=v2, coded once more. -1: a segment without '=', named in
// *ret_bad.
static int read_metadata(struct http_exchange *x, const char *text, struct filter *f,
                         const char **ret_bad) {
    for (const char *p = text;; p++) { // every segment, the empty ones too
        size_t n = strcspn(p, "&");
        if (!memchr(p, '=', n)) {
            *ret_bad = arena_strndup(x->arena, p, n);
            return -1;
        }
        p += n;
        if (!*p)
            break;
    }
    f->metadata_count = url_query(x->arena, text, &f->metadata);
    *ret_bad = "too many pairs, or a NUL";
    return f->metadata_count < 0 ? -1 : 0;
}

static void read_states(const struct url_pair *pairs, long count, struct filter *f) {
    f->any_state = true;
    for (long i = 0; i < count; i++) {
        enum sandbox_state state;
        if (strcmp(pairs[i].name, "state") != 0)
            continue;
        f->any_state = false; // an unknown state matches nothing
        if (sandbox_state_parse(pairs[i].value, &state) == 0)
            f->states[state] = true;
    }
}

static bool matches(const struct sandbox *sb, const struct filter *f) {
    if (sb->deleting || sb->stock || (!f->any_state && !f->states[sb->state]))
        return false;
    for (long i = 0; i < f->metadata_count; i++) {
        const struct url_pair *q = &f->metadata[i];
        if (url_query_last(f->metadata, f->metadata_count, q->name) != q->value)
            continue; // a repeated key: the last one counts
        const char *value = pairs_get(&sb->metadata, q->name);
        if (!value || strcmp(value, q->value) != 0)
            return false;
    }
    return true;
}

static bool gather(struct sandbox *sb, void *arg) {
    struct listing *l = arg;
    struct strbuf *item = matches(sb, &l->filter) ? page_item(&l->page) : NULL;
    if (item)
        render_sandbox(sb, item);
    return true;
}

void handle_list(struct http_exchange *x) {
    struct listing l = {0};
    const char *bad = NULL;
    if (page_read(x, &l.page) < 0)
        return;
    read_states(l.page.pairs, l.page.count, &l.filter);
    const char *metadata = url_query_last(l.page.pairs, l.page.count, "metadata");
    if (metadata && *metadata && read_metadata(x, metadata, &l.filter, &bad) < 0) {
        api_refuse(x, ERR_INVALID_METADATA_FORMAT,
                   "invalid metadata format: bad query field \"%.100s\", expected k=v&k2=v2", bad);
        return;
    }
    registry_each(domain_registry(api_of(x)->domain), gather, &l);
    page_reply(x, &l.page);
}
