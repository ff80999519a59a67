// The rules in force, ready to be asked: deny.always, allow.always and the owner's policy in this
// order. Names: the first rule that matches wins, whatever its form; no rule: the default.
// Addresses: deny beats allow (egress.md 2.3, 2.4). Built once, then only read. Any thread.
#ifndef EGRESS_INDEX_H
#define EGRESS_INDEX_H

#include "base/map.h"
#include "fmt/policy.h"

enum rule_source { SOURCE_DENY_ALWAYS, SOURCE_ALLOW_ALWAYS, SOURCE_POLICY, SOURCE_DEFAULT };

struct verdict {
    bool allow;
    enum rule_source source;
    size_t position;         // of the rule in its list
    const struct rule *rule; // NULL: the default
};

struct index {
    struct policy rules; // all, in order
    size_t ends[2];      // of deny.always, of allow.always
    struct map exact, suffix;
    struct netset nets[2][2]; // [allow][IPv6]
};

// Copies. -1: no memory.
int index_build(struct index *ix, const struct policy *deny_always,
                const struct policy *allow_always, const struct policy *user, struct error *err);
void index_clear(struct index *ix);
// `name`: lower case, no trailing dot, labels escaped as by dns_name() ("" is the root: default).
struct verdict index_name(const struct index *ix, const char *name);
struct verdict index_address(const struct index *ix, const struct net *address); // walks the rules
// Whether a rule of this action names the address; fast.
bool index_lists(const struct index *ix, const struct net *address, bool allow);
const char *index_source_name(enum rule_source source);

#endif
