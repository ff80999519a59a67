// Readings from trees made by hand: v2, v1 with and without a cgroup namespace, both, and none.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "execd/metrics/cgroup.h"

static char root[] = "/tmp/test-cgroup-XXXXXX";

static void put(const char *name, const char *text) {
    struct error err;
    char path[256], *slash;
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    slash = strrchr(path, '/');
    *slash = 0;
    cleanup_close int top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int dir = path_make_dirs(top, path + 1, 0755);
    if (dir < 0)
        fail_msg("make %s", path);
    int r = fd_replace_file(dir, slash + 1, text, strlen(text), 0644, &err);
    (void)close(dir);
    if (r < 0)
        fail_msg("%s", err.message);
}

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(root))
        return -1;
    put("proc/stat", "cpu  100 0 50 1000 500 0 0 0 0 0\ncpu0 1 2 3\n");
    put("proc/meminfo",
        "MemTotal:        1048576 kB\nMemFree: 1 kB\nMemAvailable:     524288 kB\n");
    return 0;
}

static int teardown(void **state) {
    struct error err;
    (void)state;
    return path_remove_tree(AT_FDCWD, root, &err);
}

static void test_machine(void **state) {
    struct usage u;
    (void)state;
    put("proc/self/cgroup", "");
    put("proc/self/mountinfo", "");
    usage_read(root, &u);
    assert_int_equal(u.memory_max, 1 << 30);
    assert_int_equal(u.memory, 1 << 29);
    assert_int_equal(u.cpu_ns, 150 * (1000000000 / sysconf(_SC_CLK_TCK)));
    assert_true(u.cpus >= 1 && u.at_ns > 0);
}

static void test_v2(void **state) {
    struct usage u;
    (void)state;
    put("proc/self/cgroup", "0::/box\n");
    put("proc/self/mountinfo",
        "30 20 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n");
    put("sys/fs/cgroup/box/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/cpu.max", "50000 100000\n"); // the one above is smaller
    put("sys/fs/cgroup/box/cpu.stat", "nr_periods 5\nusage_usec 2000\nuser_usec 1\n");
    put("sys/fs/cgroup/box/memory.max", "268435456\n");
    put("sys/fs/cgroup/box/memory.current", "100000000\n");
    put("sys/fs/cgroup/box/memory.stat", "anon 5\ninactive_anon 7\ninactive_file 40000000\n");
    usage_read(root, &u);
    assert_true(u.cpus > 0.49 && u.cpus < 0.51);
    assert_int_equal(u.cpu_ns, 2000000);
    assert_int_equal(u.memory_max, 268435456);
    assert_int_equal(u.memory, 60000000);
    put("sys/fs/cgroup/box/memory.max", "max\n");
    usage_read(root, &u);
    assert_int_equal(u.memory_max, 1 << 30);
}

static void put_v1(const char *dir) {
    char name[128];
    (void)snprintf(name, sizeof name, "%s/memory.limit_in_bytes", dir);
    put(name, "9223372036854771712\n");
    (void)snprintf(name, sizeof name, "%s/memory.usage_in_bytes", dir);
    put(name, "5000000\n");
    (void)snprintf(name, sizeof name, "%s/memory.stat", dir);
    put(name, "inactive_file 1\ntotal_inactive_file 2000000\n");
}

static void test_v1(void **state) {
    static const char *const mounts[] = {
        // no namespace: the mount shows our own directory only
        "40 20 0:30 /docker/abc /sys/fs/v1/memory ro - cgroup cgroup rw,memory\n"
        "41 20 0:31 /docker/abc /sys/fs/v1/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
        // a namespace: a path of its own
        "40 20 0:30 / /sys/fs/v1/memory ro master:3 - cgroup cgroup rw,memory\n"
        "41 20 0:31 / /sys/fs/v1/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"};
    static const char *const own[] = {"5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/x\n",
                                      "5:memory:/\n4:cpu,cpuacct:/\n0::/\n"};
    struct usage u;
    (void)state;
    put_v1("sys/fs/v1/memory");
    put("sys/fs/v1/cpu,cpuacct/cpu.cfs_quota_us", "25000\n");
    put("sys/fs/v1/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    put("sys/fs/v1/cpu,cpuacct/cpuacct.usage", "123456789\n");
    for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
        put("proc/self/mountinfo", mounts[i]);
        put("proc/self/cgroup", own[i]);
        usage_read(root, &u);
        assert_true(u.cpus > 0.24 && u.cpus < 0.26);
        assert_int_equal(u.cpu_ns, 123456789);
        assert_int_equal(u.memory, 3000000);
        assert_int_equal(u.memory_max, 1 << 30);
    }
    put("sys/fs/v1/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    usage_read(root, &u);
    assert_true(u.cpus >= 1);
}

static void test_hybrid(void **state) {
    struct usage u;
    (void)state;
    // v1 memory deep below its mount point, everything else unified
    put("proc/self/cgroup", "5:memory:/pod/box\n0::/pod/box\n");
    put("proc/self/mountinfo", "40 20 0:30 / /sys/fs/h/memory rw - cgroup cgroup rw,memory\n"
                               "42 20 0:32 / /sys/fs/h/unified rw - cgroup2 cgroup2 rw\n");
    put_v1("sys/fs/h/memory/pod/box");
    put("sys/fs/h/memory/pod/memory.limit_in_bytes", "8000000\n");
    put("sys/fs/h/unified/pod/box/cpu.stat", "usage_usec 7\n");
    usage_read(root, &u);
    assert_int_equal(u.memory_max, 8000000);
    assert_int_equal(u.memory, 3000000);
    assert_int_equal(u.cpu_ns, 7000);
}

static void test_garbage(void **state) {
    static const char *const texts[] = {":::",  "0:",      "0::", "a\nb:c\n0::/../../..",
                                        "\n\n", "5:memory"};
    struct usage u;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        put("proc/self/cgroup", texts[i]);
        put("proc/self/mountinfo", i % 2 ? "1 2 3 4 5 - cgroup2\n - \n1 2\n" : texts[i]);
        usage_read(root, &u);
        assert_true(u.cpus > 0 && u.memory <= u.memory_max);
    }
}

static void test_percent(void **state) {
    const struct usage a = {.at_ns = 1000, .cpu_ns = 100, .cpus = 2},
                       b = {.at_ns = 2000, .cpu_ns = 600, .cpus = 2},
                       c = {.at_ns = 2000, .cpu_ns = 9000, .cpus = 2};
    (void)state;
    assert_true(usage_percent(&a, &b) > 24.9 && usage_percent(&a, &b) < 25.1);
    assert_true(usage_percent(&a, &c) >= 100 && usage_percent(&a, &c) <= 100);
    assert_true(usage_percent(&b, &a) <= 0 && usage_percent(&a, &a) <= 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machine), cmocka_unit_test(test_v2),
        cmocka_unit_test(test_v1),      cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_garbage), cmocka_unit_test(test_percent),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
