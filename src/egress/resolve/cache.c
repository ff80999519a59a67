#include "egress/resolve/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { KEY_MAX = DNS_NAME_TEXT + 32, FLAG_CD = 0x10 };

struct entry {
    struct list node;
    int64_t stored_ms, until_ms;
    size_t len;
    char *key; // behind the message
    uint8_t message[];
};

void cache_init(struct cache *c) {
    *c = (struct cache){0};
    map_init(&c->entries);
    list_init(&c->order);
}

static void drop(struct cache *c, struct entry *e) {
    (void)map_remove(&c->entries, e->key);
    list_remove(&e->node);
    c->count--;
    c->bytes -= e->len;
    free(e);
}

void cache_clear(struct cache *c) {
    while (!list_empty(&c->order))
        drop(c, LIST_ENTRY(c->order.next, struct entry, node));
    map_clear(&c->entries);
}

// Everything that the question for the upstream holds.
static void make_key(const struct dns_query *q, char key[KEY_MAX]) {
    (void)snprintf(key, KEY_MAX, "%s %u %d%d%d", q->name, q->type, q->edns, q->dnssec_ok,
                   (q->flags & FLAG_CD) != 0);
}

size_t cache_get(struct cache *c, const struct dns_query *q, uint8_t *out, uint32_t *ret_age) {
    char key[KEY_MAX];
    int64_t now = clock_boot_ms();
    make_key(q, key);
    struct entry *e = map_get(&c->entries, key);
    if (!e || now >= e->until_ms) {
        if (e)
            drop(c, e);
        c->misses++;
        return 0;
    }
    c->hits++;
    memcpy(out, e->message, e->len);
    *ret_age = (uint32_t)((now - e->stored_ms) / 1000);
    return e->len;
}

void cache_put(struct cache *c, const struct dns_query *q, const uint8_t *message, size_t len,
               uint32_t ttl) {
    char key[KEY_MAX];
    if (!ttl || len > CACHE_MESSAGE_MAX)
        return;
    make_key(q, key);
    size_t key_size = strlen(key) + 1;
    struct entry *old = map_get(&c->entries, key), *e = malloc(sizeof *e + len + key_size);
    if (old)
        drop(c, old);
    if (!e)
        return; // it will be asked again
    *e = (struct entry){.stored_ms = clock_boot_ms(), .len = len};
    e->until_ms = e->stored_ms + (int64_t)ttl * 1000;
    memcpy(e->message, message, len);
    e->key = (char *)e->message + len;
    memcpy(e->key, key, key_size);
    if (map_put(&c->entries, key, e) < 0) {
        free(e);
        return;
    }
    list_push_back(&c->order, &e->node);
    c->count++;
    c->bytes += len;
    while (c->count > CACHE_ENTRIES_MAX || c->bytes > CACHE_BYTES_MAX)
        drop(c, LIST_ENTRY(c->order.next, struct entry, node));
}
