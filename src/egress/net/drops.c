#include "egress/net/drops.h"

#include <endian.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netinet/in.h>
#include <string.h>

#include "base/cleanup.h"

enum { BUFFER = 16384, BURST = 32 };

static bool has_port(unsigned proto) {
    return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_UDPLITE ||
           proto == IPPROTO_SCTP || proto == IPPROTO_DCCP;
}

bool drops_parse(const uint8_t *packet, size_t len, struct drop *ret) {
    struct drop d = {0};
    size_t head;
    bool first = true; // fragment
    if (len >= 20 && packet[0] >> 4 == 4) {
        head = (packet[0] & 15u) * 4u;
        d.proto = packet[9];
        first = !((packet[6] & 0x1f) | packet[7]);
        net_from_bytes(packet + 16, 4, &d.to);
    } else if (len >= 40 && packet[0] >> 4 == 6) { // extension headers are not walked
        head = 40;
        d.proto = packet[6];
        net_from_bytes(packet + 24, 16, &d.to);
    } else {
        return false;
    }
    if (first && has_port(d.proto) && head >= 20 && len >= head + 4)
        d.port = (unsigned)packet[head + 2] << 8 | packet[head + 3];
    *ret = d;
    return true;
}

static void take_message(const struct drops *d, const struct nlmsghdr *h) {
    const char *p = (const char *)NLMSG_DATA(h) + sizeof(struct nfgenmsg);
    const char *end = (const char *)h + h->nlmsg_len;
    struct drop drop;
    bool known = false, by_rule = false;
    while (p + sizeof(struct nlattr) <= end) {
        const struct nlattr *a = (const struct nlattr *)p;
        if (a->nla_len < sizeof *a || p + a->nla_len > end)
            return;
        const char *value = p + sizeof *a;
        size_t len = a->nla_len - sizeof *a;
        if ((a->nla_type & NLA_TYPE_MASK) == NFULA_PAYLOAD)
            known = drops_parse((const uint8_t *)value, len, &drop);
        else if ((a->nla_type & NLA_TYPE_MASK) == NFULA_PREFIX)
            by_rule = len >= 5 && !memcmp(value, "deny", 5);
        p += (a->nla_len + 3u) & ~3u;
    }
    if (!known)
        return;
    drop.by_rule = by_rule;
    d->dropped(&drop, d->arg);
}

static void on_ready(struct stream *s, unsigned events, void *arg) {
    _Alignas(8) char buffer[BUFFER];
    (void)events;
    for (int i = 0; i < BURST; i++) {
        ssize_t n = stream_read(s, buffer, sizeof buffer);
        if (n <= 0) // nothing more, or some were lost: samples
            return;
        size_t left = (size_t)n;
        for (struct nlmsghdr *h = (struct nlmsghdr *)buffer; NLMSG_OK(h, left);
             h = NLMSG_NEXT(h, left))
            if (h->nlmsg_type == (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET) &&
                h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nfgenmsg)))
                take_message(arg, h);
    }
}

int drops_start(struct drops *d, struct loop *l, void (*dropped)(const struct drop *, void *),
                void *arg, struct error *err) {
    struct netlink nl;
    struct nfgenmsg m = {.res_id = htobe16(DROPS_GROUP)};
    struct nfulnl_msg_config_cmd bind = {.command = NFULNL_CFG_CMD_BIND};
    struct nfulnl_msg_config_mode mode = {.copy_range = htobe32(DROPS_SNAP),
                                          .copy_mode = NFULNL_COPY_PACKET};
    uint32_t at_once = htobe32(1);
    *d = (struct drops){.dropped = dropped, .arg = arg};
    int r = netlink_open(&nl, NETLINK_NETFILTER);
    if (!r) {
        netlink_request(&nl, NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, 0, &m, sizeof m);
        (void)netlink_attr(&nl, NFULA_CFG_CMD, &bind, sizeof bind);
        netlink_request(&nl, NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, 0, &m, sizeof m);
        (void)netlink_attr(&nl, NFULA_CFG_MODE, &mode, sizeof mode);
        (void)netlink_attr(&nl, NFULA_CFG_QTHRESH, &at_once, sizeof at_once);
        r = netlink_commit(&nl);
    }
    if (r) {
        netlink_close(&nl);
        return error_errno(err, -r, "packet log");
    }
    int fd = TAKE_FD(nl.fd);
    netlink_close(&nl);
    d->stream = stream_open(l, fd, on_ready, d);
    if (!d->stream)
        return error_errno(err, errno, "packet log");
    stream_want(d->stream, STREAM_READABLE);
    return 0;
}

void drops_stop(struct drops *d) {
    stream_close(TAKE_PTR(d->stream));
}
