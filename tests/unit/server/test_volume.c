// Volumes: paths that are refused, links that are not followed, mounts that stay with their inode.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/path.h"
#include "server/runtime/oci/volume/volume.h"

static char base[32];
static const char *allowed[] = {base, NULL};

static int set_up(void **state) {
    (void)state;
    (void)snprintf(base, sizeof base, "/tmp/test-volume-XXXXXX");
    assert_non_null(mkdtemp(base));
    return 0;
}

static int tear_down(void **state) {
    struct error err;
    (void)state;
    return path_remove_tree(AT_FDCWD, base, &err);
}

// A text that lives until the eighth call after this one.
static char *keep(const char *a, const char *b) {
    static char buffers[8][256];
    static unsigned n;
    char *text = buffers[n++ % 8];
    (void)snprintf(text, sizeof buffers[0], "%s%s", a, b);
    return text;
}

// A volume of this path below (or, without a slash, beside) the base.
static struct volume_spec volume(const char *source, const char *mount_path) {
    static char name[] = "data";
    return (struct volume_spec){
        .name = name, .mount_path = keep(mount_path, ""), .source = keep(base, source)};
}

static int check(struct volume_spec *v, size_t count, struct error *err) {
    struct sandbox_spec s = {.volumes = v, .volume_count = count};
    return volumes_check(&s, allowed, -1, err);
}

static int open_one(struct volume_spec *v, struct volumes *ret, struct error *err) {
    struct sandbox_spec s = {.volumes = v, .volume_count = 1};
    return volumes_open(&s, allowed, -1, -1, ret, err);
}

static void own_mounts_are_out_of_reach(void **state) {
    static const char *const refused[] = {"relative",
                                          "/",
                                          "",
                                          "/a/../b",
                                          "/a//b",
                                          "/a/",
                                          "/./a",
                                          "/proc",
                                          "/proc/1",
                                          "/sys/x",
                                          "/dev",
                                          "/dev/null",
                                          "/opt",
                                          "/opt/opensandbox",
                                          "/opt/opensandbox/bin/execd",
                                          "/etc/hosts",
                                          "/etc/resolv.conf",
                                          "/etc/hostname"};
    static const char *const fine[] = {"/data",      "/procs",  "/etc", "/etc/ssl",
                                       "/opt/tools", "/device", "/root"};
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct volume_spec v = volume("/x", refused[i]);
        if (!check(&v, 1, &err))
            fail_msg("%s was accepted", refused[i]);
        assert_string_equal(err.code, "VOLUME::INVALID_MOUNT_PATH");
    }
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        struct volume_spec v = volume("/x", fine[i]);
        if (check(&v, 1, &err))
            fail_msg("%s: %s", fine[i], err.message);
    }
    struct volume_spec two[] = {volume("/x", "/data"), volume("/y", "/data")};
    assert_int_equal(check(two, 2, &err), -1);
    assert_non_null(strstr(err.message, "share"));
}

static void sources_need_permission(void **state) {
    struct error err;
    (void)state;
    struct volume_spec v = volume("/x", "/data");
    v.source = keep("/etc", "");
    assert_int_equal(check(&v, 1, &err), -1);
    assert_string_equal(err.code, "VOLUME::HOST_PATH_NOT_ALLOWED");
    v = volume("-other", "/data"); // a sibling with the same beginning
    assert_int_equal(check(&v, 1, &err), -1);
    assert_string_equal(err.code, "VOLUME::HOST_PATH_NOT_ALLOWED");
    v = volume("/../etc", "/data");
    assert_int_equal(check(&v, 1, &err), -1);
    assert_string_equal(err.code, "VOLUME::INVALID_HOST_PATH");
    v = volume("/x", "/data");
    v.sub_path = keep("../y", "");
    assert_int_equal(check(&v, 1, &err), -1);
    assert_string_equal(err.code, "VOLUME::INVALID_SUB_PATH");
    v.sub_path = keep("a/b", "");
    assert_int_equal(check(&v, 1, &err), 0);
    struct sandbox_spec s = {.volumes = &v, .volume_count = 1};
    assert_int_equal(volumes_check(&s, NULL, -1, &err), -1); // nothing is allowed by default
    v.kind = VOLUME_NAMED;
    assert_int_equal(check(&v, 1, &err), -1);
    assert_string_equal(err.code, "VOLUME::UNSUPPORTED_BACKEND");
}

static void links_are_never_followed(void **state) {
    struct error err;
    struct volumes v;
    char path[128];
    (void)state;
    (void)snprintf(path, sizeof path, "%s/link", base);
    assert_int_equal(symlink("/etc", path), 0);
    struct volume_spec spec = volume("/link", "/data");
    assert_int_equal(open_one(&spec, &v, &err), -1);
    assert_string_equal(err.code, "VOLUME::HOST_PATH_NOT_ALLOWED");
    spec = volume("/link/ssl", "/data");
    assert_int_equal(open_one(&spec, &v, &err), -1);
    spec = volume("/dir", "/data");
    spec.sub_path = keep("deep", "");
    (void)snprintf(path, sizeof path, "%s/dir", base);
    assert_int_equal(mkdir(path, 0755), 0);
    (void)snprintf(path, sizeof path, "%s/dir/deep", base);
    assert_int_equal(symlink("/etc", path), 0);
    assert_int_equal(open_one(&spec, &v, &err), -1);
}

static bool has_file(const struct volume *v, const char *name) {
    return !faccessat(v->fd, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

static void a_mount_stays_with_its_inode(void **state) {
    struct error err;
    struct volumes v;
    char path[128], other[128];
    (void)state;
    struct volume_spec spec = volume("/new/deep", "/data"); // made when missing
    spec.read_only = true;
    if (open_one(&spec, &v, &err))
        fail_msg("%s", err.message);
    assert_int_equal(v.count, 1);
    assert_true(v.items[0].is_directory && v.items[0].read_only);
    (void)snprintf(path, sizeof path, "%s/new/deep/mark", base);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_true(has_file(&v.items[0], "mark"));
    assert_int_equal(openat(v.items[0].fd, "x", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
    assert_int_equal(errno, EROFS);
    // the swap of the path that followed a check by name (class 28)
    (void)snprintf(path, sizeof path, "%s/new/deep", base);
    (void)snprintf(other, sizeof other, "%s/new/moved", base);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink("/etc", path), 0);
    assert_true(has_file(&v.items[0], "mark"));
    assert_false(has_file(&v.items[0], "passwd"));
    volumes_close(&v);
}

static void order_and_kinds(void **state) {
    struct error err;
    struct volumes v;
    char path[128];
    (void)state;
    (void)snprintf(path, sizeof path, "%s/file", base);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    (void)snprintf(path, sizeof path, "%s/fifo", base);
    assert_int_equal(mkfifo(path, 0600), 0);
    struct volume_spec specs[] = {volume("/b", "/data/inner"), volume("/a", "/data"),
                                  volume("/file", "/data/inner/conf")};
    struct sandbox_spec s = {.volumes = specs, .volume_count = 3};
    if (volumes_open(&s, allowed, -1, -1, &v, &err))
        fail_msg("%s", err.message);
    assert_string_equal(v.items[0].mount_path, "/data");
    assert_string_equal(v.items[1].mount_path, "/data/inner");
    assert_false(v.items[2].is_directory);
    volumes_close(&v);
    struct volume_spec fifo = volume("/fifo", "/data");
    assert_int_equal(open_one(&fifo, &v, &err), -1);
    assert_string_equal(err.code, "VOLUME::INVALID_HOST_PATH");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(own_mounts_are_out_of_reach, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sources_need_permission, set_up, tear_down),
        cmocka_unit_test_setup_teardown(links_are_never_followed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mount_stays_with_its_inode, set_up, tear_down),
        cmocka_unit_test_setup_teardown(order_and_kinds, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
