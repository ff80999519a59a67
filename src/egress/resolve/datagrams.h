// Datagrams by the dozen: what a socket holds in one call, what a turn of the loop has to say in
// another. Loop thread.
#ifndef EGRESS_RESOLVE_DATAGRAMS_H
#define EGRESS_RESOLVE_DATAGRAMS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    DATAGRAMS_MAX = 64, // in one call
    DATAGRAMS_IN = 16,
    DATAGRAM_SIZE = 4096, // received ones are cut behind it
    DATAGRAMS_BYTES = DATAGRAMS_IN * DATAGRAM_SIZE
};

struct datagrams {
    unsigned count;
    size_t used;
    int fds[DATAGRAMS_MAX]; // of what is to be sent
    struct mmsghdr heads[DATAGRAMS_MAX];
    struct iovec parts[DATAGRAMS_MAX];
    struct sockaddr_in6 peers[DATAGRAMS_MAX]; // or sockaddr_in
    uint8_t bytes[DATAGRAMS_BYTES];
};

// Replaces what is there by at most DATAGRAMS_IN that the socket holds, without waiting: heads[i],
// parts[i] and peers[i] for i < count.
void datagrams_receive(struct datagrams *d, int fd);
// Copies. False: no room, send first.
bool datagrams_add(struct datagrams *d, int fd, const struct sockaddr_in6 *peer, socklen_t size,
                   const uint8_t *message, size_t len);
// A full socket buffer loses them like any network.
void datagrams_send(struct datagrams *d);

#endif
