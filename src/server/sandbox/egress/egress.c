#include "server/sandbox/egress/egress.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "server/errors.h"
#include "server/runtime/egress.h"
#include "server/sandbox/domain.h"

struct question {
    struct job job;
    struct domain *domain;
    char id[SANDBOX_ID_SIZE], token[SANDBOX_TOKEN_SIZE];
    const char *method, *target;
    char *body;
    unsigned status;
    struct strbuf answer;
    struct error error;
    egress_done_fn *done;
    void *arg;
};

static void question_free(struct question *q) {
    explicit_bzero(q->token, sizeof q->token);
    strbuf_free(&q->answer);
    free(q->body);
    free(q);
}

static void ask(struct job *job) {
    struct question *q = CONTAINER_OF(job, struct question, job);
    (void)egress_ask(q->domain->settings.runtime, q->id, q->token, q->method, q->target, q->body,
                     &q->status, &q->answer, &q->error); // q->error says it
}

static void asked(struct job *job) {
    struct question *q = CONTAINER_OF(job, struct question, job);
    q->domain->inflight--;
    q->done(q->status, &q->answer, q->error.kind ? &q->error : NULL, q->arg);
    question_free(q);
}

bool egress_answers(const struct sandbox *sb, struct error *err) {
    if (!sb->spec->network_policy) {
        (void)error_server(err, ERR_BACKEND_CONNECTION_FAILED,
                           "sandbox %s was created without networkPolicy: it has no egress",
                           sb->id);
    } else if (sb->state == SANDBOX_PENDING) {
        (void)error_server(err, ERR_PENDING, "sandbox %s is still being created", sb->id);
        err->status = 409; // nobody waits here
    } else if (sb->state == SANDBOX_STOPPING || sb->state == SANDBOX_TERMINATED ||
               sb->state == SANDBOX_FAILED) {
        (void)error_server(err, ERR_NOT_RUNNING, "sandbox %s has ended (%s)", sb->id,
                           sandbox_state_name(sb->state));
    } else {
        return true;
    }
    return false;
}

static struct question *question_new(struct domain *d, const char *id, const char *body,
                                     struct error *err) {
    struct question *q = calloc(1, sizeof *q);
    if (q && (!body || (q->body = strdup(body)))) {
        q->domain = d;
        q->job = (struct job){.run = ask, .done = asked};
        strbuf_init(&q->answer, EGRESS_ANSWER_MAX);
        (void)snprintf(q->id, sizeof q->id, "%s", id);
        domain_token(d, "egress", id, q->token);
        return q;
    }
    free(q);
    (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    return NULL;
}

void egress_request(struct domain *d, const char *id, const char *method, const char *target,
                    const char *body, egress_done_fn *done, void *arg) {
    struct error err = {0};
    const struct sandbox *sb = domain_sandbox(d, id, &err);
    struct question *q = sb && egress_answers(sb, &err) ? question_new(d, id, body, &err) : NULL;
    if (q) {
        q->method = method;
        q->target = target;
        q->done = done;
        q->arg = arg;
    }
    if (q && domain_submit(d, &q->job) < 0) {
        (void)error_server(&err, ERR_OVERLOADED, "the workers' queue is full");
        question_free(q);
        q = NULL;
    }
    if (!q)
        done(0, NULL, &err, arg);
}
