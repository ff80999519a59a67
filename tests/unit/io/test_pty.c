// Pseudo-terminals with real children: size, foreground job, and the end after the last output.
#include "io_test.h"

#include <sys/ioctl.h>
#include <termios.h>

#include "io/pty.h"
#include "io/spawn.h"
#include "io/stream.h"

struct terminal {
    struct stream *stream;
    int master, pidfd;
    pid_t pid;
    struct child_watch watch;
    bool exited, ended;
    struct exit_status status;
    struct strbuf text;
};

static void on_output(struct stream *s, unsigned events, void *arg) {
    struct terminal *t = arg;
    char piece[4096];
    ssize_t n = stream_read(s, piece, sizeof piece);
    (void)events;
    if (n > 0) {
        assert_int_equal(strbuf_add(&t->text, piece, (size_t)n), 0);
    } else if (n == 0 || errno != EAGAIN) {
        assert_int_equal(n, 0);
        t->ended = true;
        stream_want(s, 0);
    }
}

static void on_exit_of(struct child_watch *w, struct exit_status status) {
    struct terminal *t = CONTAINER_OF(w, struct terminal, watch);
    t->exited = true;
    t->status = status;
}

static void terminal_start(struct loop *l, struct terminal *t, const char *script) {
    char *argv[] = {"sh", "-c", (char *)script, NULL},
         *envp[] = {"PATH=/usr/bin:/bin", "TERM=dumb", NULL};
    int slave;
    struct error err;
    *t = (struct terminal){0};
    strbuf_init(&t->text, 1 << 20);
    assert_int_equal(pty_open(PTY_COLUMNS, PTY_ROWS, &t->master, &slave, &err), 0);
    assert_true(fcntl(t->master, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(slave, F_GETFD) & FD_CLOEXEC);
    struct spawn s = {.file = "/bin/sh",
                      .argv = argv,
                      .envp = envp,
                      .stdio = {slave, slave, slave},
                      .flags = SPAWN_NEW_SESSION | SPAWN_TTY};
    assert_int_equal(spawn_start(&s, &t->pid, &t->pidfd, &err), 0);
    assert_int_equal(close(slave), 0);
    t->stream = stream_open(l, t->master, on_output, t);
    stream_want(t->stream, STREAM_READABLE);
    assert_int_equal(child_watch_start(l, &t->watch, t->pid, t->pidfd, on_exit_of), 0);
}

static void terminal_end(struct terminal *t) {
    child_watch_stop(&t->watch);
    stream_close(t->stream);
    (void)close(t->pidfd);
    strbuf_free(&t->text);
}

static void sizes(void **state) {
    struct loop *l = *state;
    struct terminal t;
    terminal_start(l, &t, "stty size; read x; stty size; exit 42");
    UNTIL(l, strstr(t.text.data, "24 80"));
    assert_int_equal(pty_resize(t.master, 120, 40), 0);
    assert_int_equal(stream_write(t.stream, "\n", 1), 1);
    UNTIL(l, t.exited && t.ended);
    assert_non_null(strstr(t.text.data, "40 120"));
    assert_int_equal(t.status.code, 42);
    assert_int_equal(pty_resize(t.master, 0, 40), -1);
    assert_int_equal(pty_resize(t.master, 80, 65536), -1);
    terminal_end(&t);
}

static void foreground_job(void **state) {
    struct loop *l = *state;
    struct terminal t;
    // with job control the child leads a group of its own, in the foreground
    terminal_start(l, &t, "set -m; sh -c 'echo job; exec sleep 1000'; echo ended; read x");
    UNTIL(l, strstr(t.text.data, "job"));
    pid_t job = pty_foreground(t.master);
    assert_true(job > 0);
    assert_int_not_equal(job, t.pid);
    assert_int_equal(kill(-job, SIGTERM), 0);
    UNTIL(l, strstr(t.text.data, "ended"));
    UNTIL(l, pty_foreground(t.master) == t.pid);
    assert_int_equal(kill(-t.pid, SIGKILL), 0);
    UNTIL(l, t.exited && t.ended);
    assert_int_equal(t.status.signal, SIGKILL);
    terminal_end(&t);
}

// The leader's last output is read in full although a grandchild holds the slave: once the leader
// is gone, the first read that finds nothing is the end.
static void last_output(void **state) {
    struct loop *l = *state;
    struct terminal t;
    terminal_start(l, &t,
                   "stty -opost; trap '' HUP; sleep 1000 & echo $!; "
                   "head -c 60000 /dev/zero | tr '\\0' x; printf end");
    UNTIL(l, t.exited);
    ssize_t n;
    char piece[1000];
    while ((n = stream_read(t.stream, piece, sizeof piece)) > 0)
        assert_int_equal(strbuf_add(&t.text, piece, (size_t)n), 0);
    assert_true(n < 0 && errno == EAGAIN);
    size_t len = strlen(t.text.data);
    assert_int_equal(len - (size_t)(strchr(t.text.data, '\n') + 1 - t.text.data), 60003);
    assert_string_equal(t.text.data + len - 4, "xend");
    assert_int_equal(kill((pid_t)strtol(t.text.data, NULL, 10), SIGKILL), 0);
    terminal_end(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {LOOP_TEST(sizes), LOOP_TEST(foreground_job),
                                       LOOP_TEST(last_output)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
