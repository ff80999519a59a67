// Bash sessions (execd.md section 4): one memory (execd/shell/session_state.h), runs in order, each
// a fresh shell with a group of its own that dies on time-out, on delete, and with its client.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/random.h"
#include "execd/capture.h"
#include "execd/events.h"
#include "execd/handlers.h"
#include "execd/request.h"
#include "execd/shell/session_state.h"
#include "execd/shell/shell.h"
#include "execd/telemetry/telemetry.h"
#include "fmt/json.h"

enum { SESSION_WAITING_MAX = 64, RUN_DEFAULT_MS = 24 * 3600 * 1000, RUN_ARENA = 64 << 20 };

struct session {
    char id[EXECD_ID_SIZE];
    struct execd *e;
    struct session_state state;
    struct list runs; // the first is running
    unsigned count;
    bool deleted; // not found any more; freed with its last run
};

struct run {
    struct list node; // in session->runs
    struct session *session;
    struct events *events;
    char *command, *cwd; // cwd NULL: the session's
    int64_t time_out_ms, started_ns;
    struct process process;
    struct timer deadline;
    struct loop_task over; // the end, outside of the output's own calls
    struct capture capture;
    struct output_reader reader;
    int report; // descriptor of what the shell remembers
    uint64_t oom_kills;
    bool started, timed_out;
    struct exit_status status;
};

static void session_next(struct session *s);

// ---- the end of a run ----

static void run_free(struct run *r) {
    timer_stop(&r->deadline);
    loop_cancel(&r->session->e->loop, &r->over);
    output_detach(&r->reader);
    process_forget(&r->process);
    capture_clear(&r->capture);
    if (r->report >= 0)
        (void)close(r->report); // a memory file
    list_remove(&r->node);
    r->session->count--;
    free(r->command);
    free(r->cwd);
    free(r);
}

static void run_error(struct run *r, const char *ename, const char *evalue, const char *line,
                      bool out_of_memory) {
    char text[64];
    uint64_t limit = process_memory_limit();
    json_t *lines = json_array();
    if (line)
        (void)json_array_append_new(lines, json_string(line)); // fails only without memory
    (void)snprintf(text, sizeof text, limit ? "out of memory: limit %llu" : "out of memory",
                   (unsigned long long)limit);
    if (out_of_memory)
        (void)json_array_append_new(lines, json_string(text));
    events_error(r->events, ename, evalue, lines);
}

static void run_result(struct run *r) {
    char text[128], code[16];
    const struct exit_status *st = &r->status;
    if (r->timed_out) {
        (void)snprintf(text, sizeof text, "error running in session. timeout after %lldms",
                       (long long)r->time_out_ms);
        run_error(r, CODE_RUNTIME, text, NULL, false);
    } else if (!st->signal && !st->code) {
        events_complete(r->events, (clock_boot_ns() - r->started_ns) / 1000000);
    } else {
        (void)snprintf(code, sizeof code, "%d", st->signal ? -1 : st->code);
        run_error(r, "CommandExecError", code, process_describe(*st, text, sizeof text),
                  process_out_of_memory(*st, r->oom_kills));
    }
}

// Nothing more comes of the run; the next one gets its turn.
static void run_end(struct run *r) {
    struct session *s = r->session;
    events_end(r->events);
    run_free(r);
    session_next(s);
}

static void on_drained(struct capture *c) {
    struct run *r = CONTAINER_OF(c, struct run, capture);
    struct error err;
    char line[ERROR_MESSAGE_MAX + 16];
    if (session_state_take(&r->session->state, r->report, &err) < 0) {
        int n = snprintf(line, sizeof line, "execd: %s\n", err.message);
        output_append(&c->output, OUTPUT_STDERR, line, (size_t)n);
    }
    output_end(&c->output); // on_more() ends the run, now or when the client has read
}

static void on_over(struct loop_task *task) {
    struct run *r = CONTAINER_OF(task, struct run, over);
    run_result(r);
    run_end(r);
}

static void on_more(struct output_reader *reader) {
    struct run *r = CONTAINER_OF(reader, struct run, reader);
    char *scratch = r->session->e->scratch;
    enum output_stream from;
    size_t n;
    while (!events_blocked(r->events) && (n = output_next(reader, &from, scratch, EVENTS_BURST)))
        events_output(r->events, from, scratch, n);
    events_flush(r->events);
    if (output_at_end(reader)) {
        loop_cancel(&r->session->e->loop, &r->over);
        loop_defer(&r->session->e->loop, &r->over);
    }
}

static void on_events_room(void *arg) {
    struct run *r = arg;
    if (r->started)
        on_more(&r->reader);
}

// The client has left: nobody wants the rest (execd.md section 0, fact 9).
static void on_gone(void *arg) {
    struct run *r = arg;
    if (!r->started) { // was waiting for its turn
        run_end(r);
        return;
    }
    process_kill_group(&r->process, SIGKILL);
    capture_discard(&r->capture);
}

static void on_exit_of(struct process *p, struct exit_status status) {
    struct run *r = CONTAINER_OF(p, struct run, process);
    r->status = status;
    telemetry_execution(r->session->e, "run_in_session",
                        !status.signal && !status.code && !r->timed_out,
                        clock_boot_ns() - r->started_ns);
    timer_stop(&r->deadline);
    capture_exited(&r->capture);
}

static void on_deadline(struct timer *t) {
    struct run *r = CONTAINER_OF(t, struct run, deadline);
    r->timed_out = true;
    process_kill_group(&r->process, SIGKILL);
}

// ---- the start of a run ----

struct plan { // of a shell; descriptors are closed with it
    struct arena arena;
    int script, out[2], errors[2];
    char *argv[6];
    struct spawn spawn;
};

static void plan_clear(struct plan *p) {
    int fds[] = {p->script, p->out[0], p->out[1], p->errors[0], p->errors[1]};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); // pipes and memory files
    arena_free(&p->arena);
}

static int open_files(struct run *r, struct plan *p, struct error *err) {
    p->script = memfd_create("session", MFD_CLOEXEC);
    r->report = memfd_create("session", MFD_CLOEXEC);
    if (p->script < 0 || r->report < 0 || pipe2(p->out, O_CLOEXEC) < 0 ||
        pipe2(p->errors, O_CLOEXEC) < 0)
        return error_errno(err, errno, "descriptors");
    return 0;
}

static int write_script(struct run *r, struct plan *p, bool bash, struct error *err) {
    cleanup_strbuf struct strbuf script;
    strbuf_init(&script, SESSION_SCRIPT_MAX);
    if (session_script(&script, &r->session->state, bash, p->spawn.envp, p->spawn.cwd, r->command) <
        0)
        return error_errno(err, ENOMEM, "script");
    if (fd_write_all(p->script, script.data, script.len) < 0)
        return error_errno(err, errno, "script");
    return 0;
}

// Where it begins. Somebody may have removed the session's own directory: then where we began, so
// that the session can still be used.
static const char *directory_of(const struct run *r) {
    struct stat st;
    const char *own = r->session->state.cwd;
    if (r->cwd)
        return r->cwd;
    return !stat(own, &st) && S_ISDIR(st.st_mode) && !access(own, X_OK) ? own : r->session->e->cwd;
}

static void tell_directory(struct run *r, const char *cwd) {
    char line[EXECD_PATH_SIZE + 64];
    if (r->cwd || !strcmp(cwd, r->session->state.cwd))
        return;
    int n = snprintf(line, sizeof line, "execd: cd: %s: No such file or directory\n",
                     r->session->state.cwd);
    output_append(&r->capture.output, OUTPUT_STDERR, line,
                  n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

static int plan_make(struct run *r, struct plan *p, struct error *err) {
    struct shell shell;
    const char *cwd = directory_of(r);
    if (shell_prepare(&shell, &p->arena, cwd, NULL, err) < 0 || open_files(r, p, err) < 0)
        return -1;
    char *bash[] = {(char *)"bash",
                    (char *)"--noprofile",
                    (char *)"--norc",
                    (char *)"-c",
                    (char *)session_shell_text(true),
                    NULL};
    char *sh[] = {(char *)"sh", (char *)"-c", (char *)session_shell_text(false), NULL};
    memcpy(p->argv, shell.bash ? bash : sh, shell.bash ? sizeof bash : sizeof sh);
    p->spawn = (struct spawn){.file = shell.file,
                              .argv = p->argv,
                              .envp = shell.envp,
                              .cwd = cwd,
                              .stdio = {-1, p->out[1], p->errors[1]},
                              .pass = {p->script, r->report},
                              .pass_count = 2,
                              .flags = SPAWN_NEW_GROUP};
    return write_script(r, p, shell.bash, err);
}

static int run_start(struct run *r, struct error *err) {
    struct execd *e = r->session->e;
    cleanup(plan_clear) struct plan p = {.script = -1, .out = {-1, -1}, .errors = {-1, -1}};
    arena_init(&p.arena, RUN_ARENA);
    if (plan_make(r, &p, err) < 0)
        return -1;
    r->oom_kills = process_oom_kills();
    r->started_ns = clock_boot_ns();
    capture_init(&r->capture, e, 0);
    if (capture_start(&r->capture, TAKE_FD(p.out[0]), TAKE_FD(p.errors[0]), 0, on_drained) < 0)
        return error_errno(err, errno, "descriptors");
    r->process.ended = on_exit_of;
    if (process_start(e, &r->process, &p.spawn, err) < 0)
        return -1;
    r->started = true;
    timer_start(&e->loop, &r->deadline, r->time_out_ms ? r->time_out_ms : RUN_DEFAULT_MS,
                on_deadline);
    output_attach(&r->capture.output, &r->reader, 0, OUTPUT_HOLD | OUTPUT_TAGGED, on_more);
    tell_directory(r, p.spawn.cwd);
    return 0;
}

static void session_free(struct session *s) {
    map_remove(&s->e->sessions, s->id);
    session_state_clear(&s->state);
    free(s);
}

// Starts the first run that waits, if none is running; a deleted session goes with its last run.
static void session_next(struct session *s) {
    struct error err;
    while (!list_empty(&s->runs)) {
        struct run *r = LIST_ENTRY(s->runs.next, struct run, node);
        const char *closed = s->deleted       ? "error running in session. session was deleted"
                             : s->e->stopping ? "error running in session. execd is stopping"
                                              : NULL;
        if (r->started || (!closed && run_start(r, &err) == 0))
            return;
        if (closed) {
            run_error(r, CODE_RUNTIME, closed, NULL, false);
        } else {
            telemetry_execution(s->e, "run_in_session", false, 0);
            run_error(r, "CommandExecError", err.message, err.message, false);
        }
        events_end(r->events);
        run_free(r);
    }
    if (s->deleted)
        session_free(s);
}

// ---- requests ----

static struct session *session_find(const struct execd *e, const char *id) {
    struct session *s = map_get(&e->sessions, id);
    return s && !s->deleted ? s : NULL;
}

void handle_session_create(struct http_exchange *x) {
    struct execd *e = execd_of(x);
    struct error err = {0};
    cleanup_json json_t *body = execd_body(x, true);
    if (!body)
        return;
    const char *cwd = request_text(x, body, "cwd", "");
    if (!cwd)
        return;
    if (e->sessions.count >= EXECD_SESSIONS_MAX) {
        execd_fail(x, 429, CODE_RUNTIME, "error creating session. %d sessions exist, delete one",
                   EXECD_SESSIONS_MAX);
        return;
    }
    char *path = request_path(x, cwd, &err);
    struct session *s = path && request_make_dirs(path, &err) == 0 ? calloc(1, sizeof *s) : NULL;
    if (s) {
        s->e = e;
        list_init(&s->runs);
        random_uuid(s->id);
        s->state.cwd = strdup(path);
    }
    if (!s || !s->state.cwd || map_put(&e->sessions, s->id, s) < 0) {
        execd_fail(x, 500, CODE_RUNTIME, "error creating session. %s",
                   err.kind ? err.message : "out of memory");
        if (s)
            session_free(s);
        return;
    }
    http_reply_json(x, 200, json_pack("{s:s}", "session_id", s->id));
}

// Reads the request into r; false when it was answered with an error.
static bool read_run(struct http_exchange *x, struct run *r) {
    struct error err;
    struct stat st;
    cleanup_json json_t *body = execd_body(x, false);
    if (!body)
        return false;
    const char *command = request_text(x, body, "command", "");
    const char *cwd = command ? request_text(x, body, "cwd", "") : NULL;
    if (!cwd || !request_whole(x, body, "timeout", 0, INT64_MAX / 2000000, &r->time_out_ms))
        return false;
    if (!*command) {
        execd_fail(x, 400, CODE_BODY, "invalid request, validation error: command is required");
        return false;
    }
    if (*cwd) {
        char *path = request_path(x, cwd, &err);
        if (!path || stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
            execd_fail(x, 400, CODE_BODY,
                       "invalid request, validation error working directory %s: %s", cwd,
                       path ? "is not an existing directory" : err.message);
            return false;
        }
        r->cwd = strdup(path);
    }
    r->command = strdup(command);
    if (r->command && (r->cwd || !*cwd))
        return true;
    execd_fail(x, 503, CODE_RUNTIME, "out of memory");
    return false;
}

void handle_session_run(struct http_exchange *x) {
    struct execd *e = execd_of(x);
    struct session *s = session_find(e, http_param(x, "id"));
    if (!s) {
        execd_fail(x, 500, CODE_RUNTIME, "error running in session. context not found");
        return;
    }
    if (s->count > SESSION_WAITING_MAX) {
        execd_fail(x, 409, CODE_RUNTIME, "session is busy: %d runs are waiting",
                   SESSION_WAITING_MAX);
        return;
    }
    struct run *r = calloc(1, sizeof *r);
    if (!r) {
        execd_fail(x, 503, CODE_RUNTIME, "out of memory");
        return;
    }
    r->session = s;
    r->over.run = on_over;
    r->report = -1;
    s->count++;
    struct events_owner owner = {.room = on_events_room, .gone = on_gone, .arg = r};
    if (!read_run(x, r) || !(r->events = events_begin(x, s->id, EVENTS_PINGS, &owner))) {
        run_free(r);
        return;
    }
    events_flush(r->events); // it may wait long for its turn
    list_push_back(&s->runs, &r->node);
    session_next(s);
}

static void session_delete(struct session *s) {
    s->deleted = true;
    if (!list_empty(&s->runs)) {
        struct run *r = LIST_ENTRY(s->runs.next, struct run, node);
        process_kill_group(&r->process, SIGKILL);
    }
    session_next(s);
}

void handle_session_delete(struct http_exchange *x) {
    const char *id = http_param(x, "id");
    struct session *s = session_find(execd_of(x), id);
    if (!s) {
        execd_fail(x, 404, CODE_CONTEXT, "session %s not found", id);
        return;
    }
    session_delete(s);
    http_reply_empty(x, 200);
}

int session_interrupt(struct execd *e, const char *id, struct error *err) {
    (void)err;
    struct session *s = session_find(e, id);
    if (s)
        session_delete(s); // as the reference does (execd.md 3.8)
    return s != NULL;
}

static bool stop_one(const char *key, void *value, void *arg) {
    struct session *s = value;
    (void)key, (void)arg;
    LIST_EACH(&s->runs, node) {
        struct run *r = LIST_ENTRY(node, struct run, node);
        process_kill_group(&r->process, SIGKILL);
        events_end(r->events);
        run_free(r);
    }
    session_free(s);
    return true;
}

void session_room_stop(struct execd *e) {
    map_each(&e->sessions, stop_one, NULL);
    map_clear(&e->sessions);
}
