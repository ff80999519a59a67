// Firewall rules for the bridge of our network, where that is on this host: sandboxes reach neither
// each other, nor this host, nor link-local addresses. One table per bridge; it stays when the
// server ends, as the sandboxes do. Somebody who removes it meanwhile sees it come back.
#ifndef SERVER_RUNTIME_DOCKER_BRIDGE_RULES_H
#define SERVER_RUNTIME_DOCKER_BRIDGE_RULES_H

#include "base/error.h"

#define BRIDGE_PREFIX "osb-"

struct bridge_rules;
// Loads the rules and watches them. bridge: BRIDGE_PREFIX and 8 digits. Start-up.
struct bridge_rules *bridge_rules_new(const char *bridge, struct error *err);
void bridge_rules_free(struct bridge_rules *r); // the rules stay; NULL is fine

#endif
