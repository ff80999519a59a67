#include "server/api/paging.h"

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/api/api.h"

enum { PAGE_SIZE = 20, PAGE_SIZE_MAX = 200 };

static const struct place place_query = {.name = "query"};

static void read_int(struct problems *p, const struct page *page, const char *name, int64_t most,
                     int64_t *ret) {
    const struct place at = {.in = &place_query, .name = name};
    const char *text = url_query_last(page->pairs, page->count, name);
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

int page_read(struct http_exchange *x, struct page *p) {
    struct problems problems = {0};
    *p = (struct page){.number = 1, .size = PAGE_SIZE};
    strbuf_init(&p->text, SIZE_MAX / 4);
    p->count = url_query(x->arena, x->query, &p->pairs);
    if (p->count < 0) {
        api_refuse(x, ERR_INVALID_PARAMETER, "the query has too many parameters, or a NUL");
        return -1;
    }
    read_int(&problems, p, "page", INT64_MAX / PAGE_SIZE_MAX, &p->number);
    read_int(&problems, p, "pageSize", PAGE_SIZE_MAX, &p->size);
    if (problems_any(&problems)) {
        problems_reply(x, &problems);
        return -1;
    }
    return 0;
}

static void begin(struct page *p) {
    if (!p->text.len)
        (void)strbuf_adds(&p->text, "{\"items\":[");
}

struct strbuf *page_item(struct page *p) {
    int64_t at = p->seen++;
    if (at < (p->number - 1) * p->size || at >= p->number * p->size)
        return NULL;
    begin(p);
    json_write_comma(&p->text);
    return &p->text;
}

void page_reply(struct http_exchange *x, struct page *p) {
    long long pages = (p->seen + p->size - 1) / p->size;
    begin(p);
    (void)strbuf_addf(&p->text,
                      "],\"pagination\":{\"page\":%lld,\"pageSize\":%lld,\"totalItems\":%lld,"
                      "\"totalPages\":%lld,\"hasNextPage\":%s}}",
                      (long long)p->number, (long long)p->size, (long long)p->seen, pages,
                      p->number < pages ? "true" : "false");
    cleanup_strbuf struct strbuf text = p->text; // the page may go with the exchange
    http_reply_json_text(x, 200, &text);
}
