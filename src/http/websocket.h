// WebSocket, server side (RFC 6455): frames over a connection that left HTTP. No extensions, no
// subprotocols. Loop thread.
//
// Life: websocket_accept() ends the exchange. From then on closed() is called exactly once, as the
// last call, never from inside a websocket_*() call; after it the pointer is dead. Answers pings,
// echoes closes, refuses what the RFC forbids (unmasked frames, reserved bits and codes, control
// frames that are fragmented or longer than 125, text that is not UTF-8) with the status it names.
#ifndef HTTP_WEBSOCKET_H
#define HTTP_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/exchange.h"

enum websocket_kind { WEBSOCKET_TEXT = 1, WEBSOCKET_BINARY = 2 };
enum websocket_status { // RFC 6455 7.4.1; 3000..4999 are the program's
    WEBSOCKET_NORMAL = 1000,
    WEBSOCKET_GOING_AWAY = 1001,
    WEBSOCKET_PROTOCOL_ERROR = 1002,
    WEBSOCKET_UNSUPPORTED = 1003,
    WEBSOCKET_NONE = 1005,     // never sent: the peer's close had no status
    WEBSOCKET_ABNORMAL = 1006, // never sent: the connection broke, or went silent
    WEBSOCKET_INVALID_TEXT = 1007,
    WEBSOCKET_POLICY = 1008,
    WEBSOCKET_TOO_BIG = 1009,
    WEBSOCKET_INTERNAL = 1011
};

struct websocket;
struct websocket_settings {
    // A whole message; the text is NUL-terminated behind len. May send, pause and close.
    void (*message)(struct websocket *w, enum websocket_kind kind, const char *data, size_t len);
    // There is room again after websocket_send() had refused. May be NULL.
    void (*room)(struct websocket *w);
    // Over. status and reason as the peer gave them, or as we did when the peer broke a rule;
    // WEBSOCKET_ABNORMAL when there was no close.
    void (*closed)(struct websocket *w, unsigned status, const char *reason);
    size_t message_max; // bytes of one message, over all its fragments; 1009 beyond
    size_t queue_max;   // bytes that wait for the peer
    int64_t ping_ms;    // between our pings; 0: none
    int64_t silence_ms; // without any frame from the peer: cut; 0: no limit
    int64_t write_ms;   // queued bytes that do not move: cut; 0: no limit
    int64_t close_ms;   // from our close to the peer's, then cut; > 0
    void *user;
};

// Whether the request asks for a WebSocket (an Upgrade to it); for routes that answer others too.
bool websocket_asked(const struct http_exchange *x);
// Checks the handshake (RFC 6455 4.2.1) and answers it. Ends the exchange in every case: NULL when
// it was refused (400, or 426 for another version, in the error envelope) or the client is gone,
// and closed() is not called then. Copies s. The first message comes in a later turn of the loop.
struct websocket *websocket_accept(struct http_exchange *x, const struct websocket_settings *s);
void *websocket_user(const struct websocket *w);

// 0: taken (also after the close, then it goes nowhere). -1: does not fit, nothing taken; wait for
// room(). A message longer than queue_max is taken when nothing is queued.
int websocket_send(struct websocket *w, enum websocket_kind kind, const void *data, size_t len);
size_t websocket_queued(const struct websocket *w);
// No message() while paused, and no reading: the peer's sending stops. Pings are not answered
// either, and silence_ms rests.
void websocket_pause(struct websocket *w, bool paused);
// Sends a close behind what is queued, and waits close_ms for the peer's. status 1000..4999; the
// reason is cut at 123 bytes. Nothing after the first close.
void websocket_close(struct websocket *w, unsigned status, const char *reason);
void websocket_abort(struct websocket *w); // cuts the connection; closed() follows

#endif
