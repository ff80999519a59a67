// The parts of the resolver that need no loop: budget, cache, lists of servers; and refused
// packets.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "egress/net/drops.h"
#include "egress/resolve/budget.h"
#include "egress/resolve/cache.h"
#include "egress/resolve/forward.h"

static void test_budget(void **state) {
    static struct budget b;
    char name[64];
    budget_init(&b, &(struct budget_limits){.names = 10});
    for (int i = 0; i < 10; i++) {
        (void)snprintf(name, sizeof name, "n%d.a.test", i);
        assert_true(budget_spend(&b, name, 1000));
    }
    assert_false(budget_spend(&b, "more.a.test", 1000));
    assert_true(budget_spend(&b, "n3.a.test", 1000)); // known
    assert_true(budget_spend(&b, "x.b.test", 1000));  // another parent
    assert_true(budget_spend(&b, "more.a.test", 61001));
    assert_int_equal(b.refused, 1);
    budget_clear(&b);
    budget_init(&b, &(struct budget_limits){.bytes = 20});
    assert_true(budget_spend(&b, "123456.a.test", 1));
    assert_false(budget_spend(&b, "654321.a.test", 2));
    budget_clear(&b);
    budget_init(&b, &(struct budget_limits){.queries = 2});
    for (int i = 0; i < 1000; i++) { // more parents than rows
        (void)snprintf(name, sizeof name, "p%d.test", i);
        assert_true(budget_spend(&b, name, 5));
    }
    assert_string_equal(budget_parent("a.b.c.d"), "c.d");
    assert_string_equal(budget_parent("c.d"), "c.d");
    assert_string_equal(budget_parent("d"), "d");
    assert_string_equal(budget_parent(""), "");
    budget_clear(&b);
}

static void test_cache(void **state) {
    static struct cache c;
    static uint8_t out[DNS_MESSAGE_MAX], message[600];
    struct dns_query q;
    uint32_t age;
    char name[64];
    cache_init(&c);
    assert_int_equal(dns_make_query(&q, "a.test", DNS_A), 0);
    cache_put(&c, &q, message, 100, 0);
    assert_int_equal(cache_get(&c, &q, out, &age), 0);
    cache_put(&c, &q, message, 100, 60);
    cache_put(&c, &q, message, 50, 60);
    assert_int_equal(cache_get(&c, &q, out, &age), 50);
    assert_true(age <= 1);
    q.dnssec_ok = true; // another question
    assert_int_equal(cache_get(&c, &q, out, &age), 0);
    for (int i = 0; i < 3000; i++) {
        (void)snprintf(name, sizeof name, "n%d.test", i);
        assert_int_equal(dns_make_query(&q, name, DNS_A), 0);
        cache_put(&c, &q, message, sizeof message, 60);
        assert_true(c.bytes <= CACHE_BYTES_MAX && c.count <= CACHE_ENTRIES_MAX);
    }
    assert_int_equal(cache_get(&c, &q, out, &age), sizeof message);
    cache_clear(&c);
    assert_int_equal(c.bytes, 0);
}

static void test_servers(void **state) {
    struct upstream list[FORWARD_UPSTREAMS_MAX];
    struct error err = {0};
    unsigned n;
    assert_int_equal(
        forward_parse(list, &n, "192.0.2.1, 192.0.2.1:53,192.0.2.1:54 [2001:db8::1]:55,[::2],::3",
                      15353, &err),
        0);
    assert_int_equal(n, 5);
    assert_int_equal(list[1].port, 54);
    assert_int_equal(list[2].port, 55);
    assert_int_equal(list[4].port, 53);
    static const char *const bad[] = {
        "dns.test",   "1.2.3.4:x",       "1.2.3.4:0",   "[::1",         "[::1]x",
        "1.2.3.0/24", "127.0.0.1:15353", "[::1]:15353", "1.2.3.4:70000"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(forward_parse(list, &n, bad[i], 15353, &err), -1);
    forward_resolv_conf(
        list, &n,
        "# nameserver 9.9.9.9\nnameserver 127.0.0.11\nnameservers 8.8.8.8\n"
        "nameserver\t192.0.2.1 # x\n nameserver 2001:db8::1\nnameserver fe80::1%eth0\n"
        "nameserver 192.0.2.1");
    assert_int_equal(n, 3);
    assert_int_equal(list[0].address.bytes[0], 192);
    assert_int_equal(list[2].address.bytes[0], 127); // the loopback last
}

static void test_packets(void **state) {
    static const uint8_t
        tcp[] = "\x45\0\0\x28\0\0\0\0\x40\6\0\0\xc0\0\2\2\xcb\0\x71\x42\x04\xd2\0\x50",
        later[] = "\x45\0\0\x28\0\0\0\2\x40\x11\0\0\xc0\0\2\2\xcb\0\x71\x42\x04\xd2\0\x50";
    struct drop d;
    char text[NET_TEXT_MAX];
    assert_true(drops_parse(tcp, sizeof tcp - 1, &d));
    net_format(&d.to, text);
    assert_string_equal(text, "203.0.113.66");
    assert_int_equal(d.port, 80);
    assert_true(drops_parse(tcp, 22, &d) && d.port == 0);
    assert_false(drops_parse(tcp, 19, &d));
    assert_true(drops_parse(later, sizeof later - 1, &d) && d.port == 0); // no head in it
    uint8_t six[44] = {0x60, [6] = 17, [24] = 0x20, [25] = 1, [42] = 1, [43] = 2};
    assert_true(drops_parse(six, sizeof six, &d));
    assert_int_equal(d.port, 258);
    assert_false(drops_parse(six, 39, &d));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_servers),
        cmocka_unit_test(test_packets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
