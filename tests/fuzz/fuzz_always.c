// An always-file: every rule that it gives is a target that stays what it is.
#include "egress/always.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct policy p = {0};
    struct error err;
    (void)always_parse(&p, true, "f", (const char *)data, size, &err);
    for (size_t i = 0; i < p.count; i++) {
        char target[POLICY_TARGET_MAX + 1];
        enum rule_kind kind;
        struct net net;
        CHECK(!policy_target(p.rules[i].target, target, &kind, &net, &err));
        CHECK(!strcmp(target, p.rules[i].target) && kind == p.rules[i].kind);
    }
    policy_clear(&p);
    return 0;
}
