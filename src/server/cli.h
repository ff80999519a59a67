// The command line of opensandbox-server (lifecycle-api.md section 15). Exit codes: 0 done; 1 bad
// configuration, refused start, port in use, failed check; 2 bad arguments; 3 the runtime or the
// store could not be started. Main thread.
#ifndef SERVER_CLI_H
#define SERVER_CLI_H

#include <sys/types.h>

#include "base/error.h"
#include "server/config.h"
#include "server/doctor.h"

enum exit_code { EXIT_DONE = 0, EXIT_CONFIG = 1, EXIT_USAGE = 2, EXIT_START = 3 };

// What the command line may ask for and only main.c can do, because it names a concrete runtime.
struct cli_commands {
    int (*serve)(const struct config *c);
    int (*image)(const struct config *c, int argc, char **argv); // argv[0] is "image"
    int (*adopt)(const struct config *c, int argc, char **argv); // argv[0] is "adopt"
    doctor_ask_fn *ask_engine;
};
int cli_run(int argc, char **argv, const struct cli_commands *commands);

// Refuses a start without an API key, unless the address is loopback, OPENSANDBOX_INSECURE_SERVER
// is exactly "YES", or somebody at the terminal types YES within 30 s (section 2.3 and
// architecture.md: consent).
int cli_guard(const struct config *c, struct error *err);

// The execd to put into sandboxes: runtime.execd_path, else beside the program:
// ../libexec/opensandbox/execd, ./execd, or the build tree's ../execd/execd. path has PATH_MAX
// bytes.
int cli_find_execd(const struct config *c, char *path, struct error *err);
// The program that keeps network policies on oci, in the same way: egress.path. Without it the
// server runs, and refuses networkPolicy.
int cli_find_egress(const struct config *c, char *path, struct error *err);

// Makes the directories above `path`, as mkdir -p does. -1: errno.
int cli_make_parents(const char *path, mode_t mode);

#endif
