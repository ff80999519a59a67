// One command: a process (group), its output and its state. It goes on whoever listens: a
// foreground reply is a reader of its output, and leaving removes that reader only. The record
// stays for 24 hours after the end, at most EXECD_COMMANDS_MAX of them (compat-1.1.1.md E5). Loop
// thread.
#ifndef EXECD_COMMAND_H
#define EXECD_COMMAND_H

#include "execd/events.h"
#include "execd/execd.h"

struct command_run; // what lives while something of it is open: process, pipes, timers, reply

struct command {
    struct list node; // in execd.history
    struct execd *e;
    char id[EXECD_ID_HEX + 1];
    bool background, running;
    struct exit_status status;       // once it does not run
    char *failure;                   // why it could not be started, else NULL
    char *content;                   // what the client asked for
    int64_t started_us, finished_us; // wall clock
    struct output output;
    struct command_run *run;
};

struct command_spec {
    const char *content;
    char *const *argv;  // without a shell
    const char *script; // or with it
    char *const *envp;
    const char *cwd;     // absolute
    int64_t uid, gid;    // -1: not given
    int64_t time_out_ms; // 0: none
    bool background;
};

// A request's body (execd.md 3.1, compat-1.1.1.md E3, E4), checked; its texts live as long as body
// and a. EINVAL naming the member.
int command_spec_read(struct command_spec *spec, const struct execd *e, struct arena *a,
                      const json_t *body, struct error *err);
// Makes, registers and starts it, and answers x with its event stream. spec is used during the
// call.
void command_start(struct http_exchange *x, const struct command_spec *spec);
struct command *command_find(const struct execd *e, const char *id); // NULL: unknown
// exit_code of status and events: -1 for a signal, 255 when it could not be started.
int command_exit_code(const struct command *c);

#endif
