#include <string.h>
#include <strings.h>

#include "server/api/api.h"
#include "server/api/fields.h"
#include "server/api/handlers.h"

enum { PAGE_SIZE = 20, PAGE_SIZE_MAX = 200 };

static const struct place place_query = {.name = "query"};

struct filter {
    bool any_state; // no state was asked for
    bool states[SANDBOX_STATE_COUNT];
    struct url_pair *metadata;
    long metadata_count;
    int64_t page, page_size;
};

struct page { // what registry_each() gathers
    const struct filter *filter;
    int64_t seen, first, last; // of the matching ones
    json_t *items;
};

static void read_int(struct problems *p, const struct url_pair *pairs, long count, const char *name,
                     int64_t most, int64_t *ret) {
    const struct place at = {.in = &place_query, .name = name};
    const char *text = url_query_last(pairs, count, name);
    int64_t value = 0;
    if (!text)
        return;
    if (!text_int(text, &value))
        problem_add(p, &at, "int_parsing",
                    "Input should be a valid integer, unable to parse string as an integer");
    else if (value < 1)
        problem_add(p, &at, "greater_than_equal", "Input should be greater than or equal to 1");
    else if (value > most)
        problem_add(p, &at, "less_than_equal", "Input should be less than or equal to %lld",
                    (long long)most);
    else
        *ret = value;
}

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
    return 0;
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
    if (sb->deleting || (!f->any_state && !f->states[sb->state]))
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
    struct page *page = arg;
    if (!matches(sb, page->filter))
        return true;
    if (page->seen >= page->first && page->seen < page->last)
        (void)json_array_append_new(page->items, render_sandbox(sb));
    page->seen++;
    return true;
}

void handle_list(struct http_exchange *x) {
    struct problems p = {0};
    struct filter f = {.page = 1, .page_size = PAGE_SIZE};
    struct url_pair *pairs = NULL;
    const char *bad = NULL;
    long count = url_query(x->arena, x->query, &pairs);
    if (count < 0) {
        api_refuse(x, ERR_INVALID_PARAMETER, "the query has too many parameters");
        return;
    }
    read_int(&p, pairs, count, "page", INT64_MAX / PAGE_SIZE_MAX, &f.page);
    read_int(&p, pairs, count, "pageSize", PAGE_SIZE_MAX, &f.page_size);
    if (problems_any(&p)) {
        problems_reply(x, &p);
        return;
    }
    read_states(pairs, count, &f);
    const char *metadata = url_query_last(pairs, count, "metadata");
    if (metadata && *metadata && read_metadata(x, metadata, &f, &bad) < 0) {
        api_refuse(x, ERR_INVALID_METADATA_FORMAT,
                   "invalid metadata format: bad query field \"%.100s\", expected k=v&k2=v2", bad);
        return;
    }
    struct page page = {.filter = &f,
                        .first = (f.page - 1) * f.page_size,
                        .last = f.page * f.page_size,
                        .items = json_array()};
    registry_each(domain_registry(api_of(x)->domain), gather, &page);
    int64_t pages = (page.seen + f.page_size - 1) / f.page_size;
    http_reply_json(x, 200,
                    json_pack("{s:o, s:{s:I, s:I, s:I, s:I, s:b}}", "items", page.items,
                              "pagination", "page", (json_int_t)f.page, "pageSize",
                              (json_int_t)f.page_size, "totalItems", (json_int_t)page.seen,
                              "totalPages", (json_int_t)pages, "hasNextPage", f.page < pages));
}
