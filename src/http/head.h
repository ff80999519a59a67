// Start line and fields of one message, request or response, and how its body is framed (RFC 9112
// section 6).
#ifndef HTTP_HEAD_H
#define HTTP_HEAD_H

#include <stdbool.h>
#include <stdint.h>

#include "http/headers.h"

struct http_head {
    // request
    const char *method; // "GET"; any token
    const char *target; // raw, origin-form, as sent
    // response
    unsigned status;
    const char *reason;
    // both
    unsigned minor; // HTTP/1.minor
    struct http_headers headers;
    int64_t content_length; // -1: none given
    bool chunked;           // Transfer-Encoding: chunked
    bool keep_alive;        // version and Connection say that the connection may go on
    bool upgrade;           // Connection: upgrade and an Upgrade field
    bool expect_continue;
};

#endif
