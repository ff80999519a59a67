// Sockets of another network namespace, for runtimes whose sandboxes have one on this host. Any
// worker thread; microseconds.
#ifndef SERVER_RUNTIME_INSIDE_H
#define SERVER_RUNTIME_INSIDE_H

#include "base/error.h"

// A non-blocking TCP socket over IPv4 that belongs to the namespace `net` (a descriptor, borrowed).
// The descriptor, or -1 with err. The thread steps in and out; when it cannot step out again the
// process aborts: a worker in a stranger's network would be worse than no server.
int inside_socket(int net, struct error *err);

#endif
