#include "egress/resolve/datagrams.h"

#include <errno.h>
#include <string.h>

static void point(struct datagrams *d, unsigned i, uint8_t *at, size_t len, socklen_t peer_size) {
    d->parts[i] = (struct iovec){at, len};
    d->heads[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &d->peers[i],
                                               .msg_namelen = peer_size,
                                               .msg_iov = &d->parts[i],
                                               .msg_iovlen = 1}};
}

void datagrams_receive(struct datagrams *d, int fd) {
    for (unsigned i = 0; i < DATAGRAMS_IN; i++)
        point(d, i, d->bytes + (size_t)i * DATAGRAM_SIZE, DATAGRAM_SIZE, sizeof d->peers[i]);
    int n = recvmmsg(fd, d->heads, DATAGRAMS_IN, MSG_DONTWAIT, NULL);
    d->count = n < 0 ? 0 : (unsigned)n;
}

bool datagrams_add(struct datagrams *d, int fd, const struct sockaddr_in6 *peer, socklen_t size,
                   const uint8_t *message, size_t len) {
    if (d->count == DATAGRAMS_MAX || len > sizeof d->bytes - d->used)
        return false;
    uint8_t *at = d->bytes + d->used;
    memcpy(at, message, len);
    d->peers[d->count] = *peer;
    d->fds[d->count] = fd;
    point(d, d->count++, at, len, size);
    d->used += len;
    return true;
}

void datagrams_send(struct datagrams *d) {
    for (unsigned i = 0, n; i < d->count; i += n) {
        for (n = 1; i + n < d->count && d->fds[i + n] == d->fds[i];)
            n++; // of the same socket
        int sent = sendmmsg(d->fds[i], d->heads + i, n, MSG_DONTWAIT);
        n = sent > 0 ? (unsigned)sent : 1; // the first one failed: the others may not
    }
    d->count = 0;
    d->used = 0;
}
