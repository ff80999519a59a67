// Control groups over fake trees of plain files, one for each layout, and once over the host's own.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "server/runtime/oci/cgroup.h"

#define PARENT "opensandbox-0123abcd"
#define ID     "11111111-2222-4333-8444-555555555555"

struct tree {
    char root[64], self[96];
};

static void put(const struct tree *t, const char *name, const char *text) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", t->root, name);
    for (char *p = path + strlen(t->root) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        (void)mkdir(path, 0755);
        *p = '/';
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
    (void)close(fd);
}

static void get(const struct tree *t, const char *name, char text[256]) {
    char path[512];
    struct error err;
    (void)snprintf(path, sizeof path, "%s/%s", t->root, name);
    assert_int_equal(fd_read_text(AT_FDCWD, path, text, 256, &err), 0);
}

static int set_up(void **state) {
    struct tree *t = calloc(1, sizeof *t);
    (void)snprintf(t->root, sizeof t->root, "/tmp/test-cgroup-XXXXXX");
    assert_non_null(mkdtemp(t->root));
    (void)snprintf(t->self, sizeof t->self, "%s.self", t->root);
    *state = t;
    return 0;
}

static int tear_down(void **state) {
    struct tree *t = *state;
    struct error err;
    assert_int_equal(path_remove_tree(AT_FDCWD, t->root, &err), 0);
    (void)unlink(t->self);
    free(t);
    return 0;
}

static void write_self(const struct tree *t, const char *text) {
    int fd = open(t->self, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
    (void)close(fd);
}

static void make_v1(const struct tree *t, const char *unified_controllers) {
    put(t, "cpu,cpuacct/cgroup.procs", "");
    put(t, "memory/cgroup.procs", "");
    put(t, "memory/memory.memsw.limit_in_bytes", "0\n");
    put(t, "pids/own/cgroup.procs", "");
    put(t, "pids/cgroup.procs", "");
    put(t, "freezer/cgroup.procs", "");
    put(t, "litter/" PARENT "/" ID "/cgroup.procs", ""); // no hierarchy: what crun leaves
    if (unified_controllers) {
        put(t, "unified/cgroup.procs", "");
        put(t, "unified/cgroup.controllers", unified_controllers);
    }
    write_self(t, "4:pids:/own\n3:freezer:/\n2:memory:/\n1:cpu,cpuacct:/\n0::/\n");
}

static void v1_is_found(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    make_v1(t, NULL);
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    assert_string_equal(cgroups_layout(&c), "v1");
    assert_false(c.cover_unified);
    assert_true(c.swap_limit);
    assert_true(cgroups_have(&c, "cpuacct"));
    assert_false(cgroups_have(&c, "cpus"));
    assert_false(cgroups_have(&c, "hugetlb"));
    assert_string_equal(c.trees[c.memory].name, "memory");
    assert_int_equal(write(c.self_procs, "0", 1), 1);
    char text[256];
    get(t, "pids/own/cgroup.procs", text);
    assert_string_equal(text, "0");
    cgroups_close(&c);
}

static void hybrid_is_covered_only_with_controllers(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    make_v1(t, "hugetlb\n");
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    assert_string_equal(cgroups_layout(&c), "hybrid");
    assert_true(c.cover_unified);
    cgroups_close(&c);
    put(t, "unified/cgroup.controllers", "\n");
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    assert_false(c.cover_unified);
    cgroups_close(&c);
}

static void a_missing_controller_is_named(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    put(t, "pids/cgroup.procs", "");
    put(t, "freezer/cgroup.procs", "");
    write_self(t, "1:pids:/\n");
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), -1);
    assert_non_null(strstr(err.message, "\"memory\""));
    assert_int_equal(cgroups_open(&c, "/nonexistent", t->self, PARENT, &err), -1);
}

static int count(const char *id, void *arg) {
    assert_string_equal(id, ID);
    ++*(int *)arg;
    return 0;
}

static void v1_counts_and_thaws(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    uint64_t kills = 99;
    char text[256];
    int n = 0;
    make_v1(t, NULL);
    put(t, "memory/" PARENT "/" ID "/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    put(t, "freezer/" PARENT "/" ID "/freezer.state", "FROZEN\n");
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    assert_int_equal(cgroup_oom_kills(&c, ID, &kills), 0);
    assert_int_equal(kills, 3);
    assert_int_equal(cgroup_oom_kills(&c, "unknown", &kills), -1);
    assert_true(cgroup_exists(&c, ID));
    assert_false(cgroup_exists(&c, "unknown"));
    assert_false(cgroup_exists(&c, "../" PARENT));
    assert_true(cgroup_frozen(&c, ID));
    assert_int_equal(cgroup_thaw(&c, ID, &err), 0);
    get(t, "freezer/" PARENT "/" ID "/freezer.state", text);
    assert_true(!strncmp(text, "THAWED", 6));
    assert_int_equal(cgroup_freeze(&c, ID, &err), 0); // the plain file keeps what is written
    get(t, "freezer/" PARENT "/" ID "/freezer.state", text);
    assert_true(!strncmp(text, "FROZEN", 6));
    assert_int_equal(cgroup_freeze(&c, "a/b", &err), -1);
    assert_int_equal(cgroups_each(&c, count, &n), 0);
    assert_int_equal(n, 3); // memory, freezer, litter
    cgroups_close(&c);
}

static void a_group_that_never_freezes_is_given_up_thawed(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    char text[256], path[256];
    make_v1(t, NULL);
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    c.v2 = true; // its state is asked of another file than the one that is written
    c.freezer = 0;
    (void)snprintf(c.trees[0].name, sizeof c.trees[0].name, "fake");
    (void)close(c.trees[0].fd);
    put(t, "fake/" PARENT "/" ID "/cgroup.freeze", "0");
    put(t, "fake/" PARENT "/" ID "/cgroup.events", "populated 1\nfrozen 0\n");
    (void)snprintf(path, sizeof path, "%s/fake", t->root);
    c.trees[0].fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(cgroup_freeze(&c, ID, &err), -1);
    assert_int_equal(err.kind, EBUSY);
    get(t, "fake/" PARENT "/" ID "/cgroup.freeze", text);
    assert_string_equal(text, "0");
    cgroups_close(&c);
}

static void v2_files_are_used(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    uint64_t kills = 0;
    char text[256];
    put(t, "cgroup.controllers", "cpu memory pids\n");
    put(t, "cgroup.procs", "");
    put(t, "user.slice/cgroup.procs", "");
    put(t, PARENT "/" ID "/memory.events", "low 0\noom 2\noom_kill 1\noom_group_kill 0\n");
    put(t, PARENT "/" ID "/cgroup.events", "populated 1\nfrozen 1\n");
    put(t, PARENT "/" ID "/cgroup.freeze", "0\n");
    write_self(t, "0::/user.slice\n");
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    assert_string_equal(cgroups_layout(&c), "v2");
    assert_int_equal(c.count, 1);
    assert_int_equal(write(c.self_procs, "0", 1), 1);
    get(t, "user.slice/cgroup.procs", text);
    assert_string_equal(text, "0");
    assert_int_equal(cgroup_oom_kills(&c, ID, &kills), 0);
    assert_int_equal(kills, 1);
    assert_true(cgroup_frozen(&c, ID));
    assert_int_equal(cgroup_freeze(&c, ID, &err), 0);
    get(t, PARENT "/" ID "/cgroup.freeze", text);
    assert_true(text[0] == '1');
    cgroups_close(&c);
}

static void litter_is_removed(void **state) {
    struct tree *t = *state;
    struct cgroups c;
    struct error err;
    char path[256];
    make_v1(t, NULL);
    assert_int_equal(cgroups_open(&c, t->root, t->self, PARENT, &err), 0);
    assert_int_equal(cgroup_remove(&c, ID, &err), 0);
    assert_false(cgroup_exists(&c, ID));
    (void)snprintf(path, sizeof path, "%s/litter/" PARENT, t->root);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(cgroup_remove(&c, ID, &err), 0);
    assert_int_equal(cgroup_remove(&c, "..", &err), 0);
    assert_int_equal(access(t->root, F_OK), 0);
    cgroups_close(&c);
}

// A process in a group of ours on the host's own hierarchies is found, frozen, killed, and its
// group removed.
static void kill_and_remove(const char *root) {
    struct cgroups c;
    struct error err;
    char parent[CGROUP_NAME_MAX], path[256];
    (void)snprintf(parent, sizeof parent, "test-cgroup-%d", getpid());
    if (cgroups_open(&c, root, "/proc/self/cgroup", parent, &err))
        fail_msg("%s", err.message);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child)
        for (;;)
            (void)pause();
    const int used[] = {c.pids, c.freezer};
    for (size_t i = 0; i < ARRAY_SIZE(used); i++) {
        char text[32];
        (void)mkdirat(c.trees[used[i]].fd, parent, 0755);
        (void)snprintf(path, sizeof path, "%s/" ID, parent);
        (void)mkdirat(c.trees[used[i]].fd, path, 0755);
        (void)snprintf(path, sizeof path, "%s/" ID "/cgroup.procs", parent);
        (void)snprintf(text, sizeof text, "%d", child);
        assert_int_equal(fd_write_text(c.trees[used[i]].fd, path, text, &err), 0);
    }
    assert_true(cgroup_holds(&c, ID, child));
    assert_false(cgroup_holds(&c, "11111111", child));
    assert_false(cgroup_frozen(&c, ID));
    assert_int_equal(cgroup_freeze(&c, ID, &err), 0);
    assert_true(cgroup_frozen(&c, ID));
    assert_int_equal(cgroup_thaw(&c, ID, &err), 0);
    assert_int_equal(cgroup_freeze(&c, ID, &err), 0);
    assert_true(cgroup_kill(&c, ID) >= 1); // thaws too, or the child would never die on v1
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(cgroup_remove(&c, ID, &err), 0);
    assert_false(cgroup_exists(&c, ID));
    (void)snprintf(path, sizeof path, "%s/%s/%s", root, c.trees[c.pids].name, parent);
    cgroups_close(&c);
    assert_int_equal(access(path, F_OK), -1);
}

static void the_host_kills_and_removes(void **state) {
    (void)state;
    kill_and_remove("/sys/fs/cgroup");
    if (!access("/sys/fs/cgroup/unified/cgroup.controllers",
                F_OK)) // hybrid: the v2 half is a real v2 tree as well
        kill_and_remove("/sys/fs/cgroup/unified");
}

// A group beside: made, joined, given another name with its process in it, ended.
static void make_and_rename(const char *root) {
    static const char other[] = "99999999-2222-4333-8444-555555555555";
    struct cgroups c, beside;
    struct error err;
    char parent[CGROUP_NAME_MAX], path[256];
    int procs[2], status;
    (void)snprintf(parent, sizeof parent, "test-cgroup-%d", getpid());
    assert_int_equal(cgroups_open(&c, root, "/proc/self/cgroup", parent, &err), 0);
    cgroups_beside(&c, ".more", &beside);
    assert_int_equal(cgroup_make(&beside, ID, 64 << 20, 8, procs, &err), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        for (int i = 0; i < 2; i++)
            if (procs[i] >= 0 && write(procs[i], "0", 1) != 1)
                _exit(1);
        for (;;)
            (void)pause();
    }
    for (int i = 0; i < 5000 && !cgroup_holds(&beside, ID, child); i++)
        (void)poll(NULL, 0, 1);
    assert_true(cgroup_holds(&beside, ID, child));
    assert_false(cgroup_holds(&c, ID, child)); // not of the neighbours
    assert_int_equal(cgroup_rename(&beside, ID, other, &err), 0);
    assert_true(cgroup_holds(&beside, other, child));
    assert_false(cgroup_exists(&beside, ID));
    assert_true(cgroup_kill(&beside, other) >= 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(cgroup_remove(&beside, other, &err), 0);
    for (int i = 0; i < 2; i++)
        if (procs[i] >= 0)
            (void)close(procs[i]);
    (void)snprintf(path, sizeof path, "%s/%s/%s.more", root, c.trees[c.pids].name, parent);
    assert_int_equal(access(path, F_OK), 0);
    cgroups_drop(&beside);
    assert_int_equal(access(path, F_OK), -1);
    cgroups_close(&c);
}

static void the_host_makes_and_renames(void **state) {
    (void)state;
    make_and_rename("/sys/fs/cgroup");
    if (!access("/sys/fs/cgroup/unified/cgroup.controllers", F_OK))
        make_and_rename("/sys/fs/cgroup/unified");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(v1_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hybrid_is_covered_only_with_controllers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_missing_controller_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(v1_counts_and_thaws, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_group_that_never_freezes_is_given_up_thawed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(v2_files_are_used, set_up, tear_down),
        cmocka_unit_test_setup_teardown(litter_is_removed, set_up, tear_down),
        cmocka_unit_test(the_host_kills_and_removes),
        cmocka_unit_test(the_host_makes_and_renames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
