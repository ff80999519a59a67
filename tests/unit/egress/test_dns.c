// DNS messages: names of all kinds, loops, questions that are refused, answers that do not fit.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "egress/dns.h"

#define BYTES(text) ((const uint8_t *)(text)), sizeof(text) - 1

static int parse(const char *bytes, size_t len, struct dns_query *q) {
    uint8_t *copy = malloc(len ? len : 1); // the sanitizer sees every byte behind
    memcpy(copy, bytes, len);
    int r = dns_parse_query(copy, len, q);
    free(copy);
    return r;
}
#define PARSE(text, q) parse(text, sizeof(text) - 1, q)

static void test_query(void **state) {
    struct dns_query q;
    assert_int_equal(PARSE("\x12\x34\x01\x00\0\1\0\0\0\0\0\0\7AlLoWeD\4TeSt\0\0\1\0\1", &q), 0);
    assert_string_equal(q.name, "allowed.test");
    assert_int_equal(q.id, 0x1234);
    assert_false(q.edns);
    assert_int_equal(
        PARSE("\0\1\1\0\0\1\0\0\0\0\0\1\1a\0\0\x1c\0\1\0\0\x29\x10\0\0\0\x80\0\0\0", &q), 0);
    assert_true(q.edns && q.dnssec_ok);
    assert_int_equal(q.udp_size, 4096);
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1", &q), 0); // the root
    assert_string_equal(q.name, "");
    // a dot in a label, a backslash and others
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\x9x.allowed\4test\0\0\1\0\1", &q), 0);
    assert_string_equal(q.name, "x\\046allowed.test");
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\4a\\*\xff\3_-b\0\0\1\0\1", &q), 0);
    assert_string_equal(q.name, "a\\092\\042\\255._-b");
}

static void test_refused(void **state) {
    struct dns_query q;
    assert_int_equal(PARSE("\0\1\x81\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", &q), -1); // QR
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0", &q), -1);
    assert_int_equal(PARSE("", &q), -1);
    assert_int_equal(PARSE("\0\1\x28\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", &q), DNS_NOTIMP); // UPDATE
    assert_int_equal(PARSE("\0\1\x20\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", &q), DNS_NOTIMP); // NOTIFY
    assert_int_equal(PARSE("\0\1\1\0\0\0\0\0\0\0\0\0", &q), DNS_FORMERR);
    assert_int_equal(PARSE("\0\1\1\0\0\2\0\0\0\0\0\0\1a\0\0\1\0\1\1a\0\0\1\0\1", &q), DNS_FORMERR);
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\xfc\0\1", &q), DNS_REFUSED); // AXFR
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\x10\0\3", &q), DNS_REFUSED); // CH
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1x", &q), DNS_FORMERR);
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", &q), DNS_FORMERR); // loop
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\1a\xc0\x0c\0\1\0\1", &q), DNS_FORMERR);
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\0\x40", &q), DNS_FORMERR);
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\1\1a\0\0\1\0\1\0\0\x29\x10\0\0\1\0\0\0\0", &q),
                     DNS_BADVERS);
    assert_int_equal(PARSE("\0\1\1\0\0\1\0\0\0\0\0\2\1a\0\0\1\0\1\0\0\x29\x10\0\0\0\0\0\0\0"
                           "\0\0\x29\x10\0\0\0\0\0\0\0",
                           &q),
                     DNS_FORMERR);
}

static void test_long_names(void **state) {
    char bytes[512] = "\0\1\1\0\0\1\0\0\0\0\0";
    struct dns_query q;
    size_t at = 12;
    for (int i = 0; i < 4; i++) { // 4 * 64 + 1 = 257 > 255
        bytes[at] = 63;
        memset(bytes + at + 1, 0xff, 63);
        at += 64;
    }
    memcpy(bytes + at, "\0\0\1\0\1", 5);
    assert_int_equal(parse(bytes, at + 5, &q), DNS_FORMERR);
    bytes[12 + 192] = 61; // 255
    memcpy(bytes + at - 2, "\0\0\1\0\1", 5);
    assert_int_equal(parse(bytes, at + 3, &q), 0);
    assert_int_equal(strlen(q.name), 4 * 250 + 3);
}

static void test_replies(void **state) {
    struct dns_query q;
    uint8_t out[DNS_SHORT_MAX];
    assert_int_equal(
        PARSE("\xab\xcd\1\x10\0\1\0\0\0\0\0\1\1a\0\0\1\0\1\0\0\x29\x10\0\0\0\x80\0\0\0", &q), 0);
    size_t n = dns_write_reply(out, &q, DNS_NXDOMAIN, DNS_BLOCKED, false);
    static const char expected[] = "\xab\xcd\x81\x93\0\1\0\0\0\0\0\1\1a\0\0\1\0\1"
                                   "\0\0\x29\x04\xd0\0\0\x80\0\0\6\0\x0f\0\2\0\x0f";
    assert_int_equal(n, sizeof expected - 1);
    assert_memory_equal(out, expected, n);
    n = dns_write_query(out, &q, 0x7777);
    static const char asked[] = "\x77\x77\1\x10\0\1\0\0\0\0\0\1\1a\0\0\1\0\1"
                                "\0\0\x29\x04\xd0\0\0\x80\0\0\0";
    assert_int_equal(n, sizeof asked - 1);
    assert_memory_equal(out, asked, n);
    assert_int_equal(dns_make_query(&q, "a.b", DNS_AAAA), 0);
    assert_string_equal(q.name, "a.b");
    assert_int_equal(dns_make_query(&q, "", DNS_A), 0);
    assert_int_equal(q.question_len, 5);
    assert_int_equal(dns_make_query(&q, "a..b", DNS_A), -1);
}

static int count(const struct net *address, uint32_t ttl, void *arg) {
    char text[NET_TEXT_MAX];
    net_format(address, text);
    size_t used = strlen(arg);
    (void)snprintf((char *)arg + used, 200 - used, "%s/%u ", text, ttl);
    return 0;
}

#define QUESTION "\1A\1t\0\0\1\0\1"
static void test_response(void **state) {
    // a.t -> b.t -> addresses of b.t; another owner and another class are no business of ours
    static const char message[] =
        "\x11\x22\x85\x80\0\1\0\5\0\0\0\0" QUESTION "\xc0\x0c\0\5\0\1\0\0\0\x0a\0\4\1b\xc0\x0e"
        "\xc0\x21\0\1\0\1\0\0\x10\0\0\4\xc6\x33\x64\x0a"
        "\1x\xc0\x0e\0\1\0\1\0\0\0\1\0\4\xcb\0\x71\x42"
        "\xc0\x21\0\1\0\3\0\0\0\1\0\4\1\2\3\4"
        "\xc0\x21\0\x1c\0\1\x80\0\0\1\0\x10\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x0b";
    struct dns_query q;
    static struct dns_chain c;
    char found[200] = "";
    uint8_t copy[sizeof message - 1];
    memcpy(copy, message, sizeof copy);
    assert_int_equal(dns_make_query(&q, "a.t", DNS_A), 0);
    assert_true(dns_response_fits(copy, sizeof copy, &q, 0x1122));
    assert_false(dns_response_fits(copy, sizeof copy, &q, 0x1123));
    assert_false(dns_response_fits(copy, sizeof copy - 1, &q, 0x1122));
    assert_int_equal(dns_follow(copy, sizeof copy, &q, &c), 0);
    assert_int_equal(c.count, 2);
    assert_string_equal(c.names[1], "b.t");
    q.id = 0x9999;
    assert_int_equal(dns_least_ttl(copy, sizeof copy), 0);
    dns_adopt(copy, sizeof copy, &q, 3);
    assert_memory_equal(copy, "\x99\x99\x81\x80", 4);
    assert_memory_equal(copy + 12, "\1a\1t", 4);
    assert_int_equal(dns_each_address(copy, sizeof copy, &c, count, found), 0);
    assert_string_equal(found, "198.51.100.10/300 198.51.100.11/0 ");
    assert_int_equal(dns_make_query(&q, "b.t", DNS_A), 0);
    assert_false(dns_response_fits(copy, sizeof copy, &q, 0x9999)); // another question
    assert_int_equal(dns_make_query(&q, "a.t", DNS_AAAA), 0);
    assert_false(dns_response_fits(copy, sizeof copy, &q, 0x9999));
}

static void test_loops(void **state) {
    static const char message[] =
        "\0\1\x81\x80\0\1\0\2\0\0\0\0" QUESTION "\xc0\x0c\0\5\0\1\0\0\0\x0a\0\4\1b\xc0\x0e"
        "\xc0\x21\0\5\0\1\0\0\0\x0a\0\2\xc0\x0c";
    struct dns_query q;
    static struct dns_chain c;
    assert_int_equal(dns_make_query(&q, "a.t", DNS_A), 0);
    assert_true(dns_response_fits(BYTES(message), &q, 1));
    assert_int_equal(dns_follow(BYTES(message), &q, &c), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_query),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_long_names), cmocka_unit_test(test_replies),
        cmocka_unit_test(test_response),   cmocka_unit_test(test_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
