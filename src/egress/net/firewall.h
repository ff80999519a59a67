// The packet filter of the sandbox (egress-ruleset.nft, our own design): skeleton by nft(8) at the
// start, everything that changes by nfnetlink. Nothing here ever opens: rules outlive the program,
// and are replaced in one transaction. Loop thread; firewall_load() blocks for some 20 ms.
#ifndef EGRESS_NET_FIREWALL_H
#define EGRESS_NET_FIREWALL_H

#include "base/strbuf.h"
#include "egress/index.h"
#include "egress/resolve/forward.h"
#include "io/nftables.h"

#define FIREWALL_TABLE  "opensandbox"
#define FIREWALL_NETDEV "osb"
enum { FIREWALL_BATCH_MAX = 4 << 20, FIREWALL_RULES_MAX = 256 * 1024 };

struct options;

struct firewall {
    struct nftables nft;
    bool open;            // the socket is
    bool netdev;          // the hook below everything is there
    uint32_t mark, stamp; // of our own packets, of admitted ones; random
    uint32_t generation;  // of the policy, in conntrack marks
    struct net own;       // size 0: none
    unsigned own_port;
    bool fresh;             // loaded and not yet filled
    uint32_t seen, counted; // number of the ruleset's last change, and our commits then
    uint64_t fingerprint;
    uint64_t loads, batches, failures;
};

// Draws the marks and opens the socket, or takes the one that was handed to us.
int firewall_init(struct firewall *f, const struct options *o, struct error *err);
void firewall_clear(struct firewall *f);
enum firewall_parts { FIREWALL_LOG = 1, FIREWALL_LINKS = 2 }; // that old kernels lack
void firewall_rules(const struct firewall *f, const struct options *o, unsigned parts,
                    struct strbuf *sb);
// Replaces whatever is there by a closed skeleton.
int firewall_load(struct firewall *f, const struct options *o, struct error *err);
// Whether nobody but us has changed the ruleset since it was last written as a whole.
bool firewall_is_as_written(struct firewall *f);
// A transaction over all that depends on the policy: starts it; the caller may add more, then
// firewall_commit(). The generation changes, so live flows are judged again. Of the sets of rules
// only the difference to `old` is sent; NULL: they are written as a whole.
void firewall_enforce(struct firewall *f, const struct options *o, const struct index *ix,
                      const struct index *old, const struct upstream *upstreams, unsigned count);
int firewall_commit(struct firewall *f, struct error *err);
// One endpoint more that our own marked packets reach (the webhook's): from the next
// firewall_enforce() on, or by a transaction of its own.
void firewall_admit_own(struct firewall *f, const struct net *address, unsigned port);
int firewall_add_own(struct firewall *f); // 0 or -errno
// Whether what was loaded is what is there now, asked of the kernel.
bool firewall_is_intact(struct firewall *f);

#endif
