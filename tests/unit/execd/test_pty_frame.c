// Messages of the terminal protocol, and the ring that is replayed (execd.md A.12).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "execd/output.h"
#include "execd/shell/pty_frame.h"

static const struct {
    const char *text;
    enum pty_frame_type type;
    const char *data;
    int number; // signal, or columns
} rows[] = {
    {"{\"type\":\"stdin\",\"data\":\"ls\\n\"}", PTY_FRAME_STDIN, "ls\n", 0},
    {"{\"type\":\"stdin\",\"data\":\"\"}", PTY_FRAME_STDIN, "", 0},
    {"{\"type\":\"stdin\",\"data\":5}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"stdin\"}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"signal\",\"signal\":\"SIGINT\"}", PTY_FRAME_SIGNAL, NULL, SIGINT},
    {"{\"type\":\"signal\",\"signal\":\"SIGTERM\"}", PTY_FRAME_SIGNAL, NULL, SIGTERM},
    {"{\"type\":\"signal\",\"signal\":\"SIGKILL\"}", PTY_FRAME_SIGNAL, NULL, SIGKILL},
    {"{\"type\":\"signal\",\"signal\":\"SIGQUIT\"}", PTY_FRAME_SIGNAL, NULL, SIGQUIT},
    {"{\"type\":\"signal\",\"signal\":\"SIGHUP\"}", PTY_FRAME_SIGNAL, NULL, SIGHUP},
    {"{\"type\":\"signal\",\"signal\":\"SIGSTOP\"}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"signal\",\"signal\":2}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"resize\",\"cols\":120,\"rows\":40}", PTY_FRAME_RESIZE, NULL, 120},
    {"{\"type\":\"resize\",\"cols\":0,\"rows\":40}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"resize\",\"cols\":120}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"resize\",\"cols\":-1,\"rows\":40}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"resize\",\"cols\":65536,\"rows\":40}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"resize\",\"cols\":\"120\",\"rows\":40}", PTY_FRAME_IGNORED, NULL, 0},
    {"{\"type\":\"ping\"}", PTY_FRAME_PING, NULL, 0},
    {"{\"type\":\"bogus\"}", PTY_FRAME_UNKNOWN, "bogus", 0},
    {"{\"type\":7}", PTY_FRAME_UNKNOWN, "", 0},
    {"{}", PTY_FRAME_UNKNOWN, "", 0},
    {"[]", PTY_FRAME_IGNORED, NULL, 0},
    {"ls", PTY_FRAME_IGNORED, NULL, 0},
    {"", PTY_FRAME_IGNORED, NULL, 0},
};

static void text_messages(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct pty_frame f;
        pty_frame_read(&f, true, rows[i].text, strlen(rows[i].text));
        if (f.type != rows[i].type)
            fail_msg("%s: %d", rows[i].text, (int)f.type);
        if (rows[i].data) {
            assert_string_equal(f.data, rows[i].data);
            if (f.type == PTY_FRAME_STDIN)
                assert_int_equal(f.len, strlen(rows[i].data));
        }
        if (rows[i].number)
            assert_int_equal(f.type == PTY_FRAME_SIGNAL ? f.signal : (int)f.columns,
                             rows[i].number);
        pty_frame_clear(&f);
    }
}

static void binary_messages(void **state) {
    struct pty_frame f;
    (void)state;
    pty_frame_read(&f, false, "\0echo\0", 6);
    assert_int_equal(f.type, PTY_FRAME_STDIN);
    assert_int_equal(f.len, 5);
    assert_memory_equal(f.data, "echo\0", 5);
    pty_frame_clear(&f);
    pty_frame_read(&f, false, "\1echo", 5);
    assert_int_equal(f.type, PTY_FRAME_IGNORED);
    pty_frame_read(&f, false, "", 0);
    assert_int_equal(f.type, PTY_FRAME_IGNORED);
    pty_frame_read(&f, true, "{\"type\":\"stdin\",\"data\":\"a\\u0000b\"}", 34);
    assert_int_equal(f.len, 3);
    assert_memory_equal(f.data, "a\0b", 3);
    pty_frame_clear(&f);
}

static void to_clients(void **state) {
    struct strbuf sb;
    char header[PTY_REPLAY_HEADER];
    (void)state;
    strbuf_init(&sb, 1000);
    assert_int_equal(pty_frame_write(&sb, json_pack("{s:s,s:i}", "type", "exit", "exit_code", 5)),
                     0);
    assert_string_equal(sb.data, "{\"type\":\"exit\",\"exit_code\":5}\n");
    strbuf_free(&sb);
    pty_replay_header(0x0102030405060708, header);
    assert_memory_equal(header, "\3\1\2\3\4\5\6\7\10", sizeof header);
}

// Appendix A.12: a ring of 8.
static void replay_ring(void **state) {
    struct output_space space;
    struct output o;
    char text[64];
    (void)state;
    output_space_init(&space);
    output_init(&o, &space, 8);
    output_append(&o, OUTPUT_STDOUT, "abcdef", 6);
    output_append(&o, OUTPUT_STDERR, "ghij", 4);
    assert_int_equal(o.total, 10);
    assert_int_equal(o.begin, 2);
    assert_int_equal(output_copy(&o, 2, text, sizeof text), 8);
    assert_memory_equal(text, "cdefghij", 8);
    assert_int_equal(output_copy(&o, 5, text, sizeof text), 5);
    assert_memory_equal(text, "fghij", 5);
    assert_int_equal(output_copy(&o, 10, text, sizeof text), 0);
    output_append(&o, OUTPUT_STDOUT, "0123456789abcdef", 16); // larger than the ring
    assert_int_equal(o.total, 26);
    assert_int_equal(output_copy(&o, o.begin, text, sizeof text), 8);
    assert_memory_equal(text, "89abcdef", 8);
    output_clear(&o);
    output_space_clear(&space);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(text_messages),
                                       cmocka_unit_test(binary_messages),
                                       cmocka_unit_test(to_clients), cmocka_unit_test(replay_ring)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
