#include "io/nftables.h"

#include <endian.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

enum { REPLY_SIZE = 32768, LIST_MAX = 60000 }; // an attribute's length has 16 bits

int nft_open(struct nftables *n, int fd, const char *table, size_t batch_max) {
    *n = (struct nftables){.table = table};
    int r = 0;
    if (fd >= 0)
        netlink_take(&n->nl, fd);
    else
        r = netlink_open(&n->nl, NETLINK_NETFILTER);
    if (!r)
        r = netlink_grow(&n->nl, batch_max);
    if (r)
        netlink_close(&n->nl);
    return r;
}

void nft_close(struct nftables *n) {
    netlink_close(&n->nl);
}

// Nothing is acknowledged but the last message of a batch: errors are told anyway.
static void silent(struct nftables *n) {
    if (n->nl.head && n->nl.head->nlmsg_flags & NLM_F_ACK) {
        n->nl.head->nlmsg_flags &= (uint16_t)~NLM_F_ACK;
        n->nl.waiting--;
    }
}

static void batch_mark(struct nftables *n, int type) {
    struct nfgenmsg m = {.res_id = htobe16(NFNL_SUBSYS_NFTABLES)};
    netlink_request(&n->nl, type, 0, &m, sizeof m);
    silent(n);
}

static void request(struct nftables *n, int type, int flags, int family) {
    struct nfgenmsg m = {.nfgen_family = (uint8_t)family};
    netlink_request(&n->nl, NFNL_SUBSYS_NFTABLES << 8 | type, flags, &m, sizeof m);
}

void nft_begin(struct nftables *n) {
    n->set = NULL;
    n->list = NULL;
    batch_mark(n, NFNL_MSG_BATCH_BEGIN);
}

static void end_list(struct nftables *n) {
    if (n->list)
        netlink_nest_end(&n->nl, n->list);
    n->list = NULL;
    n->set = NULL;
}

static void begin_set(struct nftables *n, int type, const char *set) {
    silent(n); // the message before
    request(n, type, type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0, NFPROTO_INET);
    netlink_attr_text(&n->nl, NFTA_SET_ELEM_LIST_TABLE, n->table);
    netlink_attr_text(&n->nl, NFTA_SET_ELEM_LIST_SET, set);
}

void nft_flush(struct nftables *n, const char *set) {
    end_list(n);
    begin_set(n, NFT_MSG_DELSETELEM, set);
}

static void be32(struct nftables *n, int type, uint32_t value) {
    netlink_attr_u32(&n->nl, type, htobe32(value));
}

static void element(struct nftables *n, int type, const char *set, const struct nft_element *e) {
    struct netlink *nl = &n->nl;
    bool full = n->list && nl->out + nl->used - (char *)n->list > LIST_MAX;
    if (full || !n->set || n->type != type || strcmp(n->set, set) != 0) {
        end_list(n);
        begin_set(n, type, set);
        n->list = netlink_nest(nl, NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED);
        n->set = set;
        n->type = type;
    }
    struct nlattr *one = netlink_nest(nl, NFTA_LIST_ELEM | NLA_F_NESTED);
    struct nlattr *key = netlink_nest(nl, NFTA_SET_ELEM_KEY | NLA_F_NESTED);
    (void)netlink_attr(nl, NFTA_DATA_VALUE, e->key, e->key_len);
    netlink_nest_end(nl, key);
    if (e->end)
        be32(n, NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    if (e->timeout_ms) {
        uint64_t ms = htobe64(e->timeout_ms);
        (void)netlink_attr(nl, NFTA_SET_ELEM_TIMEOUT, &ms, sizeof ms);
    }
    if (e->data || e->chain) {
        struct nlattr *data = netlink_nest(nl, NFTA_SET_ELEM_DATA | NLA_F_NESTED);
        if (e->chain) {
            struct nlattr *verdict = netlink_nest(nl, NFTA_DATA_VERDICT | NLA_F_NESTED);
            be32(n, NFTA_VERDICT_CODE, (uint32_t)NFT_GOTO);
            netlink_attr_text(nl, NFTA_VERDICT_CHAIN, e->chain);
            netlink_nest_end(nl, verdict);
        } else {
            (void)netlink_attr(nl, NFTA_DATA_VALUE, e->data, e->data_len);
        }
        netlink_nest_end(nl, data);
    }
    netlink_nest_end(nl, one);
}

void nft_add(struct nftables *n, const char *set, const struct nft_element *e) {
    element(n, NFT_MSG_NEWSETELEM, set, e);
}
void nft_delete(struct nftables *n, const char *set, const struct nft_element *e) {
    element(n, NFT_MSG_DELSETELEM, set, e);
}

// The kernel has answered when send() returns: what it said is in the queue, nothing is waited for.
int nft_commit(struct nftables *n) {
    _Alignas(8) char reply[REPLY_SIZE];
    int first = 0;
    unsigned acknowledged = 0, expected;
    end_list(n);
    expected = n->nl.waiting;
    batch_mark(n, NFNL_MSG_BATCH_END);
    n->nl.waiting = 0;
    int r = netlink_send(&n->nl);
    if (r)
        return r;
    while (first || acknowledged < expected) { // after a success nothing else is in the queue
        ssize_t got = recv(n->nl.fd, reply, sizeof reply, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        size_t left = (size_t)got;
        for (struct nlmsghdr *h = (struct nlmsghdr *)reply; NLMSG_OK(h, left);
             h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type != NLMSG_ERROR)
                continue;
            const struct nlmsgerr *e = NLMSG_DATA(h);
            acknowledged += !e->error;
            first = first ? first : e->error;
        }
    }
    n->commits += !first && expected;
    return first ? first : acknowledged < expected ? -EPROTO : 0;
}

// ---- questions ----

struct look {
    const char *table;
    uint64_t hash;
    int table_attr;
};

static const struct nlattr *find_attr(const struct nlmsghdr *h, int type) {
    const char *p = (const char *)NLMSG_DATA(h) + sizeof(struct nfgenmsg);
    const char *end = (const char *)h + h->nlmsg_len;
    while (p + sizeof(struct nlattr) <= end) {
        const struct nlattr *a = (const struct nlattr *)p;
        if (a->nla_len < sizeof *a || p + a->nla_len > end)
            return NULL;
        if ((a->nla_type & NLA_TYPE_MASK) == type)
            return a;
        p += (a->nla_len + 3u) & ~3u;
    }
    return NULL;
}

static const void *attr_data(const struct nlattr *a) {
    return (const char *)a + sizeof *a;
}

// All attributes but the number of a chain's users: elements of our maps are among those.
static int hash_message(const struct nlmsghdr *h, void *arg) {
    struct look *l = arg;
    const struct nlattr *table = find_attr(h, l->table_attr);
    if (!table || strcmp(attr_data(table), l->table) != 0)
        return 0;
    const char *p = (const char *)NLMSG_DATA(h) + sizeof(struct nfgenmsg);
    const char *end = (const char *)h + h->nlmsg_len;
    bool chain = (h->nlmsg_type & 0xff) == NFT_MSG_NEWCHAIN;
    while (p + sizeof(struct nlattr) <= end) {
        const struct nlattr *a = (const struct nlattr *)p;
        if (a->nla_len < sizeof *a || p + a->nla_len > end)
            break;
        for (size_t i = 0; i < a->nla_len && !(chain && a->nla_type == NFTA_CHAIN_USE); i++)
            l->hash = (l->hash ^ (uint8_t)p[i]) * 0x100000001b3u;
        p += (a->nla_len + 3u) & ~3u;
    }
    return 0;
}

int nft_fingerprint(struct nftables *n, const char *netdev_table, uint64_t *ret) {
    const struct {
        const char *table;
        int family;
    } tables[] = {{n->table, NFPROTO_INET}, {netdev_table, NFPROTO_NETDEV}};
    // table (dormant?), chains (hooks, policies), rules
    static const struct {
        int type, attr;
    } kinds[] = {{NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE},
                 {NFT_MSG_GETTABLE, NFTA_TABLE_NAME},
                 {NFT_MSG_GETRULE, NFTA_RULE_TABLE}};
    struct look l = {.hash = 0xcbf29ce484222325u};
    for (size_t i = 0; i < ARRAY_SIZE(tables) && tables[i].table; i++)
        for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
            int tries = 3, r;
            uint64_t before = l.hash;
            l.table = tables[i].table;
            l.table_attr = kinds[k].attr;
            do { // -EINTR: changed meanwhile
                l.hash = before;
                request(n, kinds[k].type, NLM_F_DUMP, tables[i].family);
                r = netlink_dump(&n->nl, hash_message, &l);
            } while (r == -EINTR && --tries);
            if (r)
                return r;
        }
    *ret = l.hash;
    return 0;
}

static int take_generation(const struct nlmsghdr *h, void *arg) {
    const struct nlattr *id = find_attr(h, NFTA_GEN_ID);
    if (id)
        memcpy(arg, attr_data(id), sizeof(uint32_t));
    return id ? 1 : 0;
}

int nft_generation(struct nftables *n, uint32_t *ret) {
    uint32_t id = 0;
    request(n, NFT_MSG_GETGEN, 0, AF_UNSPEC);
    silent(n); // one answer, and no end of a dump
    int r = netlink_dump(&n->nl, take_generation, &id);
    *ret = be32toh(id);
    return r < 0 ? r : 0;
}

struct count {
    uint64_t packets;
};

static int take_counter(const struct nlmsghdr *h, void *arg) {
    const struct nlattr *data = find_attr(h, NFTA_OBJ_DATA);
    struct count *c = arg;
    if (!data)
        return 0;
    const char *p = attr_data(data), *end = (const char *)data + data->nla_len;
    while (p + sizeof(struct nlattr) <= end) {
        const struct nlattr *a = (const struct nlattr *)p;
        if (a->nla_len < sizeof *a)
            break;
        if ((a->nla_type & NLA_TYPE_MASK) == NFTA_COUNTER_PACKETS && a->nla_len >= 12) {
            memcpy(&c->packets, attr_data(a), sizeof c->packets);
            c->packets = be64toh(c->packets);
        }
        p += (a->nla_len + 3u) & ~3u;
    }
    return 1;
}

int nft_counter(struct nftables *n, const char *name, uint64_t *ret_packets) {
    struct count c = {0};
    request(n, NFT_MSG_GETOBJ, 0, NFPROTO_INET);
    silent(n);
    netlink_attr_text(&n->nl, NFTA_OBJ_TABLE, n->table);
    netlink_attr_text(&n->nl, NFTA_OBJ_NAME, name);
    be32(n, NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
    int r = netlink_dump(&n->nl, take_counter, &c);
    *ret_packets = c.packets;
    return r < 0 ? r : 0;
}
