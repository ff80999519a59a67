// What a child writes, on its way into an output: read as fast as the output has room, to the last
// byte that the child wrote, and not for ever when others hold its pipes. Loop thread only.
#ifndef EXECD_CAPTURE_H
#define EXECD_CAPTURE_H

#include "execd/execd.h"
#include "io/stream.h"

enum capture_flags {
    // A pty's master. What the child wrote last may still be on its way through the kernel; a read
    // that finds nothing has waited for it (io/pty.h).
    CAPTURE_TERMINAL = 1 << 0
};

struct capture {
    struct execd *e;
    struct output output;
    struct stream *from[2]; // by enum output_stream
    size_t rest[2];         // to be read yet at most, once exited: others may hold our pipes
    unsigned flags;
    bool exited, discarding;
    struct loop_task resume;
    // The child has exited and all that it wrote was appended; the owner may output_end(). Called
    // once a start, from the loop; may stop and free everything.
    void (*drained)(struct capture *c);
};

void capture_init(struct capture *c, struct execd *e, size_t output_max);
// Takes both descriptors, always; -1: none. May be called again after drained(). -1 with errno.
int capture_start(struct capture *c, int out, int errors, unsigned flags,
                  void (*drained)(struct capture *c));
void capture_exited(struct capture *c);  // the child was reaped
void capture_discard(struct capture *c); // from now on what is read is thrown away
void capture_stop(struct capture *c);    // closes the descriptors; drained() is not called
void capture_clear(struct capture *c);   // stops, frees the output; its readers are detached

#endif
