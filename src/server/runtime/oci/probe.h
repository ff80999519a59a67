// What the host must have, and what a sandbox must be. Every failure names its remedy. Blocking:
// start-up and workers.
#ifndef SERVER_RUNTIME_OCI_PROBE_H
#define SERVER_RUNTIME_OCI_PROBE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "server/runtime/oci/oci.h"

enum { PROBE_PATH_SIZE = 256 };

// Finds crun (or what the settings name), skopeo, umoci, nft and execd; all missing ones are named
// in one message. ret_runtime: absolute path; ret_runc: it is runc.
int probe_programs(const struct oci_settings *s, char ret_runtime[PROBE_PATH_SIZE], bool *ret_runc,
                   struct error *err);
// Kernel features and privileges without which nothing works: mount namespaces, overlay, open_tree,
// capabilities.
int probe_kernel(struct error *err);
// A running first process: seccomp filter, no_new_privs, capabilities within ours, user. Called for
// every sandbox.
int probe_process(pid_t pid, uint32_t uid, bool root, struct error *err);

// The verdict of the probe sandbox is kept under a key that changes with everything it depends on.
void probe_key(const char *runtime, const char *profile_hash, const char *layout,
               bool user_namespaces, char *text, size_t size);
bool probe_remembered(int dir, const char *key);
void probe_remember(int dir, const char *key); // failing to write costs a probe at the next start

#endif
