#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "execd/files/account.h"

static char passwd_path[] = "/tmp/test-account-passwd-XXXXXX";
static char group_path[] = "/tmp/test-account-group-XXXXXX";

static int write_file(char *path, const char *text) {
    cleanup_close int fd = mkstemp(path);
    return fd < 0 ? -1 : fd_write_all(fd, text, strlen(text));
}

static int setup(void **state) {
    (void)state;
    return write_file(passwd_path, "root:x:0:0:root:/root:/bin/bash\n"
                                   "broken line\n"
                                   "noid:x::0::/:\n"
                                   "huge:x:4294967295:0::/:\n"
                                   "web:x:33:34:web:/var/www:/bin/sh\n"
                                   "last:x:1000:1000::/home/last:/bin/sh") ||
           write_file(group_path, "root:x:0:\n"
                                  "www:x:34:\n"
                                  "a:x:50:web\n"
                                  "b:x:51:root,web\n"
                                  "c:x:52:website,xweb\n");
}

static int teardown(void **state) {
    (void)state;
    return unlink(passwd_path) || unlink(group_path);
}

static void test_names(void **state) {
    struct files_accounts a;
    uid_t id;
    (void)state;
    files_accounts_init(&a);
    a.passwd_path = passwd_path;
    a.group_path = group_path;
    assert_string_equal(files_owner_name(&a, 0), "root");
    assert_string_equal(files_owner_name(&a, 33), "web");
    assert_string_equal(files_owner_name(&a, 33), "web");
    assert_string_equal(files_owner_name(&a, 1000), "last");
    assert_string_equal(files_owner_name(&a, 77), "77");
    assert_string_equal(files_group_name(&a, 34), "www");
    assert_string_equal(files_group_name(&a, 35), "35");
    assert_true(files_owner_id(&a, "web", &id));
    assert_int_equal(id, 33);
    assert_true(files_owner_id(&a, "1234", &id));
    assert_int_equal(id, 1234);
    assert_false(files_owner_id(&a, "nosuchuser", &id));
    assert_false(files_owner_id(&a, "huge", &id));
    assert_false(files_owner_id(&a, "-1", &id));
    assert_true(files_group_id(&a, "b", &id));
    assert_int_equal(id, 51);
    files_accounts_free(&a);
}

static void test_account(void **state) {
    struct files_accounts a;
    char home[ACCOUNT_HOME_MAX];
    gid_t groups[ACCOUNT_GROUPS_MAX];
    size_t count = 0;
    (void)state;
    files_accounts_init(&a);
    a.passwd_path = passwd_path;
    a.group_path = group_path;
    assert_true(files_account(&a, 33, home, groups, &count));
    assert_string_equal(home, "/var/www");
    assert_int_equal(count, 3);
    assert_int_equal(groups[0], 34);
    assert_int_equal(groups[1], 50);
    assert_int_equal(groups[2], 51);
    assert_false(files_account(&a, 77, home, groups, &count));
    files_accounts_free(&a);
}

static void test_without_files(void **state) {
    struct files_accounts a;
    uid_t id;
    (void)state;
    files_accounts_init(&a);
    a.passwd_path = a.group_path = "/nonexistent/passwd";
    assert_string_equal(files_owner_name(&a, 0), "0");
    assert_false(files_owner_id(&a, "root", &id));
    files_accounts_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_account),
        cmocka_unit_test(test_without_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
