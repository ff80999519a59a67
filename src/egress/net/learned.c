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
    int64_t until_ms, kernel_ms; // end of the element as it is to be, as the kernel has it
    char *names[LEARNED_NAMES];  // chains, names joined by ' '
    unsigned next;
    unsigned allowed; // bits of names, by the last learned_judge()
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

static void delete_element(struct learned *l, const struct net *n) {
    nft_delete(&l->firewall->nft, set_of(n),
               &(struct nft_element){.key = n->bytes, .key_len = n->size});
}

static void add_element(struct learned *l, const struct address *a, int64_t now) {
    nft_add(&l->firewall->nft, set_of(&a->net),
            &(struct nft_element){.key = a->net.bytes,
                                  .key_len = a->net.size,
                                  .timeout_ms = (uint64_t)(a->until_ms - now)});
}

static bool is_live(const struct address *a, int64_t now) {
    return a->kernel_ms - now > LIVE_MS;
}

// Forgets what has ended, and one more when there is no room. -1: what had to be sent before
// failed.
static int make_room(struct learned *l, int64_t now) {
    struct address *a;
    while ((a = first_to_end(l)) && a->until_ms <= now && !a->touched.next)
        forget(l, a);
    if (l->count < LEARNED_MAX || !a)
        return 0;
    if ((a->touched.next || l->gone_count == LEARNED_GONE_MAX) && learned_commit(l) < 0)
        return -1;
    a = first_to_end(l);
    if (is_live(a, now))
        l->gone[l->gone_count++] = a->net;
    forget(l, a);
    l->evicted++;
    return 0;
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

// -1: no memory.
static int touch(struct learned *l, struct address *a, int64_t until) {
    a->until_ms = until;
    list_push_back(&l->touched, &a->touched);
    return heap_push(&l->by_end, &a->node, until);
}

int learned_add(struct learned *l, const struct dns_chain *chain, const struct net *address,
                uint32_t ttl) {
    char key[40];
    int64_t now = clock_boot_ms();
    int64_t until =
        now + ((ttl > LEARNED_TTL_MAX ? LEARNED_TTL_MAX : ttl) + LEARNED_GRACE_S) * (int64_t)1000;
    make_key(address, key);
    struct address *a = map_get(&l->addresses, key);
    bool old = a;
    if (!a && (make_room(l, now) < 0 || !(a = make(l, key, address))))
        return -1;
    int r = add_names(a, chain);
    // another name holds it longer: an expiry never comes nearer
    if (!r && until > a->until_ms && !a->touched.next) { // not twice in one transaction
        r = touch(l, a, until);
        l->admitted += !r;
    }
    if (r && !old)
        forget(l, a);
    return r;
}

static int send_all(struct learned *l, int64_t now) {
    for (size_t i = 0; i < l->gone_count; i++)
        delete_element(l, &l->gone[i]);
    LIST_EACH(&l->touched, node) {
        // a new deadline is a new element: kernels before 6.12 leave the timer of an old one alone
        const struct address *a = LIST_ENTRY(node, struct address, touched);
        if (is_live(a, now))
            delete_element(l, &a->net);
    }
    LIST_EACH(&l->touched, node)
    add_element(l, LIST_ENTRY(node, struct address, touched), now);
    return nft_commit(&l->firewall->nft);
}

// Each for itself; what is not there is what was wanted.
static void delete_one(struct learned *l, const struct net *n) {
    nft_begin(&l->firewall->nft);
    delete_element(l, n);
    (void)nft_commit(&l->firewall->nft);
}

int learned_commit(struct learned *l) {
    struct list *node;
    int64_t now = clock_boot_ms();
    if (!l->gone_count && list_empty(&l->touched))
        return 0;
    nft_begin(&l->firewall->nft);
    int r = send_all(l, now);
    if (r == -ENOENT) { // one that was to be replaced has ended just now
        for (size_t i = 0; i < l->gone_count; i++)
            delete_one(l, &l->gone[i]);
        l->gone_count = 0;
        LIST_EACH(&l->touched, n) {
            struct address *a = LIST_ENTRY(n, struct address, touched);
            delete_one(l, &a->net);
            a->kernel_ms = 0;
        }
        nft_begin(&l->firewall->nft);
        r = send_all(l, now);
    }
    l->gone_count = 0;
    while ((node = list_pop(&l->touched))) {
        struct address *a = LIST_ENTRY(node, struct address, touched);
        a->kernel_ms = a->until_ms;
        if (r) // not there: the next answer tries again
            forget(l, a);
    }
    l->failures += r != 0;
    l->unsure |= r != 0;
    return r;
}

// ---- policies ----

static bool chain_allowed(const struct index *ix, const char *chain) {
    char text[NAMES_TEXT], *name = text;
    if (!strchr(chain, ' ')) // most are one name: thousands of them are judged within a change
        return index_name(ix, chain).allow;
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

static unsigned allowed_names(const struct address *a, const struct index *ix) {
    unsigned bits = 0;
    if (net_is_private(&a->net) && !index_lists(ix, &a->net, true))
        return 0;
    for (unsigned i = 0; i < LEARNED_NAMES; i++)
        if (a->names[i] && chain_allowed(ix, a->names[i]))
            bits |= 1u << i;
    return bits;
}

static struct address *nth(const struct learned *l, size_t i) {
    return CONTAINER_OF(l->by_end.nodes[i], struct address, node);
}

static void write_all(struct learned *l, int64_t now) {
    nft_flush(&l->firewall->nft, "dyn_allow_v4");
    nft_flush(&l->firewall->nft, "dyn_allow_v6");
    for (size_t i = 0; i < l->by_end.count; i++)
        if (nth(l, i)->until_ms > now && nth(l, i)->allowed)
            add_element(l, nth(l, i), now);
}

bool learned_judge(struct learned *l, const struct index *ix, bool all) {
    int64_t now = clock_boot_ms();
    all |= l->unsure;
    for (size_t i = 0; i < l->by_end.count; i++) {
        struct address *a = nth(l, i);
        a->allowed = allowed_names(a, ix);
        all |= !a->allowed && !is_live(a, now) && a->kernel_ms - now > -LIVE_MS;
    }
    if (all) {
        write_all(l, now);
        return true;
    }
    for (size_t i = 0; i < l->by_end.count; i++)
        if (!nth(l, i)->allowed && is_live(nth(l, i), now))
            delete_element(l, &nth(l, i)->net);
    return false;
}

void learned_settle(struct learned *l) {
    struct list doomed, *node;
    list_init(&doomed);
    for (size_t i = 0; i < l->by_end.count; i++) {
        struct address *a = nth(l, i);
        for (unsigned k = 0; k < LEARNED_NAMES; k++)
            if (!(a->allowed & 1u << k)) // a name of the past must not revive it
                free(TAKE_PTR(a->names[k]));
        if (!a->allowed)
            list_push_back(&doomed, &a->touched);
    }
    while ((node = list_pop(&doomed)))
        forget(l, LIST_ENTRY(node, struct address, touched));
    l->unsure = false;
}

bool learned_has(const struct learned *l, const struct net *address) {
    char key[40];
    make_key(address, key);
    const struct address *a = map_get(&l->addresses, key);
    return a && a->until_ms > clock_boot_ms();
}
