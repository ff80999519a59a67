#include "execd/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/random.h"
#include "execd/handlers.h"
#include "execd/telemetry/telemetry.h"
#include "io/stream.h"

enum {
    START_FAILED = 255,
    ESCALATE_MS = 3000,
    PIECE = 16 * 1024,
    SCRIPT_ARGUMENT_MAX = 128 * 1024 - 1 // of the kernel, for one argument
};
#define KEEP_US (24 * 3600 * INT64_C(1000000))

struct command_run {
    struct command *command;
    struct process process;
    struct stream *pipe[2]; // stdout, stderr; in the background one for both, in order
    size_t left[2];         // bytes that were in the pipe when the process ended
    struct timer limit, escalate;
    int group;             // holds the process group while an interrupt escalates, else -1
    struct events *events; // of the foreground reply, NULL when there is none (any more)
    struct output_reader reader;
    bool drained; // all that was written before the end is in the output ...
    uint64_t end; // ... up to here
    uint64_t oom_kills;
    int64_t began_ns, ended_ns;
};

// ---- records ----

struct command *command_find(const struct execd *e, const char *id) {
    return map_get(&e->commands, id);
}

int command_exit_code(const struct command *c) {
    return c->failure ? START_FAILED : c->status.signal > 0 ? -1 : c->status.code;
}

static void forget(struct command *c) {
    (void)map_remove(&c->e->commands, c->id);
    if (c->node.next) {
        list_remove(&c->node);
        c->e->history_count--;
        c->e->history_bytes -= strlen(c->content);
    }
    output_clear(&c->output);
    free(c->content);
    free(c->failure);
    free(c);
}

static void forget_old(struct execd *e) {
    int64_t since = clock_wall_us() - KEEP_US;
    LIST_EACH(&e->history, node) {
        struct command *c = LIST_ENTRY(node, struct command, node);
        if (c->run || !list_empty(&c->output.readers))
            continue;
        if (e->history_count < EXECD_COMMANDS_MAX && e->history_bytes < EXECD_TEXTS_MAX &&
            c->finished_us > since)
            return;
        forget(c);
    }
}

static struct command *new_command(struct execd *e, const struct command_spec *spec) {
    struct command *c = calloc(1, sizeof *c);
    struct command_run *run = calloc(1, sizeof *run);
    char *content = strdup(spec->content);
    if (!c || !run || !content)
        goto failed;
    c->e = e;
    c->content = content;
    c->background = spec->background;
    c->running = true;
    c->started_us = clock_wall_us();
    c->run = run;
    run->command = c;
    run->group = -1;
    run->began_ns = clock_boot_ns();
    random_hex(c->id, EXECD_ID_HEX);
    output_init(&c->output, &e->outputs, 0);
    if (map_put(&e->commands, c->id, c) < 0)
        goto failed;
    list_push_back(&e->history, &c->node);
    e->history_count++;
    e->history_bytes += strlen(content);
    return c;
failed:
    free(content);
    free(run);
    free(c);
    return NULL;
}

// ---- the foreground reply ----

static json_t *traceback(const struct command *c, const char *text) {
    json_t *list = json_pack("[s]", text);
    if (process_out_of_memory(c->status, c->run->oom_kills)) {
        char line[64];
        uint64_t limit = process_memory_limit();
        (void)snprintf(line, sizeof line, limit ? "out of memory: limit %llu" : "out of memory",
                       (unsigned long long)limit);
        json_array_append_new(list, json_string(line));
    }
    return list;
}

static void tell_end(struct command_run *run) {
    const struct command *c = run->command;
    char code[16], text[64];
    if (!c->status.signal && !c->status.code) {
        events_complete(run->events, (run->ended_ns - run->began_ns) / 1000000);
        return;
    }
    (void)snprintf(code, sizeof code, "%d", command_exit_code(c));
    (void)process_describe(c->status, text, sizeof text);
    events_error(run->events, "CommandExecError", code, traceback(c, text));
}

static void leave_reply(struct command_run *run) {
    struct events *s = TAKE_PTR(run->events);
    output_detach(&run->reader);
    events_end(s);
}

static void settle(struct command_run *run);

// As much of the output as the client takes, and the end behind it.
static void pump(struct command_run *run) {
    char piece[PIECE];
    enum output_stream from;
    struct events *s = run->events;
    while (!events_blocked(s)) {
        size_t size = sizeof piece;
        if (run->drained && run->end - run->reader.cursor < size)
            size = (size_t)(run->end - run->reader.cursor);
        size_t n = size ? output_next(&run->reader, &from, piece, size) : 0;
        if (!n)
            break;
        events_output(s, from, piece, n);
    }
    if (run->drained && run->reader.cursor >= run->end) {
        tell_end(run);
        leave_reply(run);
    } else {
        events_flush(s);
    }
}

static void on_output(struct output_reader *r) {
    pump(CONTAINER_OF(r, struct command_run, reader));
}

static void on_reply_room(void *arg) {
    pump(arg);
    settle(arg);
}

static void on_reply_gone(void *arg) {
    leave_reply(arg);
    settle(arg);
}

// ---- pipes ----

static void close_pipe(struct command_run *run, int i) {
    stream_close(run->pipe[i]);
    run->pipe[i] = NULL;
    run->left[i] = 0;
}

// One read. False when there is nothing more to do now.
static bool read_pipe(struct command_run *run, int i) {
    struct command *c = run->command;
    size_t room = output_room(&c->output);
    if (!room) {
        stream_want(run->pipe[i], 0);
        return false;
    }
    ssize_t n =
        stream_read(run->pipe[i], c->e->scratch, room < EXECD_SCRATCH ? room : EXECD_SCRATCH);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0) {
        close_pipe(run, i);
        return false;
    }
    run->left[i] -= (size_t)n < run->left[i] ? (size_t)n : run->left[i];
    output_append(&c->output, i ? OUTPUT_STDERR : OUTPUT_STDOUT, c->e->scratch, (size_t)n);
    return true;
}

static void on_pipe(struct stream *s, unsigned events, void *arg) {
    struct command_run *run = arg;
    (void)events;
    (void)read_pipe(run, s == run->pipe[1]);
    settle(run);
}

static void on_output_room(struct output *o) {
    struct command *c = CONTAINER_OF(o, struct command, output);
    for (int i = 0; c->run && i < 2; i++)
        if (c->run->pipe[i])
            stream_want(c->run->pipe[i], STREAM_READABLE);
}

// ---- the end ----

// Looks whether something is over: the output of an ended process, or the whole run.
static void settle(struct command_run *run) {
    struct command *c = run->command;
    if (!c->running && !run->drained && !run->left[0] && !run->left[1]) {
        run->drained = true;
        run->end = c->output.total;
        if (run->events)
            pump(run);
    }
    if (c->running || run->pipe[0] || run->pipe[1] || run->events || timer_armed(&run->escalate))
        return;
    timer_stop(&run->limit);
    c->run = NULL;
    free(run);
    output_end(&c->output);
}

static void on_ended(struct process *p, struct exit_status status) {
    struct command_run *run = CONTAINER_OF(p, struct command_run, process);
    struct command *c = run->command;
    timer_stop(&run->limit);
    c->running = false;
    c->status = status;
    c->finished_us = clock_wall_us();
    run->ended_ns = clock_boot_ns();
    telemetry_execution(c->e, "run_command", !status.signal && !status.code,
                        run->ended_ns - run->began_ns);
    for (int i = 0; i < 2; i++) {
        int waiting = 0;
        if (run->pipe[i] && !ioctl(stream_fd(run->pipe[i]), FIONREAD, &waiting) && waiting > 0)
            run->left[i] = (size_t)waiting;
        while (run->pipe[i] && run->left[i] && read_pipe(run, i))
            ;
    }
    // What is left in the pipes now belongs to children that live on: read as it comes, for the
    // log.
    settle(run);
}

static void on_limit(struct timer *t) {
    struct command_run *run = CONTAINER_OF(t, struct command_run, limit);
    process_kill_group(&run->process, SIGKILL);
}

static void end_escalation(struct command_run *run) {
    timer_stop(&run->escalate);
    if (run->group >= 0)
        (void)close(run->group); // a pidfd
    run->group = -1;
}

static void on_escalate(struct timer *t) {
    struct command_run *run = CONTAINER_OF(t, struct command_run, escalate);
    process_kill_held(run->group, &run->process, SIGKILL);
    end_escalation(run);
    settle(run);
}

int command_interrupt(struct execd *e, const char *id, struct error *err) {
    struct command *c = command_find(e, id);
    if (!c)
        return 0;
    if (!c->running)
        return error_set(err, ESRCH, "command session %s is not running", id);
    struct command_run *run = c->run;
    if (run->group < 0)
        run->group = process_hold_group(&run->process);
    process_kill_group(&run->process, SIGTERM);
    if (!timer_armed(&run->escalate))
        timer_start(&e->loop, &run->escalate, ESCALATE_MS, on_escalate);
    return 1;
}

// ---- the start ----

// A script that is too long for an argument goes in by a memory file that the shell reads.
static int script_file(const char *script, size_t len, struct error *err) {
    int fd = memfd_create("command", MFD_CLOEXEC);
    if (fd < 0 || fd_write_all(fd, script, len) < 0 || lseek(fd, 0, SEEK_SET) < 0) {
        int why = errno;
        if (fd >= 0)
            (void)close(fd);
        return error_errno(err, why, "script of the command");
    }
    return fd;
}

static int spawn_it(struct command *c, const struct command_spec *spec, struct arena *a,
                    const int write_end[2], struct error *err) {
    struct execd *e = c->e;
    const char *argv[4] = {0};
    cleanup_close int script = -1;
    struct spawn s = {.argv = spec->argv,
                      .envp = spec->envp,
                      .cwd = spec->cwd,
                      .stdio = {-1, write_end[0], write_end[1]},
                      .flags = SPAWN_NEW_GROUP | SPAWN_SEARCH_PATH,
                      .nofile_soft = e->nofile_soft};
    if (spec->script) {
        bool bash;
        size_t len = strlen(spec->script);
        s.file = process_shell(a, &bash);
        if (!s.file)
            return error_set(err, ENOENT, "no shell: neither bash nor sh is in PATH");
        argv[0] = bash ? "bash" : "sh";
        argv[1] = "-c";
        argv[2] = spec->script;
        if (len > SCRIPT_ARGUMENT_MAX) {
            if ((script = script_file(spec->script, len, err)) < 0)
                return -1;
            s.pass[s.pass_count++] = script;
            argv[2] = ". /proc/self/fd/3";
        }
        s.argv = (char *const *)argv;
    }
    process_user(&s, spec->uid, spec->gid);
    (void)process_temporary();
    c->run->oom_kills = process_oom_kills();
    c->run->process.ended = on_ended;
    return process_start(e, &c->run->process, &s, err);
}

static int open_pipes(struct command *c, int write_end[2], struct error *err) {
    int count = c->background ? 1 : 2;
    for (int i = 0; i < count; i++) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) < 0)
            return error_errno(err, errno, "pipe of the command");
        write_end[i] = fds[1];
        c->run->pipe[i] = stream_open(&c->e->loop, fds[0], on_pipe, c->run);
        if (!c->run->pipe[i])
            return error_errno(err, errno, "pipe of the command");
    }
    if (count == 1)
        write_end[1] = fcntl(write_end[0], F_DUPFD_CLOEXEC, 3);
    return write_end[1] < 0 ? error_errno(err, errno, "pipe of the command") : 0;
}

static int start_process(struct command *c, const struct command_spec *spec, struct arena *a,
                         struct error *err) {
    int write_end[2] = {-1, -1};
    int r = open_pipes(c, write_end, err);
    if (r == 0)
        r = spawn_it(c, spec, a, write_end, err);
    for (int i = 0; i < 2; i++)
        if (write_end[i] >= 0)
            (void)close(write_end[i]); // the child has its own
    if (r < 0)
        return -1;
    c->output.on_room = on_output_room;
    for (int i = 0; i < 2; i++)
        if (c->run->pipe[i])
            stream_want(c->run->pipe[i], STREAM_READABLE);
    if (spec->time_out_ms > 0)
        timer_start(&c->e->loop, &c->run->limit, spec->time_out_ms, on_limit);
    return 0;
}

static void tell_failure(struct command *c, const struct error *err) {
    struct command_run *run = c->run;
    c->running = false;
    c->finished_us = clock_wall_us();
    c->failure = strdup(err->message);
    c->status.code = START_FAILED;
    telemetry_execution(c->e, "run_command", false, clock_boot_ns() - run->began_ns);
    for (int i = 0; i < 2; i++)
        close_pipe(run, i);
    run->drained = true;
    if (c->background) // a late error (execd.md 2.3)
        events_error(run->events, CODE_RUNTIME, err->message, json_array());
    else
        events_error(run->events, "CommandExecError", err->message, json_pack("[s]", err->message));
    leave_reply(run);
    settle(run);
}

void command_start(struct http_exchange *x, const struct command_spec *spec) {
    struct execd *e = execd_of(x);
    struct error err;
    forget_old(e);
    struct command *c = new_command(e, spec);
    if (!c) {
        execd_fail(x, 503, CODE_RUNTIME, "out of memory");
        return;
    }
    struct command_run *run = c->run;
    const struct events_owner owner = {.room = on_reply_room, .gone = on_reply_gone, .arg = run};
    run->events = events_begin(x, c->id, EVENTS_PINGS, &owner);
    if (!run->events) {
        c->run = NULL;
        free(run);
        forget(c);
        return;
    }
    if (start_process(c, spec, x->arena, &err) < 0) {
        tell_failure(c, &err);
        return;
    }
    if (spec->background) {
        events_complete(run->events, 0);
        leave_reply(run);
        return;
    }
    output_attach(&c->output, &run->reader, 0, OUTPUT_HOLD | OUTPUT_TAGGED, on_output);
    events_flush(run->events);
}

// ---- the room ----

int command_room_start(struct execd *e, struct error *err) {
    (void)err;
    list_init(&e->history);
    return 0;
}

void command_room_stop(struct execd *e) {
    LIST_EACH(&e->history, node) {
        struct command *c = LIST_ENTRY(node, struct command, node);
        struct command_run *run = c->run;
        if (run) {
            process_kill_group(&run->process, SIGKILL);
            process_forget(&run->process);
            timer_stop(&run->limit);
            end_escalation(run);
            if (run->events)
                leave_reply(run);
            for (int i = 0; i < 2; i++)
                close_pipe(run, i);
            c->run = NULL;
            free(run);
        }
        forget(c);
    }
}
