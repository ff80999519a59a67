// `opensandbox-server adopt`: takes over the sandboxes and snapshots of a reference server (Python)
// that used the same engine. Works on the store of the configuration, so no server of ours may run
// on it; the next start goes on with what was taken over. Prints to stdout, failures to stderr.
#ifndef SERVER_ADOPT_ADOPT_H
#define SERVER_ADOPT_ADOPT_H

#include "server/config.h"
#include "server/runtime/docker/engine.h"

// argv[0] is "adopt". Returns the exit code: 0; 1 something could not be taken over; 2 usage; 3 no
// engine or store. Main thread.
int adopt_cli(const struct config *c, const struct engine_settings *engine, int argc,
              char *const *argv);

#endif
