// Lines of the event stream: Appendix A.1 of execd.md as compat-1.1.1.md E1 changed it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/strbuf.h"
#include "execd/events.h"

// Texts are collected with a '|' behind each.
static void collect(void *arg, const char *text, size_t len, unsigned place) {
    struct strbuf *sb = arg;
    (void)strbuf_add(sb, text, len);
    if (place & EVENTS_LAST)
        (void)strbuf_addc(sb, '|');
}

static void expect(const char *const *reads, const char *expected) {
    struct events_splitter sp = {0};
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 4096);
    for (; *reads; reads++)
        events_split(&sp, *reads, strlen(*reads), collect, &sb);
    events_split_end(&sp, collect, &sb);
    assert_string_equal(sb.data, expected);
    strbuf_free(&sp.line);
}
#define READS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_vectors(void **state) {
    (void)state;
    expect(READS("a\n\nb\n\n\nc\n"), "a\n|\n|b\n|\n|\n|c\n|");
    expect(READS("line1\nprog 10%\rprog 20%\rlast\n"), "line1\n|prog 10%\r|prog 20%\r|last\n|");
    expect(READS("tail1\r\ntail2\n"), "tail1\r\n|tail2\n|");
    expect(READS("c\n\r\nd\n"), "c\n|\r\n|d\n|");
    expect(READS("a\r", "\nb\n"), "a\r|\n|b\n|");
    expect(READS("\r", "\n"), "\r|\n|");
    expect(READS("x"), "x|");
    expect(READS("a\n\nb\r\nc\rd"), "a\n|\n|b\r\n|c\r|d|");
}

static void test_one_byte_at_a_time(void **state) {
    (void)state;
    expect(READS("a", "b", "\n", "c", "\r", "d"), "ab\n|c\r|d|");
    expect(READS("par", "tial\nnext"), "partial\n|next|");
}

struct sizes {
    size_t events, length, longest, total, torn, piece;
    bool open;
};

static void measure(void *arg, const char *text, size_t len, unsigned place) {
    struct sizes *s = arg;
    assert_int_equal(s->open, !(place & EVENTS_FIRST));
    s->open = !(place & EVENTS_LAST);
    s->length = (place & EVENTS_FIRST ? 0 : s->length) + len;
    s->longest = s->length > s->longest ? s->length : s->longest;
    s->piece = len > s->piece ? len : s->piece;
    s->total += len;
    s->events += !s->open;
    s->torn += len && ((unsigned char)text[0] & 0xc0) == 0x80;
}

static void endless_line(size_t total, struct sizes *s) {
    struct events_splitter sp = {0};
    enum { PIECE = 3 * 7000 }; // of three-byte characters
    char *piece = malloc(PIECE);
    size_t given = 0;
    for (int i = 0; i < PIECE; i++)
        piece[i] = "\xe2\x82\xac"[i % 3];
    for (; given < total; given += PIECE - 3)
        events_split(&sp, piece + given % 3, PIECE - 3, measure, s);
    assert_true(sp.line.capacity < 4 * EVENTS_PIECE);
    events_split_end(&sp, measure, s);
    assert_int_equal(s->total, given);
    assert_int_equal(s->torn, 0);
    assert_false(s->open);
    strbuf_free(&sp.line);
    free(piece);
}

static void test_long_line_is_one_event_in_pieces(void **state) {
    struct sizes s = {0};
    (void)state;
    endless_line(5 << 20, &s);
    assert_int_equal(s.events, 1);
    assert_true(s.piece < 2 * EVENTS_PIECE);
}

static void test_endless_line_is_cut_between_characters(void **state) {
    struct sizes s = {0};
    (void)state;
    endless_line(EVENTS_LINE_MAX + (1 << 20), &s);
    assert_int_equal(s.events, 2);
    assert_true(s.longest >= EVENTS_LINE_MAX && s.longest < EVENTS_LINE_MAX + 2 * EVENTS_PIECE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_one_byte_at_a_time),
        cmocka_unit_test(test_long_line_is_one_event_in_pieces),
        cmocka_unit_test(test_endless_line_is_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
