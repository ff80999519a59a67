// Started before anybody needs it (a server's stock): the rules are loaded and closed, the rest
// waits for the first connection to the API, and then for what the owner wants. Before the loop
// runs.
#ifndef EGRESS_PARK_H
#define EGRESS_PARK_H

#include "base/error.h"

enum { PARK_FILE_MAX = 1 << 20 };

// OPENSANDBOX_EGRESS_SETTINGS names a file with more of the environment: a JSON object of texts. 1:
// it was read; 0: there is no such file yet, so the caller parks; also 1 without the variable.
int park_settings(struct error *err);
// Blocks until somebody connects to the listening socket. TERM ends the process.
int park_wait(int listen_fd, struct error *err);

#endif
