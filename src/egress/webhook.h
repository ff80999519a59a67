// Tells a URL of every name that was refused (egress.md section 7): POST of a small JSON object
// over plain HTTP, four attempts, a bounded queue. Its own host is looked up past the policy and
// admitted for our marked socket alone, so that it needs no rule and makes no event. Loop thread;
// sending is a worker's.
#ifndef EGRESS_WEBHOOK_H
#define EGRESS_WEBHOOK_H

#include "egress/resolve/forward.h"
#include "io/workers.h"

enum { WEBHOOK_QUEUE = 256, WEBHOOK_ATTEMPTS = 4, WEBHOOK_MS = 5000 };

struct firewall;
struct webhook {
    struct loop *loop;
    struct forwarder *forwarder;
    struct firewall *firewall;
    struct workers *workers; // NULL: no webhook
    char host[256], authority[280];
    const char *target, *sandbox_id;
    unsigned port;
    struct net address; // size 0: not known yet
    struct flight flight;
    bool literal, resolving, sending;
    struct timer retry;
    struct list queue;
    unsigned count;
    uint64_t sent, dropped, failed;
};
// url "" is no webhook.
int webhook_start(struct webhook *w, struct loop *l, struct forwarder *fw, struct firewall *f,
                  const char *url, const char *sandbox_id, struct error *err);
void webhook_stop(struct webhook *w);
void webhook_send(struct webhook *w, const char *name);

#endif
