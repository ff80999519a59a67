#include "io/netlink.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/cleanup.h"

enum { REPLY_SIZE = 32768, KEEP_SIZE = 65536 };

int netlink_open(struct netlink *nl, int protocol) {
    *nl = (struct netlink){.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol),
                           .size = sizeof nl->buffer};
    nl->out = nl->buffer;
    return nl->fd < 0 ? -errno : 0;
}

void netlink_take(struct netlink *nl, int fd) {
    char stale[512];
    *nl = (struct netlink){.fd = fd, .size = sizeof nl->buffer};
    nl->out = nl->buffer;
    while (recv(fd, stale, sizeof stale, MSG_DONTWAIT | MSG_TRUNC) > 0)
        ; // answers that whoever had it before did not read
}

// In a user namespace nobody may enlarge a socket; one that came from outside may be large already.
static bool is_large(int fd, int bytes) {
    int now = 0;
    socklen_t len = sizeof now;
    return !getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &now, &len) && now / 2 >= bytes;
}

int netlink_grow(struct netlink *nl, size_t size) {
    int bytes = (int)size + 4096; // the kernel keeps a little for itself
    if (setsockopt(nl->fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0 &&
        !is_large(nl->fd, bytes))
        return -EPERM;
    // cppcheck-suppress invalidFunctionArg ; -1 is what anonymous memory has
    void *out = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (out == MAP_FAILED)
        return -errno;
    nl->out = out;
    nl->size = size;
    return 0;
}

void netlink_close(struct netlink *nl) {
    if (nl->fd >= 0)
        (void)close(nl->fd);
    nl->fd = -1;
    if (nl->out != nl->buffer)
        (void)munmap(nl->out, nl->size);
    nl->out = nl->buffer;
    nl->size = sizeof nl->buffer;
}

// A batch that outgrows its buffer is a mistake of ours: `used` then stays past the end and the
// commit says so.
static void *reserve(struct netlink *nl, size_t size) {
    void *at = nl->out + nl->used;
    if (nl->used + size > nl->size) {
        nl->used = nl->size + 1;
        return NULL;
    }
    memset(at, 0, size);
    nl->used += size;
    return at;
}

void netlink_request(struct netlink *nl, int type, int flags, const void *body, size_t size) {
    struct nlmsghdr *h = reserve(nl, NLMSG_SPACE(size));
    nl->head = h;
    if (!h)
        return;
    *h = (struct nlmsghdr){.nlmsg_type = (uint16_t)type,
                           .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
                           .nlmsg_seq = ++nl->sequence,
                           .nlmsg_len = (uint32_t)NLMSG_LENGTH(size)};
    if ((flags & NLM_F_DUMP) != NLM_F_DUMP) { // two bits, one of them means more in other requests
        h->nlmsg_flags |= NLM_F_ACK;
        nl->waiting++;
    }
    memcpy(NLMSG_DATA(h), body, size);
}

struct nlattr *netlink_attr(struct netlink *nl, int type, const void *value, size_t size) {
    const size_t head = sizeof(struct nlattr); // NLA_HDRLEN, unsigned
    struct nlattr *a = reserve(nl, head + ((size + 3) & ~(size_t)3));
    if (!a || !nl->head)
        return NULL;
    a->nla_type = (uint16_t)type;
    a->nla_len = (uint16_t)(head + size);
    if (size)
        memcpy((char *)a + head, value, size);
    nl->head->nlmsg_len = (uint32_t)(nl->out + nl->used - (char *)nl->head);
    return a;
}

void netlink_attr_u32(struct netlink *nl, int type, uint32_t value) {
    (void)netlink_attr(nl, type, &value, sizeof value);
}
void netlink_attr_text(struct netlink *nl, int type, const char *text) {
    (void)netlink_attr(nl, type, text, strlen(text) + 1);
}
struct nlattr *netlink_nest(struct netlink *nl, int type) {
    return netlink_attr(nl, type, NULL, 0);
}
void netlink_nest_end(struct netlink *nl, struct nlattr *nest) {
    if (nest && nl->used <= nl->size)
        nest->nla_len = (uint16_t)(nl->out + nl->used - (char *)nest);
}

int netlink_send(struct netlink *nl) {
    size_t used = nl->used;
    nl->used = 0;
    nl->head = NULL;
    if (used > nl->size)
        return -EMSGSIZE;
    ssize_t n;
    do
        n = send(nl->fd, nl->out, used, 0);
    while (n < 0 && errno == EINTR);
    int r = n < 0 ? -errno : 0;
    if (used > KEEP_SIZE) // a large one is rare: its pages are not kept
        (void)madvise(nl->out, nl->size, MADV_DONTNEED);
    return r;
}

static ssize_t receive(const struct netlink *nl, void *reply) {
    ssize_t n;
    do
        n = recv(nl->fd, reply, REPLY_SIZE, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int netlink_commit(struct netlink *nl) {
    _Alignas(8) char reply[REPLY_SIZE];
    int first = netlink_send(nl);
    if (first) {
        nl->waiting = 0;
        return first;
    }
    while (nl->waiting) {
        ssize_t n = receive(nl, reply);
        if (n <= 0) {
            nl->waiting = 0;
            return n ? (int)n : -EPIPE;
        }
        size_t left = (size_t)n;
        for (struct nlmsghdr *h = (struct nlmsghdr *)reply; NLMSG_OK(h, left);
             h = NLMSG_NEXT(h, left))
            if (h->nlmsg_type == NLMSG_ERROR && nl->waiting) {
                const struct nlmsgerr *e = NLMSG_DATA(h);
                nl->waiting--;
                if (e->error && !first)
                    first = e->error;
            }
    }
    return first;
}

int netlink_dump(struct netlink *nl, int (*each)(const struct nlmsghdr *h, void *arg), void *arg) {
    _Alignas(8) char reply[REPLY_SIZE];
    int r = netlink_send(nl);
    bool done = false, interrupted = false;
    while (!r && !done) {
        ssize_t n = receive(nl, reply);
        if (n <= 0)
            return n ? (int)n : -EPIPE;
        size_t left = (size_t)n;
        for (struct nlmsghdr *h = (struct nlmsghdr *)reply; !done && !r && NLMSG_OK(h, left);
             h = NLMSG_NEXT(h, left)) {
            interrupted |= (h->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            if (h->nlmsg_type == NLMSG_DONE)
                done = true;
            else if (h->nlmsg_type == NLMSG_ERROR)
                r = ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
            else
                r = each(h, arg);
        }
    }
    return r || !interrupted ? r : -EINTR;
}

// ---- links ----

void netlink_veth(struct netlink *nl, const char *name, const uint8_t mac[6], int peer_netns,
                  const char *peer_name, const uint8_t peer_mac[6], uint32_t mtu, uint32_t group) {
    struct ifinfomsg m = {.ifi_family = AF_UNSPEC};
    netlink_request(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &m, sizeof m);
    netlink_attr_text(nl, IFLA_IFNAME, name);
    (void)netlink_attr(nl, IFLA_ADDRESS, mac, 6);
    netlink_attr_u32(nl, IFLA_MTU, mtu);
    netlink_attr_u32(nl, IFLA_GROUP, group);
    struct nlattr *info = netlink_nest(nl, IFLA_LINKINFO);
    netlink_attr_text(nl, IFLA_INFO_KIND, "veth");
    struct nlattr *data = netlink_nest(nl, IFLA_INFO_DATA),
                  *peer = netlink_attr(nl, VETH_INFO_PEER, &m, sizeof m);
    netlink_attr_text(nl, IFLA_IFNAME, peer_name);
    (void)netlink_attr(nl, IFLA_ADDRESS, peer_mac, 6);
    netlink_attr_u32(nl, IFLA_MTU, mtu);
    netlink_attr_u32(nl, IFLA_NET_NS_FD, (uint32_t)peer_netns);
    netlink_nest_end(nl, peer);
    netlink_nest_end(nl, data);
    netlink_nest_end(nl, info);
}

void netlink_dummy(struct netlink *nl, const char *name, const char *kind) {
    struct ifinfomsg m = {.ifi_family = AF_UNSPEC};
    netlink_request(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &m, sizeof m);
    netlink_attr_text(nl, IFLA_IFNAME, name);
    struct nlattr *info = netlink_nest(nl, IFLA_LINKINFO);
    netlink_attr_text(nl, IFLA_INFO_KIND, kind);
    netlink_nest_end(nl, info);
}

void netlink_up(struct netlink *nl, unsigned link, const char *alias) {
    struct ifinfomsg m = {.ifi_index = (int)link, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    netlink_request(nl, RTM_NEWLINK, 0, &m, sizeof m);
    if (alias) // ignored in the message that makes a link
        netlink_attr_text(nl, IFLA_IFALIAS, alias);
}

void netlink_no_ipv6_address(struct netlink *nl, unsigned link) {
    struct ifinfomsg m = {.ifi_index = (int)link};
    uint8_t none = IN6_ADDR_GEN_MODE_NONE;
    netlink_request(nl, RTM_NEWLINK, 0, &m,
                    sizeof m); // in the message that makes a link: EAFNOSUPPORT
    struct nlattr *spec = netlink_nest(nl, IFLA_AF_SPEC), *v6 = netlink_nest(nl, AF_INET6);
    (void)netlink_attr(nl, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof none);
    netlink_nest_end(nl, v6);
    netlink_nest_end(nl, spec);
}

void netlink_address4(struct netlink *nl, unsigned link, uint32_t address, uint8_t prefix) {
    struct ifaddrmsg m = {.ifa_family = AF_INET, .ifa_prefixlen = prefix, .ifa_index = link};
    netlink_request(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof m);
    netlink_attr_u32(nl, IFA_LOCAL, address);
    netlink_attr_u32(nl, IFA_ADDRESS, address);
}

void netlink_route4(struct netlink *nl, unsigned link, uint32_t to, uint8_t prefix, uint32_t via,
                    uint32_t source) {
    struct rtmsg m = {.rtm_family = AF_INET,
                      .rtm_dst_len = prefix,
                      .rtm_table = RT_TABLE_MAIN,
                      .rtm_protocol = RTPROT_STATIC,
                      .rtm_scope = via ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
                      .rtm_type = RTN_UNICAST};
    netlink_request(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof m);
    if (prefix)
        netlink_attr_u32(nl, RTA_DST, to);
    if (via)
        netlink_attr_u32(nl, RTA_GATEWAY, via);
    if (source)
        netlink_attr_u32(nl, RTA_PREFSRC, source);
    netlink_attr_u32(nl, RTA_OIF, link);
}

void netlink_neighbour4(struct netlink *nl, unsigned link, uint32_t address, const uint8_t mac[6]) {
    struct ndmsg m = {.ndm_family = AF_INET, .ndm_ifindex = (int)link, .ndm_state = NUD_PERMANENT};
    netlink_request(nl, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof m);
    (void)netlink_attr(nl, NDA_DST, &address, sizeof address);
    (void)netlink_attr(nl, NDA_LLADDR, mac, 6);
}

void netlink_delete_link(struct netlink *nl, unsigned link) {
    struct ifinfomsg m = {.ifi_index = (int)link};
    netlink_request(nl, RTM_DELLINK, 0, &m, sizeof m);
}
