#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "fmt/json.h"
#include "server/api/create.h"
#include "server/api/handlers.h"
#include "server/api/resources/bodies.h"

// ---- create ----

enum { IDEMPOTENCY_KEY_MAX = 255 };

struct create_call {  // lives in the exchange's arena
    struct list node; // in api.held while the domain is not ready
    struct http_exchange *x;
    json_t *body; // the form points into it
    struct create_form form;
    char key[SHA256_HEX_SIZE], key_body[SHA256_HEX_SIZE]; // "" without an Idempotency-Key
    struct create_ticket *ticket;
};

static void create_over(struct create_call *c) {
    list_remove(&c->node);
    create_form_clear(&c->form);
    json_decref(c->body);
    c->body = NULL;
}

// Official clients read `code` from these statuses only; anything else becomes a 500 (decision 7).
static void limit_status(struct error *err) {
    static const int known[] = {400, 401, 403, 409, 422, 429, 500};
    if (error_is(err, ERR_R_UNAVAILABLE)) { // also while an image is looked for
        err->status = 500;                  // docker-runtime.md decision 5
        return;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (err->status == known[i])
            return;
    err->status = err->status == 503 ? 429 : err->status == 404 ? 400 : 500;
}

static void create_done(const struct sandbox *sb, const struct error *err, void *arg) {
    struct create_call *c = arg;
    struct http_exchange *x = c->x;
    c->ticket = NULL;
    x->on_gone = NULL;
    create_over(c);
    if (err) {
        struct error limited = *err;
        limit_status(&limited);
        api_fail(x, &limited);
    } else {
        api_reply_sandbox(x, 202, sb, render_created);
    }
}

static void create_gone(struct http_exchange *x) {
    struct create_call *c = x->user;
    if (c->ticket)
        lifecycle_abandon(c->ticket);
    create_over(c);
    http_reply_empty(x, 499); // nobody reads it; the access line does
}

// The key is scoped by the caller's API key, so that no caller meets another one's; what is kept of
// both and of the body are digests.
static void digest_key(struct create_call *c) {
    const struct domain *d = api_of(c->x)->domain;
    const char *key = http_header(c->x, "Idempotency-Key");
    if (!key)
        return;
    const char *caller = http_header(c->x, "OPEN-SANDBOX-API-KEY");
    json_t *both = json_pack("[ss]", caller ? caller : "", key);
    char *text = both ? json_dumps(both, JSON_COMPACT) : NULL;
    char *body = json_dumps(c->body, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(both);
    if (text && body) {
        domain_digest(d, "idempotency key", text, strlen(text), c->key);
        domain_digest(d, "idempotency body", body, strlen(body), c->key_body);
    }
    free(text);
    free(body);
}

static void create_start(struct create_call *c) {
    const char *prefer = http_header(c->x, "Prefer");
    const struct create_request q = {.spec = c->form.spec,
                                     .image_username = c->form.username,
                                     .image_password = c->form.password,
                                     .pool = c->form.pool,
                                     .key = c->key[0] ? c->key : NULL,
                                     .key_body = c->key_body,
                                     .wait_ms =
                                         prefer && strcasestr(prefer, "respond-async") ? 0 : -1};
    // done may end the exchange, and its arena with it, before this returns: then nothing of `c`
    // may be touched.
    struct create_ticket *ticket = lifecycle_create(api_of(c->x)->domain, &q, create_done, c);
    if (ticket)
        c->ticket = ticket;
}

// Reads the body into c->form. -1: the exchange is over.
static int create_parse(struct create_call *c) {
    struct http_exchange *x = c->x;
    struct problems p = {0};
    struct error err = {0};
    c->body = body_object(x);
    if (!c->body)
        return -1;
    if (create_read(&c->form, c->body, &p) < 0) {
        problems_clear(&p);
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
        return -1;
    }
    if (!problems_any(&p))
        create_relate(&c->form, &p);
    if (problems_any(&p)) {
        problems_reply(x, &p);
        return -1;
    }
    if (create_check(api_of(x), &c->form, &err) < 0) {
        limit_status(&err);
        api_fail(x, &err);
        return -1;
    }
    return 0;
}

// 1 to 255 visible ASCII bytes. False: the exchange is over.
static bool key_is_usable(struct http_exchange *x) {
    const char *key = http_header(x, "Idempotency-Key");
    size_t len = key ? strlen(key) : 1;
    for (const char *p = key; p && *p; p++)
        if (*p < '!' || *p > '~')
            len = 0;
    if (len >= 1 && len <= IDEMPOTENCY_KEY_MAX)
        return true;
    api_refuse(x, ERR_INVALID_PARAMETER,
               "Idempotency-Key: 1 to %d visible ASCII characters are allowed",
               IDEMPOTENCY_KEY_MAX);
    return false;
}

static void create_stopped(struct create_call *c) {
    struct error err = {0};
    (void)error_server(&err, ERR_NOT_READY, "the server is stopping; try again");
    create_done(NULL, &err, c);
}

void handle_create(struct http_exchange *x) {
    struct api *a = api_of(x);
    struct create_call call = {.x = x};
    if (!key_is_usable(x))
        return;
    if (create_parse(&call) <
        0) { // the arena is gone with the exchange, so the call is not in it yet
        create_over(&call);
        return;
    }
    struct create_call *c = arena_alloc(x->arena, sizeof *c);
    if (!c) {
        create_over(&call);
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
        return;
    }
    digest_key(&call);
    *c = call;
    x->user = c;
    x->on_gone = create_gone;
    if (domain_ready(a->domain))
        create_start(c);
    else if (a->stopping)
        create_stopped(c);
    else
        list_push_back(&a->held, &c->node);
}

void api_ready(struct api *a) {
    struct list *node;
    while ((node = list_pop(&a->held)))
        create_start(LIST_ENTRY(node, struct create_call, node));
}

void api_stop(struct api *a) {
    struct list *node;
    a->stopping = true;
    while ((node = list_pop(&a->held)))
        create_stopped(LIST_ENTRY(node, struct create_call, node));
}

// ---- one sandbox ----

void handle_get(struct http_exchange *x) {
    const struct sandbox *sb = api_sandbox(x);
    if (sb)
        api_reply_sandbox(x, 200, sb, render_sandbox);
}

static void done_204(const struct sandbox *sb, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        http_reply_empty(arg, 204);
}

static void done_202(const struct sandbox *sb, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        http_reply_empty(arg, 202);
}

static void done_sandbox(const struct sandbox *sb, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        api_reply_sandbox(arg, 200, sb, render_sandbox);
}

void handle_delete(struct http_exchange *x) {
    lifecycle_delete(api_of(x)->domain, http_param(x, "sandbox_id"), done_204, x);
}

void handle_pause(struct http_exchange *x) {
    lifecycle_pause(api_of(x)->domain, http_param(x, "sandbox_id"), done_202, x);
}

void handle_resume(struct http_exchange *x) {
    lifecycle_resume(api_of(x)->domain, http_param(x, "sandbox_id"), done_202, x);
}

// ---- renew ----

static void done_renew(const struct sandbox *sb, const struct error *err, void *arg) {
    char text[CLOCK_TEXT_MAX];
    if (err) {
        api_fail(arg, err);
        return;
    }
    clock_format(sb->expires_us, text);
    http_reply_json(arg, 200, json_pack("{s:s}", "expiresAt", text));
}

void handle_renew(struct http_exchange *x) {
    struct problems p = {0};
    int64_t expires_us = 0;
    json_t *body = body_object(x);
    if (!body)
        return;
    renewal_read(body, &p, &expires_us);
    json_decref(body);
    if (problems_any(&p))
        problems_reply(x, &p);
    else
        lifecycle_renew(api_of(x)->domain, http_param(x, "sandbox_id"), expires_us, done_renew, x);
}

// ---- metadata ----

static int check_patch(const struct pairs *patch, struct error *err) {
    for (size_t i = 0; i < patch->count; i++)
        if (label_is_reserved(patch->items[i].name))
            return error_server(
                err, ERR_RESERVED_METADATA_LABEL,
                "metadata key \"%.80s\": keys beginning opensandbox.io/ are reserved",
                patch->items[i].name);
    for (size_t i = 0; i < patch->count; i++)
        if (patch->items[i].value &&
            label_check(patch->items[i].name, patch->items[i].value, err) < 0)
            return -1;
    return 0;
}

void handle_patch_metadata(struct http_exchange *x) {
    struct problems p = {0};
    struct pairs patch = {0};
    struct error err = {0};
    json_t *body = body_map(x);
    if (!body)
        return;
    int rc = patch_read(body, &p, &patch);
    json_decref(body);
    if (problems_any(&p)) {
        problems_reply(x, &p);
    } else if (rc < 0) {
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
    } else if (api_sandbox(x)) {
        if (check_patch(&patch, &err) < 0)
            api_fail(x, &err);
        else
            lifecycle_patch_metadata(api_of(x)->domain, http_param(x, "sandbox_id"), &patch,
                                     done_sandbox, x);
    }
    pairs_clear(&patch);
}
