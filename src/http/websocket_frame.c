#include "http/websocket_frame.h"

#include <string.h>

#include "base/utf8.h"
#include "http/websocket.h"

enum { FIN = 0x80, RESERVED = 0x70, OPCODE = 0x0f, MASKED = 0x80, LENGTH = 0x7f, CONTROL = 8 };
enum { MESSAGE_KEPT = 16 * 1024 };

void websocket_parser_init(struct websocket_parser *p, size_t message_max) {
    *p = (struct websocket_parser){0};
    strbuf_init(&p->message, message_max);
    strbuf_init(&p->control, WEBSOCKET_CONTROL_MAX);
}

void websocket_parser_free(struct websocket_parser *p) {
    strbuf_free(&p->message);
    strbuf_free(&p->control);
}

static ssize_t refuse(struct websocket_parser *p, unsigned status, const char *reason) {
    p->status = status;
    p->reason = reason;
    return -1;
}

static unsigned head_size(const struct websocket_parser *p) {
    if (p->have < 2)
        return 2;
    unsigned length = p->head[1] & LENGTH;
    return 2 + (length == 127 ? 8u : length == 126 ? 2u : 0u) + 4; // 4: the mask
}

static unsigned opcode(const struct websocket_parser *p) {
    return p->head[0] & OPCODE;
}

// The first two bytes say all but the length.
static ssize_t check_start(struct websocket_parser *p) {
    unsigned op = opcode(p);
    bool fin = p->head[0] & FIN;
    if (p->head[0] & RESERVED)
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "reserved bit");
    if ((op > WEBSOCKET_OP_BINARY && op < WEBSOCKET_OP_CLOSE) || op > WEBSOCKET_OP_PONG)
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "reserved opcode");
    if (!(p->head[1] & MASKED))
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "frame without mask");
    if (op & CONTROL && (!fin || (p->head[1] & LENGTH) > WEBSOCKET_CONTROL_MAX))
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "control frame too long or fragmented");
    if (op == WEBSOCKET_OP_CONTINUE && !p->kind)
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "nothing to continue");
    if ((op == WEBSOCKET_OP_TEXT || op == WEBSOCKET_OP_BINARY) && p->kind)
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "message inside a message");
    return 0;
}

static ssize_t begin_payload(struct websocket_parser *p) {
    unsigned op = opcode(p), short_len = p->head[1] & LENGTH;
    uint64_t len = short_len, least = 0;
    if (short_len >= 126) {
        least = short_len == 126 ? 126 : 65536;
        len = 0;
        for (unsigned i = 2; i < head_size(p) - 4; i++)
            len = len << 8 | p->head[i];
    }
    if (len < least || len >> 63)
        return refuse(p, WEBSOCKET_PROTOCOL_ERROR, "length in the wrong form");
    if (!(op & CONTROL)) {
        if (len > p->message.max - p->message.len)
            return refuse(p, WEBSOCKET_TOO_BIG, "message too big");
        if (op != WEBSOCKET_OP_CONTINUE)
            p->kind = op;
    }
    p->left = len;
    p->mask_at = 0;
    p->in_payload = true;
    return 0;
}

static void unmask(struct websocket_parser *p, const char *data, size_t len, char *to) {
    const unsigned char *mask = p->head + head_size(p) - 4;
    for (size_t i = 0; i < len; i++)
        to[i] = (char)((unsigned char)data[i] ^ mask[(p->mask_at + i) & 3]);
    p->mask_at = (p->mask_at + len) & 3;
}

static ssize_t take_payload(struct websocket_parser *p, const char *data, size_t len) {
    struct strbuf *sb = opcode(p) & CONTROL ? &p->control : &p->message;
    if (len > p->left)
        len = (size_t)p->left;
    if (!len)
        return 0;
    char *to = strbuf_reserve(sb, len);
    if (!to)
        return refuse(p, WEBSOCKET_INTERNAL, "out of memory");
    unmask(p, data, len, to);
    sb->len += len;
    sb->data[sb->len] = 0;
    p->left -= len;
    return (ssize_t)len;
}

// A frame is whole. 1: go on, 0: stop behind it, -1: refused.
static int end_frame(struct websocket_parser *p) {
    unsigned op = opcode(p);
    bool go_on = true;
    p->in_payload = false;
    p->have = 0;
    if (op & CONTROL) {
        go_on = p->frame(p->arg, op, p->control.data, p->control.len);
        strbuf_clear(&p->control);
    } else if (p->head[0] & FIN) {
        unsigned kind = p->kind;
        p->kind = 0;
        if (kind == WEBSOCKET_OP_TEXT && !utf8_valid(p->message.data, p->message.len))
            return (int)refuse(p, WEBSOCKET_INVALID_TEXT, "text is not UTF-8");
        go_on = p->frame(p->arg, kind, p->message.data, p->message.len);
        if (p->message.capacity > MESSAGE_KEPT)
            strbuf_free(&p->message);
        else
            strbuf_clear(&p->message);
    }
    return go_on;
}

ssize_t websocket_parse(struct websocket_parser *p, const char *data, size_t len) {
    size_t at = 0;
    while (at < len) {
        if (!p->in_payload) {
            p->head[p->have++] = (unsigned char)data[at++];
            if (p->have == 2 && check_start(p) < 0)
                return -1;
            if (p->have < head_size(p))
                continue;
            if (begin_payload(p) < 0)
                return -1;
        }
        ssize_t n = take_payload(p, data + at, len - at);
        if (n < 0)
            return -1;
        at += (size_t)n;
        if (p->left)
            continue;
        int next = end_frame(p);
        if (next < 0)
            return -1;
        if (next == 0)
            break;
    }
    return (ssize_t)at;
}

size_t websocket_frame_head(unsigned char head[WEBSOCKET_HEAD_MAX], enum websocket_opcode op,
                            uint64_t len) {
    unsigned bytes = len < 126 ? 0 : len < 65536 ? 2 : 8;
    head[0] = (unsigned char)(FIN | op);
    head[1] = (unsigned char)(bytes == 0 ? len : bytes == 2 ? 126 : 127);
    for (unsigned i = 0; i < bytes; i++)
        head[2 + i] = (unsigned char)(len >> 8 * (bytes - 1 - i));
    return 2 + bytes;
}

bool websocket_status_valid(unsigned status) {
    return (status >= 1000 && status <= 1003) || (status >= 1007 && status <= 1014) ||
           (status >= 3000 && status <= 4999);
}
