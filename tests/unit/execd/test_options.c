// Flags as Go's flag package reads them, secrets, and the server's start object.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/handoff.h"
#include "execd/options.h"

static int parse(struct options *o, struct error *err, const char *const *words) {
    static char copy[16][128]; // they are wiped in place
    static char *argv[17];
    int n = 0;
    for (; words[n]; n++) {
        (void)snprintf(copy[n], sizeof copy[n], "%s", words[n]);
        argv[n] = copy[n];
    }
    argv[n] = NULL;
    return options_parse(o, n, argv, err);
}
#define PARSE(o, err, ...) parse(o, err, (const char *const[]){"execd", __VA_ARGS__, NULL})

static void test_flags(void **state) {
    struct options o;
    struct error err;
    (void)state;
    assert_int_equal(PARSE(&o, &err, NULL), 0);
    assert_int_equal(o.port, 44772);
    assert_false(o.guarded || o.init);
    assert_int_equal(PARSE(&o, &err, "-port", "1", "--log-level=7", "--access-token", "t"), 0);
    assert_int_equal(o.port, 1);
    assert_int_equal(o.log_level, 7);
    assert_true(o.guarded);
    uint8_t digest[SHA256_SIZE];
    sha256("t", 1, digest);
    assert_memory_equal(o.token, digest, sizeof digest);
    assert_int_equal(PARSE(&o, &err, "tail", "-f", "/dev/null"), 0); // ignored
    assert_false(o.init);
    assert_null(o.entrypoint[0]);
    assert_int_equal(PARSE(&o, &err, "--port=2", "init", "--", "sleep", "-x"), 0);
    assert_true(o.init);
    assert_string_equal(o.entrypoint[0], "sleep");
    assert_string_equal(o.entrypoint[1], "-x");
    assert_int_equal(PARSE(&o, &err, "-h"), 0);
    assert_true(o.help);
    assert_int_equal(PARSE(&o, &err, "--init", "--isolation-config", "/x", "--", "sleep"), 0);
    assert_true(o.init);
    assert_string_equal(o.entrypoint[0], "sleep");
    assert_int_equal(PARSE(&o, &err, "--init=F", "--runtime-init=0", "sleep"), 0);
    assert_false(o.init);
}

static void test_bad_flags(void **state) {
    struct options o;
    struct error err;
    (void)state;
    assert_int_equal(PARSE(&o, &err, "--nonsense"), -1);
    assert_non_null(strstr(err.message, "-nonsense"));
    assert_int_equal(PARSE(&o, &err, "--port"), -1);
    assert_int_equal(PARSE(&o, &err, "--port", "65536"), -1);
    assert_int_equal(PARSE(&o, &err, "--port=x"), -1);
    assert_int_equal(PARSE(&o, &err, "--init=yes"), -1);
    assert_int_equal(PARSE(&o, &err, "--runtime-init"), -1);
    assert_non_null(strstr(err.message, "--runtime-init"));
    assert_int_equal(PARSE(&o, &err, "--graceful-shutdown-timeout", "5"), -1);
    assert_int_equal(PARSE(&o, &err, "--graceful-shutdown-timeout", "5s"), 0);
    (void)setenv("EXECD_API_GRACE_SHUTDOWN", "soon", 1);
    assert_int_equal(PARSE(&o, &err, NULL), -1);
    assert_non_null(strstr(err.message, "EXECD_API_GRACE_SHUTDOWN"));
    (void)unsetenv("EXECD_API_GRACE_SHUTDOWN");
}

static void test_secrets_leave_the_environment(void **state) {
    struct options o;
    struct error err;
    char hex[SHA256_HEX_SIZE];
    (void)state;
    (void)setenv("EXECD_ACCESS_TOKEN", "first", 1);
    const char *block = getenv("EXECD_ACCESS_TOKEN");
    assert_int_equal(PARSE(&o, &err, NULL), 0);
    assert_true(o.guarded);
    assert_null(getenv("EXECD_ACCESS_TOKEN"));
    assert_int_equal(*block, 0); // also out of /proc/self/environ
    sha256_hex("second", 6, hex);
    (void)setenv("EXECD_ACCESS_TOKEN_SHA256", hex, 1);
    assert_int_equal(PARSE(&o, &err, NULL), 0);
    uint8_t digest[SHA256_SIZE];
    sha256("second", 6, digest);
    assert_memory_equal(o.token, digest, sizeof digest);
    assert_null(getenv("EXECD_ACCESS_TOKEN_SHA256"));
    (void)setenv("EXECD_ACCESS_TOKEN_SHA256", "abc", 1);
    assert_int_equal(PARSE(&o, &err, NULL), -1);
    (void)unsetenv("EXECD_ACCESS_TOKEN_SHA256");
}

// Three descriptors in a row, the middle one with the text.
static int hand_over(const char *text) {
    int fd = memfd_create("start", 0), first = 600;
    char number[16];
    assert_true(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    for (int i = 0; i < HANDOFF_FDS; i++)
        assert_int_equal(dup2(fd, first + i), first + i);
    (void)close(fd);
    (void)snprintf(number, sizeof number, "%d", first);
    (void)setenv(HANDOFF_VARIABLE, number, 1);
    return first;
}

static void drop(int first) {
    for (int i = 0; i < HANDOFF_FDS; i++)
        (void)close(first + i);
}

static void test_start_object(void **state) {
    struct options o;
    struct error err = {0};
    char text[512], hex[SHA256_HEX_SIZE];
    cleanup(arena_free) struct arena a;
    arena_init(&a, 1 << 16);
    (void)state;
    sha256_hex("tok", 3, hex);
    (void)snprintf(text, sizeof text,
                   "{\"token_sha256\":\"%s\",\"entrypoint\":[\"sleep\",\"9\"],\"idle\":false,"
                   "\"cwd\":\"/tmp\",\"env\":{\"A\":\"1\",\"EXECD_ACCESS_TOKEN\":\"x\"}}",
                   hex);
    assert_int_equal(PARSE(&o, &err, "init"), 0);
    (void)setenv("FOREIGN", "1", 1);
    int first = hand_over(text);
    if (options_handoff(&o, &a, &err) < 0)
        fail_msg("%s", err.message);
    assert_true(o.guarded);
    assert_int_equal(o.handoff, first);
    assert_string_equal(o.entrypoint[0], "sleep");
    assert_string_equal(o.entrypoint[1], "9");
    assert_null(o.entrypoint[2]);
    assert_string_equal(o.cwd, "/tmp");
    assert_string_equal(getenv("A"), "1");
    assert_null(getenv("FOREIGN"));
    assert_null(getenv("EXECD_ACCESS_TOKEN"));
    assert_null(getenv(HANDOFF_VARIABLE));
    assert_int_equal(lseek(first + 1, 0, SEEK_END), 0); // emptied
    assert_true(fcntl(first, F_GETFD) & FD_CLOEXEC);
    drop(first);
}

static void test_bad_start_objects(void **state) {
    struct options o;
    struct error err = {0};
    cleanup(arena_free) struct arena a;
    arena_init(&a, 1 << 16);
    (void)state;
    const char *const bad[] = {"", "{", "[]", "{}", "{\"token_sha256\":\"zz\"}"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(PARSE(&o, &err, "init"), 0);
        int first = hand_over(bad[i]);
        assert_int_equal(options_handoff(&o, &a, &err), -1);
        assert_non_null(strstr(err.message, "start object"));
        drop(first);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_bad_flags),
        cmocka_unit_test(test_secrets_leave_the_environment),
        cmocka_unit_test(test_start_object),
        cmocka_unit_test(test_bad_start_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
