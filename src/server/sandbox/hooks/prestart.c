#include "server/sandbox/hooks/prestart.h"

#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "io/stream.h"
#include "server/errors.h"
#include "server/runtime/execd.h"

enum {
    TRIES = 5, // connections may end without the sandbox: an engine's, of a tunnel
    PAUSE_MS = 200,
    SPARE_MS = 30000 // behind the hook's own time-out
};

struct prestart {
    struct job job;
    struct domain *domain;
    struct prestart_wait *wait; // NULL: nobody waits any more
    char id[SANDBOX_ID_SIZE], token[SANDBOX_TOKEN_SIZE];
    struct execd_question *question;
    int fd;
    struct stream *watch;
    struct timer timer; // the limit while it waits, else the pause before another try
    int64_t end_ms;
    unsigned tries;
    struct error error;
};

static void prestart_free(struct prestart *p) {
    timer_stop(&p->timer);
    stream_close(p->watch);
    execd_drop_question(p->question);
    free(p);
}

static void over(struct prestart *p, const struct error *err) {
    struct prestart_wait *w = p->wait;
    struct error copy = err ? *err : (struct error){0};
    prestart_free(p);
    w->at = NULL;
    w->done(w, err ? &copy : NULL);
}

static void ask(struct prestart *p);

static void on_pause_over(struct timer *t) {
    ask(CONTAINER_OF(t, struct prestart, timer));
}

// A job has ended. Whether it ended well and somebody still waits.
static bool went_on(struct prestart *p) {
    p->domain->inflight--;
    if (!p->wait) {
        prestart_free(p);
        return false;
    }
    if (!p->error.kind)
        return true;
    if (p->error.code[0]) // a verdict, or all tries are spent
        over(p, &p->error);
    else
        timer_start(p->domain->settings.loop, &p->timer, PAUSE_MS, on_pause_over);
    return false;
}

// On a worker: execd gave no answer.
static void note_silence(struct prestart *p) {
    if (!p->error.code[0] && ++p->tries >= TRIES)
        execd_explain_silence(p->domain->settings.runtime, p->id, &p->error);
}

static void submit(struct prestart *p, void (*run)(struct job *), void (*done)(struct job *)) {
    struct error err = {0};
    p->error = err;
    p->job = (struct job){.run = run, .done = done};
    if (domain_submit(p->domain, &p->job) == 0)
        return;
    (void)error_server(&err, ERR_OVERLOADED, "the workers' queue is full");
    over(p, &err);
}

static void read_run(struct job *job) {
    struct prestart *p = CONTAINER_OF(job, struct prestart, job);
    if (execd_read_start(TAKE_PTR(p->question), &p->error) < 0)
        note_silence(p);
}

static void read_done(struct job *job) {
    struct prestart *p = CONTAINER_OF(job, struct prestart, job);
    if (went_on(p))
        over(p, NULL);
}

static void on_answer(struct stream *s, unsigned events, void *arg) {
    struct prestart *p = arg;
    (void)s, (void)events;
    timer_stop(&p->timer);
    stream_close(TAKE_PTR(p->watch));
    submit(p, read_run, read_done);
}

static void on_limit(struct timer *t) {
    struct error err = {0};
    (void)error_server(&err, ERR_R_SANDBOX_START_FAILED,
                       "the preStart hook has not ended long after its time-out");
    over(CONTAINER_OF(t, struct prestart, timer), &err);
}

static void ask_run(struct job *job) {
    struct prestart *p = CONTAINER_OF(job, struct prestart, job);
    struct runtime *r = p->domain->settings.runtime;
    int fd = -1;
    p->question = execd_ask_start(r, p->id, p->token, &fd, &p->error);
    if (!p->question)
        note_silence(p);
    else if ((p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
        (void)error_server(&p->error, ERR_INTERNAL_ERROR, "no descriptor is left");
}

static void ask_done(struct job *job) {
    struct prestart *p = CONTAINER_OF(job, struct prestart, job);
    struct loop *loop = p->domain->settings.loop;
    struct error err = {0};
    int fd = p->fd;
    p->fd = -1;
    if (fd >= 0)
        p->watch = stream_open(loop, fd, on_answer, p);
    if (!went_on(p))
        return;
    int64_t left = p->end_ms - clock_boot_ms();
    if (!p->watch) {
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
        over(p, &err);
        return;
    }
    stream_want(p->watch, STREAM_READABLE);
    timer_start(loop, &p->timer, left > 0 ? left : 0, on_limit);
}

static void ask(struct prestart *p) {
    submit(p, ask_run, ask_done);
}

int prestart_join(struct domain *d, struct prestart_wait *w, struct sandbox *sb,
                  struct error *err) {
    struct prestart *p = calloc(1, sizeof *p);
    if (!p)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    p->domain = d;
    p->wait = w;
    p->fd = -1;
    p->end_ms = clock_boot_ms() + (int64_t)sb->spec->prestart_s * 1000 + SPARE_MS;
    (void)snprintf(p->id, sizeof p->id, "%s", sb->id);
    domain_token(d, "execd", sb->id, p->token);
    p->job = (struct job){.run = ask_run, .done = ask_done};
    if (domain_submit(d, &p->job) < 0) {
        free(p);
        return error_server(err, ERR_OVERLOADED, "the workers' queue is full");
    }
    w->at = p;
    (void)snprintf(sb->message, sizeof sb->message, "The preStart hook is running.");
    return 0;
}

void prestart_leave(struct prestart_wait *w) {
    struct prestart *p = TAKE_PTR(w->at);
    if (!p)
        return;
    p->wait = NULL;
    if (p->watch || timer_armed(&p->timer)) // else a job is under way, which ends it
        prestart_free(p);
}

// ---- after a restart ----

struct resumed {
    struct operation op;
    struct prestart_wait wait;
    bool over; // nobody need be asked
    bool left; // to the next start
};

static struct resumed *resumed_of(struct operation *op) {
    return CONTAINER_OF(op, struct resumed, op);
}

static void on_started(struct prestart_wait *w, const struct error *err) {
    operation_continue(&CONTAINER_OF(w, struct resumed, wait)->op, err);
}

static int await(struct operation *op, struct error *err) {
    struct resumed *r = resumed_of(op);
    op->sandbox->end_told |= r->over;
    if (r->over)
        return STEP_DONE;
    r->wait.done = on_started;
    return prestart_join(op->domain, &r->wait, op->sandbox, err) < 0 ? -1 : STEP_WAIT;
}

static void cancel(struct operation *op) {
    struct resumed *r = resumed_of(op);
    r->left = !op->sandbox->deleting;
    prestart_leave(&r->wait);
}

static void end(struct operation *op, const struct error *err) {
    struct resumed *r = resumed_of(op);
    struct domain *d = op->domain;
    struct sandbox *sb = op->sandbox;
    if (!err) {
        sb->key = NULL; // kept, as after every create that succeeded
        holds_release(sb);
    } else if (!r->left && !sb->deleting && !d->freeing) {
        log_warning("sandbox %s: %s", sb->id, err->message);
        ended_bury(d, sb, err);
    }
    free(r);
}

void prestart_resume(struct domain *d, struct sandbox *sb, bool over) {
    static const struct step steps[] = {
        {"preStart", STEP_LOOP, STEP_LASTING, await, NULL},
        {"commit Running", STEP_STORE, 0, domain_commit_running, NULL},
        {"running", STEP_LOOP, 0, domain_running, NULL},
    };
    static const struct operation_kind kind = {
        .name = "start", .steps = steps, .count = ARRAY_SIZE(steps), .cancel = cancel, .end = end};
    struct resumed *r = calloc(1, sizeof *r);
    struct error err = {0};
    if (r) {
        r->over = over;
        operation_start(d, sb, &r->op, &kind, false);
        return;
    }
    (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
    ended_bury(d, sb, &err);
}
