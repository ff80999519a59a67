// The profile beside the distribution's, and in force on a child.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "fmt/json.h"
#include "server/runtime/oci/seccomp.h"

#define DISTRIBUTION "/usr/share/containers/seccomp.json" // package golang-github-containers-common

// What the distribution allows without a capability and we do not, each with its reason.
static const struct {
    const char *name, *reason;
} stricter[] = {
    {"clone", "conditional: no new namespaces"},
    {"clone3", "its flags are behind a pointer: ENOSYS, C libraries fall back to clone"},
    {"unshare", "no new namespaces: each opens kernel surface to an unprivileged user"},
    {"setns", "no new namespaces"},
    {"mount", "no mounts inside; the capability is missing anyway, a user namespace would give it"},
    {"umount", "as mount"},
    {"umount2", "as mount"},
    {"mount_setattr", "as mount"},
    {"move_mount", "as mount"},
    {"open_tree", "as mount"},
    {"fsopen", "as mount"},
    {"fsconfig", "as mount"},
    {"fsmount", "as mount"},
    {"fspick", "as mount"},
    {"pivot_root", "as mount"},
    {"keyctl", "keyrings are not namespaced by user; add_key and request_key are refused too"},
    {"fanotify_mark", "useless without fanotify_init"},
    {"reboot", "of the PID namespace: nothing in a sandbox needs it"},
    {"syslog", "the kernel's messages are the host's"},
    {"socket", "conditional: unix, inet, inet6 and four netlink protocols"},
    {"socketcall", "hides the family behind a pointer; i386 has direct calls"},
    {"syscall", "indirect calls cannot be judged"},
};
// What we allow and it does not name: newer than its list.
static const struct {
    const char *name, *reason;
} wider[] = {{"futex_waitv", "futexes of Linux 5.16"},
             {"futex_wait", "futexes of Linux 6.7"},
             {"futex_wake", "futexes of Linux 6.7"},
             {"futex_requeue", "futexes of Linux 6.7"},
             {"fchmodat2", "fchmodat of Linux 6.6"},
             {"cachestat", "reads the page cache of open files, Linux 6.5"},
             {"mseal", "only takes rights away"},
             {"map_shadow_stack", "shadow stacks of the process itself"},
             {"set_mempolicy_home_node", "as set_mempolicy"}};

static bool listed_stricter(const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(stricter); i++)
        if (!strcmp(stricter[i].name, name))
            return true;
    return false;
}

// Names that the distribution allows to everybody on this machine (chroot comes with a capability
// that we give).
static json_t *distribution(void) {
    json_error_t error;
    cleanup_json json_t *whole = json_load_file(DISTRIBUTION, 0, &error);
    if (!whole)
        fail_msg("%s: %s (make deps-test installs it)", DISTRIBUTION, error.text);
    json_t *names = json_object(), *rule, *name;
    size_t i, k;
    json_array_foreach(json_object_get(whole, "syscalls"), i, rule) {
        const json_t *in = json_object_get(rule, "includes"), *caps = json_object_get(in, "caps");
        bool ours = !json_array_size(caps) ||
                    !strcmp(json_string_value(json_array_get(caps, 0)), "CAP_SYS_CHROOT");
        if (strcmp(json_string_value(json_object_get(rule, "action")), "SCMP_ACT_ALLOW") != 0 ||
            !ours || json_array_size(json_object_get(in, "arches")))
            continue;
        json_array_foreach(json_object_get(rule, "names"), k, name)
            json_object_set_new(names, json_string_value(name), json_true());
    }
    return names;
}

static void differences_to_the_distribution_are_explained(void **state) {
    (void)state;
    cleanup_json json_t *theirs = distribution();
    const char *name;
    json_t *v;
    assert_true(json_object_size(theirs) > 300);
    json_object_foreach(theirs, name, v) {
        enum seccomp_answer a = seccomp_answer_for(OCI_SECCOMP_DEFAULT, name);
        if (a != SECCOMP_ALLOWED && !listed_stricter(name) && strcmp(name, "personality") != 0)
            fail_msg("%s: allowed by the distribution, not by us, and no reason is given", name);
        if (a == SECCOMP_ALLOWED && listed_stricter(name))
            fail_msg("%s: listed as stricter, but allowed", name);
    }
    for (size_t i = 0; i < ARRAY_SIZE(wider); i++) {
        assert_int_equal(seccomp_answer_for(OCI_SECCOMP_DEFAULT, wider[i].name), SECCOMP_ALLOWED);
        assert_null(json_object_get(theirs, wider[i].name));
        assert_true(*wider[i].reason);
    }
}

// The other direction: nothing is allowed by us beyond theirs but what `wider` names (and what is
// one architecture's own).
static void nothing_else_is_wider(void **state) {
    static const char *const one_architecture[] = {"arch_prctl", "sync_file_range2", "set_tls",
                                                   "cacheflush", "breakpoint"};
    struct error err;
    (void)state;
    cleanup_json json_t *theirs = distribution();
    cleanup_json json_t *section = seccomp_section(OCI_SECCOMP_DEFAULT, NULL, &err);
    assert_non_null(section);
    json_t *rule, *name;
    size_t i, k;
    json_array_foreach(json_object_get(section, "syscalls"), i, rule) {
        if (strcmp(json_string_value(json_object_get(rule, "action")), "SCMP_ACT_ALLOW") != 0)
            continue;
        json_array_foreach(json_object_get(rule, "names"), k, name) {
            const char *n = json_string_value(name);
            bool known = json_object_get(theirs, n) != NULL;
            for (size_t w = 0; w < ARRAY_SIZE(wider); w++)
                known |= !strcmp(wider[w].name, n);
            for (size_t w = 0; w < ARRAY_SIZE(one_architecture); w++)
                known |= !strcmp(one_architecture[w], n);
            if (!known)
                fail_msg("%s: allowed by us, not by the distribution, and no reason is given", n);
        }
    }
}

static void no_name_stands_twice(void **state) {
    struct error err;
    (void)state;
    cleanup_json json_t *section = seccomp_section(OCI_SECCOMP_CONTAINERS, NULL, &err),
                        *seen = json_object();
    json_t *rule, *name;
    size_t i, k;
    json_array_foreach(json_object_get(section, "syscalls"), i, rule) {
        if (json_object_get(rule, "args"))
            continue;
        json_array_foreach(json_object_get(rule, "names"), k, name) {
            if (json_object_get(seen, json_string_value(name)))
                fail_msg("%s stands twice", json_string_value(name));
            json_object_set_new(seen, json_string_value(name), json_true());
        }
    }
    json_decref(seen);
    seen = NULL;
}

// ---- in force ----

static long fork_with(unsigned long flags) {
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (!pid)
        _exit(0);
    if (pid > 0)
        (void)waitpid((pid_t)pid, NULL, 0);
    return pid;
}

#define REFUSES(number, call)                                                                      \
    if ((call) >= 0 || errno != (number))                                                          \
    return __LINE__
#define ALLOWS(call)                                                                               \
    if ((call) < 0)                                                                                \
    return __LINE__

static int try_calls(void) {
    REFUSES(EPERM, unshare(CLONE_NEWUSER));
    REFUSES(EPERM, fork_with(CLONE_NEWUSER));
    REFUSES(EPERM, fork_with(CLONE_NEWNET));
    REFUSES(EPERM, fork_with(CLONE_NEWNS | CLONE_NEWUSER));
    REFUSES(ENOSYS, syscall(SYS_clone3, NULL, 0));
    REFUSES(EPERM, mount("none", "/tmp", "tmpfs", 0, ""));
    REFUSES(EPERM, syscall(SYS_keyctl, 0, -1, 0));
    REFUSES(EPERM, syscall(SYS_bpf, 0, NULL, 0));
    REFUSES(EPERM, syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
    REFUSES(EPERM, syscall(SYS_userfaultfd, 0));
    REFUSES(ENOSYS, syscall(425 /* io_uring_setup */, 1, NULL));
    REFUSES(EAFNOSUPPORT, socket(AF_VSOCK, SOCK_STREAM, 0));
    REFUSES(EAFNOSUPPORT, socket(AF_ALG, SOCK_SEQPACKET, 0));
    REFUSES(EAFNOSUPPORT, socket(AF_PACKET, SOCK_RAW, 0));
    REFUSES(ENOSYS, socket(AF_NETLINK, SOCK_RAW, 9 /* NETLINK_AUDIT */));
    REFUSES(ENOSYS, socket(AF_NETLINK, SOCK_RAW, 12 /* NETLINK_NETFILTER */));
    REFUSES(EAFNOSUPPORT, syscall(SYS_socket, (1L << 32) | AF_NETLINK, SOCK_RAW, (1L << 32) | 9));
    ALLOWS(fork_with(0));
    ALLOWS(socket(AF_INET, SOCK_STREAM, 0));
    ALLOWS(socket(AF_INET6, SOCK_DGRAM, 0));
    ALLOWS(socket(AF_UNIX, SOCK_STREAM, 0));
    ALLOWS(socket(AF_NETLINK, SOCK_RAW, 0));
    ALLOWS(syscall(SYS_personality, 0xffffffff));
    REFUSES(ENOSYS, syscall(SYS_personality, 0x0400000)); // READ_IMPLIES_EXEC
    return 0;
}

static void the_filter_is_obeyed(void **state) {
    struct error err;
    (void)state;
    cleanup_free char *text = seccomp_compile(OCI_SECCOMP_DEFAULT, NULL, &err);
    assert_non_null(text);
    size_t max = strlen(text);
    cleanup_free char *program = malloc(max);
    long len = decode_base64(text, strlen(text), program, max);
    assert_true(len > 0 && len % (long)sizeof(struct sock_filter) == 0);
    struct sock_fprog f = {.len = (unsigned short)(len / (long)sizeof(struct sock_filter)),
                           .filter = (struct sock_filter *)program};
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &f))
            _exit(1);
        int line = try_calls();
        (void)dprintf(2, "%s%.0d", line ? "failed at line " : "", line);
        _exit(line != 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void modes_and_architectures(void **state) {
    static const char *const x86[] = {"x86", NULL}, *const bad[] = {"pdp11", NULL};
    struct error err;
    (void)state;
    assert_int_equal(seccomp_answer_for(OCI_SECCOMP_DEFAULT, "unshare"), SECCOMP_REFUSED);
    assert_int_equal(seccomp_answer_for(OCI_SECCOMP_CONTAINERS, "unshare"), SECCOMP_ALLOWED);
    assert_int_equal(seccomp_answer_for(OCI_SECCOMP_CONTAINERS, "clone3"), SECCOMP_ALLOWED);
    assert_int_equal(seccomp_answer_for(OCI_SECCOMP_DEFAULT, "no_such_call"), SECCOMP_REFUSED);
    cleanup_free char *native = seccomp_compile(OCI_SECCOMP_CONTAINERS, NULL, &err);
    cleanup_free char *both = seccomp_compile(OCI_SECCOMP_DEFAULT, x86, &err);
    assert_non_null(native);
    assert_non_null(both);
    assert_true(strlen(both) > strlen(native));
    assert_null(seccomp_compile(OCI_SECCOMP_DEFAULT, bad, &err));
    assert_non_null(strstr(err.message, "pdp11"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(differences_to_the_distribution_are_explained),
        cmocka_unit_test(nothing_else_is_wider), cmocka_unit_test(no_name_stands_twice),
        cmocka_unit_test(the_filter_is_obeyed), cmocka_unit_test(modes_and_architectures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
