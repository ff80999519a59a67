// DNS messages (RFC 1035, 6891, 8914) as the proxy needs them. Every byte comes from a stranger:
// names are walked with a strict bound, pointers go backwards only. Any thread, no state.
//
// A name as text: labels joined by '.', lower case, "" for the root; a byte that is no letter,
// digit, '-' or '_' becomes \DDD, so that a dot inside a label never looks like one between labels.
#ifndef EGRESS_DNS_H
#define EGRESS_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fmt/address.h"

enum {
    DNS_PORT = 53,
    DNS_HEADER = 12,
    DNS_MESSAGE_MAX = 65535,
    DNS_NAME_TEXT = 1024,     // 255 bytes on the wire, four characters each at most
    DNS_QUESTION_MAX = 259,   // name, type, class
    DNS_PLAIN_MAX = 512,      // answer over UDP without EDNS
    DNS_UDP_MAX = 4096,       // what we ever send over UDP
    DNS_UPSTREAM_SIZE = 1232, // what we tell upstreams (no fragments)
    DNS_HOPS_MAX = 12,        // names in a chain of CNAMEs
    DNS_RECORDS_MAX = 4096,   // in an answer
    DNS_SHORT_MAX = 640,      // bound of what dns_write_*() write
    DNS_TTL_MAX = 300         // in our answers (egress.md 4.5)
};
enum dns_rcode {
    DNS_NOERROR = 0,
    DNS_FORMERR = 1,
    DNS_SERVFAIL = 2,
    DNS_NXDOMAIN = 3,
    DNS_NOTIMP = 4,
    DNS_REFUSED = 5,
    DNS_BADVERS = 16
};
enum dns_type { DNS_A = 1, DNS_CNAME = 5, DNS_AAAA = 28, DNS_OPT = 41, DNS_IXFR = 251, DNS_AXFR };
enum dns_reason { // extended errors, RFC 8914
    DNS_NO_REASON = -1,
    DNS_BLOCKED = 15,
    DNS_PROHIBITED = 18,
    DNS_UNREACHABLE = 22
};

struct dns_query {
    uint16_t id, flags, type, class;
    char name[DNS_NAME_TEXT];
    uint8_t question[DNS_QUESTION_MAX]; // as sent
    size_t question_len;                // 0: could not be read
    bool edns, dnssec_ok;
    uint16_t udp_size; // of an answer over UDP, within our bounds
};

// 0; an enum dns_rcode > 0 that must be the answer; -1: no answer (a response, or no header).
int dns_parse_query(const uint8_t *message, size_t len, struct dns_query *q);
// Name at `at`. The offset behind it, or 0 when it is broken.
size_t dns_name(const uint8_t *message, size_t len, size_t at, char text[DNS_NAME_TEXT]);

// Our own answer without records; RA is set, OPT echoed, `reason` added when the client can read
// it. Returns the length, at most DNS_SHORT_MAX.
size_t dns_write_reply(uint8_t *out, const struct dns_query *q, enum dns_rcode rcode,
                       enum dns_reason reason, bool truncated);
// The question for an upstream: nothing of the client but name, type, class, RD, CD and DO.
size_t dns_write_query(uint8_t *out, const struct dns_query *q, uint16_t id);
// Fills a query of our own.
int dns_make_query(struct dns_query *q, const char *name, enum dns_type type);

// Whether it is a whole response to this question: id, QR, opcode, question (any case), and all
// records readable.
bool dns_response_fits(const uint8_t *message, size_t len, const struct dns_query *q, uint16_t id);
static inline enum dns_rcode dns_rcode(const uint8_t *message) {
    return (enum dns_rcode)(message[3] & 15);
}
static inline bool dns_is_truncated(const uint8_t *message) {
    return (message[2] & 2) != 0;
}

// The names that an answer leads through; names[0] is the question's. -1: a loop, or too long.
struct dns_chain {
    char names[DNS_HOPS_MAX][DNS_NAME_TEXT];
    size_t count;
};
int dns_follow(const uint8_t *message, size_t len, const struct dns_query *q,
               struct dns_chain *ret_chain);
// Addresses in the answer section that belong to the chain's last name; -1 from each() ends it.
int dns_each_address(const uint8_t *message, size_t len, const struct dns_chain *chain,
                     int (*each)(const struct net *address, uint32_t ttl, void *arg), void *arg);

// Makes a fitting response the answer to q: id, question's case, RA, and TTLs less `age` seconds,
// at most DNS_TTL_MAX.
void dns_adopt(uint8_t *message, size_t len, const struct dns_query *q, uint32_t age);
// The least TTL among the records of a fitting response, at most DNS_TTL_MAX.
uint32_t dns_least_ttl(const uint8_t *message, size_t len);

#endif
