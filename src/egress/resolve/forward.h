// Questions to upstream servers: UDP first, TCP when the answer is cut, the next server when one
// fails. A socket of its own for each question, drawn at random from a small stock that is renewed
// all the time, and a random id; only an answer that repeats the question counts. Loop thread.
#ifndef EGRESS_RESOLVE_FORWARD_H
#define EGRESS_RESOLVE_FORWARD_H

#include "egress/dns.h"
#include "io/loop.h"
#include "io/stream.h"

enum {
    FORWARD_UPSTREAMS_MAX = 11,
    FORWARD_FLIGHTS_MAX = 1024,
    FORWARD_FAIL_OVER_MS = 1500, // while there is another server to ask
    FORWARD_PROBE_MS = 2000,
    FORWARD_STOCK = 256,     // idle sockets, of all servers
    FORWARD_SOCKET_USES = 64 // questions, then another port
};

struct upstream {
    struct net address;
    unsigned port;
    bool sick; // by the last probe
    uint64_t asked, failed;
};

struct forwarder;
// A connected UDP socket.
struct forward_socket {
    struct stream *stream;
    unsigned upstream, uses;
};
// One question on its way. Embed it; all zero but `q` and `done`.
struct flight {
    struct dns_query q;
    // The answer, good until it returns; len 0: nobody answered. The flight may be freed in it.
    void (*done)(struct flight *f, uint8_t *message, size_t len);
    // private
    struct list node;
    struct forwarder *forwarder;
    struct stream *stream; // TCP
    struct forward_socket udp;
    struct timer timer;
    int64_t deadline_ms;
    uint32_t tried; // bits of upstreams
    unsigned at;    // upstream asked now
    uint16_t id;
    bool tcp, probe;
    uint8_t *buffer; // of an answer over TCP, with its length in front
    size_t got;
};

struct forwarder {
    struct loop *loop;
    struct upstream upstreams[FORWARD_UPSTREAMS_MAX];
    unsigned count, flights;
    uint32_t mark; // SO_MARK; 0: none
    int64_t time_out_ms, probe_every_ms;
    char probe_name[256];
    struct forward_socket stock[FORWARD_STOCK];
    unsigned stocked;
    struct list running;
    struct timer probe_timer;
    struct flight probes[FORWARD_UPSTREAMS_MAX];
    uint16_t random[128]; // drawn in advance
    unsigned random_left;
    uint8_t scratch[DNS_MESSAGE_MAX];
};

// upstreams, mark, time-outs and probe_name are set by the caller before.
void forward_start(struct forwarder *fw, struct loop *l);
void forward_stop(struct forwarder *fw);  // done() of what is on its way is called with len 0
void forward_renew(struct forwarder *fw); // closes idle sockets: the list of servers has changed
int forward_ask(struct forwarder *fw, struct flight *f); // -1: too many; done() is not called
void forward_cancel(struct flight *f); // done() is not called; fine when it is not on its way

// "ip", "ip:port", "[v6]", "[v6]:port" with commas. -1: not an address, or our own listener.
int forward_parse(struct upstream *list, unsigned *ret_count, const char *text, unsigned own_port,
                  struct error *err);
// nameserver lines of resolv.conf, loopback last.
void forward_resolv_conf(struct upstream *list, unsigned *ret_count, const char *text);

#endif
