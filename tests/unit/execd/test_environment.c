// The EXECD_ENVS file (A.8, compat-1.1.1.md E8), what a child finds, and who it runs as.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "execd/environment.h"
#include "execd/execd.h"
#include "execd/init.h"
#include "fmt/json.h"

static int collect(void *arg, const char *name, size_t name_len, const char *value) {
    struct strbuf *sb = arg;
    return strbuf_addf(sb, "%.*s=[%s]", (int)name_len, name, value);
}

static void expect(const char *file, const char *expected) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 4096);
    assert_int_equal(environment_parse(file, strlen(file), collect, &sb), 0);
    assert_string_equal(sb.data, expected);
}

static void test_file(void **state) {
    (void)state;
    (void)setenv("BASE_DIR", "/base", 1);
    expect("# c\n\nFOO=bar\nPATH=$BASE_DIR/bin\nEMPTY=\nMALFORMED\n",
           "FOO=[bar]PATH=[/base/bin]EMPTY=[]");
    expect("  A=1  \r\n\tB=x=y\n=nothing\nC=${BASE_DIR}$NONE!", "A=[1]B=[x=y]C=[/base!]");
}

static void test_quotes_are_lossless(void **state) {
    (void)state;
    expect("A='$HOME \"x\" \\n'\n", "A=[$HOME \"x\" \\n]");
    expect("A=\"it's \\\"q\\\" \\\\ \\n\\t$HOME\"\nB=2\n", "A=[it's \"q\" \\ \n\t$HOME]B=[2]");
    expect("A='two\nlines'\nB=1", "A=[two\nlines]B=[1]");
    expect("A='half\nB=1\n", "A=['half]B=[1]");
    expect("A='x' y\nB=\"\\q\"", "A=['x' y]B=[\\q]");
}

static void test_any_bytes_end(void **state) {
    (void)state;
    char data[64];
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 1 << 20);
    srand(7);
    for (int i = 0; i < 20000; i++) {
        size_t len = (size_t)rand() % sizeof data;
        for (size_t k = 0; k < len; k++)
            data[k] = "A=\"'\\\n$ {}#b\0r"[rand() % 14];
        (void)environment_parse(data, len, collect, &sb);
        strbuf_clear(&sb);
    }
}

static void test_layers(void **state) {
    char path[] = "/tmp/osb-envs-XXXXXX";
    struct error err;
    cleanup(arena_free) struct arena a;
    arena_init(&a, 1 << 20);
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "ONE=file\nTWO=file\n", 18), 18);
    (void)close(fd);
    (void)setenv("EXECD_ENVS", path, 1);
    (void)setenv("ONE", "process", 1);
    (void)setenv("ZERO", "process", 1);
    cleanup_json json_t *envs = json_pack("{s:s,s:s}", "TWO", "request", "NEW", "a=b");
    char **envp = process_environment(&a, envs, &err);
    assert_non_null(envp);
    assert_string_equal(process_variable(envp, "ZERO"), "process");
    assert_string_equal(process_variable(envp, "ONE"), "file");
    assert_string_equal(process_variable(envp, "TWO"), "request");
    assert_string_equal(process_variable(envp, "NEW"), "a=b");
    assert_null(process_variable(envp, "NE"));
    cleanup_json json_t *bad = json_pack("{s:i}", "N", 1);
    assert_null(process_environment(&a, bad, &err));
    assert_non_null(strstr(err.message, "envs.N"));
    cleanup_json json_t *name = json_pack("{s:s}", "a=b", "x");
    assert_null(process_environment(&a, name, &err));
    (void)unlink(path);
    (void)unsetenv("EXECD_ENVS");
}

static void test_words_of_an_end(void **state) {
    char text[64];
    (void)state;
    assert_string_equal(process_describe((struct exit_status){.code = 3}, text, sizeof text),
                        "exit status 3");
    assert_string_equal(process_describe((struct exit_status){.signal = 9}, text, sizeof text),
                        "signal: killed");
    assert_string_equal(process_describe((struct exit_status){.signal = 15}, text, sizeof text),
                        "signal: terminated");
    assert_string_equal(process_describe((struct exit_status){.signal = 40}, text, sizeof text),
                        "signal: signal 40");
}

static void test_users(void **state) {
    struct spawn s = {0};
    (void)state;
    process_user(&s, -1, -1);
    assert_int_equal(s.flags, 0);
    process_user(&s, geteuid(), -1); // no change of privilege
    assert_int_equal(s.flags, 0);
    process_user(&s, 1234567, -1); // unknown: not group root
    assert_int_equal(s.flags, SPAWN_SET_USER);
    assert_int_equal(s.gid, 1234567);
    assert_int_equal(s.group_count, 0);
    process_user(&s, 1234567, 99);
    assert_int_equal(s.gid, 99);
}

static char *const *words(char *const *list) {
    return list;
}
#define WORDS(...) words((char *const[]){__VA_ARGS__, NULL})

static void test_entrypoints(void **state) {
    struct error err;
    cleanup(arena_free) struct arena a;
    arena_init(&a, 1 << 16);
    (void)state;
    assert_true(init_idles(WORDS(NULL)));
    assert_true(init_idles(WORDS("tail", "-f", "/dev/null")));
    assert_false(init_idles(WORDS("tail", "-f", "/dev/null", "x")));
    assert_false(init_idles(WORDS("tail", "-f")));
    assert_false(init_idles(WORDS("sleep", "1")));
    char *const *plain = WORDS("sleep", "1");
    assert_ptr_equal(init_program(&a, plain, &err), plain);
    char *const *script = init_program(&a, WORDS("-c", "echo", "a b"), &err);
    assert_non_null(script);
    assert_string_equal(script[1], "-c");
    assert_string_equal(script[2], "echo a b");
    (void)setenv("BOOTSTRAP_CMD", "run it", 1);
    (void)setenv("BOOTSTRAP_SHELL", "/bin/zsh", 1);
    script = init_program(&a, plain, &err);
    assert_string_equal(script[0], "/bin/zsh");
    assert_string_equal(script[2], "run it");
    assert_null(script[3]);
    (void)unsetenv("BOOTSTRAP_CMD");
    (void)unsetenv("BOOTSTRAP_SHELL");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_quotes_are_lossless),
        cmocka_unit_test(test_any_bytes_end),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_words_of_an_end),
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_entrypoints),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
