// Network policies: in the body of a create, and over HTTP (compat-1.1.1.md L3).
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "fmt/policy.h"
#include "server/api/create.h"
#include "server/api/handlers.h"
#include "server/sandbox/egress/egress.h"

// ---- types ----

static void read_rules(struct problems *p, const struct field *list) {
    const json_t *rules = field_list(p, list, 0, false), *rule;
    size_t i;
    json_array_foreach(rules, i, rule) {
        const struct field item = {.at = {.in = &list->at, .index = i}, .value = rule};
        const json_t *r = field_object(p, &item, true);
        struct field verb = field_get(&item.at, r, "action"),
                     target = field_get(&item.at, r, "target");
        if (!r)
            continue;
        (void)field_text(p, &verb, true);
        (void)text_length(p, &target, field_text(p, &target, true), 1, 0);
    }
}

bool policy_read(struct problems *p, const struct field *policy) {
    const json_t *o = field_object(p, policy, false);
    if (!o)
        return false;
    struct field action = field_get(&policy->at, o, "defaultAction"),
                 egress = field_get(&policy->at, o, "egress");
    (void)field_text(p, &action, false);
    read_rules(p, &egress);
    return true;
}

// ---- meaning ----

// As egress knows it: of the two spellings of its members it has one.
static json_t *wire_form(const json_t *policy) {
    json_t *copy = json_copy((json_t *)policy);
    json_t *action = json_object_get(copy, "default_action");
    if (action && !json_object_get(copy, "defaultAction"))
        (void)json_object_set(copy, "defaultAction", action);
    (void)json_object_del(copy, "default_action");
    return copy;
}

char *policy_convert(const json_t *policy, struct error *err) {
    struct policy p = {0};
    struct error cause;
    cleanup_json json_t *wire = wire_form(policy);
    if (!wire || policy_from_json(&p, wire, &cause) < 0) {
        (void)error_server(err, ERR_INVALID_PARAMETER, "%s", wire ? cause.message : "no memory");
        return NULL;
    }
    cleanup_json json_t *j = policy_json(&p);
    size_t count = p.count;
    policy_clear(&p);
    if (count > POLICY_RULES_MAX) {
        (void)error_server(err, ERR_POLICY_TOO_LARGE,
                           "egress rule total count %zu exceeds limit %d", count, POLICY_RULES_MAX);
        err->status = 400; // of creates and templates clients read few statuses
        return NULL;
    }
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (!text)
        (void)error_set(err, ENOMEM, "out of memory");
    return text;
}

// ---- over HTTP: a thin front of egress's own API ----

// Its texts with our codes; what it knows of nobody but itself is a fault behind us.
static void answered(unsigned status, const struct strbuf *answer, const struct error *err,
                     void *arg) {
    struct http_exchange *x = arg;
    if (err) {
        api_fail(x, err);
        return;
    }
    if (status == 200) {
        http_reply(x, 200, "application/json", answer->data, answer->len);
        return;
    }
    int len = (int)strcspn(answer->data, "\n");
    api_refuse(x,
               status == 400   ? ERR_INVALID_PARAMETER
               : status == 413 ? ERR_POLICY_TOO_LARGE
                               : ERR_BACKEND_RESPONSE_FAILED,
               "%.*s", len > 900 ? 900 : len, answer->data);
}

static void forward(struct http_exchange *x, const char *body) {
    static const char *const methods[] = {"GET", "PUT", "PATCH", "DELETE"};
    const char *method = methods[0];
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (strcmp(x->request->method, methods[i]) == 0)
            method = methods[i];
    egress_request(api_of(x)->domain, http_param(x, "sandbox_id"), method, "/policy", body,
                   answered, x);
}

void handle_policy_get(struct http_exchange *x) {
    forward(x, NULL);
}

void handle_policy_put(struct http_exchange *x) {
    struct problems p = {0};
    struct error err = {0};
    cleanup_json json_t *body = body_object(x);
    const struct field whole = {.at = place_body, .value = body};
    if (!body)
        return;
    (void)policy_read(&p, &whole);
    if (problems_any(&p)) {
        problems_reply(x, &p);
        return;
    }
    if (!api_sandbox(x))
        return;
    cleanup_free char *text = policy_convert(body, &err);
    if (text) {
        forward(x, text);
        return;
    }
    if (strcmp(err.code, error_code(ERR_POLICY_TOO_LARGE)) == 0)
        err.status = 413;
    api_fail(x, &err);
}

static void forward_list(struct http_exchange *x, const json_t *list) {
    cleanup_free char *text = json_dumps(list, JSON_COMPACT);
    if (text)
        forward(x, text);
    else
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
}

void handle_policy_patch(struct http_exchange *x) {
    struct problems p = {0};
    cleanup_json json_t *body = body_list(x);
    const struct field whole = {.at = place_body, .value = body};
    if (!body)
        return;
    read_rules(&p, &whole);
    if (problems_any(&p))
        problems_reply(x, &p);
    else
        forward_list(x, body);
}

void handle_policy_delete(struct http_exchange *x) {
    struct problems p = {0};
    cleanup_json json_t *body = body_list(x);
    const json_t *target;
    size_t i;
    if (!body)
        return;
    json_array_foreach(body, i, target) {
        const struct field item = {.at = {.in = &place_body, .index = i}, .value = target};
        (void)field_text(&p, &item, true);
    }
    if (problems_any(&p))
        problems_reply(x, &p);
    else
        forward_list(x, body);
}
