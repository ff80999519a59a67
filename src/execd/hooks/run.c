#include "execd/hooks/run.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "execd/hooks/journal.h"

enum { ESCALATE_MS = 3000, ARENA_MAX = 16 << 20 };

static void let_go(struct hook_run *r) {
    timer_stop(&r->limit);
    if (r->late && r->group >= 0)
        (void)close(r->group); // a pidfd
    r->late = false;
}

static void on_escalate(struct timer *t) {
    process_kill_group(&CONTAINER_OF(t, struct hook_run, limit)->process, SIGKILL);
}

static void on_limit(struct timer *t) {
    struct hook_run *r = CONTAINER_OF(t, struct hook_run, limit);
    r->late = true;
    r->group = process_hold_group(&r->process);
    process_kill_group(&r->process, SIGTERM);
    timer_start(t->loop, t, ESCALATE_MS, on_escalate);
}

static const char *describe(const struct hook_run *r, struct exit_status status, char *text,
                            size_t size) {
    char end[64];
    if (r->late) {
        (void)snprintf(text, size, "timed out after %lld s", (long long)r->hook->time_out_s);
        return text;
    }
    if (!status.signal && !status.code)
        return NULL;
    bool oom = status.signal == SIGKILL && process_oom_kills() > r->oom_kills;
    (void)snprintf(text, size, "%s%s", process_describe(status, end, sizeof end),
                   oom ? ", out of memory" : "");
    return text;
}

static void on_ended(struct process *p, struct exit_status status) {
    struct hook_run *r = CONTAINER_OF(p, struct hook_run, process);
    char text[HOOK_FAILURE_MAX];
    journal_drain(r->e); // its words stand before ours
    const char *failure = describe(r, status, text, sizeof text);
    if (r->late)
        process_kill_held(r->group, p, SIGKILL);
    let_go(r);
    r->over(r, failure);
}

int hook_run_start(struct hook_run *r, struct error *err) {
    cleanup(arena_free) struct arena a;
    cleanup_close int out = -1;
    arena_init(&a, ARENA_MAX);
    struct spawn s = {.argv = r->hook->argv,
                      .envp = process_environment(&a, NULL, err),
                      .cwd = r->e->cwd,
                      .flags = SPAWN_NEW_GROUP | SPAWN_SEARCH_PATH,
                      .nofile_soft = r->e->nofile_soft};
    if (!s.envp || journal_begin(r->e, &out, err) < 0)
        return -1;
    s.stdio[0] = -1;
    s.stdio[1] = out < 0 ? STDOUT_FILENO : out;
    s.stdio[2] = out < 0 ? STDERR_FILENO : out;
    r->oom_kills = process_oom_kills();
    r->process.ended = on_ended;
    if (process_start(r->e, &r->process, &s, err) < 0)
        return -1;
    timer_start(&r->e->loop, &r->limit, r->hook->time_out_s * 1000, on_limit);
    return 0;
}

void hook_run_stop(struct hook_run *r) {
    process_kill_group(&r->process, SIGKILL);
    process_forget(&r->process);
    let_go(r);
}
