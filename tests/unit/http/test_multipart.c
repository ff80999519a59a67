// multipart/form-data, whole and cut at every place.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/strbuf.h"
#include "http/multipart.h"

#define BOUNDARY "----x7"
#define TYPE     "multipart/form-data; boundary=" BOUNDARY
#define LINE     "--" BOUNDARY "\r\n"
#define LAST     "--" BOUNDARY "--\r\n"

// The parts as text: [name|filename|type:data] each.
static struct strbuf seen;
static int stop_at; // the callback that says stop; 0: none
static int calls;

static int step(void) {
    return ++calls == stop_at ? -1 : 0;
}

static int begin(void *arg, const struct multipart_part *part) {
    (void)arg;
    (void)strbuf_addf(&seen, "[%s|%s|%s:", part->name, part->filename ? part->filename : "-",
                      part->content_type);
    return step();
}

static int data(void *arg, const char *bytes, size_t len) {
    (void)arg;
    assert_true(len > 0);
    (void)strbuf_add(&seen, bytes, len);
    return step();
}

static int end(void *arg) {
    (void)arg;
    (void)strbuf_addc(&seen, ']');
    return step();
}

static const struct multipart_callbacks callbacks = {begin, data, end};

static int setup(void **state) {
    (void)state;
    strbuf_init(&seen, 1 << 20);
    stop_at = 0;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    strbuf_free(&seen);
    return 0;
}

// Feeds in pieces; the result of the last call.
static int feed(const char *type, const char *bytes, size_t len, size_t piece, struct error *err) {
    *err = (struct error){0};
    strbuf_clear(&seen);
    calls = 0;
    struct multipart *m = multipart_new(type, &callbacks, NULL, err);
    if (!m)
        return -1;
    int r = 0;
    for (size_t at = 0; at < len && r == 0; at += piece)
        r = multipart_feed(m, bytes + at, piece < len - at ? piece : len - at, err);
    if (r == 0)
        r = multipart_finish(m, err);
    multipart_free(m);
    return r;
}

static void expect_bytes(const char *bytes, size_t len, const char *parts) {
    struct error err;
    for (size_t piece = 1; piece <= len; piece++) {
        if (feed(TYPE, bytes, len, piece, &err) < 0)
            fail_msg("by %zu: %s", piece, err.message);
        assert_string_equal(seen.data, parts);
    }
}

static void expect(const char *body, const char *parts) {
    expect_bytes(body, strlen(body), parts);
}

static void refuse(const char *body, const char *word) {
    struct error err;
    for (size_t piece = 1; piece <= strlen(body); piece++) {
        assert_int_equal(feed(TYPE, body, strlen(body), piece, &err), -1);
        assert_true(err.kind > 0);
        if (!strstr(err.message, word))
            fail_msg("\"%s\" does not say \"%s\"", err.message, word);
    }
}

static void parts_come_with_their_names(void **state) {
    (void)state;
    expect(LINE "Content-Disposition: form-data; name=\"metadata\"; filename=\"metadata\"\r\n"
                "Content-Type: application/json\r\n\r\n{\"path\":\"/a\"}\r\n" LINE
                "content-disposition:form-data;name=file;filename=a.txt\r\n\r\nhello\r\n" LAST,
           "[metadata|metadata|application/json:{\"path\":\"/a\"}][file|a.txt|:hello]");
}

static void names_may_be_quoted_escaped_or_extended(void **state) {
    (void)state;
    expect(LINE "Content-Disposition: form-data; name=\"a\\\"b\\\\c\"; filename=\"C:\\dir;x\"\r\n"
                "\r\n\r\n" LAST,
           "[a\"b\\c|C:\\dir;x|:]");
    expect(LINE
           "Content-Disposition: form-data; filename*=UTF-8''a%20%C3%A4; name=n\r\n\r\n\r\n" LAST,
           "[n|a \xc3\xa4|:]");
    expect(LINE "Content-Type: text/plain\r\n\r\nx\r\n" LAST, "[|-|text/plain:x]");
    expect(LINE "\r\nno fields\r\n" LAST, "[|-|:no fields]");
}

static void empty_forms_and_parts(void **state) {
    (void)state;
    expect(LAST, "");
    expect("--" BOUNDARY "--", "");
    expect(LINE "\r\n" LAST, "[|-|:]"); // the line end of the head is the delimiter's
    expect(LINE "\r\n\r\n" LAST, "[|-|:]");
    expect(LINE "\r\n\r\n\r\n" LAST, "[|-|:\r\n]");
}

static void preamble_epilogue_and_padding_are_skipped(void **state) {
    (void)state;
    expect("preamble\r\n--" BOUNDARY "x\r\n" LINE "\r\na\r\n--" BOUNDARY " \t\r\n\r\nb\r\n" LAST
           "epilogue\r\n" LINE "\r\nnot a part\r\n" LAST,
           "[|-|:a][|-|:b]");
}

// What looks like the delimiter is data unless it is one to its end.
static void near_delimiters_are_data(void **state) {
    (void)state;
    expect(LINE "\r\n\r\r\n-\r\n--\r\n--" BOUNDARY "y\r\n--" BOUNDARY "-x\n--" BOUNDARY "\r\n" LAST,
           "[|-|:\r\r\n-\r\n--\r\n--" BOUNDARY "y\r\n--" BOUNDARY "-x\n--" BOUNDARY "]");
    expect(LINE "\r\nx\r\n--" BOUNDARY " \r\r\n" LAST, "[|-|:x\r\n--" BOUNDARY " \r]");
    expect(LINE "\r\n--" BOUNDARY "z\r\n" LAST, "[|-|:--" BOUNDARY "z]");
}

static void bytes_of_any_value_pass(void **state) {
    static const char head[] = LINE "\r\n", tail[] = "\r\n" LAST;
    char body[sizeof head + sizeof tail + 256];
    struct error err;
    size_t len = sizeof head - 1;
    (void)state;
    memcpy(body, head, len);
    for (int i = 0; i < 256; i++)
        body[len++] = (char)i;
    memcpy(body + len, tail, sizeof tail - 1);
    len += sizeof tail - 1;
    for (size_t piece = 1; piece <= len; piece++) {
        assert_int_equal(feed(TYPE, body, len, piece, &err), 0);
        assert_int_equal(seen.len, 5 + 256 + 1);
        for (size_t i = 0; i < 256; i++)
            assert_int_equal((unsigned char)seen.data[5 + i], i);
    }
}

static void broken_bodies_are_refused(void **state) {
    (void)state;
    refuse("no boundary at all", "closing boundary");
    refuse(LINE "\r\nno end", "closing boundary");
    refuse(LINE "\r\nno end\r\n--" BOUNDARY, "closing boundary");
    refuse(LINE "\r\nno end\r\n" LINE, "closing boundary");
    refuse(LINE "no colon\r\n\r\nx\r\n" LAST, "no field");
    refuse(LINE "A: b\r\n folded\r\n\r\nx\r\n" LAST, "no field");
    refuse(LINE "Content-Disposition: attachment; name=x\r\n\r\nx\r\n" LAST, "form-data");
    refuse(LINE "Content-Disposition: form-data; name=\"open\r\n\r\nx\r\n" LAST, "form-data");
}

static void a_head_is_bounded(void **state) {
    struct error err;
    struct strbuf body;
    (void)state;
    strbuf_init(&body, 1 << 20);
    (void)strbuf_adds(&body, LINE "A: ");
    for (int i = 0; i < 17000; i++)
        (void)strbuf_addc(&body, 'a');
    assert_int_equal(feed(TYPE, body.data, body.len, body.len, &err), -1);
    assert_int_equal(err.kind, EMSGSIZE);
    strbuf_free(&body);
}

static void a_callback_stops_without_an_error(void **state) {
    static const char body[] = LINE "\r\nab\r\n" LAST;
    struct error err;
    (void)state;
    for (stop_at = 1; stop_at <= 3; stop_at++) {
        assert_int_equal(feed(TYPE, body, strlen(body), strlen(body), &err), -1);
        assert_int_equal(err.kind, 0);
        assert_int_equal(calls, stop_at);
    }
}

static void the_type_must_name_a_boundary(void **state) {
    static const char *const bad[] = {
        "",
        "text/plain",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"\"",
        "multipart/mixed; boundary=x",
        "multipart/form-datax; boundary=x",
        "multipart/form-data; "
        "boundary=aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg"
        "gggggggh"};
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(multipart_new(bad[i], &callbacks, NULL, &err));
        assert_int_equal(err.kind, EINVAL);
    }
    assert_int_equal(feed("Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"; x=y",
                          "--a b\r\n\r\n1\r\n--a b--", 19, 19, &err),
                     0);
    assert_string_equal(seen.data, "[|-|:1]");
    multipart_free(NULL);
}

int main(void) {
#define FORM_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        FORM_TEST(parts_come_with_their_names),
        FORM_TEST(names_may_be_quoted_escaped_or_extended),
        FORM_TEST(empty_forms_and_parts),
        FORM_TEST(preamble_epilogue_and_padding_are_skipped),
        FORM_TEST(near_delimiters_are_data),
        FORM_TEST(bytes_of_any_value_pass),
        FORM_TEST(broken_bodies_are_refused),
        FORM_TEST(a_head_is_bounded),
        FORM_TEST(a_callback_stops_without_an_error),
        FORM_TEST(the_type_must_name_a_boundary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
