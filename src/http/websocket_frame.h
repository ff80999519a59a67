// Frames of a WebSocket client (RFC 6455 section 5), pushed in as they come: fragments are put
// together, masks undone, control frames given as they stand between fragments. Private to
// src/http; pure, one owner.
#ifndef HTTP_WEBSOCKET_FRAME_H
#define HTTP_WEBSOCKET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/strbuf.h"

enum { WEBSOCKET_CONTROL_MAX = 125, WEBSOCKET_HEAD_MAX = 14 };
enum websocket_opcode {
    WEBSOCKET_OP_CONTINUE = 0,
    WEBSOCKET_OP_TEXT = 1,
    WEBSOCKET_OP_BINARY = 2,
    WEBSOCKET_OP_CLOSE = 8,
    WEBSOCKET_OP_PING = 9,
    WEBSOCKET_OP_PONG = 10
};

struct websocket_parser {
    // A whole message (TEXT, BINARY) or control frame (CLOSE, PING, PONG); NUL-terminated. Text is
    // valid UTF-8. Returns false to stop behind it.
    bool (*frame)(void *arg, enum websocket_opcode op, const char *data, size_t len);
    void *arg;
    unsigned status; // after a refusal: what to close with, and why
    const char *reason;
    // private
    unsigned char head[WEBSOCKET_HEAD_MAX];
    unsigned have;
    bool in_payload;
    uint64_t left;
    size_t mask_at;
    unsigned kind; // of the message whose fragments come, 0: none
    struct strbuf message, control;
};

void websocket_parser_init(struct websocket_parser *p, size_t message_max);
void websocket_parser_free(struct websocket_parser *p);
// Bytes taken (all, unless frame() stopped it), or -1: refused, see status and reason.
ssize_t websocket_parse(struct websocket_parser *p, const char *data, size_t len);

// The head of an unmasked frame, FIN set; its length.
size_t websocket_frame_head(unsigned char head[WEBSOCKET_HEAD_MAX], enum websocket_opcode op,
                            uint64_t len);
// Status codes that may stand in a close frame (RFC 6455 7.4).
bool websocket_status_valid(unsigned status);

#endif
