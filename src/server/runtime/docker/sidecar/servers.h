// Which DNS servers a sidecar asks. In a network that is not the engine's default one, resolv.conf
// names the engine's own resolver, which asks on from inside of the sandbox's network: it would be
// filtered itself. Workers.
#ifndef SERVER_RUNTIME_DOCKER_SERVERS_H
#define SERVER_RUNTIME_DOCKER_SERVERS_H

#include "server/runtime/docker/internal.h"

enum { SERVERS_TEXT_MAX = 1024 };

// egress.dns_upstream; else those of this host, when the engine is on it; else "": resolv.conf of
// the container.
void servers_of(const struct docker *d, char text[SERVERS_TEXT_MAX]);

#endif
