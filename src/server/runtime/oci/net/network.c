#include "server/runtime/oci/net/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/random.h"
#include "base/strbuf.h"
#include "server/runtime/oci/net/address.h"
#include "server/runtime/oci/net/firewall.h"
#include "server/runtime/oci/net/guard.h"
#include "server/runtime/oci/net/netns.h"
#include "server/runtime/resolvers.h"

enum {
    STOCK_MAX = 1024,
    NAME_TRIES = 8,
    ROUTES_MAX = 4 * 1024 * 1024,
    RESOLV_MAX = 2048,
    RESOLVERS_MAX = 3,
    ID_RANGE = 65536
};

struct network {
    const struct oci_settings *settings;
    bool user_namespaces;
    struct firewall firewall;
    struct guard *guard;
    char gateway_name[16], alias_start[48], stock_alias[80], resolvers[64], resolv_conf[RESOLV_MAX];
    unsigned resolver_count;
    uint32_t gateway, mtu, group;
    atomic_uint counter; // of link names: removal is asynchronous, so a name is not used again soon
    pthread_mutex_t lock; // guards what follows
    struct address_pool pool;
    uint32_t
        *reserved; // addresses of links found at start, until somebody adopts them or the sweep
    size_t reserved_count;
    struct network_entry stock[STOCK_MAX];
    unsigned count;
    unsigned busy; // creates under way: the stock waits for them
    bool filling, ending;
    pthread_cond_t wanted;
    pthread_t filler;
};

// ---- what the host has ----

static bool is_ours(const struct network *n, const char *link) {
    return !strncmp(link, n->firewall.prefix, strlen(n->firewall.prefix));
}

// One line of /proc/net/route: "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t..."; addresses
// in memory order.
static int take_route(struct network *n, char *line, struct error *err) {
    char *field[8], *rest = line;
    for (size_t i = 0; i < ARRAY_SIZE(field); i++)
        if (!(field[i] = strsep(&rest, "\t")))
            return 0;
    uint64_t to, mask;
    if (parse_hex64(field[1], strcspn(field[1], " "), &to) ||
        parse_hex64(field[7], strcspn(field[7], " "), &mask) || !to)
        return 0;
    uint32_t wide =
        mask && __builtin_popcountll(mask) < n->pool.prefix ? htonl(ntohl((uint32_t)to)) : 0;
    uint32_t pool_mask = htonl(~(n->pool.size - 1));
    bool overlaps = wide ? (htonl(n->pool.first) & (uint32_t)mask) == (uint32_t)to
                         : ((uint32_t)to & pool_mask) == htonl(n->pool.first);
    if (!overlaps)
        return 0;
    if (!is_ours(n, field[0]))
        return error_set(err, EADDRINUSE,
                         "oci.network %s overlaps a route of device %s: choose another network",
                         n->firewall.pool, field[0]);
    if (address_pool_claim(&n->pool, (uint32_t)to))
        n->reserved[n->reserved_count++] = (uint32_t)to;
    return 0;
}

static int take_routes(struct network *n, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    struct error ignored;
    strbuf_init(&sb, ROUTES_MAX);
    if (fd_read_file(AT_FDCWD, "/proc/thread-self/net/route", &sb, &ignored))
        return 0; // no IPv4: what follows says so
    size_t lines = 1;
    for (const char *p = sb.data; (p = strchr(p, '\n')); p++)
        lines++;
    n->reserved = calloc(lines, sizeof *n->reserved);
    if (!n->reserved)
        return error_set(err, ENOMEM, "out of memory");
    for (char *rest = sb.data, *line; (line = strsep(&rest, "\n"));)
        if (take_route(n, line, err))
            return -1;
    return 0;
}

// The gateway of another server with the same pool shows in no route.
static int check_addresses(const struct network *n, struct error *err) {
    struct ifaddrs *all;
    int r = 0;
    if (getifaddrs(&all))
        return error_errno(err, errno, "addresses of this host");
    for (const struct ifaddrs *a = all; !r && a; a = a->ifa_next)
        if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET &&
            strcmp(a->ifa_name, n->gateway_name) != 0 &&
            address_pool_holds(
                &n->pool, ((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr.s_addr))
            r = error_set(err, EADDRINUSE,
                          "oci.network %s holds an address of device %s: choose another network",
                          n->firewall.pool, a->ifa_name);
    freeifaddrs(all);
    return r;
}

// ---- name servers ----

static bool add_resolver(const char *address, void *arg) {
    struct network *n = arg;
    uint32_t a;
    if (n->resolver_count == RESOLVERS_MAX || address_parse(address, &a) || (ntohl(a) >> 24) == 127)
        return false; // loopback is the sandbox's own; it speaks no IPv6
    size_t used = strlen(n->resolvers), lines = strlen(n->resolv_conf);
    (void)snprintf(n->resolvers + used, sizeof n->resolvers - used, "%s%s", used ? ", " : "",
                   address);
    (void)snprintf(n->resolv_conf + lines, sizeof n->resolv_conf - lines, "nameserver %s\n",
                   address);
    n->resolver_count++;
    return true;
}

static void choose_resolvers(struct network *n) {
    for (oci_list p = n->settings->dns; p && *p; p++)
        (void)add_resolver(*p, n);
    if (!n->resolver_count)
        resolvers_of_host(add_resolver, n);
    if (!n->resolver_count)
        log_warning(
            "sandboxes have no name server: this host has none beyond its loopback; set oci.dns");
}

// ---- entries ----

static int take_address(struct network *n, uint32_t *ret, struct error *err) {
    (void)pthread_mutex_lock(&n->lock);
    int r = address_pool_take(&n->pool, ret, err);
    (void)pthread_mutex_unlock(&n->lock);
    return r;
}

static void give_address(struct network *n, uint32_t address) {
    (void)pthread_mutex_lock(&n->lock);
    address_pool_give(&n->pool, address);
    (void)pthread_mutex_unlock(&n->lock);
}

static int connect_entry(struct network *n, struct network_entry *e, const char *alias,
                         struct error *err) {
    char name[16];
    uint32_t base = n->user_namespaces ? n->settings->id_base : 0;
    struct netns_link l = {.name = name,
                           .alias = alias,
                           .address = e->address,
                           .gateway = n->gateway,
                           .mtu = n->mtu,
                           .group = n->group,
                           .ping_first = base,
                           .ping_last = base ? base + ID_RANGE - 1 : INT32_MAX};
    for (unsigned i = 0;; i++) {
        struct error refusal;
        (void)snprintf(name, sizeof name, "%s%07x", n->firewall.prefix,
                       atomic_fetch_add(&n->counter, 1) & 0xfffffff);
        if (!netns_connect(e->net_fd, &l, &e->link, &refusal))
            return 0;
        if (refusal.kind != EEXIST || i == NAME_TRIES) {
            *err = refusal;
            return -1;
        }
    }
}

static void close_entry(struct network_entry *e) {
    if (e->net_fd >= 0)
        (void)close(e->net_fd);
    if (e->user_fd >= 0)
        (void)close(e->user_fd);
    e->net_fd = e->user_fd = -1;
}

static int make_entry(struct network *n, const char *alias, struct network_entry *ret,
                      struct error *err) {
    struct netns ns;
    struct network_entry e;
    if (netns_make(n->user_namespaces ? n->settings->id_base : 0, &ns, err))
        return -1;
    e = (struct network_entry){.net_fd = ns.net_fd, .user_fd = ns.user_fd};
    if (take_address(n, &e.address, err)) {
        close_entry(&e);
        return -1;
    }
    address_format(e.address, e.address_text);
    if (connect_entry(n, &e, alias, err)) {
        give_address(n, e.address);
        close_entry(&e);
        return -1;
    }
    *ret = e;
    return 0;
}

static void *fill(void *arg) {
    struct network *n = arg;
    (void)pthread_mutex_lock(&n->lock);
    while (!n->ending) {
        if (n->busy || n->count >= n->settings->stock || n->count == STOCK_MAX) {
            (void)pthread_cond_wait(&n->wanted, &n->lock);
            continue;
        }
        struct network_entry e;
        struct error err;
        (void)pthread_mutex_unlock(&n->lock);
        int r = make_entry(n, n->stock_alias, &e, &err);
        (void)pthread_mutex_lock(&n->lock);
        if (!r) {
            n->stock[n->count++] = e;
        } else { // the next create meets the same and reports it; until then there is nothing to do
            log_warning("stock of network namespaces: %s", err.message);
            (void)pthread_cond_wait(&n->wanted, &n->lock);
        }
    }
    (void)pthread_mutex_unlock(&n->lock);
    return NULL;
}

void network_busy(struct network *n, enum network_load load) {
    (void)pthread_mutex_lock(&n->lock);
    if (load == NETWORK_CREATE_BEGINS)
        n->busy++;
    else if (!--n->busy)
        (void)pthread_cond_signal(&n->wanted);
    (void)pthread_mutex_unlock(&n->lock);
}

static bool take_stocked(struct network *n, struct network_entry *ret) {
    (void)pthread_mutex_lock(&n->lock);
    bool ready = n->count > 0;
    if (ready) { // the oldest, so that all get their turn
        *ret = n->stock[0];
        memmove(n->stock, n->stock + 1, --n->count * sizeof *ret);
    }
    (void)pthread_mutex_unlock(&n->lock);
    return ready;
}

int network_reserve(struct network *n, struct network_entry *ret, struct error *err) {
    return take_stocked(n, ret) ? 0 : make_entry(n, n->stock_alias, ret, err);
}

int network_name(struct network *n, const char *id, const struct network_entry *e,
                 struct error *err) {
    char alias[128];
    (void)snprintf(alias, sizeof alias, "%s%s", n->alias_start, id);
    return netns_rename(e->link, alias, err);
}

int network_take(struct network *n, const char *id, struct network_entry *ret, struct error *err) {
    char alias[128];
    struct network_entry e;
    (void)snprintf(alias, sizeof alias, "%s%s", n->alias_start, id);
    if (!take_stocked(n, &e))
        return make_entry(n, alias, ret, err);
    if (network_name(n, id, &e, err)) {
        network_release(n, id, &e);
        return -1;
    }
    *ret = e;
    return 0;
}

int network_adopt(struct network *n, const char *id, const char *address, struct network_entry *e,
                  struct error *err) {
    uint32_t a;
    bool ours = false;
    if (address_parse(address, &a))
        return error_set(err, EINVAL, "stored address \"%s\" of sandbox %s", address, id);
    (void)pthread_mutex_lock(&n->lock);
    for (size_t i = 0; !ours && i < n->reserved_count; i++)
        if (n->reserved[i] == a) {
            n->reserved[i] = n->reserved[--n->reserved_count];
            ours = true;
        }
    ours = ours || address_pool_claim(&n->pool, a);
    (void)pthread_mutex_unlock(&n->lock);
    if (!ours) // another pool now, or two of one address: it can be reached, but the address is not
               // its own
        log_warning("sandbox %s has address %s, which is not free in %s", id, address,
                    n->firewall.pool);
    e->address = a;
    address_format(a, e->address_text);
    return 0;
}

void network_release(struct network *n, const char *id, struct network_entry *e) {
    (void)id;
    close_entry(e);
    give_address(n, e->address);
}

// ---- sweep ----

struct search {
    struct network *n;
    int (*each)(const char *id, void *arg); // or
    bool (*live)(const char *id, void *arg);
    void *arg;
    unsigned dead[STOCK_MAX];
    unsigned dead_count;
};

static int look_at(const struct netns_found *l, void *arg) {
    struct search *s = arg;
    size_t start = strlen(s->n->alias_start);
    bool named = !strncmp(l->alias, s->n->alias_start, start);
    if (!is_ours(s->n, l->name) ||
        (*l->alias && !named)) // not even with our prefix is a link with a foreign alias ours
        return 0;
    const char *id = named ? l->alias + start : "";
    if (!strcmp(l->alias, s->n->stock_alias))
        return 0;
    if (s->each)
        return strncmp(id, "stock-", 6) != 0 && *id ? s->each(id, s->arg) : 0;
    if (!s->live(id, s->arg) && s->dead_count < STOCK_MAX)
        s->dead[s->dead_count++] = l->index;
    return 0;
}

int network_each(struct network *n, int (*each)(const char *id, void *arg), void *arg) {
    struct search s = {.n = n, .each = each, .arg = arg};
    struct error ignored;
    return n ? netns_each(look_at, &s, &ignored) : 0;
}

int network_sweep(struct network *n, bool (*live)(const char *id, void *arg), void *arg,
                  struct error *err) {
    struct search s = {.n = n, .live = live, .arg = arg};
    do { // more than fit are met in the next round
        s.dead_count = 0;
        if (netns_each(look_at, &s, err))
            return -1;
        for (unsigned i = 0; i < s.dead_count; i++)
            netns_disconnect(s.dead[i]);
    } while (s.dead_count == STOCK_MAX);
    (void)pthread_mutex_lock(&n->lock);
    while (n->reserved_count)
        address_pool_give(&n->pool, n->reserved[--n->reserved_count]);
    bool start = !n->filling;
    n->filling = true;
    (void)pthread_mutex_unlock(&n->lock);
    int r = start ? pthread_create(&n->filler, NULL, fill, n) : 0;
    if (r)
        n->filling = false;
    return r ? error_errno(err, r, "stock of network namespaces") : 0;
}

// ---- begin and end ----

static void name_things(struct network *n) {
    const char *instance = n->settings->instance;
    char nonce[9];
    uint32_t start;
    uint64_t group = 0;
    random_hex(nonce, 8);
    random_bytes(&start, sizeof start);
    atomic_init(&n->counter, start);
    (void)parse_hex64(instance, 8, &group);
    n->group = (uint32_t)group & INT32_MAX;
    n->firewall = (struct firewall){.instance = instance,
                                    .pool = n->settings->pool,
                                    .deny = n->settings->deny,
                                    .resolvers = n->resolvers,
                                    .fetch_id = n->settings->id_base + OCI_FETCH_ID};
    (void)snprintf(n->firewall.prefix, sizeof n->firewall.prefix, "osb%.5s", instance);
    (void)snprintf(n->gateway_name, sizeof n->gateway_name, "osbg%s",
                   instance); // 'g': outside of the prefix
    (void)snprintf(n->alias_start, sizeof n->alias_start, "opensandbox:%s:", instance);
    (void)snprintf(n->stock_alias, sizeof n->stock_alias, "%sstock-%s", n->alias_start, nonce);
}

static int begin(struct network *n, struct error *err) {
    char alias[64];
    if (address_pool_init(&n->pool, n->settings->pool, err))
        return -1;
    n->gateway = address_pool_gateway(&n->pool);
    if (take_routes(n, err) || check_addresses(n, err))
        return -1;
    choose_resolvers(n);
    n->mtu = netns_mtu();
    // rules first: from here on no link of ours is without them
    if (firewall_load(&n->firewall, err))
        return -1;
    (void)snprintf(alias, sizeof alias, "%sgateway", n->alias_start);
    if (netns_gateway(n->gateway_name, alias, n->gateway, err))
        return -1;
    if (fd_write_text(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", "1", err))
        return error_wrap(err, "sandboxes need IPv4 forwarding");
    n->guard = guard_new(&n->firewall, n->settings->manage_foreign_firewall, err);
    return n->guard ? 0 : -1;
}

struct network *network_new(const struct oci_settings *s, bool user_namespaces, struct error *err) {
    struct network *n = calloc(1, sizeof *n);
    if (!n)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    n->settings = s;
    n->user_namespaces = user_namespaces;
    (void)pthread_mutex_init(&n->lock, NULL);
    (void)pthread_cond_init(&n->wanted, NULL);
    name_things(n);
    if (!begin(n, err))
        return n;
    network_free(n, NETWORK_KEEP);
    return NULL;
}

void network_free(struct network *n, enum network_end end) {
    if (!n)
        return;
    (void)pthread_mutex_lock(&n->lock);
    n->ending = true;
    (void)pthread_cond_signal(&n->wanted);
    (void)pthread_mutex_unlock(&n->lock);
    if (n->filling)
        (void)pthread_join(n->filler, NULL);
    guard_free(n->guard); // before the rules go, or it would bring them back
    for (unsigned i = 0; i < n->count; i++) {
        netns_disconnect(n->stock[i].link); // now, and not when the kernel comes to it
        close_entry(&n->stock[i]);
    }
    if (end == NETWORK_LAST) {
        firewall_unload(&n->firewall);
        netns_disconnect(if_nametoindex(n->gateway_name));
    }
    address_pool_clear(&n->pool);
    free(n->reserved);
    (void)pthread_cond_destroy(&n->wanted);
    (void)pthread_mutex_destroy(&n->lock);
    free(n);
}

const char *network_resolv_conf(const struct network *n) {
    return n->resolv_conf;
}

const char *network_resolvers(const struct network *n) {
    return n->resolvers;
}
