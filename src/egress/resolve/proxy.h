// The resolver of a sandbox: UDP and TCP on the loopback, every question judged by the policy, what
// is allowed asked upstream, addresses admitted before the answer leaves (egress.md section 4, our
// decision 5). Loop thread.
#ifndef EGRESS_RESOLVE_PROXY_H
#define EGRESS_RESOLVE_PROXY_H

#include "egress/resolve/budget.h"
#include "egress/resolve/cache.h"
#include "egress/resolve/datagrams.h"
#include "egress/resolve/forward.h"

enum { PROXY_CLIENTS_MAX = 128, PROXY_IDLE_MS = 8000, PROXY_PIPELINE_MAX = 64 };

struct egress;
struct client; // a TCP connection

// One question of a client.
struct ask {
    struct flight flight;
    struct egress *egress;
    struct list node; // of the client, or of the proxy
    struct client *client;
    int fd;                   // of the UDP listener
    struct sockaddr_in6 peer; // or sockaddr_in
    socklen_t peer_size;
};

struct proxy {
    struct stream *udp[2];
    struct listener *tcp[2];
    struct list asks, clients; // asks of UDP; struct client
    unsigned client_count;
    struct cache cache;
    struct budget budget;
    bool no_ipv6;
    uint64_t answered, denied, failed, truncated, rebinding;
    struct dns_chain chain; // of the answer in work
    uint8_t scratch[DNS_MESSAGE_MAX];
    struct datagrams questions, replies; // replies of this turn: one transaction, one call
    struct loop_task flush;
};

int proxy_start(struct egress *e, struct error *err);
void proxy_stop(struct egress *e);
bool proxy_is_listening(const struct egress *e);
// Admits what was learned and sends the answers that wait for it; the end of a turn does so, too.
void proxy_flush(struct egress *e);

// Between the files: a whole question of a client, and an answer to it.
void proxy_question(struct egress *e, const uint8_t *message, size_t len, const struct ask *from);
void proxy_client_accept(struct egress *e, int fd); // takes fd
void proxy_client_reply(struct client *c, const uint8_t *message, size_t len);
struct list *proxy_client_asks(struct client *c); // struct ask, on their way
void proxy_client_close(struct client *c);

#endif
