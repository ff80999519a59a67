#include "io/clone3.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#if defined(__x86_64__)
#define OWN_ARCH   AUDIT_ARCH_X86_64
#define OTHER_ARCH AUDIT_ARCH_I386 // what the same kernel runs beside it
#elif defined(__aarch64__)
#define OWN_ARCH   AUDIT_ARCH_AARCH64
#define OTHER_ARCH AUDIT_ARCH_ARM
#endif

#ifdef OWN_ARCH
enum { CLONE3 = 435, X32_BIT = 0x40000000 }; // the same number on all of them
_Static_assert(SYS_clone3 == CLONE3, "number of clone3");

static int install(struct error *err) {
    static struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCH, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OTHER_ARCH, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~(unsigned)X32_BIT),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLONE3, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
    };
    struct sock_fprog filter = {.len = ARRAY_SIZE(program), .filter = program};
    long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
    if (r > 0) // a thread that has a filter of its own
        return error_set(err, EBUSY, "seccomp: thread %ld cannot take the filter", r);
    return r < 0 ? error_errno(err, errno, "seccomp") : 0;
}
#else
static int install(struct error *err) {
    return error_set(err, ENOTSUP, "clone3 can be refused on x86_64 and aarch64 only");
}
#endif

int clone3_refuse(struct error *err) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "no_new_privs");
    return install(err);
}
