#include "execd/shell/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/random.h"
#include "execd/handlers.h"
#include "execd/request.h"
#include "execd/shell/shell.h"
#include "fmt/json.h"
#include "io/pty.h"

// ---- input ----

static void close_input(struct pty *p) {
    stream_close(TAKE_PTR(p->input));
    strbuf_clear(&p->typed);
    pty_clients_paused(p, false);
}

static void write_typed(struct pty *p) {
    while (p->input && p->typed.len) {
        ssize_t n = stream_write(p->input, p->typed.data, p->typed.len);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            int why = errno;
            close_input(p);
            if (p->running && why != EIO) // EIO: the terminal is hung up, its exit follows
                pty_clients_failed(p, "STDIN_WRITE_FAILED", strerrordesc_np(why));
            return;
        }
        strbuf_consume(&p->typed, (size_t)n);
    }
    if (p->input)
        stream_want(p->input, p->typed.len ? STREAM_WRITABLE : 0);
    pty_clients_paused(p, p->typed.len > PTY_INPUT_SOFT);
}

static void on_input_room(struct stream *s, unsigned events, void *arg) {
    (void)s, (void)events;
    write_typed(arg);
}

void pty_type(struct pty *p, const char *data, size_t len) {
    if (!p->running)
        return;
    if (!p->input || strbuf_add(&p->typed, data, len) < 0) {
        p->typed.failed = false;
        pty_clients_failed(p, "STDIN_WRITE_FAILED", "the shell's input is closed or full");
        return;
    }
    write_typed(p);
}

void pty_signal(struct pty *p, int number) {
    pid_t job = p->running && p->terminal && p->input ? pty_foreground(stream_fd(p->input)) : 0;
    if (job > 1 && process_running(&p->process))
        (void)kill(-job, number); // it may just have ended
    else
        process_kill_group(&p->process, number);
}

void pty_size(struct pty *p, unsigned columns, unsigned rows) {
    if (p->terminal && p->input)
        (void)pty_resize(stream_fd(p->input), columns, rows); // fails when it is hung up
}

// ---- the shell ----

static void on_drained(struct capture *c) {
    struct pty *p = CONTAINER_OF(c, struct pty, capture);
    p->running = false;
    close_input(p);
    pty_clients_ended(p);
    pty_release(p);
}

static void on_exit_of(struct process *process, struct exit_status status) {
    struct pty *p = CONTAINER_OF(process, struct pty, process);
    p->status = status;
    capture_exited(&p->capture);
}

struct plan { // descriptors of a start, closed with it
    struct arena arena;
    int ours[3], theirs[3]; // our end of stdin, stdout, stderr; -1: none
};

static void plan_clear(struct plan *s) {
    for (int i = 0; i < 3; i++) {
        cleanup_close_p(&s->ours[i]);
        if (i == 0 || s->theirs[i] != s->theirs[0])
            cleanup_close_p(&s->theirs[i]);
    }
    arena_free(&s->arena);
}

static int open_terminal(struct plan *s, struct error *err) {
    int slave;
    if (pty_open(PTY_COLUMNS, PTY_ROWS, &s->ours[1], &slave, err) < 0)
        return -1;
    for (int i = 0; i < 3; i++)
        s->theirs[i] = slave;
    s->ours[0] = fcntl(s->ours[1], F_DUPFD_CLOEXEC, 3); // reading and writing have a stream each
    return s->ours[0] < 0 ? error_errno(err, errno, "descriptors") : 0;
}

static int open_pipes(struct plan *s, struct error *err) {
    for (int i = 0, ends[2]; i < 3; i++) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return error_errno(err, errno, "pipe");
        s->ours[i] = ends[i == 0];
        s->theirs[i] = ends[i != 0];
    }
    return 0;
}

static int launch(struct pty *p, struct plan *s, bool terminal, struct error *err) {
    struct shell shell;
    if (shell_prepare(&shell, &s->arena, p->cwd, terminal ? "TERM=xterm-256color" : NULL, err) < 0)
        return -1;
    char *argv[6] = {(char *)(shell.bash ? "bash" : "sh")};
    unsigned n = 1;
    if (shell.bash) {
        argv[n++] = (char *)"--norc";
        argv[n++] = (char *)"--noprofile";
    }
    if (p->command) {
        argv[n++] = (char *)"-c";
        argv[n++] = p->command;
    }
    struct spawn spawn = {.file = shell.file,
                          .argv = argv,
                          .envp = shell.envp,
                          .cwd = p->cwd,
                          .stdio = {s->theirs[0], s->theirs[1], s->theirs[2]},
                          .flags = terminal ? SPAWN_NEW_SESSION | SPAWN_TTY : SPAWN_NEW_GROUP};
    p->process.ended = on_exit_of;
    return process_start(p->e, &p->process, &spawn, err);
}

int pty_start(struct pty *p, bool terminal, struct error *err) {
    cleanup(plan_clear) struct plan s = {.ours = {-1, -1, -1}, .theirs = {-1, -1, -1}};
    arena_init(&s.arena, 16 << 20);
    if ((terminal ? open_terminal(&s, err) : open_pipes(&s, err)) < 0 ||
        launch(p, &s, terminal, err) < 0)
        return -1;
    int out = TAKE_FD(s.ours[1]), errors = TAKE_FD(s.ours[2]);
    p->input = stream_open(&p->e->loop, TAKE_FD(s.ours[0]), on_input_room, p);
    if (!p->input ||
        capture_start(&p->capture, out, errors, terminal ? CAPTURE_TERMINAL : 0, on_drained) < 0) {
        int why = errno;
        if (!p->input) {
            cleanup_close_p(&out);
            cleanup_close_p(&errors);
        }
        process_kill_group(&p->process, SIGKILL);
        process_forget(&p->process);
        stream_close(TAKE_PTR(p->input));
        return error_errno(err, why, "descriptors");
    }
    p->terminal = terminal;
    p->running = true;
    return 0;
}

// ---- life ----

static void pty_free(struct pty *p) {
    process_forget(&p->process);
    stream_close(p->input);
    capture_clear(&p->capture);
    strbuf_free(&p->typed);
    free(p->cwd);
    free(p->command);
    free(p);
}

void pty_release(struct pty *p) {
    if (p->deleted && !p->running && list_empty(&p->clients)) {
        map_remove(&p->e->ptys, p->id);
        pty_free(p);
    }
}

static struct pty *pty_new(struct execd *e, const char *cwd, const char *command) {
    struct pty *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->e = e;
    random_uuid(p->id);
    list_init(&p->clients);
    strbuf_init(&p->typed, PTY_INPUT_SOFT + PTY_MESSAGE_MAX);
    capture_init(&p->capture, e, PTY_RING);
    p->cwd = strdup(cwd);
    p->command = *command ? strdup(command) : NULL;
    if (p->cwd && (p->command || !*command) && map_put(&e->ptys, p->id, p) == 0)
        return p;
    pty_free(p);
    return NULL;
}

static void kill_all(struct pty *p) {
    pty_signal(p, SIGKILL); // a job in the foreground has a group of its own
    process_kill_group(&p->process, SIGKILL);
}

void handle_pty_create(struct http_exchange *x) {
    struct execd *e = execd_of(x);
    struct error err = {.kind = ENOMEM, .message = "out of memory"};
    cleanup_json json_t *body = execd_body(x, true);
    const char *cwd = body ? request_text(x, body, "cwd", "") : NULL;
    const char *command = cwd ? request_text(x, body, "command", "") : NULL;
    if (!command)
        return;
    if (e->ptys.count >= EXECD_SESSIONS_MAX) {
        execd_fail(x, 429, CODE_RUNTIME, "error creating pty session. %d exist, delete one",
                   EXECD_SESSIONS_MAX);
        return;
    }
    char *path = request_path(x, cwd, &err);
    struct pty *p = path && request_make_dirs(path, &err) == 0 ? pty_new(e, path, command) : NULL;
    if (!p) {
        execd_fail(x, 500, CODE_RUNTIME, "error creating pty session. %s", err.message);
        return;
    }
    http_reply_json(x, 201, json_pack("{s:s}", "session_id", p->id));
}

struct pty *pty_find(struct http_exchange *x) {
    const char *id = http_param(x, "id");
    struct pty *p = map_get(&execd_of(x)->ptys, id);
    if (p && !p->deleted)
        return p;
    execd_fail(x, 404, CODE_CONTEXT, "pty session %s not found", id);
    return NULL;
}

void handle_pty_get(struct http_exchange *x) {
    const struct pty *p = pty_find(x);
    if (p)
        http_reply_json(x, 200,
                        json_pack("{s:s,s:b,s:I}", "session_id", p->id, "running", p->running,
                                  "output_offset", (json_int_t)p->capture.output.total));
}

void handle_pty_delete(struct http_exchange *x) {
    struct pty *p = pty_find(x);
    if (!p)
        return;
    p->deleted = true;
    kill_all(p);
    pty_release(p); // else with the end of its shell
    http_reply_empty(x, 200);
}

static bool stop_one(const char *key, void *value, void *arg) {
    struct pty *p = value;
    (void)key, (void)arg;
    kill_all(p);
    map_remove(&p->e->ptys, p->id);
    pty_clients_abort(p);
    pty_free(p);
    return true;
}

void pty_room_stop(struct execd *e) {
    map_each(&e->ptys, stop_one, NULL);
    map_clear(&e->ptys);
}
