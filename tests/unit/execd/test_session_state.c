// The state of sessions, with real shells: every row is a series of runs of one session.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "execd/shell/session_state.h"
#include "io/spawn.h"

struct shell {
    const char *path;
    bool bash;
};
static const struct shell bash = {"/bin/bash", true}, dash = {"/bin/sh", false};

struct session {
    const struct shell *shell;
    struct session_state state;
    char *envp[8];
    struct strbuf out, errors;
    struct exit_status status;
    int taken;
};

static void begin(struct session *s, const struct shell *shell) {
    *s = (struct session){.shell = shell,
                          .envp = {(char *)"PATH=/usr/bin:/bin", (char *)"FROM_EXECD=here", NULL}};
    strbuf_init(&s->out, 1 << 20);
    strbuf_init(&s->errors, 1 << 20);
}

static void end(struct session *s) {
    strbuf_free(&s->out);
    strbuf_free(&s->errors);
    session_state_clear(&s->state);
}

static const char *run(struct session *s, const char *command) {
    struct error err;
    struct strbuf script;
    const char *cwd = s->state.cwd ? s->state.cwd : "/tmp";
    char pwd[4096], *envp[10] = {pwd};
    (void)snprintf(pwd, sizeof pwd, "PWD=%s", cwd);
    memcpy(envp + 1, s->envp, sizeof s->envp);
    int files[2] = {memfd_create("script", MFD_CLOEXEC), memfd_create("report", MFD_CLOEXEC)};
    char *argv[] = {(char *)(s->shell->bash ? "bash" : "sh"), (char *)"-c",
                    (char *)session_shell_text(s->shell->bash), NULL};
    strbuf_init(&script, SESSION_SCRIPT_MAX);
    assert_int_equal(session_script(&script, &s->state, s->shell->bash, envp, cwd, command), 0);
    assert_int_equal(fd_write_all(files[0], script.data, script.len), 0);
    strbuf_free(&script);
    struct spawn sp = {.file = s->shell->path,
                       .argv = argv,
                       .envp = envp,
                       .cwd = cwd,
                       .stdio = {-1, -1, -1},
                       .pass = {files[0], files[1]},
                       .pass_count = 2};
    strbuf_clear(&s->out);
    strbuf_clear(&s->errors);
    if (spawn_run(&sp, NULL, 0, &s->out, &s->errors, 20000, &s->status, &err) < 0)
        fail_msg("%s", err.message);
    s->taken = session_state_take(&s->state, files[1], &err);
    if (s->taken < 0)
        print_message("%s\n", err.message);
    (void)close(files[0]);
    (void)close(files[1]);
    return s->out.data;
}

#define EXPECT(s, command, output, exit_code)                                                      \
    do {                                                                                           \
        assert_string_equal(run(s, command), output);                                              \
        assert_int_equal((s)->status.code, exit_code);                                             \
    } while (0)

static void appendix_a5(void **state) {
    struct session s;
    (void)state;
    begin(&s, &bash);
    EXPECT(&s, "export A='x\ny' B=\"q'z\"; C=n; f() { :; }; alias g=ls; cd /usr", "", 0);
    EXPECT(&s, "printf '[%s][%s][%s]' \"$A\" \"$B\" \"$C\"; pwd; type f g 2>/dev/null",
           "[x\ny][q'z][]/usr\n", 1);
    EXPECT(&s, "exit 7", "", 7);
    EXPECT(&s, "false", "", 1);
    EXPECT(&s, "if", "", 2);
    EXPECT(&s, "trap 'echo bye' EXIT; echo hi", "hi\nbye\n", 0);
    EXPECT(&s, "echo a \\", "a \\\n", 0); // as `bash -c` has it; nothing of ours is swallowed
    EXPECT(&s, "cat <<X\nhere $B\nX", "here q'z\n", 0);
    EXPECT(&s, "echo $#; echo $LINENO", "0\n1\n", 0);
    EXPECT(&s, "printf '[%s][%s]' \"$A\" \"$B\"; pwd", "[x\ny][q'z]/usr\n", 0);
    end(&s);
}

static void every_byte_survives(void **state) {
    const struct shell *shells[] = {&bash, &dash};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
        struct session s;
        char value[262] = "BYTES=";
        begin(&s, shells[i]);
        for (int b = 1; b < 256; b++)
            value[5 + b] = (char)b;
        s.envp[2] = value;
        for (int n = 0; n < 4; n++) {
            (void)run(&s, "printf %s \"$BYTES\"");
            assert_int_equal(s.out.len, 255);
            assert_memory_equal(s.out.data, value + 6, 255);
            assert_int_equal(s.taken, 1);
        }
        size_t before = strlen(s.state.exports);
        (void)run(&s, ":");
        assert_int_equal(strlen(s.state.exports), before); // nothing grows
        end(&s);
    }
}

static void attributes_and_unset(void **state) {
    struct session s;
    (void)state;
    begin(&s, &bash);
    EXPECT(&s, "declare -ix N=5; declare -rx R=ro; unset FROM_EXECD; cd /usr; cd /", "", 0);
    EXPECT(&s, "N+=2; echo $N; R=x; echo no", "7\n", 1);
    EXPECT(&s, "echo $N $R [${FROM_EXECD-gone}]; cd - ", "7 ro [gone]\n/usr\n", 0);
    EXPECT(&s, "pwd; echo $SHLVL", "/usr\n1\n", 0);
    EXPECT(&s, "mkdir -p /tmp/osb-real && ln -sfn /tmp/osb-real /tmp/osb-link; cd /tmp/osb-link",
           "", 0);
    EXPECT(&s, "pwd; rm /tmp/osb-link; cd /; rmdir /tmp/osb-real", "/tmp/osb-link\n", 0);
    end(&s);
}

static void through_exit(void **state) {
    struct session s;
    (void)state;
    begin(&s, &bash);
    EXPECT(&s, "export A=1; cd /usr; exit 3", "", 3);
    EXPECT(&s, "trap 'echo bye $?; export T=t' EXIT; set -euo pipefail; export B=2; false",
           "bye 1\n", 1);
    EXPECT(&s, "echo $A $B $T $PWD", "1 2 t /usr\n", 0);
    EXPECT(&s, "trap 'exit 9' EXIT; export D=4; exit 5", "", 9);
    EXPECT(&s, "trap 'echo x' EXIT; trap - EXIT; export E=5; exit 6", "", 6);
    EXPECT(&s, "trap '' 0; export F=6; exit 7", "", 7);
    EXPECT(&s, "(trap 'echo sub' EXIT; export G=7; cd /; exit 1); exit 2", "sub\n", 2);
    EXPECT(&s, "echo $D $E $F [$G] $PWD", "4 5 6 [] /usr\n", 0);
    EXPECT(&s, "trap 'echo int' INT; kill -INT $$; trap -p INT", "int\ntrap -- 'echo int' SIGINT\n",
           0);
    EXPECT(&s, "export LOST=1; kill -9 $$", "", -1);
    assert_int_equal(s.status.signal, SIGKILL);
    assert_int_equal(s.taken, 0);
    EXPECT(&s, "export LOST=1; exec true", "", 0);
    EXPECT(&s, "echo [$LOST]; export BIG=$(head -c 300000 /dev/zero | tr '\\0' x)", "[]\n", 0);
    EXPECT(&s, "echo ${#BIG}; unset BIG", "300000\n", 0); // more than execve(2) would carry
    end(&s);
}

static void other_shell(void **state) {
    struct session s;
    (void)state;
    begin(&s, &dash);
    EXPECT(&s, "export A='x\ny'; cd /usr; unset FROM_EXECD; exit 3", "", 3);
    EXPECT(&s, "printf '%s|' \"$A\" \"${FROM_EXECD-gone}\" $#; pwd", "x\ny|gone|0|/usr\n", 0);
    EXPECT(&s, "trap 'echo bye' EXIT; export B=1", "bye\n", 0);
    EXPECT(&s, "set -e; export C=2; false", "", 1);
    EXPECT(&s, "echo $B $C", "1 2\n", 0);
    end(&s);
}

// What a run prints is never taken for state, and what it does to small descriptors and options
// does not disturb the report.
static void output_is_not_state(void **state) {
    struct session s;
    (void)state;
    begin(&s, &bash);
    EXPECT(&s, "printf '/etc\\0export EVIL=1\\0'; echo '__PWD__:/etc'; printf '/etc\\0' >&2",
           "/etc", 0);
    assert_int_equal(s.out.len, sizeof "/etc\0export EVIL=1\0__PWD__:/etc\n" - 1);
    EXPECT(&s, "echo [$EVIL] $PWD", "[] /tmp\n", 0);
    EXPECT(&s, "exec 3>/dev/null 4>&1 5>&2 9>&1; IFS=/; set -fCux; export X=1", "", 0);
    assert_null(strstr(s.errors.data, "__execd_state"));
    EXPECT(&s, "echo $X; export() { echo mine; }; printf() { echo mine; }; declare -x Y=2", "1\n",
           0);
    EXPECT(&s, "echo $Y; exec >/dev/null 2>&1; declare -x Z=3", "2\n", 0);
    EXPECT(&s, "echo $Z; ls /proc/self/fd | wc -w", "3\n5\n", 0); // 0 1 2, ls's own, the report's
    end(&s);
}

// The EXECD_ENVS file: entries that changed since the last run are newer than what was remembered.
static void changed_environment(void **state) {
    struct session s;
    (void)state;
    begin(&s, &bash);
    s.envp[2] = (char *)"A=1";
    EXPECT(&s, "echo $A; export A=session", "1\n", 0);
    EXPECT(&s, "echo $A", "session\n", 0);
    s.envp[2] = (char *)"A=it's new";
    s.envp[3] = (char *)"B=added";
    s.envp[4] = (char *)"odd.name=kept";
    EXPECT(&s, "echo $A $B; env | grep odd", "it's new added\nodd.name=kept\n", 0);
    EXPECT(&s, "echo $A; unset B", "it's new\n", 0);
    EXPECT(&s, "echo [$B]", "[]\n", 0);
    end(&s);
}

static void too_large(void **state) {
    struct session s;
    (void)state;
    begin(&s, &bash);
    EXPECT(&s, "export A=1", "", 0);
    EXPECT(&s, "A=$(head -c 5000000 /dev/zero | tr '\\0' x); export A B=$A", "", 0);
    assert_int_equal(s.taken, -1);
    EXPECT(&s, "echo $A", "1\n", 0);
    end(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appendix_a5),          cmocka_unit_test(every_byte_survives),
        cmocka_unit_test(attributes_and_unset), cmocka_unit_test(through_exit),
        cmocka_unit_test(other_shell),          cmocka_unit_test(output_is_not_state),
        cmocka_unit_test(changed_environment),  cmocka_unit_test(too_large),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
