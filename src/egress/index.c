#include "egress/index.h"

#include <errno.h>
#include <string.h>

static int enter(struct index *ix, struct rule *r) {
    if (r->kind == RULE_NET)
        return netset_add(&ix->nets[r->allow][r->net.size == 16], &r->net);
    struct map *m = r->kind == RULE_WILDCARD ? &ix->suffix : &ix->exact;
    const char *key = r->kind == RULE_WILDCARD ? r->target + 2 : r->target;
    return map_get(m, key) ? 0 : map_put(m, key, r);
}

int index_build(struct index *ix, const struct policy *deny_always,
                const struct policy *allow_always, const struct policy *user, struct error *err) {
    *ix = (struct index){.rules.allow = user->allow,
                         .ends = {deny_always->count, deny_always->count + allow_always->count}};
    map_init(&ix->exact);
    map_init(&ix->suffix);
    int r = policy_append(&ix->rules, deny_always, err);
    if (!r)
        r = policy_append(&ix->rules, allow_always, err);
    if (!r)
        r = policy_append(&ix->rules, user, err);
    for (size_t i = 0; !r && i < ix->rules.count; i++)
        if (enter(ix, &ix->rules.rules[i]) < 0)
            r = error_set(err, ENOMEM, "out of memory");
    if (r) {
        index_clear(ix);
        return -1;
    }
    for (int i = 0; i < 4; i++)
        netset_seal(&ix->nets[i / 2][i % 2]);
    return 0;
}

void index_clear(struct index *ix) {
    policy_clear(&ix->rules);
    map_clear(&ix->exact);
    map_clear(&ix->suffix);
    for (int i = 0; i < 4; i++)
        netset_clear(&ix->nets[i / 2][i % 2]);
}

static struct verdict decide(const struct index *ix, const struct rule *rule) {
    if (!rule)
        return (struct verdict){.allow = ix->rules.allow, .source = SOURCE_DEFAULT};
    size_t i = (size_t)(rule - ix->rules.rules);
    enum rule_source source = i < ix->ends[0]   ? SOURCE_DENY_ALWAYS
                              : i < ix->ends[1] ? SOURCE_ALLOW_ALWAYS
                                                : SOURCE_POLICY;
    return (struct verdict){.allow = rule->allow,
                            .source = source,
                            .position =
                                i - (source == SOURCE_DENY_ALWAYS ? 0 : ix->ends[source - 1]),
                            .rule = rule};
}

// The one that comes first in the list.
static const struct rule *first(const struct rule *best, const struct map *m, const char *key) {
    const struct rule *found = map_get(m, key);
    return found && (!best || found < best) ? found : best;
}

struct verdict index_name(const struct index *ix, const char *name) {
    const struct rule *best = first(NULL, &ix->exact, name);
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.'))
        best = first(best, &ix->suffix, dot + 1);
    return decide(ix, best);
}

struct verdict index_address(const struct index *ix, const struct net *address) {
    const struct rule *best = NULL;
    for (size_t i = 0; i < ix->rules.count; i++) {
        const struct rule *r = &ix->rules.rules[i];
        if (r->kind != RULE_NET || !net_covers(&r->net, address))
            continue;
        if (!r->allow)
            return decide(ix, r);
        best = best ? best : r;
    }
    return decide(ix, best);
}

bool index_lists(const struct index *ix, const struct net *address, bool allow) {
    return netset_has(&ix->nets[allow][address->size == 16], address);
}

const char *index_source_name(enum rule_source source) {
    static const char *const names[] = {"deny.always", "allow.always", "policy", "default"};
    return names[source];
}
