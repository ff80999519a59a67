// Frames of a WebSocket client: however they are cut, the same messages and the same end.
#include "base/strbuf.h"
#include "base/utf8.h"
#include "fuzz.h"
#include "http/websocket_frame.h"

enum { MESSAGE_MAX = 1000 };

static bool on_frame(void *arg, enum websocket_opcode op, const char *data, size_t len) {
    bool control = op >= WEBSOCKET_OP_CLOSE;
    CHECK(len <= (control ? WEBSOCKET_CONTROL_MAX : MESSAGE_MAX) && !data[len]);
    CHECK(op != WEBSOCKET_OP_TEXT || utf8_valid(data, len));
    (void)strbuf_addf(arg, "%d:%zu:", (int)op, len);
    (void)strbuf_add(arg, data, len);
    return len & 1;
}

static void parse(const char *data, size_t size, size_t step, struct strbuf *sb) {
    struct websocket_parser p;
    websocket_parser_init(&p, MESSAGE_MAX);
    p.frame = on_frame;
    p.arg = sb;
    for (size_t at = 0; at < size && !p.status;) {
        ssize_t n = websocket_parse(&p, data + at, size - at < step ? size - at : step);
        CHECK(n > 0 || (n < 0 && websocket_status_valid(p.status) && p.reason));
        at += n > 0 ? (size_t)n : 0;
    }
    (void)strbuf_addf(sb, "=%u", p.status);
    websocket_parser_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct strbuf whole, pieces;
    strbuf_init(&whole, 16 << 20);
    strbuf_init(&pieces, 16 << 20);
    parse((const char *)data, size, SIZE_MAX, &whole);
    parse((const char *)data, size, size % 5 + 1, &pieces);
    CHECK(whole.len == pieces.len && !memcmp(whole.data, pieces.data, whole.len));
    strbuf_free(&whole);
    strbuf_free(&pieces);
    return 0;
}
