// config.json of a sandbox (OCI runtime specification 1.0.2), hardened as in oci-runtime.md 2. What
// all sandboxes share is built once; ids are JSON integers always, because crun runs a string as
// uid 0 (2.4).
#ifndef SERVER_RUNTIME_OCI_BUNDLE_H
#define SERVER_RUNTIME_OCI_BUNDLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "server/runtime/oci/volume/volume.h"

enum { BUNDLE_GROUPS_MAX = 64, BUNDLE_MAX = 512 * 1024 };
#define BUNDLE_EXECD "/opt/opensandbox/bin/execd"

struct bundle_shared {
    const char *instance, *root_path, *execd_path;
    bool runc;       // keeps seccomp as JSON and the mappings beside the namespace's path
    bool swap_limit; // cgroups.swap_limit
    uint32_t id_base;
    enum oci_seccomp seccomp;
    oci_list seccomp_arches;
};

struct bundle_template;
struct bundle_template *bundle_template_new(const struct bundle_shared *s, struct error *err);
void bundle_template_free(struct bundle_template *t);              // NULL is fine
const char *bundle_template_hash(const struct bundle_template *t); // hex, of all that is shared

struct bundle {
    const char *id, *cgroup_path;     // "/opensandbox-<instance>/<id>"
    const char *net_path, *user_path; // /proc/<pid>/fd/<n>; user_path NULL: no user namespace
    const char *volume_dir;           // where the launcher puts volume N: <dir>/<N>
    const struct volumes *volumes;
    uid_t uid;
    gid_t gid;
    const gid_t *groups;
    unsigned group_count;
    uint64_t cpu_millis, memory_bytes, pids, shm_bytes, nofile_hard; // 0: no limit (cpu, memory)
};

// Appends the text. Any thread, the template is only read.
int bundle_write(const struct bundle_template *t, const struct bundle *b, struct strbuf *sb,
                 struct error *err);

#endif
