// Samples of packets that the filter refused (NFLOG, limited by the rules to 20 a second), so that
// whoever owns the sandbox sees why something is not reached. Loop thread.
#ifndef EGRESS_NET_DROPS_H
#define EGRESS_NET_DROPS_H

#include "fmt/address.h"
#include "io/loop.h"
#include "io/netlink.h"
#include "io/stream.h"

enum { DROPS_GROUP = 15353, DROPS_SNAP = 96 };

struct drop {
    struct net to;
    unsigned proto, port; // port 0: the protocol has none
    bool by_rule;         // a rule denies it, not the default
};
// False: no packet that can be read.
bool drops_parse(const uint8_t *packet, size_t len, struct drop *ret);

struct drops {
    struct stream *stream;
    void (*dropped)(const struct drop *d, void *arg);
    void *arg;
};
// -1: this kernel has no packet log; drops are only counted then.
int drops_start(struct drops *d, struct loop *l, void (*dropped)(const struct drop *, void *),
                void *arg, struct error *err);
void drops_stop(struct drops *d);

#endif
