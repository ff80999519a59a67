// Policies as clients write them: what is taken, what is refused and with which words.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fmt/json.h"
#include "fmt/policy.h"

static void expect(const char *text, const char *expected) {
    struct policy p = {0};
    struct error err = {0};
    if (policy_parse(&p, text, strlen(text), &err)) {
        assert_string_equal(err.message, expected);
        return;
    }
    json_t *j = policy_json(&p);
    char *written = json_dumps(j, JSON_COMPACT);
    assert_string_equal(written, expected);
    free(written);
    json_decref(j);
    policy_clear(&p);
}

static void test_forms(void **state) {
    static const char *const empty = "{\"egress\":[],\"defaultAction\":\"deny\"}";
    expect("", empty);
    expect(" \n\t", empty);
    expect("null", empty);
    expect("{}", empty);
    expect("{\"egress\":null,\"defaultAction\":null}", empty);
    expect("{\"defaultAction\":\" Allow \"}", "{\"egress\":[],\"defaultAction\":\"allow\"}");
    expect("{\"egress\":[{\"target\":\" Foo.Example. \"},{\"action\":\"ALLOW\",\"target\":"
           "\"*.B.c\"},{\"action\":\"deny\",\"target\":\"10.1.2.3/8\"}]}",
           "{\"egress\":[{\"action\":\"deny\",\"target\":\"foo.example\"},{\"action\":\"allow\","
           "\"target\":\"*.b.c\"},{\"action\":\"deny\",\"target\":\"10.1.2.3/8\"}],"
           "\"defaultAction\":\"deny\"}");
}

static void test_refusals(void **state) {
    expect("{\"defaultAction\":\"alow\"}", "defaultAction is allow or deny, not \"alow\"");
    expect("{\"defaultAction\":1}", "defaultAction: a text is expected");
    expect("{\"egres\":[]}", "unknown field \"egres\"");
    expect("[]", "an object is expected");
    expect("{\"egress\":{}}", "an array of rules is expected");
    expect("{\"egress\":[{\"action\":\"x\",\"target\":\"a.b\"}]}",
           "egress[0]: unsupported action \"x\"");
    expect("{\"egress\":[{\"action\":\"allow\"}]}", "egress[0]: egress target cannot be empty");
    static const char *const targets[] = {
        "https://x.y",
        "1.2.3.4:443",
        "*foo.com",
        "a.*.com",
        "*",
        "a..b",
        ".a.b",
        "a.b..",
        "*.",
        "1.2.3",
        "1.2.3.4/33",
        "a b.c",
        "fe80::1%eth0",
        "b\xc3\xbc"
        "cher.example",
        "[::1]",
        "::/129",
        "a/b",
    };
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        struct policy p = {0};
        struct error err = {0};
        assert_int_equal(policy_add(&p, true, targets[i], &err), -1);
        assert_int_equal(p.count, 0);
    }
    char label[80] = "";
    memset(label, 'a', 64);
    struct policy p = {0};
    struct error err = {0};
    assert_int_equal(policy_add(&p, true, label, &err), -1);
    label[63] = '\0';
    assert_int_equal(policy_add(&p, true, label, &err), 0);
    policy_clear(&p);
}

static void test_old_stays_on_failure(void **state) {
    struct policy p = {0};
    struct error err = {0};
    assert_int_equal(policy_add(&p, true, "a.b", &err), 0);
    assert_int_equal(policy_parse(&p, "{", 1, &err), -1);
    assert_int_equal(p.count, 1);
    policy_clear(&p);
}

static void rules(struct policy *p, bool allow_default, const char *const *targets) {
    struct error err = {0};
    p->allow = allow_default;
    for (; *targets; targets++)
        assert_int_equal(policy_add(p, **targets == '+', *targets + 1, &err), 0);
}

static void same(const struct policy *p, const char *const *targets) {
    size_t i = 0;
    for (; targets[i]; i++) {
        assert_true(i < p->count);
        assert_string_equal(p->rules[i].target, targets[i] + 1);
        assert_int_equal(p->rules[i].allow, *targets[i] == '+');
    }
    assert_int_equal(p->count, i);
}

static void test_merge_and_without(void **state) {
    struct policy base = {0}, patch = {0}, out = {0};
    struct error err = {0};
    rules(&base, true, (const char *const[]){"+a.b", "+c.d", "-A.b", "+10.0.0.0/8", NULL});
    rules(&patch, false, (const char *const[]){"-C.D.", "+e.f", NULL});
    assert_int_equal(policy_merge(&out, &patch, &base, &err), 0);
    same(&out, (const char *const[]){"-c.d", "+e.f", "+a.b", "+10.0.0.0/8", NULL});
    assert_true(out.allow);
    json_t *targets = json_pack("[s,s,s]", " A.B", "", "not there");
    policy_clear(&patch);
    assert_int_equal(policy_without(&patch, &out, targets, &err), 0);
    same(&patch, (const char *const[]){"-c.d", "+e.f", "+10.0.0.0/8", NULL});
    json_decref(targets);
    targets = json_pack("[i]", 1);
    policy_clear(&base);
    assert_int_equal(policy_without(&base, &out, targets, &err), -1);
    json_decref(targets);
    policy_clear(&base);
    policy_clear(&patch);
    policy_clear(&out);
}

static void test_modes(void **state) {
    struct policy p = {0};
    assert_string_equal(policy_mode(&p), "deny_all");
    p.allow = true;
    assert_string_equal(policy_mode(&p), "allow_all");
    rules(&p, false, (const char *const[]){"+a.b", NULL});
    assert_string_equal(policy_mode(&p), "enforcing");
    policy_clear(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_old_stays_on_failure),
        cmocka_unit_test(test_merge_and_without),
        cmocka_unit_test(test_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
