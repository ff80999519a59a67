// Users of images: the grammar, hostile files, and numbers that crun would run as root.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "server/runtime/oci/image/user.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
                             "app:x:1000:1001:App:/home/app:/bin/sh\n"
                             "app:x:0:0::/:/bin/sh\n" // the first match wins
                             "# comment\n"
                             "short:x:7\n"
                             "four:x:4:4\n"
                             "odd:x:-1:0::/:/bin/sh\n"
                             "huge:x:4294967295:0::/:/bin/sh\n"
                             "wrap:x:4294967296:0::/:/bin/sh\n"
                             "spaced:x: 0:0::/:/bin/sh\n"
                             "badgid:x:5:x::/:/bin/sh\n"
                             "rel:x:6:6::home/rel:/bin/sh\n"
                             "dots:x:8:8::/home/../..:/bin/sh\n"
                             "nul:x:9:9::/a\tb:/bin/sh\n"
                             "last:x:10:10::/last:/bin/sh";
static const char group[] = "root:x:0:\n"
                            "staff:x:50:app,other\n"
                            "wheel:x:10:other,app\n"
                            "bad:x:4294967295:app\n"
                            "again:x:50:app\n"
                            "own:x:1001:app\n"
                            "near:x:60:apps,xapp\n";

static int find(const char *text, struct user *u, struct error *err) {
    const struct user_files f = {passwd, group, sizeof passwd - 1, sizeof group - 1};
    memset(u, 0x55, sizeof *u);
    return user_find(&f, text, u, err);
}

static void names_and_numbers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t uid, gid;
        const char *name, *home;
        unsigned groups;
    } rows[] = {
        {"", 0, 0, "root", "/root", 0},
        {"0", 0, 0, "root", "/root", 0},
        {"root", 0, 0, "root", "/root", 0},
        {"app", 1000, 1001, "app", "/home/app", 2},
        {"1000", 1000, 1001, "app", "/home/app", 2},
        {"app:staff", 1000, 50, "app", "/home/app", 0},
        {"app:7", 1000, 7, "app", "/home/app", 0},
        {"77", 77, 0, "", "/", 0},
        {"77:staff", 77, 50, "", "/", 0},
        {"2147483647:2147483647", 2147483647, 2147483647, "", "/", 0},
        {"00000000", 0, 0, "root", "/root", 0},
        {"four", 4, 4, "four", "/", 0},
        {"rel", 6, 6, "rel", "/", 0},
        {"dots", 8, 8, "dots", "/", 0},
        {"nul", 9, 9, "nul", "/", 0},
        {"last", 10, 10, "last", "/last", 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct user u;
        struct error err;
        if (find(rows[i].text, &u, &err))
            fail_msg("\"%s\": %s", rows[i].text, err.message);
        assert_int_equal(u.uid, rows[i].uid);
        assert_int_equal(u.gid, rows[i].gid);
        assert_string_equal(u.name, rows[i].name);
        assert_string_equal(u.home, rows[i].home);
        assert_int_equal(u.group_count, rows[i].groups);
    }
}

static void supplementary_groups(void **state) {
    (void)state;
    struct user u;
    struct error err;
    assert_int_equal(find("app", &u, &err), 0);
    assert_int_equal(u.group_count, 2); // without its own, without doubles, without absurd ones
    assert_int_equal(u.groups[0], 50);
    assert_int_equal(u.groups[1], 10);
}

static void what_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {"4294967295",
                                        "4294967296",
                                        "2147483648",
                                        "-1",
                                        "+1",
                                        " 0",
                                        "0 ",
                                        "1000:",
                                        ":",
                                        ":0",
                                        "0:",
                                        "0:-1",
                                        "0:0:0",
                                        "app:staff:x",
                                        "0x0",
                                        "nobody",
                                        "app:nogroup",
                                        "a/b",
                                        "-app",
                                        "app\n",
                                        "odd",
                                        "huge",
                                        "wrap",
                                        "spaced",
                                        "badgid",
                                        "app:bad",
                                        "0:bad",
                                        "short",
                                        "99999999999999999999",
                                        "#",
                                        "\xc3\xa4",
                                        "app:4294967295",
                                        "abcdefghijklmnopqrstuvwxyz0123456"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct user u;
        struct error err = {0};
        if (!find(texts[i], &u, &err))
            fail_msg("\"%s\" was taken as %u:%u", texts[i], u.uid, u.gid);
        assert_int_equal(err.status, 400);
        assert_string_equal(err.code, "SANDBOX::INVALID_PARAMETER");
    }
}

static void limits_of_lines_and_groups(void **state) {
    (void)state;
    cleanup_strbuf struct strbuf sb, many;
    struct user u;
    struct error err;
    strbuf_init(&sb, 1 << 20);
    strbuf_init(&many, 1 << 20);
    (void)strbuf_adds(&sb, "app:x:0:0:");
    for (int i = 0; i < 5000; i++)
        (void)strbuf_addc(&sb, 'x');
    (void)strbuf_adds(&sb, ":/root:/bin/sh\napp:x:5:6::/a:\n");
    for (int i = 0; i < 100; i++)
        (void)strbuf_addf(&many, "g%d:x:%d:app\n", i, 100 + i);
    const struct user_files f = {sb.data, many.data, sb.len, many.len};
    assert_int_equal(user_find(&f, "app", &u, &err), 0);
    assert_int_equal(u.uid, 5); // the long line is not a line
    assert_int_equal(u.group_count, USER_GROUPS_MAX);
    const struct user_files none = {NULL, NULL, 0, 0};
    assert_int_equal(user_find(&none, "5:6", &u, &err), 0);
    assert_int_equal(user_find(&none, "app", &u, &err), -1);
    assert_non_null(strstr(err.message, "missing"));
}

static void write_text(int at, const char *path, const char *text) {
    cleanup_close int fd = openat(at, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static void hostile_files(void **state) {
    (void)state;
    char path[] = "/tmp/test-user-XXXXXX";
    struct user u;
    struct error err;
    assert_non_null(mkdtemp(path));
    int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(user_resolve(root, "", &u, &err), 0); // no /etc at all
    assert_int_equal(u.uid, 0);
    assert_int_equal(mkdirat(root, "etc", 0755), 0);
    assert_int_equal(mkfifoat(root, "etc/passwd", 0666), 0); // must not block
    assert_int_equal(user_resolve(root, "root", &u, &err), -1);
    assert_int_equal(unlinkat(root, "etc/passwd", 0), 0);
    assert_int_equal(symlinkat("/etc/passwd", root, "etc/passwd"), 0); // the host's, or its own
    assert_int_equal(user_resolve(root, "root", &u, &err), -1);
    assert_int_equal(unlinkat(root, "etc/passwd", 0), 0);
    assert_int_equal(symlinkat("/dev/zero", root, "etc/group"), 0);
    write_text(root, "etc/passwd", passwd);
    assert_int_equal(user_resolve(root, "app", &u, &err), 0);
    assert_int_equal(u.uid, 1000);
    assert_int_equal(u.group_count, 0);
    assert_int_equal(renameat(root, "etc", root, "elsewhere"), 0);
    assert_int_equal(symlinkat("/elsewhere", root, "etc"), 0); // absolute inside the root
    assert_int_equal(user_resolve(root, "app", &u, &err), 0);
    assert_int_equal(unlinkat(root, "etc", 0), 0);
    assert_int_equal(symlinkat("../../../../../../etc", root, "etc"),
                     0); // out of it: there is none
    assert_int_equal(user_resolve(root, "root", &u, &err), -1);
    (void)close(root);
    assert_int_equal(path_remove_tree(AT_FDCWD, path, &err), 0);
}

static void a_file_without_end_is_read_to_a_mebibyte(void **state) {
    (void)state;
    char path[] = "/tmp/test-user-XXXXXX";
    struct user u;
    struct error err;
    assert_non_null(mkdtemp(path));
    int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(root, "etc", 0755), 0);
    write_text(root, "etc/passwd", "app:x:5:6::/a:\n");
    int fd = openat(root, "etc/passwd", O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, INT64_C(1) << 40), 0); // sparse
    (void)close(fd);
    assert_int_equal(user_resolve(root, "app", &u, &err), 0);
    assert_int_equal(user_resolve(root, "other", &u, &err), -1);
    (void)close(root);
    assert_int_equal(path_remove_tree(AT_FDCWD, path, &err), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_and_numbers),
                                       cmocka_unit_test(supplementary_groups),
                                       cmocka_unit_test(what_is_refused),
                                       cmocka_unit_test(limits_of_lines_and_groups),
                                       cmocka_unit_test(hostile_files),
                                       cmocka_unit_test(a_file_without_end_is_read_to_a_mebibyte)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
