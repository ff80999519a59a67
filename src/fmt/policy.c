#include "fmt/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/map.h"
#include "fmt/json.h"

enum { LABEL_MAX = 63 };

static const char *const actions[] = {"deny", "allow"};

void policy_clear(struct policy *p) {
    for (size_t i = 0; i < p->count; i++)
        free(p->rules[i].target);
    free(p->rules);
    *p = (struct policy){0};
}

// ---- targets ----

// The text between its blanks.
static const char *trim(const char *text, size_t *ret_len) {
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    *ret_len = len;
    return text;
}

// Letters, digits, '-' and '_'; labels of 1 to 63; the last one is not a number, so that a mistyped
// address is no name.
static int check_name(const char *name, struct error *err) {
    size_t total = strlen(name), len;
    bool number = true;
    if (!total || total > POLICY_NAME_MAX)
        return error_set(err, EINVAL, "a name has 1 to %d characters", POLICY_NAME_MAX);
    for (const char *label = name;; label += len + 1) {
        len = strcspn(label, ".");
        if (!len || len > LABEL_MAX)
            return error_set(err, EINVAL, "a label of a name has 1 to %d characters", LABEL_MAX);
        number = true;
        for (size_t i = 0; i < len; i++) {
            unsigned char c = (unsigned char)label[i];
            if (c >= 0x80)
                return error_set(err, EINVAL, "write it in its ASCII form (xn--...)");
            if (!isalnum(c) && c != '-' && c != '_')
                return error_set(err, EINVAL,
                                 "neither an address, a prefix, a name nor a \"*.\" before a name");
            number = number && isdigit(c);
        }
        if (!label[len])
            break;
    }
    return number ? error_set(err, EINVAL, "neither an address nor a name") : 0;
}

int policy_target(const char *text, char target[POLICY_TARGET_MAX + 1], enum rule_kind *ret_kind,
                  struct net *ret_net, struct error *err) {
    size_t len;
    memset(target, 0, POLICY_TARGET_MAX + 1);
    text = trim(text, &len);
    if (!len)
        return error_set(err, EINVAL, "egress target cannot be empty");
    if (len > POLICY_TARGET_MAX)
        return error_set(err, EINVAL, "longer than %d characters", POLICY_TARGET_MAX);
    for (size_t i = 0; i < len; i++)
        target[i] = (char)tolower((unsigned char)text[i]);
    target[len] = '\0';
    *ret_net = (struct net){0};
    *ret_kind = RULE_NET;
    if (!net_parse(target, ret_net))
        return 0;
    if (target[len - 1] == '.')
        target[len - 1] = '\0';
    *ret_kind = strncmp(target, "*.", 2) ? RULE_NAME : RULE_WILDCARD;
    return check_name(*ret_kind == RULE_WILDCARD ? target + 2 : target, err);
}

static int push(struct policy *p, const struct rule *r, struct error *err) {
    if ((p->count & (p->count - 1)) == 0) { // full at each power of two
        struct rule *more = reallocarray(p->rules, p->count ? p->count * 2 : 1, sizeof *more);
        if (!more)
            return error_set(err, ENOMEM, "out of memory");
        p->rules = more;
    }
    char *target = strdup(r->target);
    if (!target)
        return error_set(err, ENOMEM, "out of memory");
    p->rules[p->count] = *r;
    p->rules[p->count++].target = target;
    return 0;
}

int policy_add(struct policy *p, bool allow, const char *target, struct error *err) {
    char canonical[POLICY_TARGET_MAX + 1];
    struct rule r = {.target = canonical, .allow = allow};
    return policy_target(target, canonical, &r.kind, &r.net, err) < 0 ? -1 : push(p, &r, err);
}

int policy_append(struct policy *p, const struct policy *more, struct error *err) {
    for (size_t i = 0; i < more->count; i++)
        if (push(p, &more->rules[i], err) < 0)
            return -1;
    return 0;
}

int policy_copy(struct policy *ret, const struct policy *p, struct error *err) {
    *ret = (struct policy){.allow = p->allow};
    if (!policy_append(ret, p, err))
        return 0;
    policy_clear(ret);
    return -1;
}

// ---- JSON ----

// A word of an action; absent, null and blank are deny.
static int take_action(const json_t *j, const char *what, const char *complaint, bool *ret,
                       struct error *err) {
    if (j && !json_is_null(j) && !json_is_string(j))
        return error_set(err, EINVAL, "%s: a text is expected", what);
    size_t len = 0;
    const char *text = json_is_string(j) ? trim(json_string_value(j), &len) : "";
    *ret = false;
    if (!len)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
        if (strlen(actions[i]) == len && !strncasecmp(text, actions[i], len)) {
            *ret = i == 1;
            return 0;
        }
    return error_set(err, EINVAL, "%s \"%.*s\"", complaint, (int)(len > 64 ? 64 : len), text);
}

static int check_members(const json_t *object, const char *a, const char *b, struct error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        (void)value;
        if (strcmp(key, a) != 0 && strcmp(key, b) != 0)
            return error_set(err, EINVAL, "unknown field \"%.64s\"", key);
    }
    return 0;
}

static int take_rule(struct policy *p, const json_t *j, struct error *err) {
    bool allow = false;
    const json_t *target = json_object_get(j, "target");
    if (!json_is_object(j))
        return error_set(err, EINVAL, "an object with action and target is expected");
    if (check_members(j, "action", "target", err) < 0 ||
        take_action(json_object_get(j, "action"), "action", "unsupported action", &allow, err) < 0)
        return -1;
    if (target && !json_is_null(target) && !json_is_string(target))
        return error_set(err, EINVAL, "target: a text is expected");
    const char *text = json_is_string(target) ? json_string_value(target) : "";
    if (policy_add(p, allow, text, err) < 0)
        return *text ? error_wrap(err, "target \"%.80s\"", text) : -1;
    return 0;
}

int policy_parse_rules(struct policy *ret, const json_t *rules, struct error *err) {
    size_t i;
    const json_t *j;
    if (!json_is_array(rules))
        return error_set(err, EINVAL, "an array of rules is expected");
    json_array_foreach(rules, i,
                       j) if (take_rule(ret, j, err) < 0) return error_wrap(err, "egress[%zu]", i);
    return 0;
}

static int take_policy(struct policy *p, const json_t *j, struct error *err) {
    const json_t *rules = json_object_get(j, "egress");
    if (json_is_null(j))
        return 0;
    if (!json_is_object(j))
        return error_set(err, EINVAL, "an object is expected");
    if (check_members(j, "defaultAction", "egress", err) < 0 ||
        take_action(json_object_get(j, "defaultAction"), "defaultAction",
                    "defaultAction is allow or deny, not", &p->allow, err) < 0)
        return -1;
    return !rules || json_is_null(rules) ? 0 : policy_parse_rules(p, rules, err);
}

int policy_from_json(struct policy *ret, const json_t *j, struct error *err) {
    struct policy p = {0};
    if (take_policy(&p, j, err) < 0) {
        policy_clear(&p);
        return -1;
    }
    policy_clear(ret);
    *ret = p;
    return 0;
}

int policy_parse(struct policy *ret, const char *text, size_t len, struct error *err) {
    size_t blank = 0;
    while (blank < len && strchr(" \t\r\n", text[blank]) && text[blank])
        blank++;
    if (blank == len) {
        policy_clear(ret);
        return 0;
    }
    cleanup_json json_t *j = json_parse(text, len, NULL, err);
    return j ? policy_from_json(ret, j, err) : -1;
}

json_t *policy_rules_json(const struct policy *p) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->count; i++)
        if (json_array_append_new(list, json_pack("{s:s,s:s}", "action", actions[p->rules[i].allow],
                                                  "target", p->rules[i].target)) < 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *policy_json(const struct policy *p) {
    json_t *rules = policy_rules_json(p);
    return rules ? json_pack("{s:o,s:s}", "egress", rules, "defaultAction", actions[p->allow])
                 : NULL;
}

const char *policy_mode(const struct policy *p) {
    return p->count ? "enforcing" : p->allow ? "allow_all" : "deny_all";
}

// ---- changes ----

static int push_once(struct policy *p, struct map *seen, const struct policy *from,
                     struct error *err) {
    for (size_t i = 0; i < from->count; i++) {
        if (map_get(seen, from->rules[i].target))
            continue;
        if (map_put(seen, from->rules[i].target, p) < 0)
            return error_set(err, ENOMEM, "out of memory");
        if (push(p, &from->rules[i], err) < 0)
            return -1;
    }
    return 0;
}

int policy_merge(struct policy *ret, const struct policy *patch, const struct policy *base,
                 struct error *err) {
    struct map seen;
    map_init(&seen);
    *ret = (struct policy){.allow = base->allow};
    int r = push_once(ret, &seen, patch, err);
    if (!r)
        r = push_once(ret, &seen, base, err);
    map_clear(&seen);
    if (r)
        policy_clear(ret);
    return r;
}

static int gather(struct map *gone, const json_t *targets, struct error *err) {
    size_t i;
    const json_t *j;
    json_array_foreach(targets, i, j) {
        char target[POLICY_TARGET_MAX + 1];
        enum rule_kind kind;
        struct net net;
        struct error no_target; // cannot be among the rules then
        if (!json_is_string(j))
            return error_set(err, EINVAL, "[%zu]: a text is expected", i);
        if (!policy_target(json_string_value(j), target, &kind, &net, &no_target) &&
            map_put(gone, target, gone) < 0)
            return error_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

int policy_without(struct policy *ret, const struct policy *base, const json_t *targets,
                   struct error *err) {
    struct map gone;
    map_init(&gone);
    *ret = (struct policy){.allow = base->allow};
    int r = gather(&gone, targets, err);
    for (size_t i = 0; !r && i < base->count; i++)
        if (!map_get(&gone, base->rules[i].target))
            r = push(ret, &base->rules[i], err);
    map_clear(&gone);
    if (r)
        policy_clear(ret);
    return r;
}
