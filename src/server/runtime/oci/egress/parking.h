// A few namespaces in which an egress is parked already: its rules, which take most of its start,
// are loaded. Filled from the first create with a network policy on, between creates. Private to
// runtime/oci.
#ifndef SERVER_RUNTIME_OCI_EGRESS_PARKING_H
#define SERVER_RUNTIME_OCI_EGRESS_PARKING_H

#include "server/runtime/oci/egress/egress.h"
#include "server/runtime/oci/net/network.h"

enum { PARKING_MAX = 4 };

struct parked {
    char name[SANDBOX_ID_SIZE]; // its directory below sandboxes/, its control group; "": none
    int dir, pidfd;
    struct network_entry net;
};

struct parking;
// program is borrowed, and may be filled in until the first parking_take(). sandboxes: the
// directory.
struct parking *parking_new(const struct egress_program *program, int sandboxes, struct error *err);
// The one whose namespaces are used from now on.
void parking_use(struct parking *s, struct network *n);
void parking_free(struct parking *s); // NULL is fine. Before the network goes
// One that lives, out of the stock; false: there is none, and some are made when it is quiet.
bool parking_take(struct parking *s, struct parked *ret);
// Around each create, as network_busy().
void parking_busy(struct parking *s, enum network_load load);
// One that was taken and settled: what is left of its place goes.
void parking_leave(struct parking *s, struct parked *p);
// Ends one that was taken and did not become a sandbox's; what is -1 or moved already stays. It has
// no name then.
void parking_discard(struct parking *s, struct parked *p);

#endif
