#include "server/api/resources/traffic.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "http/router.h"

// Statuses and methods of proxied services are theirs to choose, so the table has an end; what does
// not fit any more is counted together.
enum { ROWS = 1024, ROWS_USED_MAX = 768 };

static const char *const methods[] = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"};

struct row {
    const struct http_route *route; // NULL: none matched
    unsigned method;                // index, or their number for others
    unsigned status;                // 0: the row is free
    uint64_t count;
    int64_t ns;
};
struct traffic {
    struct row rows[ROWS], rest;
    unsigned used;
};

struct traffic *traffic_new(void) {
    return calloc(1, sizeof(struct traffic));
}

void traffic_free(struct traffic *t) {
    free(t);
}

static unsigned method_of(const char *name) {
    unsigned i = 0;
    while (i < ARRAY_SIZE(methods) && strcmp(methods[i], name) != 0)
        i++;
    return i;
}

static struct row *find(struct traffic *t, const struct http_route *route, unsigned method,
                        unsigned status) {
    size_t at = ((uintptr_t)route / sizeof *route * 31 + method * 7 + status) % ROWS;
    for (; t->rows[at].status; at = (at + 1) % ROWS) {
        struct row *r = &t->rows[at];
        if (r->route == route && r->method == method && r->status == status)
            return r;
    }
    if (t->used == ROWS_USED_MAX)
        return &t->rest;
    t->used++;
    t->rows[at] = (struct row){.route = route, .method = method, .status = status};
    return &t->rows[at];
}

void traffic_count(struct traffic *t, const struct http_exchange *x) {
    unsigned status = x->status ? x->status : 499; // cut before there was a reply
    struct row *r = find(t, x->route, method_of(x->request->method), status);
    r->count++;
    r->ns += clock_boot_ns() - x->started_ns;
}

static void add(struct strbuf *out, const struct row *r, const char *name, const char *value) {
    if (!r->count)
        return;
    (void)strbuf_addf(out, "opensandbox_http_%s{route=\"%s\",method=\"%s\",code=\"%u\"} %s\n", name,
                      r->route ? r->route->pattern : "",
                      r->method < ARRAY_SIZE(methods) ? methods[r->method] : "other", r->status,
                      value);
}

void traffic_text(const struct traffic *t, struct strbuf *out) {
    char value[40];
    (void)strbuf_adds(out, "# HELP opensandbox_http_requests_total Requests that are over.\n"
                           "# TYPE opensandbox_http_requests_total counter\n");
    for (size_t i = 0; i <= ROWS; i++) {
        const struct row *r = i < ROWS ? &t->rows[i] : &t->rest;
        (void)snprintf(value, sizeof value, "%llu", (unsigned long long)r->count);
        add(out, r, "requests_total", value);
    }
    (void)strbuf_adds(
        out, "# HELP opensandbox_http_request_seconds_total Time that they took together.\n"
             "# TYPE opensandbox_http_request_seconds_total counter\n");
    for (size_t i = 0; i <= ROWS; i++) {
        const struct row *r = i < ROWS ? &t->rows[i] : &t->rest;
        (void)snprintf(value, sizeof value, "%.6f", (double)r->ns / 1e9);
        add(out, r, "request_seconds_total", value);
    }
}
