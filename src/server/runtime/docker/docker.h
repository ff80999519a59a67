// The runtime on a container engine: Docker Engine or Podman over their REST API. Contract:
// docker-runtime.md.
//
// On the engine a sandbox is a container "sandbox-<id>" whose labels name sandbox and server, and
// the volumes with the same labels. Create, start and inspect are the only calls of a warm create;
// reads make none: what is known of a sandbox comes from the engine's event stream. execd is in a
// read-only volume per version, never copied into a sandbox.
#ifndef SERVER_RUNTIME_DOCKER_DOCKER_H
#define SERVER_RUNTIME_DOCKER_DOCKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "server/runtime/docker/engine.h"
#include "server/runtime/runtime.h"

enum docker_publish { DOCKER_PUBLISH_AUTO, DOCKER_PUBLISH_ALWAYS, DOCKER_PUBLISH_NEVER };
enum docker_limits { DOCKER_LIMITS_ENFORCE, DOCKER_LIMITS_BEST_EFFORT };

typedef const char *const *docker_list; // NULL-terminated; NULL is the empty list

// Copied by docker_new(), strings and lists borrowed: they must outlive the runtime. 0 and NULL
// mean the default in brackets.
struct docker_settings {
    struct engine_settings engine; // from the environment: docker_engine_of_environment()
    const char *instance;          // store_instance(): 8 lower-case hex digits
    const char *execd_path;        // the static binary that is put into a volume of the engine
    const char *execd_image;       // NULL: none; else an image with it (and /bootstrap.sh) instead;
                                   // /install.bat and /execd.exe of it start Windows guests
    const char *network_mode;    // NULL: our own bridge "opensandbox"; else "bridge", "host", or a
                                 // network's name
    enum docker_publish publish; // of execd's port on the engine's host
    const char *publish_host;    // [127.0.0.1 on a socket, else 0.0.0.0]
    docker_list drop_capabilities;
    bool no_new_privileges;
    const char *apparmor_profile; // NULL: the engine's own
    const char *seccomp_profile;  // NULL: the engine's own; "unconfined", "builtin", or a file that
                                  // the engine gets inline
    const char *secure_runtime;   // NULL: the engine's default runtime; else its name, e.g. "runsc"
    docker_list sandbox_env;      // "NAME=value" for every sandbox
    docker_list sandbox_binds;    // "source:target[:options]" for every sandbox
    docker_list allowed_host_paths;
    const char *egress_image; // of the sidecar that keeps network policies; NULL: none is kept
    docker_list egress_dns;   // servers it asks, "ip" or "ip:port"; empty: those of this host
    bool egress_names_only;   // mode dns: addresses stay open
    bool egress_disable_ipv6; // no IPv6 in sandboxes with a policy
    int64_t egress_ready_ms;  // [30000] from its create until the policy is in force
    const char *ossfs_root;   // [/mnt/ossfs] where buckets are mounted
    enum docker_limits limits;
    uint64_t default_pids;    // [4096] when the spec names none
    int64_t start_timeout_ms; // [30000] from the start of the container to execd's first answer
};

// NULL with err for settings that cannot be used. Asks nothing of the engine; start() does.
struct runtime *docker_new(const struct docker_settings *s, struct error *err);
// DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH. Start-up.
struct engine_settings docker_engine_of_environment(int64_t stall_ms);

#endif
