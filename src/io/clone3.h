// A switch for hosts that answer clone3(2) with anything but ENOSYS when they do not let it through
// (seccomp profiles that are older than it say EPERM): C libraries fall back to clone(2) on ENOSYS
// alone. Nothing of ours needs it (io/spawn.h calls clone, the C library's threads fall back).
#ifndef IO_CLONE3_H
#define IO_CLONE3_H

#include "base/error.h"

// From now on clone3() fails with ENOSYS in every thread of this process
// (SECCOMP_FILTER_FLAG_TSYNC) and in all its children, which lose set-user-ID programs with it
// (no_new_privs). Cannot be taken back. x86_64 and aarch64; ENOTSUP elsewhere. Any thread.
int clone3_refuse(struct error *err);

#endif
