// Connections to an engine through ssh: libcurl connects to a socket that only this process may
// use, and each connection becomes the standard input and output of an ssh of its own.
#ifndef SERVER_RUNTIME_DOCKER_SSH_TUNNEL_H
#define SERVER_RUNTIME_DOCKER_SSH_TUNNEL_H

#include "base/error.h"

struct engine_tunnel;
// argv is borrowed; "ssh" is searched in PATH. One thread.
struct engine_tunnel *engine_tunnel_new(char *const *argv, struct error *err);
void engine_tunnel_free(struct engine_tunnel *t);              // ends what still runs; NULL is fine
const char *engine_tunnel_name(const struct engine_tunnel *t); // path of its socket

#endif
