#include "server/sandbox/diagnose/diagnose.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "server/errors.h"
#include "server/runtime/egress.h"
#include "server/sandbox/domain.h"
#include "server/sandbox/egress/egress.h"

// It belongs to no operation: it waits for nobody and changes nothing.
struct examination {
    struct job job;
    struct domain *domain;
    char id[SANDBOX_ID_SIZE], token[SANDBOX_TOKEN_SIZE];
    unsigned parts;
    struct diagnosis found;
    diagnose_done_fn *done;
    void *arg;
};

static void examination_free(struct examination *x) {
    strbuf_free(&x->found.log);
    strbuf_free(&x->found.egress);
    explicit_bzero(x->token, sizeof x->token);
    pairs_clear(&x->found.facts);
    free(x);
}

static void run(struct job *job) {
    struct examination *x = CONTAINER_OF(job, struct examination, job);
    struct runtime *r = x->domain->settings.runtime;
    if (x->parts & DIAGNOSE_LOG)
        (void)r->ops->logs(r, x->id, &x->found.log, &x->found.log_error); // the error says it
    if (x->parts & DIAGNOSE_FACTS && r->ops->facts)
        (void)r->ops->facts(r, x->id, &x->found.facts, &x->found.facts_error); // same
    unsigned status = 0;
    if (x->parts & DIAGNOSE_EGRESS &&
        egress_ask(r, x->id, x->token, "GET", "/events", NULL, &status, &x->found.egress,
                   &x->found.egress_error) == 0 &&
        status != 200)
        (void)error_set(&x->found.egress_error, EPROTO, "egress answered %u", status);
}

static void answer(struct examination *x) {
    struct error err = {0};
    const struct sandbox *sb = domain_sandbox(x->domain, x->id, &err);
    x->done(sb, &x->found, sb ? NULL : &err, x->arg);
    examination_free(x);
}

static void ran(struct job *job) {
    struct examination *x = CONTAINER_OF(job, struct examination, job);
    x->domain->inflight--;
    answer(x);
}

void diagnose(struct domain *d, const char *id, unsigned parts, diagnose_done_fn *done, void *arg) {
    struct error err = {0}, none;
    const struct sandbox *sb = domain_sandbox(d, id, &err);
    struct examination *x = sb ? calloc(1, sizeof *x) : NULL;
    if (!x) {
        if (sb)
            (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
        done(NULL, NULL, &err, arg);
        return;
    }
    x->domain = d;
    x->parts = egress_answers(sb, &none) ? parts : parts & ~(unsigned)DIAGNOSE_EGRESS;
    domain_token(d, "egress", id, x->token);
    strbuf_init(&x->found.egress, EGRESS_ANSWER_MAX);
    x->done = done;
    x->arg = arg;
    x->job = (struct job){.run = run, .done = ran};
    strbuf_init(&x->found.log, DIAGNOSE_LOG_MAX);
    (void)snprintf(x->id, sizeof x->id, "%s", id);
    if (sb->state == SANDBOX_PENDING) {
        answer(x);
    } else if (domain_submit(d, &x->job) < 0) {
        (void)error_server(&err, ERR_OVERLOADED, "the workers' queue is full");
        done(NULL, NULL, &err, arg);
        examination_free(x);
    }
}
