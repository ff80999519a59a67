// Watches the firewall rules of this host from a thread of its own, so that somebody who removes
// ours (`nft flush ruleset`, a firewall's restart) is seen at once (oci-runtime.md 4.4).
#ifndef SERVER_RUNTIME_RULES_H
#define SERVER_RUNTIME_RULES_H

#include <stdbool.h>

#include "base/error.h"

struct rule_watch;
// changed(): whenever somebody changed rules, also we; a burst is one call. Not between them:
// after period_ms without any, with period = true; 0: never. Both on the thread. Start-up.
struct rule_watch *rule_watch_new(int period_ms, void (*changed)(bool period, void *arg), void *arg,
                                  struct error *err);
void rule_watch_free(struct rule_watch *w); // waits for the thread; NULL is fine

#endif
