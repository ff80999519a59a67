// The built-in runtime: sandboxes made by crun (or runc) with no daemon. Contract and evidence:
// oci-runtime.md.
//
// Outside the process a sandbox is: a directory sandboxes/<id> of the state directory, cgroups
// <prefix>-<instance>/<id>, an entry in the OCI runtime's own state, a link whose alias names
// instance and id, an address in a set of our nft table. Nothing of it is in the server's mount
// table and nothing needs the server to live: sandboxes outlast it.
#ifndef SERVER_RUNTIME_OCI_OCI_H
#define SERVER_RUNTIME_OCI_OCI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "server/runtime/runtime.h"

enum oci_user_namespace { OCI_USERNS_AUTO, OCI_USERNS_NEVER, OCI_USERNS_REQUIRE };
enum oci_seccomp {
    OCI_SECCOMP_DEFAULT,   // our allow-list (seccomp.h)
    OCI_SECCOMP_CONTAINERS // plus namespaces and mounts inside, for users who nest containers
};

// Offset to id_base of the host id with which images are fetched from registries that are not
// listed; the firewall keeps it from addresses that are not public.
enum { OCI_FETCH_ID = 65533 };

// A list of strings, NULL-terminated; NULL is the empty list.
typedef const char *const *oci_list;

// Copied by oci_new(), strings and lists borrowed: they must outlive the runtime. 0 and NULL mean
// the default in brackets.
struct oci_settings {
    const char *state_dir; // runtime.state_dir; everything below <state_dir>/oci is ours
    const char *
        run_dir; // ["/run/opensandbox"]: what need not survive a boot; <run_dir>/<instance> is ours
    const char *instance;    // store_instance(): 8 lower-case hex digits
    const char *execd_path;  // the static binary, mounted into every sandbox
    const char *egress_path; // the program that keeps network policies; "" or NULL: none
    bool egress_names_only;  // mode dns: addresses stay open
    int64_t egress_ready_ms; // [30000] from its start until the policy is in force
    const char *runtime; // ["auto"]: crun, else runc; or "crun", "runc", or an absolute path ending
                         // in one of them
    enum oci_user_namespace user_namespace;
    uint32_t id_base; // [1048576] first host id of the sandboxes' range of 65,536 ids
    enum oci_seccomp seccomp;
    oci_list
        seccomp_arches; // further architectures by libseccomp name ("x86"), beside the native one

    const char *cgroup_root;   // ["/sys/fs/cgroup"]
    const char *cgroup_prefix; // ["opensandbox"]

    // network
    const char *pool; // ["10.200.0.0/16"] addresses of sandboxes; the first one is the gateway
    oci_list dns;     // resolvers for sandboxes when the host's cannot be used
    oci_list deny;    // further CIDRs that sandboxes cannot reach
    bool manage_foreign_firewall; // repair forward policies of others (oci-runtime.md 4.4)
    unsigned stock;               // [16] ready network namespaces

    // defaults and limits of a sandbox
    uint64_t default_pids; // [4096] when the spec names none
    uint64_t shm_bytes;    // [64 MiB], and never more than half of the memory limit
    int64_t
        start_timeout_ms;   // [30000] from the start of the runtime program to execd's first answer
    unsigned sandboxes_max; // 0: what the pool allows
    oci_list
        allowed_host_paths; // volumes: host directories and what lies below; none: no host volumes

    // images
    oci_list
        registries; // registries on private, loopback and link-local addresses that may be asked
    oci_list insecure_registries;   // "host:port" reached over plain HTTP
    const char *registry_ca_dir;    // NULL: none. Directory with *.crt for private authorities
    uint64_t image_max_bytes;       // [20 GiB] unpacked
    uint64_t image_max_entries;     // [2,000,000]
    uint64_t image_store_max_bytes; // 0: no limit
    unsigned image_max_age_days;    // 0: kept for ever
    int64_t pull_timeout_ms;        // [600000]
};

// NULL with err for settings that cannot be used (a bad CIDR, a relative directory). Touches
// nothing; start() does.
struct runtime *oci_new(const struct oci_settings *s, struct error *err);

#endif
