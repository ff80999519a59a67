// WebSocket: the handshake, messages, fragments, closes, hostile frames, time-outs, back-pressure.
#include "http_test.h"

#include "base/encode.h"
#include "http/websocket.h"
#include "http/websocket_frame.h"

#define UPGRADE                                                                                    \
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
#define KEY       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define VERSION   "Sec-WebSocket-Version: 13\r\n"
#define HANDSHAKE UPGRADE KEY VERSION "\r\n"

static struct {
    struct websocket *ws;
    struct strbuf said; // messages: T(...) or B(...)
    unsigned rooms, closes, status;
    char reason[128];
    bool pause_each;
} got;

static struct websocket_settings settings;

static void on_message(struct websocket *w, enum websocket_kind kind, const char *data,
                       size_t len) {
    assert_ptr_equal(w, got.ws);
    assert_int_equal(data[len], 0);
    (void)strbuf_addf(&got.said, "%c(", kind == WEBSOCKET_TEXT ? 'T' : 'B');
    (void)strbuf_add(&got.said, data, len);
    (void)strbuf_addc(&got.said, ')');
    if (got.pause_each)
        websocket_pause(w, true);
    if (len == 4 && memcmp(data, "echo", 4) == 0)
        assert_int_equal(websocket_send(w, kind, data, len), 0);
    if (len == 3 && memcmp(data, "bye", 3) == 0)
        websocket_close(w, 4001, "TAKEN_OVER");
}

static void on_room(struct websocket *w) {
    (void)w;
    got.rooms++;
}

static void on_closed(struct websocket *w, unsigned status, const char *reason) {
    assert_ptr_equal(w, got.ws);
    got.ws = NULL;
    got.closes++;
    got.status = status;
    (void)snprintf(got.reason, sizeof got.reason, "%s", reason);
}

static void accept_one(struct http_exchange *x) {
    got.ws = websocket_accept(x, &settings);
}

static const struct http_route routes[] = {{"*", "/ws", accept_one, HTTP_BODY_BUFFERED, 0, ""}};

static int begin(void **state) {
    memset(&got, 0, sizeof got);
    strbuf_init(&got.said, 64 << 20);
    settings = (struct websocket_settings){.message = on_message,
                                           .room = on_room,
                                           .closed = on_closed,
                                           .message_max = 1 << 20,
                                           .queue_max = 65536,
                                           .close_ms = 60000};
    *state = web_new(routes, ARRAY_SIZE(routes), NULL);
    return 0;
}

static int end(void **state) {
    struct web *w = *state;
    if (got.ws)
        websocket_abort(got.ws);
    UNTIL(&w->loop, !got.ws);
    web_free(w);
    strbuf_free(&got.said);
    return 0;
}

// A masked frame of a client.
static void add_frame(struct strbuf *sb, unsigned first, const char *data, size_t len) {
    unsigned char head[WEBSOCKET_HEAD_MAX];
    const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t size = websocket_frame_head(head, WEBSOCKET_OP_TEXT, len);
    head[0] = (unsigned char)first;
    head[1] |= 0x80;
    (void)strbuf_add(sb, head, size);
    (void)strbuf_add(sb, mask, 4);
    for (size_t i = 0; i < len; i++)
        (void)strbuf_addc(sb, (char)(data[i] ^ mask[i & 3]));
}

static void send_frame(struct web *w, struct peer *p, unsigned first, const char *data,
                       size_t len) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 64 << 20);
    add_frame(&sb, first, data, len);
    for (size_t at = 0; at < sb.len;) {
        ssize_t n = write(p->fd, sb.data + at, sb.len - at);
        at += n > 0 ? (size_t)n : 0;
        peer_turn(w, p);
    }
}

// closed() comes in the turn behind the end of the connection.
#define CLOSED(w, p, n) PEER_UNTIL(w, p, (p)->eof &&got.closes == (n))

static struct peer *connected(struct web *w) {
    struct peer *p = peer_new(w);
    peer_says(p, HANDSHAKE);
    PEER_HEARS(w, p, "\r\n\r\n");
    assert_non_null(got.ws);
    peer_forget(p);
    return p;
}

static void shakes_hands(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, HANDSHAKE);
    PEER_HEARS(w, p, "\r\n\r\n");
    assert_heard(p, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" // RFC 6455 1.3
                    "Connection: Upgrade\r\n\r\n");
    peer_free(p);
}

static void refuses_other_handshakes(void **state) {
    static const char *const wrong[] = {
        "GET /ws HTTP/1.1\r\nHost: a\r\n" KEY VERSION "\r\n",
        "POST /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" KEY VERSION
        "\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" KEY VERSION "\r\n",
        UPGRADE VERSION "\r\n",
        UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n\r\n",
        UPGRADE VERSION "Sec-WebSocket-Key: !!!!IHNhbXBsZSBub25jZQ==\r\n\r\n",
        UPGRADE VERSION KEY KEY "\r\n",
    };
    struct web *w = *state;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct peer *p = peer_new(w);
        peer_says(p, wrong[i]);
        PEER_HEARS(w, p, "}");
        assert_int_equal(strncmp(p->in.data, "HTTP/1.1 400 ", 13), 0);
        assert_non_null(strstr(p->in.data, "Sec-WebSocket-Version: 13\r\n"));
        assert_null(got.ws);
        peer_free(p);
    }
    struct peer *p = peer_new(w);
    peer_says(p, UPGRADE KEY "Sec-WebSocket-Version: 8\r\n\r\n");
    PEER_HEARS(w, p, "}");
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 426 ", 13), 0);
    peer_free(p);
}

static void takes_and_sends_messages(void **state) {
    struct web *w = *state;
    struct peer *p = connected(w);
    send_frame(w, p, 0x81, "echo", 4);
    send_frame(w, p, 0x82, "\0\xff", 2);
    send_frame(w, p, 0x81, "", 0);
    PEER_UNTIL(w, p, got.said.len >= 7 + 5 + 3);
    assert_memory_equal(got.said.data, "T(echo)B(\0\xff)T()", got.said.len);
    PEER_UNTIL(w, p, p->in.len == 6);
    assert_memory_equal(p->in.data,
                        "\x81\x04"
                        "echo",
                        6);
    peer_free(p);
}

static void takes_one_byte_at_a_time(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    cleanup_strbuf struct strbuf all;
    strbuf_init(&all, 1 << 20);
    char large[300];
    memset(large, 'x', sizeof large);
    (void)strbuf_adds(&all, HANDSHAKE);
    add_frame(&all, 0x01, "he", 2);
    add_frame(&all, 0x89, "ping", 4); // between fragments
    add_frame(&all, 0x00, "l", 1);
    add_frame(&all, 0x80, "lo", 2);
    add_frame(&all, 0x82, large, sizeof large);
    for (size_t i = 0; i < all.len; i++) {
        peer_send(p, all.data + i, 1);
        peer_turn(w, p);
    }
    PEER_UNTIL(w, p, got.said.len == 8 + 303);
    assert_memory_equal(got.said.data, "T(hello)B(xx", 11);
    assert_memory_equal(strstr(p->in.data, "\r\n\r\n") + 4, "\x8a\x04ping", 6);
    peer_free(p);
}

static void frames_may_come_with_the_handshake(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    cleanup_strbuf struct strbuf all;
    strbuf_init(&all, 1 << 20);
    (void)strbuf_adds(&all, HANDSHAKE);
    add_frame(&all, 0x81, "echo", 4);
    add_frame(&all, 0x88, "\x03\xe8", 2);
    peer_send(p, all.data, all.len);
    CLOSED(w, p, 1);
    assert_int_equal(got.status, 1000);
    assert_memory_equal(strstr(p->in.data, "\r\n\r\n") + 4,
                        "\x81\x04"
                        "echo\x88\x02\x03\xe8",
                        10);
    peer_free(p);
}

static void echoes_the_peers_close(void **state) {
    struct web *w = *state;
    struct peer *p = connected(w);
    send_frame(w, p, 0x88,
               "\x0f\xa0"
               "done",
               6);
    CLOSED(w, p, 1);
    assert_int_equal(p->in.len, 8);
    assert_memory_equal(p->in.data,
                        "\x88\x06\x0f\xa0"
                        "done",
                        8);
    assert_int_equal(got.status, 4000);
    assert_string_equal(got.reason, "done");
    peer_free(p);
    p = connected(w);
    send_frame(w, p, 0x88, "", 0);
    CLOSED(w, p, 2);
    assert_memory_equal(p->in.data, "\x88\x00", 2);
    assert_int_equal(got.status, WEBSOCKET_NONE);
    peer_free(p);
}

static void closes_and_waits_for_the_peer(void **state) {
    struct web *w = *state;
    struct peer *p = connected(w);
    send_frame(w, p, 0x81, "bye", 3);
    PEER_UNTIL(w, p, p->in.len == 14);
    assert_memory_equal(p->in.data,
                        "\x88\x0c\x0f\xa1"
                        "TAKEN_OVER",
                        14);
    assert_int_equal(websocket_send(got.ws, WEBSOCKET_TEXT, "x", 1), 0); // goes nowhere
    websocket_close(got.ws, 1000, "again");
    send_frame(w, p, 0x81, "late", 4); // what comes behind our close is not given any more
    assert_int_equal(got.closes, 0);
    send_frame(w, p, 0x88, "\x0f\xa1", 2);
    CLOSED(w, p, 1);
    assert_int_equal(p->in.len, 14);
    assert_int_equal(got.status, 4001);
    assert_string_equal(got.said.data, "T(bye)");
    peer_free(p);
}

static void a_close_has_a_time_out(void **state) {
    struct web *w = *state;
    settings.close_ms = 20;
    struct peer *p = connected(w);
    websocket_close(got.ws, 1000, "process exited");
    assert_int_equal(got.closes, 0);
    CLOSED(w, p, 1);
    assert_int_equal(got.status, WEBSOCKET_ABNORMAL);
    peer_free(p);
}

static void long_reasons_are_cut_between_characters(void **state) {
    struct web *w = *state;
    struct peer *p = connected(w);
    char reason[200] = "x";
    for (size_t i = 1; i + 3 < sizeof reason; i += 2)
        memcpy(reason + i, "\xc3\xa4", 3);
    websocket_close(got.ws, 1011, reason);
    PEER_UNTIL(w, p, p->in.len == 2 + 2 + 123);
    websocket_abort(got.ws);
    peer_free(p);
    UNTIL(&w->loop, got.closes == 1);
    p = connected(w);
    websocket_close(got.ws, 1011, reason + 1); // 123 is odd
    PEER_UNTIL(w, p, p->in.len == 2 + 2 + 122);
    peer_free(p);
}

static void the_end_without_a_close_is_abnormal(void **state) {
    struct web *w = *state;
    struct peer *p = connected(w);
    peer_close(p);
    UNTIL(&w->loop, got.closes == 1);
    assert_int_equal(got.status, WEBSOCKET_ABNORMAL);
    assert_string_equal(got.reason, "");
    peer_free(p);
    p = connected(w);
    peer_send(p, "\x81", 1); // half a frame
    peer_turn(w, p);
    peer_close(p);
    UNTIL(&w->loop, got.closes == 2);
    peer_free(p);
}

static void refuses_hostile_frames(void **state) {
    static const struct {
        const char *bytes;
        size_t len;
        unsigned status;
    } hostile[] = {
        {"\x81\x01x", 3, 1002},        // no mask
        {"\xc1\x80\0\0\0\0", 6, 1002}, // RSV1: an extension nobody agreed on
        {"\x83\x80\0\0\0\0", 6, 1002}, // reserved opcodes
        {"\x8b\x80\0\0\0\0", 6, 1002},
        {"\x09\x80\0\0\0\0", 6, 1002},                  // a ping in fragments
        {"\x89\xfe\x00\x7e\0\0\0\0", 8, 1002},          // a ping of 126 bytes
        {"\x80\x80\0\0\0\0", 6, 1002},                  // nothing to continue
        {"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 12, 1002}, // a message inside a message
        {"\x82\xfe\x00\x05\0\0\0\0", 8, 1002},          // lengths in too long a form
        {"\x82\xff\0\0\0\0\0\0\x01\x00\0\0\0\0", 14, 1002},
        {"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 14, 1002}, // more than 63 bits
        {"\x82\xff\0\0\0\0\0\x20\0\0\0\0\0\0", 14, 1009}, // 2 MiB announced
        {"\x81\x82\0\0\0\0\xc3\x28", 8, 1007},            // no UTF-8
        {"\x81\x83\0\0\0\0\xed\xa0\x80", 9, 1007},        // a surrogate
        {"\x88\x81\0\0\0\0\x03", 7, 1002},                // half a status
        {"\x88\x82\0\0\0\0\x03\xed", 8, 1002},            // 1005 is never sent
        {"\x88\x82\0\0\0\0\x00\x01", 8, 1002},
        {"\x88\x84\0\0\0\0\x03\xe8\xff\xfe", 10, 1007}, // a reason that is no UTF-8
    };
    struct web *w = *state;
    for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
        struct peer *p = connected(w);
        peer_send(p, hostile[i].bytes, hostile[i].len);
        peer_send(p, "\x81\x84\0\0\0\0evil", 10); // is not listened to
        PEER_HEARS_END(w, p);
        assert_true(p->in.len > 4);
        assert_int_equal((unsigned char)p->in.data[0], 0x88);
        assert_int_equal((unsigned char)p->in.data[2] << 8 | (unsigned char)p->in.data[3],
                         hostile[i].status);
        peer_close(p);
        UNTIL(&w->loop, got.closes == i + 1);
        assert_int_equal(got.status, hostile[i].status);
        assert_true(*got.reason);
        peer_free(p);
    }
    assert_int_equal(got.said.len, 0);
}

static void a_message_has_a_maximum(void **state) {
    struct web *w = *state;
    settings.message_max = 10;
    struct peer *p = connected(w);
    send_frame(w, p, 0x82, "0123456789", 10);
    PEER_UNTIL(w, p, got.said.len == 13);
    send_frame(w, p, 0x02, "012345", 6);
    send_frame(w, p, 0x80, "67890", 5);
    PEER_HEARS_END(w, p);
    peer_close(p);
    UNTIL(&w->loop, got.closes == 1);
    assert_int_equal(got.status, WEBSOCKET_TOO_BIG);
    peer_free(p);
}

static void a_paused_reader_stops_the_sender(void **state) {
    enum { SIZE = 16384, MANY = 400 };
    struct web *w = *state;
    static char piece[SIZE];
    struct peer *p = connected(w);
    got.pause_each = true;
    cleanup_strbuf struct strbuf all;
    strbuf_init(&all, 64 << 20);
    for (int i = 0; i < MANY; i++)
        add_frame(&all, 0x82, piece, SIZE);
    size_t at = 0;
    for (int idle = 0; idle < 20; idle++) {
        ssize_t n = write(p->fd, all.data + at, all.len - at);
        at += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle;
        peer_turn(w, p);
    }
    assert_int_equal(got.said.len, SIZE + 3); // one message
    assert_true(at < 1 << 20);
    for (size_t count = 1; count < MANY; count++) {
        websocket_pause(got.ws, false);
        assert_int_equal(got.said.len, count * (SIZE + 3)); // never inside the call
        while (got.said.len < (count + 1) * (SIZE + 3)) {
            ssize_t n = at < all.len ? write(p->fd, all.data + at, all.len - at) : 0;
            at += n > 0 ? (size_t)n : 0;
            peer_turn(w, p);
        }
    }
    websocket_close(got.ws, 1000, ""); // read for though paused
    send_frame(w, p, 0x88, "\x03\xe8", 2);
    CLOSED(w, p, 1);
    peer_free(p);
}

static void a_slow_reader_stops_the_writer(void **state) {
    static char piece[10000];
    struct web *w = *state;
    struct peer *p = connected(w);
    size_t sent = 0;
    while (websocket_send(got.ws, WEBSOCKET_BINARY, piece, sizeof piece) == 0)
        sent += sizeof piece;
    assert_true(sent < 2 << 20);
    assert_true(websocket_queued(got.ws) <= settings.queue_max);
    for (int i = 0; i < 20; i++)
        loop_step(&w->loop);
    assert_int_equal(got.rooms, 0);
    PEER_UNTIL(w, p, got.rooms == 1);
    assert_int_equal(websocket_send(got.ws, WEBSOCKET_BINARY, piece, sizeof piece), 0);
    sent += sizeof piece;
    PEER_UNTIL(w, p, p->in.len == sent / sizeof piece * (sizeof piece + 4));
    static char large[1 << 20]; // above the bound: taken when nothing waits
    peer_forget(p);
    assert_int_equal(websocket_send(got.ws, WEBSOCKET_BINARY, large, sizeof large), 0);
    PEER_UNTIL(w, p, p->in.len == sizeof large + 10);
    peer_free(p);
}

static void unread_pongs_stop_the_pings(void **state) {
    struct web *w = *state;
    settings.queue_max = 4096;
    struct peer *p = connected(w);
    cleanup_strbuf struct strbuf ping;
    strbuf_init(&ping, 4096);
    char body[125] = {0};
    add_frame(&ping, 0x89, body, sizeof body);
    size_t sent = 0;
    for (int idle = 0; idle < 50;) { // nobody reads the pongs
        ssize_t n = write(p->fd, ping.data, ping.len);
        idle = n > 0 ? 0 : idle + 1;
        sent += n > 0;
        loop_step(&w->loop);
    }
    assert_true(sent < 1 << 16);
    assert_true(websocket_queued(got.ws) < 2 * 4096 + 16384);
    peer_free(p);
}

static void silence_and_stuck_writes_are_cut(void **state) {
    static char large[4 << 20];
    struct web *w = *state;
    settings.silence_ms = 20;
    struct peer *p = connected(w);
    CLOSED(w, p, 1);
    assert_int_equal(got.status, WEBSOCKET_ABNORMAL);
    peer_free(p);
    settings.silence_ms = 0;
    settings.write_ms = 20;
    p = connected(w);
    assert_int_equal(websocket_send(got.ws, WEBSOCKET_TEXT, large, sizeof large), 0);
    UNTIL(&w->loop, got.closes == 2);
    peer_free(p);
}

static void pings_keep_a_silent_peer(void **state) {
    struct web *w = *state;
    settings.silence_ms = 20;
    settings.ping_ms = 5;
    struct peer *p = connected(w);
    int64_t later = clock_boot_ms() + 100;
    while (clock_boot_ms() < later) {
        PEER_UNTIL(w, p, p->in.len >= 2);
        assert_memory_equal(p->in.data, "\x89\x00", 2);
        peer_forget(p);
        send_frame(w, p, 0x8a, "", 0);
    }
    assert_int_equal(got.closes, 0);
    peer_free(p);
}

// After a stop (a frozen cgroup) silence says nothing about a peer that nobody had asked.
static void who_was_stopped_asks_before_it_cuts(void **state) {
    struct web *w = *state;
    settings.silence_ms = 20;
    settings.ping_ms = 15;
    struct peer *p = connected(w);
    do {
        PEER_UNTIL(w, p, p->in.len >= 2);
        peer_forget(p);
        send_frame(w, p, 0x8a, "", 0);
        peer_turn(w, p);
    } while (p->in.len); // until no ping is on its way
    (void)poll(NULL, 0, 25);
    peer_turn(w, p);
    assert_int_equal(got.closes, 0);
    assert_int_equal(p->in.len, 2);
    assert_memory_equal(p->in.data, "\x89\x00", 2);
    CLOSED(w, p, 1); // and no answer is silence
    assert_int_equal(got.status, WEBSOCKET_ABNORMAL);
    peer_free(p);
}

// Every split of a stream of frames gives the same.
static bool count_frame(void *arg, enum websocket_opcode op, const char *data, size_t len) {
    struct strbuf *sb = arg;
    (void)strbuf_addf(sb, "%d:%zu:%.*s;", (int)op, len, (int)len, data);
    return len != 4; // stops behind some
}

static void splits_do_not_matter(void **state) {
    (void)state;
    cleanup_strbuf struct strbuf all, whole, split;
    strbuf_init(&all, 1 << 20);
    strbuf_init(&whole, 1 << 20);
    strbuf_init(&split, 1 << 20);
    add_frame(&all, 0x01, "ab", 2);
    add_frame(&all, 0x89, "ping", 4);
    add_frame(&all, 0x80, "cd", 2);
    add_frame(&all, 0x82, "", 0);
    add_frame(&all, 0x82, "efgh", 4);
    add_frame(&all, 0x8a, "", 0);
    for (size_t cut = 0; cut <= all.len; cut++) {
        struct websocket_parser p;
        struct strbuf *out = cut ? &split : &whole;
        websocket_parser_init(&p, 100);
        p.frame = count_frame;
        p.arg = out;
        strbuf_clear(out);
        for (size_t at = 0; at < all.len;) {
            size_t end = at < cut ? cut : all.len;
            ssize_t n = websocket_parse(&p, all.data + at, end - at);
            assert_true(n > 0);
            at += (size_t)n;
        }
        websocket_parser_free(&p);
        if (cut)
            assert_string_equal(split.data, whole.data);
    }
    assert_string_equal(whole.data, "9:4:ping;1:4:abcd;2:0:;2:4:efgh;10:0:;");
}

#define WS_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {
        WS_TEST(shakes_hands),
        WS_TEST(refuses_other_handshakes),
        WS_TEST(takes_and_sends_messages),
        WS_TEST(takes_one_byte_at_a_time),
        WS_TEST(frames_may_come_with_the_handshake),
        WS_TEST(echoes_the_peers_close),
        WS_TEST(closes_and_waits_for_the_peer),
        WS_TEST(a_close_has_a_time_out),
        WS_TEST(long_reasons_are_cut_between_characters),
        WS_TEST(the_end_without_a_close_is_abnormal),
        WS_TEST(refuses_hostile_frames),
        WS_TEST(a_message_has_a_maximum),
        WS_TEST(a_paused_reader_stops_the_sender),
        WS_TEST(a_slow_reader_stops_the_writer),
        WS_TEST(unread_pongs_stop_the_pings),
        WS_TEST(silence_and_stuck_writes_are_cut),
        WS_TEST(pings_keep_a_silent_peer),
        WS_TEST(who_was_stopped_asks_before_it_cuts),
        cmocka_unit_test(splits_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
