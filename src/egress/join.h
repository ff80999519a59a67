// Where a server without containers starts us: in the namespaces of a sandbox, as a user that may
// do nothing but keep its packet filter. Before anything else, in the one thread there is.
#ifndef EGRESS_JOIN_H
#define EGRESS_JOIN_H

#include "base/error.h"

// No file that we write grows beyond this: the log, the kept policy.
enum { JOIN_FILE_MAX = 8 << 20 };

// OPENSANDBOX_EGRESS_NAMESPACES = "NET:UID" or "NET,USER:UID": descriptors of the network namespace
// and of the user namespace that owns it, and whom to become there; CAP_NET_ADMIN alone is kept,
// for us and what we execute, for ever. NET becomes the socket to the packet filter (its number
// should follow the API's), USER is closed, the variable goes. Without it nothing happens.
// -1: the message names the step.
int join_namespaces(struct error *err);

#endif
