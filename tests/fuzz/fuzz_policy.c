// A policy: what is taken, written and read again is the same, and can be asked.
#include "egress/index.h"
#include "fmt/json.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct policy none;
    struct policy p = {0}, again = {0};
    struct error err;
    struct index ix;
    if (policy_parse(&p, (const char *)data, size, &err))
        return 0;
    json_t *j = policy_json(&p);
    char *text = json_dumps(j, JSON_COMPACT);
    CHECK(text && !policy_parse(&again, text, strlen(text), &err));
    CHECK(p.count == again.count && p.allow == again.allow);
    CHECK(!index_build(&ix, &none, &none, &p, &err));
    for (size_t i = 0; i < p.count; i++) {
        CHECK(!strcmp(p.rules[i].target, again.rules[i].target));
        if (p.rules[i].kind == RULE_NAME)
            CHECK(index_name(&ix, p.rules[i].target).rule);
        else if (p.rules[i].kind == RULE_NET)
            CHECK(index_lists(&ix, &p.rules[i].net, p.rules[i].allow));
    }
    index_clear(&ix);
    policy_clear(&p);
    policy_clear(&again);
    free(text);
    json_decref(j);
    return 0;
}
