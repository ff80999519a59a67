// HTTP/1.x parser: llhttp in strict mode and our guards above it (c-libs.md section 3), so that it
// can be replaced in one file. Feed bytes, get callbacks. Refuses: versions other than 1.0 and 1.1,
// obs-fold, empty names, missing, repeated or malformed Host, CONNECT (501), Transfer-Encoding on
// 1.0, beside Content-Length or other than one `chunked` (501), header blocks over the limits, and
// trailers and chunk extensions beyond them (431), long targets (414). Trailers are dropped.
// One owner, any thread.
#ifndef HTTP_H1_H
#define HTTP_H1_H

#include <llhttp.h>
#include <sys/types.h>

#include "http/head.h"

enum { H1_HEAD_BYTES_MAX = 128 * 1024, H1_FIELDS_MAX = 256, H1_TARGET_MAX = 64 * 1024 };

enum h1_kind { H1_REQUEST, H1_RESPONSE };

struct h1;
struct h1_callbacks {
    // The head is complete. Returns 0 to go on, 1 when a response has no body whatever its fields
    // say (answer to HEAD; 1xx, 204 and 304 need no saying). May not reset or free the parser.
    int (*head)(struct h1 *p, const struct http_head *head);
    void (*body)(struct h1 *p, const char *data,
                 size_t len); // decoded bytes, pointing into what was fed
    // Parsing pauses behind the message. May reset, feed or free the parser. An interim response
    // (1xx) is a message of its own.
    void (*complete)(struct h1 *p);
};

struct h1 {
    llhttp_t parser;
    const struct h1_callbacks *callbacks;
    void *user;
    struct arena *arena; // of the current message; set by the owner before each
    struct http_head head;
    struct strbuf name, value, target;
    size_t head_bytes;
    int status;         // after a refusal: the status to answer (400, 414, 431, 501)
    const char *reason; // and why
    unsigned fold;      // state of the obs-fold guard
    bool upgraded; // complete() was called and the rest of the bytes belongs to another protocol
    bool in_head, is_complete;
};

// h1_reset() before the first bytes too.
void h1_init(struct h1 *p, enum h1_kind kind, const struct h1_callbacks *callbacks, void *user);
void h1_reset(struct h1 *p, struct arena *arena); // ready for the next message
void h1_free(struct h1 *p);
// Bytes consumed (less than len: paused behind a complete message, or upgraded), or -1: refused,
// see status and reason.
ssize_t h1_feed(struct h1 *p, const char *data, size_t len);
// Bytes of a body with a Content-Length that are still to come, 0 for any other. Up to one less
// than that many may go another way than h1_feed(); h1_skip() tells of them.
uint64_t h1_left(const struct h1 *p);
void h1_skip(struct h1 *p, size_t len);
// Peer closed: 0 when that ends the message (response read until close; complete() is called), else
// -1.
int h1_finish(struct h1 *p);

#endif
