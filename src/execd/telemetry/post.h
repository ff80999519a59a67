// One POST over a connection of its own that never blocks: connect, write, read the head of the
// answer, close. A time limit over all of it; of the answer at most POST_ANSWER_MAX bytes are read
// and none kept. Loop thread.
#ifndef EXECD_TELEMETRY_POST_H
#define EXECD_TELEMETRY_POST_H

#include "fmt/address.h"
#include "http/h1.h"
#include "io/stream.h"

enum { POST_ANSWER_MAX = 256 * 1024 };

struct post {
    struct loop *loop;
    struct stream *stream; // NULL: idle
    struct timer limit;
    struct h1 parser;
    struct arena arena;
    const char *left; // of the request
    size_t left_len, got;
    bool connected;
    char *scratch; // of the caller, POST_SCRATCH bytes, free between any two callbacks
    // of the answer
    unsigned status;
    int64_t retry_after_s; // 0: none
    // Called once, never from inside post_start(): status set, or err. May start another.
    void (*done)(struct post *p, const struct error *err);
};
enum { POST_SCRATCH = 64 * 1024 };

// The request, head included, must live until done(). -1: it could not begin; done() is not called.
int post_start(struct post *p, const struct net *address, unsigned port, const char *request,
               size_t len, int64_t time_out_ms, struct error *err);
void post_cancel(struct post *p); // without done(); fine when idle

#endif
