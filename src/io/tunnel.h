// A tunnel: bytes both ways between two streams, for upgrades and CONNECT-like traffic. One bounded
// buffer a direction, a full buffer stops the reader, the end of input becomes a shutdown of the
// output (half-close kept). The tunnel owns both streams; it closes both before it calls done,
// once, with why it ended. Loop thread.
#ifndef IO_TUNNEL_H
#define IO_TUNNEL_H

#include <stddef.h>
#include <stdint.h>

#include "io/stream.h"

enum tunnel_end { TUNNEL_EOF, TUNNEL_READ_FAILED, TUNNEL_WRITE_FAILED, TUNNEL_IDLE };

struct tunnel;
typedef void tunnel_done_fn(void *arg, uint64_t a_to_b, uint64_t b_to_a, enum tunnel_end end);
// Takes both streams, also on failure (NULL, no memory; done is not called). early_a: bytes that
// were already read from a and go to b first; early_b likewise. done is never called from inside
// this call.
struct tunnel *tunnel_start(struct loop *l, struct stream *a, struct stream *b, const void *early_a,
                            size_t early_a_len, const void *early_b, size_t early_b_len,
                            size_t buffer_size, int64_t idle_ms, tunnel_done_fn *done, void *arg);
void tunnel_abort(struct tunnel *t); // closes both, calls done

#endif
