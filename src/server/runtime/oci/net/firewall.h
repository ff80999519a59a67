// The rules of one server (oci-runtime.md 4.3): a table of its own, found by links whose names
// begin with the instance's prefix. Spoofed sources, host services, other sandboxes, link-local and
// metadata addresses are closed; the rest of the world is reached through NAT. What fetches images
// for strangers is kept from everything that is not public. Loaded in one
// transaction, so there is no moment without rules. Blocking: start-up.
#ifndef SERVER_RUNTIME_OCI_NET_FIREWALL_H
#define SERVER_RUNTIME_OCI_NET_FIREWALL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "server/runtime/oci/oci.h"

enum { LINK_PREFIX_SIZE = 9 };

struct firewall {
    const char *instance;
    char prefix[LINK_PREFIX_SIZE]; // of link names
    const char *pool;
    oci_list deny;
    const char *resolvers; // "a, b": reachable on port 53 even inside denied ranges; "" none
    uint32_t fetch_id;     // user of this host who reaches public addresses only (and resolvers)
};

void firewall_rules(const struct firewall *f, struct strbuf *sb); // the text for nft
int firewall_load(const struct firewall *f, struct error *err);
bool firewall_intact(const struct firewall *f); // all chains are there with their rules
void firewall_unload(const struct firewall *f); // the whole table; a missing one is fine
// Base chains of others that drop what they do not know on the forward hook. With `repair` two
// plain accepts are put into each (into DOCKER-USER where there is one); otherwise, or where that
// fails, *report tells the commands.
int firewall_foreign(const struct firewall *f, bool repair, struct strbuf *report,
                     struct error *err);

#endif
