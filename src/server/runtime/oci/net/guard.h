// Watches the rules from a thread: when somebody removes ours (`nft flush ruleset`, a firewall's
// restart) they are loaded again at once, and once a minute other firewalls are looked at
// (oci-runtime.md 4.3, 4.4).
#ifndef SERVER_RUNTIME_OCI_NET_GUARD_H
#define SERVER_RUNTIME_OCI_NET_GUARD_H

#include <stdbool.h>

#include "base/error.h"
#include "server/runtime/oci/net/firewall.h"

struct guard;
// The rules are loaded already. `f` is borrowed. Looks at other firewalls before it returns;
// repair: opens them.
struct guard *guard_new(const struct firewall *f, bool repair, struct error *err);
void guard_free(struct guard *g); // NULL is fine; the rules stay

#endif
