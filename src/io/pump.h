// Bytes from one stream to another: one bounded buffer, a full buffer stops the reader, the end of
// input becomes a shutdown of the output (half-close kept). Ends with exactly one call of done.
// Both streams stay the caller's; they are the pump's to drive until done. Two pumps make a tunnel.
// Loop thread.
#ifndef IO_PUMP_H
#define IO_PUMP_H

#include <stddef.h>
#include <stdint.h>

#include "io/stream.h"

enum pump_end { PUMP_EOF, PUMP_READ_FAILED, PUMP_WRITE_FAILED, PUMP_IDLE };

// A tunnel: both directions of two streams, for upgrades and CONNECT-like traffic. Because one
// stream serves both directions, the tunnel owns both streams' readiness; it closes both streams
// before it calls done.
struct tunnel;
typedef void tunnel_done_fn(void *arg, uint64_t a_to_b, uint64_t b_to_a, enum pump_end end);
// Takes both streams, also on failure (NULL, no memory; done is not called). early_a: bytes that
// were already read from a and go to b first; early_b likewise. done is never called from inside
// this call.
struct tunnel *tunnel_start(struct loop *l, struct stream *a, struct stream *b, const void *early_a,
                            size_t early_a_len, const void *early_b, size_t early_b_len,
                            size_t buffer_size, int64_t idle_ms, tunnel_done_fn *done, void *arg);
void tunnel_abort(struct tunnel *t); // closes both, calls done

#endif
