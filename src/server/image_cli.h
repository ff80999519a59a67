// `opensandbox-server image pull|import|list|rm`: works on the store of the configuration, with or
// without a running server. Prints to stdout, failures and progress to stderr.
#ifndef SERVER_IMAGE_CLI_H
#define SERVER_IMAGE_CLI_H

#include "server/runtime/oci/oci.h"

// argv[0] is the verb. Only state_dir and the image settings are used. Returns the exit code: 0, 1
// failed, 2 usage.
int image_cli(const struct oci_settings *s, int argc, char *const *argv);
void image_cli_usage(void); // the lines for --help

#endif
