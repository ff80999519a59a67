// What every room of egress shares: one loop, one policy in force, and what hangs on it. Everything
// runs on the loop thread; only the deny webhook has a worker.
#ifndef EGRESS_EGRESS_H
#define EGRESS_EGRESS_H

#include "egress/always.h"
#include "egress/events.h"
#include "egress/index.h"
#include "egress/net/drops.h"
#include "egress/net/firewall.h"
#include "egress/net/learned.h"
#include "egress/options.h"
#include "egress/resolve/proxy.h"
#include "egress/webhook.h"
#include "http/server.h"

struct egress {
    struct loop loop;
    struct options options;
    struct policy policy;         // of the owner
    struct always_file always[2]; // deny, allow
    struct always_file log_skip;  // names without a line in the log
    struct index index, quiet;    // in force; of log_skip
    struct forwarder forwarder;
    struct proxy proxy;
    struct firewall firewall;
    struct learned learned;
    struct drops drops;
    struct events events;
    struct webhook webhook;
    struct http_server *http;
    struct timer tick; // reload of files, check of the rules
    unsigned ticks;
    bool untidy; // a change has left memory to be given back
    bool stale;  // what is in force is not what it should be: the next tick tries again
    uint64_t changes;
};

static inline struct egress *egress_of(const struct http_exchange *x) {
    return http_server_user(x->server);
}

// rules.c: what is in force. Puts `policy` (NULL: the one that is there, with other always-files)
// into force in the packet filter and the resolver, all or nothing; then *policy is the one before.
int egress_enforce(struct egress *e, struct policy *policy, struct error *err);
// First policy: file, environment, deny-all.
int egress_load_policy(struct egress *e, struct error *err);
int egress_save_policy(const struct egress *e, const struct policy *policy, struct error *err);
int egress_load_files(struct egress *e, struct error *err); // always-files and upstream servers
void egress_start_ticking(struct egress *e);

// Tells everybody of a refusal: events, log, webhook.
void egress_denied(struct egress *e, enum event_kind kind, const char *target,
                   const struct verdict *by, const char *reason);

void egress_dropped(const struct drop *d, void *egress); // a packet

// api.c
// The supervisor's part: it holds the socket of the API, so that a sandbox cannot take its place
// and hear the token while there is no worker. The worker finds it in the environment.
int api_hold(struct error *err);
int api_start(struct egress *e, struct error *err);

#endif
