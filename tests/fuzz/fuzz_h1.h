// Messages fed to h1 whole and in pieces: it must not matter.
#ifndef FUZZ_H1_H
#define FUZZ_H1_H

#include "fuzz.h"
#include "http/h1.h"

// Parses all messages of the bytes, `step` at a time, and writes what came of them.
static void h1_text(enum h1_kind kind, const uint8_t *data, size_t size, size_t step,
                    struct strbuf *text);

static int h1_seen_head(struct h1 *p, const struct http_head *h) {
    (void)strbuf_addf(p->user, "%s %s %u %u %d%d%d%d %lld|", h->method ? h->method : h->reason,
                      h->target ? h->target : "", h->status, h->minor, h->chunked, h->keep_alive,
                      h->upgrade, h->expect_continue, (long long)h->content_length);
    CHECK(!http_headers_write(&h->headers, p->user) || ((struct strbuf *)p->user)->failed);
    CHECK(h->method || h->status >= 100);
    CHECK(!(h->chunked && h->content_length >= 0));
    return 0;
}

static void h1_seen_body(struct h1 *p, const char *data, size_t len) {
    CHECK(len > 0);
    (void)strbuf_add(p->user, data, len);
}

static void h1_seen_end(struct h1 *p) {
    (void)strbuf_adds(p->user, p->upgraded ? "|upgraded\n" : "|\n");
}

static void h1_text(enum h1_kind kind, const uint8_t *data, size_t size, size_t step,
                    struct strbuf *text) {
    static const struct h1_callbacks callbacks = {h1_seen_head, h1_seen_body, h1_seen_end};
    struct arena arena;
    struct h1 p;
    arena_init(&arena, 1 << 20);
    h1_init(&p, kind, &callbacks, text);
    h1_reset(&p, &arena);
    for (size_t used = 0; used < size && !p.upgraded;) {
        if (p.is_complete) {
            arena_free(&arena);
            h1_reset(&p, &arena);
        }
        size_t n = size - used < step ? size - used : step;
        ssize_t took = h1_feed(&p, (const char *)data + used, n);
        CHECK(took >= 0 ? (size_t)took == n || p.is_complete : p.status && p.reason);
        if (took < 0)
            break;
        used += (size_t)took;
    }
    (void)strbuf_addf(text, "%d", !p.status && !p.is_complete && !h1_finish(&p));
    (void)strbuf_addf(text, "refused %d", p.status != 0);
    h1_free(&p);
    arena_free(&arena);
}

static int h1_fuzz(enum h1_kind kind, const uint8_t *data, size_t size) {
    struct strbuf whole, pieces;
    size_t steps[] = {1, size % 7 + 2};
    strbuf_init(&whole, 8 << 20);
    strbuf_init(&pieces, 8 << 20);
    h1_text(kind, data, size, SIZE_MAX, &whole);
    for (int i = 0; i < 2; i++) {
        strbuf_clear(&pieces);
        h1_text(kind, data, size, steps[i], &pieces);
        CHECK(whole.len == pieces.len && !memcmp(whole.data, pieces.data, whole.len));
    }
    strbuf_free(&whole);
    strbuf_free(&pieces);
    return 0;
}

#endif
