// /templates: of a micro-VM backend that this server does not have. What is malformed is told
// before that (compat-1.1.1.md L7). Not the templates of pools, which template.c reads.
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/api/api.h"
#include "server/api/fields.h"
#include "server/api/handlers.h"
#include "server/api/paging.h"

void handle_template(struct http_exchange *x) {
    api_refuse(x, ERR_FSB_NOT_SUPPORTED,
               "templates belong to a micro-VM backend that this server does not have");
}

void handle_template_list(struct http_exchange *x) {
    struct page p;
    if (page_read(x, &p) == 0)
        handle_template(x);
}

static void read_format(struct problems *p, const json_t *body) {
    struct field f = field_get(&place_body, body, "format");
    const char *format = field_text(p, &f, false);
    if (format && strcmp(format, "native") != 0 && strcmp(format, "overlaybd") != 0)
        problem_add(p, &f.at, "literal_error", "Input should be 'native' or 'overlaybd'");
}

static void read_words(struct problems *p, const json_t *body) {
    struct field list = field_get(&place_body, body, "entrypoint");
    const json_t *words = field_list(p, &list, 0, false), *word;
    size_t i;
    json_array_foreach(words, i, word) {
        const struct field item = {.at = {.in = &list.at, .index = i}, .value = word};
        (void)field_text(p, &item, true);
    }
}

void handle_template_create(struct http_exchange *x) {
    static const char *const names[] = {
        "image", "publish",  "resourceLimits", "resource_limits", "entrypoint",
        "env",   "metadata", "readiness",      "format",          NULL};
    static const char *const texts[] = {"image", "publish"};
    static const char *const maps[] = {"resourceLimits", "env", "metadata"};
    struct problems p = {0};
    struct pairs ignored = {0};
    cleanup_json json_t *body = body_object(x);
    const struct field whole = {.at = place_body, .value = body};
    if (!body)
        return;
    bool memory = true;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct field f = field_get(&place_body, body, texts[i]);
        (void)field_text(&p, &f, true);
    }
    for (size_t i = 0; i < ARRAY_SIZE(maps); i++) {
        struct field f = field_get(&place_body, body, maps[i]);
        memory = field_map(&p, &f, false, &ignored) == 0 && memory;
        pairs_clear(&ignored);
    }
    struct field readiness = field_get(&place_body, body, "readiness");
    (void)field_object(&p, &readiness, false);
    read_words(&p, body);
    read_format(&p, body);
    field_only(&p, &whole, names);
    if (problems_any(&p))
        problems_reply(x, &p);
    else if (memory)
        handle_template(x);
    else
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
}
