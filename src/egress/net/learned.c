#include "egress/net/learned.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"

enum { LIVE_MS = 2000, NAMES_TEXT = 2048 }; // nearer to its end the kernel may have dropped it

struct address {
    struct heap_node node;
    struct list touched;
    struct net net;
    int64_t until_ms;
    char *names[LEARNED_NAMES]; // chains, names joined by ' '
    unsigned next;
};

static void make_key(const struct net *n, char key[40]) {
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < n->size; i++) {
        *key++ = digits[n->bytes[i] >> 4];
        *key++ = digits[n->bytes[i] & 15];
    }
    *key = '\0';
}

void learned_init(struct learned *l, struct firewall *f) {
    *l = (struct learned){.firewall = f};
    map_init(&l->addresses);
    heap_init(&l->by_end);
    list_init(&l->touched);
}

static void forget(struct learned *l, struct address *a) {
    char key[40];
    make_key(&a->net, key);
    (void)map_remove(&l->addresses, key);
    heap_remove(&l->by_end, &a->node);
    list_remove(&a->touched);
    for (int i = 0; i < LEARNED_NAMES; i++)
        free(a->names[i]);
    free(a);
    l->count--;
}

static struct address *first_to_end(const struct learned *l) {
    struct heap_node *node = heap_peek(&l->by_end);
    return node ? CONTAINER_OF(node, struct address, node) : NULL;
}

void learned_clear(struct learned *l) {
    struct address *a;
    while ((a = first_to_end(l)))
        forget(l, a);
    heap_clear(&l->by_end);
    map_clear(&l->addresses);
}

static const char *set_of(const struct net *n) {
    return n->size == 4 ? "dyn_allow_v4" : "dyn_allow_v6";
}

static void begin(struct learned *l) {
    if (!l->pending)
        nft_begin(&l->firewall->nft);
    l->pending = true;
}

static void drop_element(struct learned *l, const struct address *a, int64_t now) {
    begin(l);
    if (a->until_ms - now > LIVE_MS)
        nft_delete(&l->firewall->nft, set_of(&a->net),
                   &(struct nft_element){.key = a->net.bytes, .key_len = a->net.size});
}

static void add_element(struct learned *l, const struct address *a, int64_t now) {
    nft_add(&l->firewall->nft, set_of(&a->net),
            &(struct nft_element){.key = a->net.bytes,
                                  .key_len = a->net.size,
                                  .timeout_ms = (uint64_t)(a->until_ms - now)});
}

// Forgets what has ended, and one more when there is no room.
static void make_room(struct learned *l, int64_t now) {
    struct address *a;
    while ((a = first_to_end(l)) && a->until_ms <= now && !a->touched.next)
        forget(l, a);
    if (l->count < LEARNED_MAX || !a || a->touched.next)
        return;
    drop_element(l, a, now);
    forget(l, a);
    l->evicted++;
}

static struct address *make(struct learned *l, const char *key, const struct net *n) {
    struct address *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->net = *n;
    if (map_put(&l->addresses, key, a) < 0) {
        free(a);
        return NULL;
    }
    l->count++;
    return a;
}

// Remembers by which names. -1: no memory, or a chain too long to be judged again.
static int add_names(struct address *a, const struct dns_chain *chain) {
    char text[NAMES_TEXT] = "";
    size_t used = 0;
    for (size_t i = 0; i < chain->count; i++) {
        size_t len = strlen(chain->names[i]);
        if (used + len + 2 > sizeof text)
            return -1;
        if (i)
            text[used++] = ' ';
        memcpy(text + used, chain->names[i], len + 1);
        used += len;
    }
    for (int i = 0; i < LEARNED_NAMES; i++)
        if (a->names[i] && !strcmp(a->names[i], text))
            return 0;
    char *copy = strdup(text);
    if (!copy)
        return -1;
    free(a->names[a->next]);
    a->names[a->next] = copy;
    a->next = (a->next + 1) % LEARNED_NAMES;
    return 0;
}

int learned_add(struct learned *l, const struct dns_chain *chain, const struct net *address,
                uint32_t ttl) {
    char key[40];
    int64_t now = clock_boot_ms();
    int64_t until =
        now + ((ttl > LEARNED_TTL_MAX ? LEARNED_TTL_MAX : ttl) + LEARNED_GRACE_S) * (int64_t)1000;
    make_key(address, key);
    make_room(l, now);
    struct address *a = map_get(&l->addresses, key);
    if (!a && !(a = make(l, key, address)))
        return -1;
    if (add_names(a, chain) < 0) {
        if (!a->until_ms)
            forget(l, a);
        return -1;
    }
    if (until <= a->until_ms)
        return 0; // another name holds it longer: an expiry never comes nearer
    if (a->touched.next)
        return 0; // twice in one answer
    // a new deadline is a new element: kernels before 6.12 leave the timer of an old one alone
    drop_element(l, a, now);
    a->until_ms = until;
    add_element(l, a, now);
    list_push_back(&l->touched, &a->touched);
    if (heap_push(&l->by_end, &a->node, until) < 0) {
        forget(l, a); // the element ends by itself
        return -1;
    }
    l->admitted++;
    return 0;
}

int learned_commit(struct learned *l) {
    struct list *node;
    if (!l->pending)
        return 0;
    l->pending = false;
    int r = nft_commit(&l->firewall->nft);
    if (r == -ENOENT) { // one that was to be replaced has ended just now
        int64_t now = clock_boot_ms();
        nft_begin(&l->firewall->nft);
        LIST_EACH(&l->touched, n)
        add_element(l, LIST_ENTRY(n, struct address, touched), now);
        r = nft_commit(&l->firewall->nft);
    }
    while ((node = list_pop(&l->touched)))
        if (r) // not there: the next answer tries again
            forget(l, LIST_ENTRY(node, struct address, touched));
    l->failures += r != 0;
    return r;
}

// ---- policies ----

static bool chain_allowed(const struct index *ix, const char *chain) {
    char text[NAMES_TEXT], *name = text;
    (void)snprintf(text, sizeof text, "%s", chain);
    for (bool first = true;; first = false) {
        size_t len = strcspn(name, " ");
        bool last = !name[len];
        name[len] = '\0';
        struct verdict v = index_name(ix, name);
        if (!v.allow && (first || v.rule))
            return false;
        if (last)
            return true;
        name += len + 1;
    }
}

static bool survives(const struct address *a, const struct index *ix) {
    if (net_is_private(&a->net) && !index_lists(ix, &a->net, true))
        return false;
    for (int i = 0; i < LEARNED_NAMES; i++)
        if (a->names[i] && chain_allowed(ix, a->names[i]))
            return true;
    return false;
}

static void write_all(struct learned *l, const struct index *ix, int64_t now) {
    nft_flush(&l->firewall->nft, "dyn_allow_v4");
    nft_flush(&l->firewall->nft, "dyn_allow_v6");
    for (size_t i = 0; i < l->by_end.count; i++) {
        const struct address *a = CONTAINER_OF(l->by_end.nodes[i], struct address, node);
        if (a->until_ms > now && survives(a, ix))
            add_element(l, a, now);
    }
}

bool learned_judge(struct learned *l, const struct index *ix, bool all) {
    int64_t now = clock_boot_ms();
    for (size_t i = 0; i < l->by_end.count && !all; i++) {
        const struct address *a = CONTAINER_OF(l->by_end.nodes[i], struct address, node);
        all = a->until_ms - now <= LIVE_MS && a->until_ms - now > -LIVE_MS && !survives(a, ix);
    }
    if (all) {
        write_all(l, ix, now);
        return true;
    }
    for (size_t i = 0; i < l->by_end.count; i++) {
        const struct address *a = CONTAINER_OF(l->by_end.nodes[i], struct address, node);
        if (a->until_ms - now > LIVE_MS && !survives(a, ix))
            nft_delete(&l->firewall->nft, set_of(&a->net),
                       &(struct nft_element){.key = a->net.bytes, .key_len = a->net.size});
    }
    return false;
}

static void forget_names(struct address *a, const struct index *ix) {
    for (int i = 0; i < LEARNED_NAMES; i++)
        if (a->names[i] && !chain_allowed(ix, a->names[i])) {
            free(a->names[i]);
            a->names[i] = NULL;
        }
}

void learned_settle(struct learned *l, const struct index *ix) {
    struct list doomed, *node;
    list_init(&doomed);
    for (size_t i = 0; i < l->by_end.count; i++) {
        struct address *a = CONTAINER_OF(l->by_end.nodes[i], struct address, node);
        if (survives(a, ix))
            forget_names(a, ix); // a name of the past must not revive it
        else
            list_push_back(&doomed, &a->touched);
    }
    while ((node = list_pop(&doomed)))
        forget(l, LIST_ENTRY(node, struct address, touched));
}

bool learned_has(const struct learned *l, const struct net *address) {
    char key[40];
    make_key(address, key);
    const struct address *a = map_get(&l->addresses, key);
    return a && a->until_ms > clock_boot_ms();
}
