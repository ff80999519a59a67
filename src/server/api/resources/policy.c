// Network policies: in the body of a create, and over HTTP (compat-1.1.1.md L3).
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "fmt/policy.h"
#include "server/api/create.h"

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
