#include "egress/net/firewall.h"

#include <errno.h>
#include <linux/netfilter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/random.h"
#include "egress/options.h"
#include "io/spawn.h"

enum { NFT_MS = 30000 };

int firewall_init(struct firewall *f, const struct options *o, struct error *err) {
    uint32_t random[3];
    random_bytes(random, sizeof random);
    *f = (struct firewall){.mark = random[0] | 1u << 30,
                           .stamp = (random[1] & ~(1u << 30)) | 1u << 29,
                           .generation = random[2]};
    int r = nft_open(&f->nft, o->netfilter_fd, FIREWALL_TABLE, FIREWALL_BATCH_MAX);
    if (r)
        return error_errno(err, -r, "netfilter (CAP_NET_ADMIN is needed)");
    f->open = true;
    return 0;
}

void firewall_clear(struct firewall *f) {
    if (f->open)
        nft_close(&f->nft);
    f->open = false;
}

static int run_nft(const struct strbuf *rules, struct error *err) {
    static char *const argv[] = {"nft", "-f", "-", NULL};
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    cleanup_strbuf struct strbuf errors;
    struct exit_status status;
    struct spawn s = {.argv = argv,
                      .envp = environment,
                      .stdio = {-1, -1, -1},
                      .exec_fd = -1,
                      .flags = SPAWN_NEW_GROUP | SPAWN_SEARCH_PATH};
    strbuf_init(&errors, 4096);
    if (rules->failed)
        return error_set(err, ENOMEM, "the rules are too long");
    if (spawn_run(&s, rules->data, rules->len, NULL, &errors, NFT_MS, &status, err) < 0)
        return error_wrap(err, "nft");
    if (!status.code && !status.signal)
        return 0;
    errors.data[strcspn(errors.data, "\n")] = '\0';
    return error_set(err, EPROTO, "nft: %s",
                     *errors.data ? errors.data : "failed without a message");
}

static int load(const struct firewall *f, const struct options *o, unsigned parts,
                struct error *err) {
    cleanup_strbuf struct strbuf rules;
    strbuf_init(&rules, FIREWALL_RULES_MAX);
    firewall_rules(f, o, parts, &rules);
    return run_nft(&rules, err);
}

int firewall_load(struct firewall *f, const struct options *o, struct error *err) {
    static const unsigned choices[] = {FIREWALL_LOG | FIREWALL_LINKS, FIREWALL_LINKS, FIREWALL_LOG,
                                       0};
    int r = -1;
    for (size_t i = 0; r && i < (o->nft ? ARRAY_SIZE(choices) : 1); i++) {
        r = load(f, o, choices[i], err);
        f->netdev = o->nft && choices[i] & FIREWALL_LINKS;
        if (r && o->nft)
            log_warning("this kernel does not take all rules: %s", err->message);
        else if (o->nft && !f->netdev)
            log_warning("no filter at the links: raw sockets are not covered");
    }
    f->loads++;
    f->fresh = true;
    if (!r) {
        int why = nft_fingerprint(&f->nft, f->netdev ? FIREWALL_NETDEV : NULL, &f->fingerprint);
        r = why ? error_errno(err, -why, "read the rules back") : 0;
    }
    f->failures += r != 0;
    return r;
}

bool firewall_is_intact(struct firewall *f) {
    uint64_t now;
    return f->open && !nft_fingerprint(&f->nft, f->netdev ? FIREWALL_NETDEV : NULL, &now) &&
           now == f->fingerprint;
}

// ---- elements ----

bool firewall_is_as_written(struct firewall *f) {
    uint32_t now;
    return !nft_generation(&f->nft, &now) && now - f->seen == f->nft.commits - f->counted;
}

typedef void change_fn(struct nftables *n, const char *set, const struct nft_element *element);

static void change_interval(struct firewall *f, const char *set, const struct net *n,
                            change_fn *change) {
    uint8_t end[16];
    change(&f->nft, set, &(struct nft_element){.key = n->bytes, .key_len = n->size});
    if (net_end(n, end))
        change(&f->nft, set, &(struct nft_element){.key = end, .key_len = n->size, .end = true});
}

// What `nets` has and `others` has not.
static void change_intervals(struct firewall *f, const char *set, const struct netset *nets,
                             const struct netset *others, change_fn *change) {
    for (size_t i = 0, k = 0; i < nets->count; i++) {
        while (k < others->count && net_compare(&others->nets[k], &nets->nets[i]) < 0)
            k++;
        if (k == others->count || net_compare(&others->nets[k], &nets->nets[i]) != 0)
            change_interval(f, set, &nets->nets[i], change);
    }
}

static void fill_intervals(struct firewall *f, const char *set, const struct netset *nets,
                           const struct netset *old) {
    static const struct netset none;
    if (old)
        change_intervals(f, set, old, nets, nft_delete);
    else
        nft_flush(&f->nft, set);
    change_intervals(f, set, nets, old ? old : &none, nft_add);
}

static size_t endpoint_key(uint8_t key[24], const struct net *n, unsigned proto, unsigned port) {
    memset(key, 0, 24);
    memcpy(key, n->bytes, n->size);
    key[n->size] = (uint8_t)proto;
    key[n->size + 4] = (uint8_t)(port >> 8);
    key[n->size + 5] = (uint8_t)port;
    return n->size + 8u;
}

static void add_endpoint(struct firewall *f, const struct net *n, unsigned proto, unsigned port) {
    uint8_t key[24];
    size_t len = endpoint_key(key, n, proto, port);
    nft_add(&f->nft, n->size == 4 ? "up_v4" : "up_v6",
            &(struct nft_element){.key = key, .key_len = len});
}

static bool is_loopback(const struct net *n) {
    static const uint8_t one[16] = {[15] = 1};
    return n->size == 4 ? n->bytes[0] == 127 : !memcmp(n->bytes, one, sizeof one);
}

static void fill_upstreams(struct firewall *f, const struct upstream *u, unsigned count) {
    static const char *const sets[] = {"up_v4", "up_v6", "up_addr_v4", "up_addr_v6"};
    for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
        nft_flush(&f->nft, sets[i]);
    for (unsigned i = 0; i < count; i++) {
        add_endpoint(f, &u[i].address, IPPROTO_UDP, u[i].port);
        add_endpoint(f, &u[i].address, IPPROTO_TCP, u[i].port);
    }
    if (f->own.size)
        add_endpoint(f, &f->own, IPPROTO_TCP, f->own_port);
    for (unsigned i = 0; i < count; i++)
        if (!is_loopback(&u[i].address)) // those do answer over the loopback
            nft_add(&f->nft, sets[2 + (u[i].address.size == 16)],
                    &(struct nft_element){.key = u[i].address.bytes, .key_len = u[i].address.size});
}

static void fill_generation(struct firewall *f, bool allow) {
    static const uint8_t families[] = {NFPROTO_IPV4, NFPROTO_IPV6};
    if (++f->generation == 0) // the mark of a new flow
        f->generation = 1;
    nft_flush(&f->nft, "live");
    nft_flush(&f->nft, "generation");
    nft_flush(&f->nft, "default");
    nft_add(&f->nft, "live",
            &(struct nft_element){.key = &f->generation, .key_len = sizeof f->generation});
    for (int i = 0; i < 2; i++)
        nft_add(&f->nft, "generation",
                &(struct nft_element){.key = &families[i],
                                      .key_len = 1,
                                      .data = &f->generation,
                                      .data_len = sizeof f->generation});
    for (int i = 0; i < 2; i++)
        nft_add(&f->nft, "default",
                &(struct nft_element){
                    .key = &families[i], .key_len = 1, .chain = allow ? "admit" : "refuse"});
}

static void fill_exempt(struct firewall *f, const struct options *o) {
    nft_flush(&f->nft, "exempt_v4");
    nft_flush(&f->nft, "exempt_v6");
    for (unsigned i = 0; i < o->exempt_count; i++)
        nft_add(&f->nft, o->exempt[i].size == 4 ? "exempt_v4" : "exempt_v6",
                &(struct nft_element){.key = o->exempt[i].bytes, .key_len = o->exempt[i].size});
}

void firewall_enforce(struct firewall *f, const struct options *o, const struct index *ix,
                      const struct index *old, const struct upstream *upstreams, unsigned count) {
    static const char *const sets[2][2] = {{"deny_v4", "deny_v6"}, {"allow_v4", "allow_v6"}};
    if (!old) {
        f->counted = f->nft.commits;
        (void)nft_generation(&f->nft, &f->seen); // 0: the next one is written as a whole, too
    }
    nft_begin(&f->nft);
    fill_upstreams(f, upstreams, count);
    fill_exempt(f, o);
    if (!o->nft)
        return;
    for (int i = 0; i < 4; i++)
        fill_intervals(f, sets[i / 2][i % 2], &ix->nets[i / 2][i % 2],
                       old ? &old->nets[i / 2][i % 2] : NULL);
    fill_generation(f, ix->rules.allow);
}

int firewall_commit(struct firewall *f, struct error *err) {
    int r = nft_commit(&f->nft);
    f->batches++;
    f->failures += r != 0;
    f->fresh = f->fresh && r;
    return r ? error_errno(err, -r, "packet filter") : 0;
}

void firewall_admit_own(struct firewall *f, const struct net *address, unsigned port) {
    f->own = *address;
    f->own_port = port;
}

int firewall_add_own(struct firewall *f) {
    nft_begin(&f->nft);
    add_endpoint(f, &f->own, IPPROTO_TCP, f->own_port);
    return nft_commit(&f->nft);
}
