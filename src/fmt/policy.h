// What a sandbox may reach, as its owner wrote it: a default and a list of rules (egress.md section
// 2, our decisions 4 and 5). Targets are kept in one form: lower case, no trailing dot. What can
// never match is refused with the entry's name, nothing is dropped silently. Any thread.
#ifndef FMT_POLICY_H
#define FMT_POLICY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "fmt/address.h"

enum {
    POLICY_NAME_MAX = 253,
    POLICY_TARGET_MAX = 255, // "*." and a name
    POLICY_BODY_MAX = 1 << 20,
    POLICY_RULES_MAX = 4096 // unless configured
};

enum rule_kind { RULE_NAME, RULE_WILDCARD, RULE_NET };
struct rule {
    char *target; // owned; a wildcard with its "*."
    enum rule_kind kind;
    bool allow;
    struct net net; // of RULE_NET
};
struct policy {
    bool allow; // what no rule decides
    struct rule *rules;
    size_t count;
};

void policy_clear(struct policy *p); // deny all, no rules
int policy_copy(struct policy *ret, const struct policy *p, struct error *err);
// `target` in any accepted form. -1: no memory, or the sentence that says why it is refused.
int policy_add(struct policy *p, bool allow, const char *target, struct error *err);
int policy_append(struct policy *p, const struct policy *more, struct error *err);

// {"defaultAction": "allow|deny", "egress": [{"action": .., "target": ..}]}; blank text, null and
// {} are deny-all. *ret is replaced only on success.
int policy_parse(struct policy *ret, const char *text, size_t len, struct error *err);
int policy_from_json(struct policy *ret, const json_t *j, struct error *err); // the same, parsed
// An array of rules, appended to *ret (deny default); used by PATCH.
int policy_parse_rules(struct policy *ret, const json_t *rules, struct error *err);
json_t *policy_json(const struct policy *p); // NULL: no memory
json_t *policy_rules_json(const struct policy *p);
const char *policy_mode(const struct policy *p); // deny_all, allow_all, enforcing

// patch before base, the first of each target stays; base's default.
int policy_merge(struct policy *ret, const struct policy *patch, const struct policy *base,
                 struct error *err);
// base without the targets (array of strings; blank and unknown ones are no error).
int policy_without(struct policy *ret, const struct policy *base, const json_t *targets,
                   struct error *err);

// One target in canonical form; tells its kind.
int policy_target(const char *text, char target[POLICY_TARGET_MAX + 1], enum rule_kind *ret_kind,
                  struct net *ret_net, struct error *err);

#endif
