// Watches the egress of every sandbox and starts it again when it ends, after a while that doubles;
// meanwhile the rules in the namespace keep the sandbox closed. One thread. Any thread may call.
// Private to runtime/oci.
#ifndef SERVER_RUNTIME_OCI_EGRESS_KEEPER_H
#define SERVER_RUNTIME_OCI_EGRESS_KEEPER_H

#include "server/runtime/oci/egress/egress.h"

enum { KEEPER_FIRST_MS = 100, KEEPER_LAST_MS = 30000, KEEPER_STABLE_MS = 60000 };

struct keeper;
// program is borrowed, and may still be filled in until the first keeper_add().
struct keeper *keeper_new(const struct egress_program *program, struct error *err);
void keeper_free(struct keeper *k); // NULL is fine. Those it watched run on
// Takes pidfd on success; -1: it has ended already, and is started after a while. Duplicates the
// others.
int keeper_add(struct keeper *k, const char *id, int dir, int net_fd, int pidfd, struct error *err);
// Forgets it; from here on nobody starts it again. Its pidfd becomes the caller's; -1: none lives.
int keeper_remove(struct keeper *k, const char *id);

#endif
