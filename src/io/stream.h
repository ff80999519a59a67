// One end of a byte connection: TCP, unix socket, pipe, pty, or a socketpair in tests; any pollable
// descriptor. Pull model: the owner reads when told that there is something and when it has room,
// so back-pressure is not reading. Loop thread only. stream_close() may be called from within the
// stream's own callback; the pointer is dead from then on.
#ifndef IO_STREAM_H
#define IO_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "io/loop.h"

enum { STREAM_READABLE = 1, STREAM_WRITABLE = 2 };

struct stream;
// `events` holds what was asked for and is ready. End and errors show up as READABLE (read returns
// 0 or -1).
typedef void stream_ready_fn(struct stream *s, unsigned events, void *arg);

// Takes the descriptor (also when it fails), makes it non-blocking. NULL with errno.
struct stream *stream_open(struct loop *l, int fd, stream_ready_fn *ready, void *arg);
void stream_set_owner(struct stream *s, stream_ready_fn *ready,
                      void *arg); // hands the stream to another owner
void stream_want(struct stream *s,
                 unsigned events); // what to be told of; 0 = nothing (peer is back-pressured)
// Bytes, 0 at the end, -1 with errno (EAGAIN: wait for READABLE). EINTR is handled inside.
ssize_t stream_read(struct stream *s, void *data, size_t size);
ssize_t stream_writev(struct stream *s, const struct iovec *iov,
                      int count); // partial writes happen; EAGAIN as above
ssize_t stream_write(struct stream *s, const void *data, size_t size);
int stream_shutdown(struct stream *s); // end of our direction; no-op where the descriptor has none
void stream_close(struct stream *s);   // NULL is fine
int stream_fd(const struct stream *s); // borrowed
// Writes the peer's numeric address, of IPv4 also when it came mapped to IPv6, and returns its
// port. 0 and "": it has none (unix sockets).
unsigned stream_peer(const struct stream *s, char *ret_text, size_t size);

// Connects without blocking to a literal address or a unix path (no name resolution here). Calls
// done once with a stream, or NULL and err. time_out_ms bounds it.
typedef void stream_connected_fn(struct stream *s, const struct error *err, void *arg);
void stream_connect_tcp(struct loop *l, const char *address, unsigned port, int64_t time_out_ms,
                        stream_connected_fn *done, void *arg);

// Listening socket: accept4() in bursts of at most 64, paused while the descriptor limit is hit
// (EMFILE).
struct listener;
typedef void listener_accept_fn(struct listener *li, int fd, void *arg); // takes fd
struct listener *listener_open(struct loop *l, int fd, listener_accept_fn *accepted,
                               void *arg); // takes fd
void listener_pause(struct listener *li, bool paused);
void listener_close(struct listener *li); // NULL is fine
// Bound and listening descriptors. host: literal IPv4 or IPv6 address.
int listen_tcp(const char *host, unsigned port, int backlog, struct error *err); // SO_REUSEADDR
unsigned listener_port(const struct listener *li); // the port the kernel gave

#endif
