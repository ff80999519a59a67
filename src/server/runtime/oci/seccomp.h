// The system call filter of sandboxes: an allow-list of our own, compiled once per start with
// libseccomp. Everything that is not listed answers ENOSYS. Beside the usual rules of containers it
// refuses what opens kernel surface to an unprivileged user: new namespaces, mounts, keyrings, bpf,
// perf, userfaultfd, io_uring, ptrace-free memory access of others stays as the capabilities allow.
// Differences to the distribution's profile are listed with reasons in test_seccomp.c. Source:
// oci-runtime.md 2.3 and 0.9. Any thread.
#ifndef SERVER_RUNTIME_OCI_SECCOMP_H
#define SERVER_RUNTIME_OCI_SECCOMP_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "server/runtime/oci/oci.h"

// The BPF program as base64, for crun's annotation run.oci.seccomp_bpf_data; malloc'd, NULL with
// err.
char *seccomp_compile(enum oci_seccomp mode, oci_list arches, struct error *err);
// The same profile as the `linux.seccomp` object of config.json (runc; a crun that does not know
// the annotation).
json_t *seccomp_section(enum oci_seccomp mode, oci_list arches, struct error *err);

// For the test: what the profile answers to a call without regard to arguments.
enum seccomp_answer { SECCOMP_ALLOWED, SECCOMP_CONDITIONAL, SECCOMP_REFUSED };
enum seccomp_answer seccomp_answer_for(enum oci_seccomp mode, const char *name);

#endif
