// First match for names against an oracle that walks the list, deny before allow for addresses,
// 10,000 rules.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "egress/index.h"

static void add(struct policy *p, bool allow, const char *target) {
    struct error err = {0};
    assert_int_equal(policy_add(p, allow, target, &err), 0);
}

static void build(struct index *ix, const struct policy *user) {
    static const struct policy none;
    struct error err = {0};
    assert_int_equal(index_build(ix, &none, &none, user, &err), 0);
}

static void test_first_match(void **state) {
    struct policy p = {0};
    struct index ix;
    add(&p, true, "*.example.com");
    add(&p, false, "api.example.com");
    add(&p, false, "*.deep.allowed.test");
    add(&p, true, "*.allowed.test");
    add(&p, true, "1.2.3.4");
    build(&ix, &p);
    static const struct {
        const char *name;
        bool allow;
    } rows[] = {
        {"api.example.com", true},
        {"y.x.example.com", true},
        {"example.com", false},
        {"xexample.com", false},
        {"a.allowed.test", true},
        {"a.deep.allowed.test", false},
        {"deep.allowed.test", true},
        {"", false},
        {"com", false},
        {"x\\046allowed.test", false},
        {"1.2.3.4", false},
        {".", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(index_name(&ix, rows[i].name).allow, rows[i].allow);
    struct verdict v = index_name(&ix, "a.deep.allowed.test");
    assert_int_equal(v.source, SOURCE_POLICY);
    assert_int_equal(v.position, 2);
    assert_string_equal(v.rule->target, "*.deep.allowed.test");
    index_clear(&ix);
    policy_clear(&p);
}

static void test_always_come_first(void **state) {
    struct policy deny = {0}, allow = {0}, user = {.allow = true};
    struct index ix;
    struct error err = {0};
    add(&deny, false, "*.bad.test");
    add(&allow, true, "good.test");
    add(&allow, true, "x.bad.test");
    add(&user, false, "good.test");
    assert_int_equal(index_build(&ix, &deny, &allow, &user, &err), 0);
    assert_int_equal(index_name(&ix, "x.bad.test").source, SOURCE_DENY_ALWAYS);
    struct verdict v = index_name(&ix, "good.test");
    assert_true(v.allow && v.source == SOURCE_ALLOW_ALWAYS && v.position == 0);
    v = index_name(&ix, "other.test");
    assert_true(v.allow && v.source == SOURCE_DEFAULT && !v.rule);
    index_clear(&ix);
    policy_clear(&deny);
    policy_clear(&allow);
    policy_clear(&user);
}

static struct net net(const char *text) {
    struct net n;
    assert_int_equal(net_parse(text, &n), 0);
    return n;
}

static void test_addresses(void **state) {
    struct policy p = {0};
    struct index ix;
    struct net n;
    add(&p, true, "10.0.0.5");
    add(&p, false, "10.0.0.0/8");
    add(&p, true, "100.64.0.0/10");
    add(&p, true, "100.100.2.136");
    add(&p, true, "2001:db8::/32");
    add(&p, false, "::ffff:192.0.2.7");
    build(&ix, &p);
    n = net("10.0.0.5");
    assert_false(index_address(&ix, &n).allow);
    assert_true(index_lists(&ix, &n, false) && index_lists(&ix, &n, true));
    n = net("100.127.255.255");
    assert_true(index_address(&ix, &n).allow && index_lists(&ix, &n, true));
    n = net("100.128.0.0");
    assert_false(index_lists(&ix, &n, true));
    n = net("2001:db8:ffff::1");
    assert_true(index_lists(&ix, &n, true));
    n = net("192.0.2.7");
    assert_true(index_lists(&ix, &n, false));
    assert_int_equal(ix.nets[1][0].count, 2); // the covered one is gone
    index_clear(&ix);
    policy_clear(&p);
}

static void test_private(void **state) {
    static const char *const yes[] = {
        "127.0.0.1",       "10.1.1.1",     "169.254.169.254", "192.168.0.1",        "::1",
        "::ffff:10.0.0.1", "fe80::1",      "fd00:ec2::254",   "64:ff9b::a9fe:a9fe", "224.0.0.1",
        "255.255.255.255", "2002:7f00:1::"};
    static const char *const no[] = {"1.1.1.1", "198.51.100.10", "203.0.113.66", "2001:db8::1",
                                     "64:ff9b::101:101"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        struct net n = net(yes[i]);
        assert_true(net_is_private(&n));
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        struct net n = net(no[i]);
        assert_false(net_is_private(&n));
    }
}

static void test_net_end(void **state) {
    uint8_t end[16];
    struct net n = net("10.255.0.0/16");
    assert_true(net_end(&n, end));
    assert_memory_equal(end, ((uint8_t[]){11, 0, 0, 0}), 4);
    n = net("255.255.255.255");
    assert_false(net_end(&n, end));
    n = net("0.0.0.0/0");
    assert_false(net_end(&n, end));
}

static unsigned next(unsigned *seed) {
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 16;
}

static void random_name(unsigned *seed, char *text) {
    unsigned labels = 1 + next(seed) % 3;
    for (unsigned i = 0; i < labels; i++)
        text += snprintf(text, 16, "%s%c", i ? "." : "", 'a' + (char)(next(seed) % 3));
    (void)snprintf(text, 16, ".t");
}

static void test_oracle(void **state) {
    unsigned seed = 7;
    for (int round = 0; round < 200; round++) {
        struct policy p = {.allow = next(&seed) % 2};
        struct index ix;
        for (unsigned i = next(&seed) % 12; i > 0; i--) {
            char target[64] = "*.";
            random_name(&seed, target + 2);
            add(&p, next(&seed) % 2, next(&seed) % 2 ? target : target + 2);
        }
        build(&ix, &p);
        for (int q = 0; q < 50; q++) {
            char name[64];
            bool allow = p.allow;
            random_name(&seed, name);
            for (size_t i = 0; i < p.count; i++) {
                const char *t = p.rules[i].target;
                size_t len = strlen(t + 1), have = strlen(name);
                if (!strcmp(t, name) ||
                    (*t == '*' && have > len && !strcmp(name + have - len, t + 1))) {
                    allow = p.rules[i].allow;
                    break;
                }
            }
            assert_int_equal(index_name(&ix, name).allow, allow);
        }
        index_clear(&ix);
        policy_clear(&p);
    }
}

static void test_many(void **state) {
    struct policy p = {0};
    struct index ix;
    char name[64];
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(name, sizeof name, "%shost%d.example.test", i % 2 ? "*." : "", i);
        add(&p, i % 3, name);
    }
    build(&ix, &p);
    int64_t start = clock_boot_ns();
    unsigned allowed = 0;
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(name, sizeof name, "%shost%d.example.test", i % 2 ? "a.b." : "", i);
        allowed += index_name(&ix, name).allow;
    }
    print_message("%lld ns a lookup\n", (long long)(clock_boot_ns() - start) / 10000);
    assert_int_equal(allowed, 6666);
    index_clear(&ix);
    policy_clear(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_match), cmocka_unit_test(test_always_come_first),
        cmocka_unit_test(test_addresses),   cmocka_unit_test(test_private),
        cmocka_unit_test(test_net_end),     cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
