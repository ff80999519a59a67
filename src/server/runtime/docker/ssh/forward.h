// Ports on the loopback of an engine's host, through ssh: one ssh in the background carries every
// connection, and each port becomes a unix socket in a directory that only our user may enter
// (ssh(1): -M, -O forward, -L local_socket:host:hostport). A port is forwarded when it is first
// dialled, and again when that ssh has ended; so a restart needs nothing to be remembered.
#ifndef SERVER_RUNTIME_DOCKER_SSH_FORWARD_H
#define SERVER_RUNTIME_DOCKER_SSH_FORWARD_H

#include "base/error.h"

struct ssh_forwards;
// ssh: argv up to the remote command, NULL-terminated; host: the loopback address that ports are
// published on there; both borrowed. name: the directory's, one of a running server alone; what a
// killed one left there is taken over. Starts nothing yet.
struct ssh_forwards *ssh_forwards_new(char *const *ssh, const char *host, const char *name,
                                      struct error *err);
void ssh_forwards_free(struct ssh_forwards *f); // ends ssh and its connections; NULL is fine

// A connected, non-blocking socket. Whether anything listens there shows when it is used. Workers,
// any number at once; the first one waits for ssh, at most 15 s, the others for it. EHOSTUNREACH:
// ssh failed (why is in the log), and is not tried again within a second.
int ssh_forward_dial(struct ssh_forwards *f, unsigned port, int *ret_fd, struct error *err);
// The port is nobody's any more. Workers.
void ssh_forward_drop(struct ssh_forwards *f, unsigned port);

#endif
