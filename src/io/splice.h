// A pipe through which bytes go from one stream to another without coming into our memory
// (splice(2)). What was taken and is not yet given waits in the pipe, which bounds it. Loop thread.
#ifndef IO_SPLICE_H
#define IO_SPLICE_H

#include "io/stream.h"

struct splice;
struct splice *splice_new(void);    // NULL with errno: two descriptors and a little memory
void splice_free(struct splice *s); // with what waits in it; NULL is fine
// At most `max` bytes of `from`; returns as stream_read(). EAGAIN also while the pipe is full.
// EINVAL: the kernel cannot do it with this kind of descriptor, nothing was taken.
ssize_t splice_take(struct splice *s, struct stream *from, uint64_t max);
// Gives `to` what it takes now. -1 with errno: it takes nothing any more (never EAGAIN).
int splice_give(struct splice *s, struct stream *to);
size_t splice_held(const struct splice *s); // bytes that wait

#endif
