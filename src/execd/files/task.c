#include "execd/files/task.h"

#include <errno.h>

#include "base/cleanup.h"
#include "execd/files/tree.h"
#include "fmt/json.h"

struct files_task *files_task_new(struct http_exchange *x) {
    struct files_task *t = calloc(1, sizeof *t);
    if (!t) {
        execd_fail(x, 500, CODE_RUNTIME, "out of memory");
        return NULL;
    }
    if (!files_who_init(&t->who, x)) {
        free(t);
        return NULL;
    }
    t->x = x;
    strbuf_init(&t->reply, FILES_REPLY_MAX);
    return t;
}

void files_task_free(struct files_task *t) {
    json_decref(t->body);
    strbuf_free(&t->reply);
    files_who_clear(&t->who);
    free(t);
}

bool files_task_body(struct files_task *t, json_type type) {
    t->body = execd_body_of(t->x, type, false);
    if (t->body)
        return true;
    files_task_free(t);
    return false;
}

static void on_gone(struct http_exchange *x) {
    struct files_task *t = x->user;
    atomic_store(&t->gone, true);
}

static void run(struct job *job) {
    struct files_task *t = CONTAINER_OF(job, struct files_task, job);
    t->result = files_who_enter(&t->who, &t->err);
    if (t->result == 0) {
        t->result = t->work(t, &t->err);
        files_who_leave(&t->who);
    }
}

static void done(struct job *job) {
    struct files_task *t = CONTAINER_OF(job, struct files_task, job);
    if (t->result < 0)
        http_reply_error(t->x, &t->err);
    else if (t->reply.len)
        http_reply(t->x, 200, "application/json; charset=utf-8", t->reply.data, t->reply.len);
    else
        http_reply_empty(t->x, 200);
    files_task_free(t);
}

bool files_submit(struct http_exchange *x, struct job *job) {
    struct error err;
    struct workers *w = execd_workers(execd_of(x), &err);
    if (w && !workers_submit(w, job))
        return true;
    execd_fail(x, 503, CODE_UNAVAILABLE, "%s",
               w ? "too many file operations at once, try again" : err.message);
    return false;
}

void files_task_start(struct files_task *t, int (*work)(struct files_task *t, struct error *err)) {
    t->work = work;
    t->job.run = run;
    t->job.done = done;
    t->x->user = t;
    t->x->on_gone = on_gone;
    if (!files_submit(t->x, &t->job))
        files_task_free(t);
}

static int too_long(struct error *err) {
    return error_api(err, 500, CODE_RUNTIME, "the reply would be longer than %d MiB",
                     FILES_REPLY_MAX >> 20);
}

int files_task_reply(struct files_task *t, json_t *value, struct error *err) {
    int r = value ? json_write(value, &t->reply) : -1;
    json_decref(value);
    return r < 0 ? too_long(err) : 0;
}

int files_task_element(struct files_task *t, json_t *value, struct error *err) {
    strbuf_addc(&t->reply, t->reply.len ? ',' : '[');
    return files_task_reply(t, value, err);
}

int files_task_array_end(struct files_task *t, struct error *err) {
    if (!t->reply.len)
        strbuf_addc(&t->reply, '[');
    return strbuf_addc(&t->reply, ']') < 0 ? too_long(err) : 0;
}
