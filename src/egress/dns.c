#include "egress/dns.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { POINTERS_MAX = 64, WIRE_MAX = 255, OPT_EDE = 15, FLAG_QR = 0x8000, FLAG_AA = 0x0400 };
enum { FLAG_TC = 0x0200, FLAG_RD = 0x0100, FLAG_RA = 0x0080, FLAG_CD = 0x0010, DO = 0x8000 };
enum { OPCODE = 0x7800, CLASS_IN = 1 };

static uint16_t get16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}
static uint32_t get32(const uint8_t *p) {
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}
static uint8_t *put16(uint8_t *p, unsigned value) {
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
    return p + 2;
}
static void put32(uint8_t *p, uint32_t value) {
    (void)put16(put16(p, value >> 16), value & 0xffff);
}

// ---- names ----

static size_t write_label(char *text, const uint8_t *label, size_t len) {
    size_t used = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = label[i];
        if (c < 0x80 && (isalnum(c) || c == '-' || c == '_'))
            text[used++] = (char)tolower(c);
        else
            used += (size_t)snprintf(text + used, 5, "\\%03u", c);
    }
    return used;
}

size_t dns_name(const uint8_t *message, size_t len, size_t at, char text[DNS_NAME_TEXT]) {
    size_t used = 0, wire = 1, behind = 0, limit = at;
    for (int pointers = 0; at < len;) {
        uint8_t n = message[at];
        if (n >= 0xc0) { // must go back before everything read so far: no loop is possible
            if (at + 2 > len || ++pointers > POINTERS_MAX)
                return 0;
            size_t to = (size_t)(n & 0x3f) << 8 | message[at + 1];
            behind = behind ? behind : at + 2;
            if (to >= limit)
                return 0;
            at = limit = to;
            continue;
        }
        if (n > 63 || at + 1 + n > len || (wire += n ? n + 1u : 0) > WIRE_MAX)
            return 0;
        if (!n) {
            text[used] = '\0';
            return behind ? behind : at + 1;
        }
        if (used)
            text[used++] = '.';
        used += write_label(text + used, message + at + 1, n); // 4 * 254 + dots fit
        at += 1 + n;
    }
    return 0;
}

// ---- records ----

struct record {
    char owner[DNS_NAME_TEXT];
    uint16_t type, class;
    uint32_t ttl;
    size_t ttl_at, data_at, data_len;
};
struct reader {
    const uint8_t *message;
    size_t len, at;
    unsigned left[3]; // answer, authority, additional
};

static bool reader_init(struct reader *r, const uint8_t *message, size_t len) {
    char name[DNS_NAME_TEXT];
    *r = (struct reader){message, len, DNS_HEADER, {0}};
    for (int i = 0; i < 3; i++)
        r->left[i] = get16(message + 6 + 2 * i);
    for (unsigned i = get16(message + 4); i > 0; i--) {
        size_t end = dns_name(message, len, r->at, name);
        if (!end || end + 4 > len)
            return false;
        r->at = end + 4;
    }
    return true;
}

// 1: a record, 0: the section is over, -1: broken.
static int reader_next(struct reader *r, int section, struct record *ret) {
    if (!r->left[section])
        return 0;
    size_t at = dns_name(r->message, r->len, r->at, ret->owner);
    if (!at || at + 10 > r->len)
        return -1;
    const uint8_t *p = r->message + at;
    ret->type = get16(p);
    ret->class = get16(p + 2);
    ret->ttl = get32(p + 4);
    ret->ttl_at = at + 4;
    ret->data_len = get16(p + 8);
    ret->data_at = at + 10;
    if (ret->data_len > r->len - ret->data_at)
        return -1;
    r->left[section]--;
    r->at = ret->data_at + ret->data_len;
    return 1;
}

// ---- queries ----

static int take_additional(const uint8_t *message, size_t len, struct dns_query *q) {
    struct reader r;
    struct record rec;
    int more, result = 0;
    if (!reader_init(&r, message, len))
        return DNS_FORMERR;
    for (int section = 0; section < 3; section++)
        while ((more = reader_next(&r, section, &rec))) {
            if (more < 0)
                return DNS_FORMERR;
            if (rec.type != DNS_OPT)
                continue;
            if (section < 2 || q->edns || *rec.owner)
                return DNS_FORMERR;
            q->edns = true;
            q->dnssec_ok = (rec.ttl & DO) != 0;
            if ((rec.ttl >> 16 & 0xff) != 0)
                result = DNS_BADVERS;
            q->udp_size = rec.class < DNS_PLAIN_MAX ? DNS_PLAIN_MAX
                          : rec.class > DNS_UDP_MAX ? DNS_UDP_MAX
                                                    : rec.class;
        }
    return r.at == len ? result : DNS_FORMERR;
}

int dns_parse_query(const uint8_t *message, size_t len, struct dns_query *q) {
    memset(q, 0, sizeof *q);
    q->udp_size = DNS_PLAIN_MAX;
    if (len < DNS_HEADER)
        return -1;
    q->id = get16(message);
    q->flags = get16(message + 2);
    if (q->flags & FLAG_QR)
        return -1;
    if (q->flags & OPCODE)
        return DNS_NOTIMP;
    if (get16(message + 4) != 1 || get16(message + 6) > 1 || get16(message + 8) > 1 ||
        get16(message + 10) > 2)
        return DNS_FORMERR;
    size_t end = dns_name(message, len, DNS_HEADER, q->name);
    if (!end || end + 4 > len || end + 4 - DNS_HEADER > sizeof q->question)
        return DNS_FORMERR;
    for (size_t at = DNS_HEADER; message[at]; at += 1u + message[at])
        if (message[at] > 63) // there is nothing yet that a pointer could point to
            return DNS_FORMERR;
    q->question_len = end + 4 - DNS_HEADER;
    memcpy(q->question, message + DNS_HEADER, q->question_len);
    q->type = get16(message + end);
    q->class = get16(message + end + 2);
    int result = take_additional(message, len, q);
    if (result)
        return result;
    if (q->type == DNS_AXFR || q->type == DNS_IXFR || q->class != CLASS_IN)
        return DNS_REFUSED;
    return 0;
}

int dns_make_query(struct dns_query *q, const char *name, enum dns_type type) {
    uint8_t *p;
    memset(q, 0, sizeof *q);
    q->flags = FLAG_RD;
    q->type = (uint16_t)type;
    q->class = CLASS_IN;
    q->udp_size = DNS_PLAIN_MAX;
    if (strlen(name) > WIRE_MAX - 2)
        return -1;
    p = q->question;
    for (const char *label = name; *label;) {
        size_t len = strcspn(label, ".");
        if (!len || len > 63)
            return -1;
        *p++ = (uint8_t)len;
        memcpy(p, label, len);
        p += len;
        label += len + (label[len] == '.');
    }
    *p++ = 0;
    p = put16(put16(p, type), CLASS_IN);
    q->question_len = (size_t)(p - q->question);
    return dns_name(q->question, q->question_len, 0, q->name) ? 0 : -1;
}

static uint8_t *write_head(uint8_t *out, unsigned id, unsigned flags, const struct dns_query *q,
                           bool opt) {
    uint8_t *p = put16(put16(out, id), flags);
    p = put16(put16(put16(put16(p, q->question_len ? 1 : 0), 0), 0), opt);
    memcpy(p, q->question, q->question_len);
    return p + q->question_len;
}

static uint8_t *write_opt(uint8_t *p, unsigned extended, bool dnssec_ok, enum dns_reason reason) {
    bool told = reason != DNS_NO_REASON;
    *p++ = 0;
    p = put16(put16(p, DNS_OPT), DNS_UPSTREAM_SIZE);
    *p++ = (uint8_t)extended;
    *p++ = 0; // version
    p = put16(put16(p, dnssec_ok ? DO : 0), told ? 6 : 0);
    return told ? put16(put16(put16(p, OPT_EDE), 2), (unsigned)reason) : p;
}

size_t dns_write_reply(uint8_t *out, const struct dns_query *q, enum dns_rcode rcode,
                       enum dns_reason reason, bool truncated) {
    unsigned flags = FLAG_QR | FLAG_RA | (q->flags & (OPCODE | FLAG_RD | FLAG_CD)) |
                     ((unsigned)rcode & 15) | (truncated ? FLAG_TC : 0);
    uint8_t *p = write_head(out, q->id, flags, q, q->edns);
    if (q->edns)
        p = write_opt(p, (unsigned)rcode >> 4, q->dnssec_ok, reason);
    return (size_t)(p - out);
}

size_t dns_write_query(uint8_t *out, const struct dns_query *q, uint16_t id) {
    uint8_t *p = write_head(out, id, q->flags & (FLAG_RD | FLAG_CD), q, q->edns);
    if (q->edns)
        p = write_opt(p, 0, q->dnssec_ok, DNS_NO_REASON);
    return (size_t)(p - out);
}

// ---- responses ----

bool dns_response_fits(const uint8_t *message, size_t len, const struct dns_query *q, uint16_t id) {
    struct reader r;
    struct record rec;
    int more;
    unsigned records = 0;
    if (len < DNS_HEADER + q->question_len || get16(message) != id ||
        (get16(message + 2) & (FLAG_QR | OPCODE)) != FLAG_QR || get16(message + 4) != 1)
        return false;
    for (size_t i = 0; i < q->question_len; i++) // lengths and types are no letters
        if (tolower(message[DNS_HEADER + i]) != tolower(q->question[i]))
            return false;
    if (memcmp(message + DNS_HEADER + q->question_len - 4, q->question + q->question_len - 4, 4) !=
            0 ||
        !reader_init(&r, message, len))
        return false;
    for (int section = 0; section < 3; section++)
        while ((more = reader_next(&r, section, &rec)))
            if (more < 0)
                return dns_is_truncated(message); // it will be asked again over TCP
            else if (++records > DNS_RECORDS_MAX)
                return false;
    return true;
}

// CNAME of `name`: 1 with the target, 0 none, -1 broken.
static int next_hop(const uint8_t *message, size_t len, const char *name, char *target) {
    struct reader r;
    struct record rec;
    int more;
    if (!reader_init(&r, message, len))
        return -1;
    while ((more = reader_next(&r, 0, &rec)) > 0)
        if (rec.type == DNS_CNAME && rec.class == CLASS_IN && !strcmp(rec.owner, name)) {
            size_t end = dns_name(message, len, rec.data_at, target);
            return end == rec.data_at + rec.data_len ? 1 : -1;
        }
    return more;
}

int dns_follow(const uint8_t *message, size_t len, const struct dns_query *q,
               struct dns_chain *ret_chain) {
    struct dns_chain *c = ret_chain;
    int more = 1;
    memcpy(c->names[0], q->name, sizeof q->name);
    c->count = 1;
    if (q->type == DNS_CNAME) // its answer still names a target
        more = next_hop(message, len, q->name, c->names[1]);
    if (q->type == DNS_CNAME && more >= 0)
        c->count += (size_t)more;
    if (q->type == DNS_CNAME)
        return more < 0 ? -1 : 0;
    while (c->count < DNS_HOPS_MAX) {
        more = next_hop(message, len, c->names[c->count - 1], c->names[c->count]);
        if (more <= 0)
            return more;
        for (size_t i = 0; i < c->count; i++)
            if (!strcmp(c->names[i], c->names[c->count]))
                return -1;
        c->count++;
    }
    return -1;
}

int dns_each_address(const uint8_t *message, size_t len, const struct dns_chain *chain,
                     int (*each)(const struct net *address, uint32_t ttl, void *arg), void *arg) {
    struct reader r;
    struct record rec;
    const char *owner = chain->names[chain->count - 1];
    int more;
    if (!reader_init(&r, message, len))
        return -1;
    while ((more = reader_next(&r, 0, &rec)) > 0) {
        struct net n;
        if (rec.class != CLASS_IN || strcmp(rec.owner, owner) != 0 ||
            !((rec.type == DNS_A && rec.data_len == 4) ||
              (rec.type == DNS_AAAA && rec.data_len == 16)))
            continue;
        net_from_bytes(message + rec.data_at, rec.data_len, &n);
        if (each(&n, rec.ttl, arg) < 0)
            return -1;
    }
    return more;
}

static uint32_t real_ttl(uint32_t ttl) { // RFC 2181 section 8
    return ttl & 0x80000000u ? 0 : ttl > DNS_TTL_MAX ? DNS_TTL_MAX : ttl;
}

void dns_adopt(uint8_t *message, size_t len, const struct dns_query *q, uint32_t age) {
    struct reader r;
    struct record rec;
    uint16_t at[DNS_RECORDS_MAX];
    size_t count = 0;
    unsigned flags = get16(message + 2) & ~(unsigned)(FLAG_RD | FLAG_CD | FLAG_AA);
    (void)put16(put16(message, q->id), flags | FLAG_RA | (q->flags & (FLAG_RD | FLAG_CD)));
    memcpy(message + DNS_HEADER, q->question, q->question_len);
    if (!reader_init(&r, message, len))
        return;
    // all are found before one is changed: a name may point into a TTL
    for (int section = 0; section < 3; section++)
        while (count < DNS_RECORDS_MAX && reader_next(&r, section, &rec) > 0)
            if (rec.type != DNS_OPT)
                at[count++] = (uint16_t)rec.ttl_at;
    for (size_t i = 0; i < count; i++) {
        uint32_t ttl = get32(message + at[i]);
        ttl = ttl & 0x80000000u ? 0 : ttl;
        put32(message + at[i], real_ttl(ttl > age ? ttl - age : 0));
    }
}

uint32_t dns_least_ttl(const uint8_t *message, size_t len) {
    struct reader r;
    struct record rec;
    uint32_t least = DNS_TTL_MAX;
    if (!reader_init(&r, message, len))
        return 0;
    for (int section = 0; section < 3; section++)
        while (reader_next(&r, section, &rec) > 0)
            if (rec.type != DNS_OPT && real_ttl(rec.ttl) < least)
                least = real_ttl(rec.ttl);
    return least;
}
