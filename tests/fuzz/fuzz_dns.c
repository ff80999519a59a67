// The first byte says whether the rest is a query or an answer to "a.t".
#include "egress/dns.h"
#include "fuzz.h"

static int each(const struct net *address, uint32_t ttl, void *arg) {
    char text[NET_TEXT_MAX];
    CHECK(ttl <= DNS_TTL_MAX);
    net_format(address, text);
    return strlen(text) > 1 ? 0 : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct dns_query q;
    static struct dns_chain chain;
    uint8_t out[DNS_SHORT_MAX], *copy = malloc(size + 1);
    CHECK(copy);
    memcpy(copy, data, size);
    if (size && data[0] & 1) {
        int r = dns_parse_query(copy + 1, size - 1, &q);
        if (r >= 0)
            CHECK(dns_write_reply(out, &q, (enum dns_rcode)r, DNS_BLOCKED, r == 1) <= sizeof out);
        if (r == 0)
            CHECK(dns_write_query(out, &q, 7) <= sizeof out && strlen(q.name) < DNS_NAME_TEXT);
    } else if (size > 2) {
        CHECK(!dns_make_query(&q, "a.t", DNS_A));
        if (dns_response_fits(copy + 1, size - 1, &q, (uint16_t)(data[1] << 8 | data[2])) &&
            !dns_is_truncated(copy + 1) && !dns_follow(copy + 1, size - 1, &q, &chain)) {
            uint32_t ttl = dns_least_ttl(copy + 1, size - 1);
            dns_adopt(copy + 1, size - 1, &q, 0);
            // a name that points into a TTL may end the reading earlier afterwards
            CHECK(ttl <= DNS_TTL_MAX && dns_least_ttl(copy + 1, size - 1) >= ttl);
            (void)dns_each_address(copy + 1, size - 1, &chain, each, NULL);
        }
    }
    free(copy);
    return 0;
}
