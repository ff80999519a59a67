#include "base/map.h"

#include <stdint.h>

#include "base/random.h"

struct map_entry {
    struct map_entry *next;
    uint64_t hash;
    void *value;
    char key[];
};

// FNV-1a over a per-process seed: keys of clients cannot be chosen to collide.
static uint64_t hash_of(const char *key) {
    static uint64_t seed;
    if (!__atomic_load_n(&seed, __ATOMIC_RELAXED)) {
        uint64_t fresh;
        random_bytes(&fresh, sizeof fresh);
        uint64_t none = 0;
        (void)__atomic_compare_exchange_n(&seed, &none, fresh | 1, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED);
    }
    uint64_t h = __atomic_load_n(&seed, __ATOMIC_RELAXED) ^ 14695981039346656037ULL;
    for (const unsigned char *p = (const unsigned char *)key; *p; p++)
        h = (h ^ *p) * 1099511628211ULL;
    return h ^ h >> 32;
}

void map_init(struct map *m) {
    *m = (struct map){0};
}

void map_clear(struct map *m) {
    for (size_t i = 0; i < m->size; i++)
        for (struct map_entry *e = m->buckets[i], *next; e; e = next) {
            next = e->next;
            free(e);
        }
    free(m->buckets);
    map_init(m);
}

static struct map_entry **find(const struct map *m, const char *key, uint64_t hash) {
    struct map_entry **at = &m->buckets[hash & (m->size - 1)];
    while (*at && ((*at)->hash != hash || strcmp((*at)->key, key) != 0))
        at = &(*at)->next;
    return at;
}

static int grow(struct map *m) {
    size_t size = m->size ? 2 * m->size : 16;
    struct map_entry **buckets = calloc(size, sizeof *buckets);
    if (!buckets)
        return -1;
    for (size_t i = 0; i < m->size; i++)
        for (struct map_entry *e = m->buckets[i], *next; e; e = next) {
            next = e->next;
            e->next = buckets[e->hash & (size - 1)];
            buckets[e->hash & (size - 1)] = e;
        }
    free(m->buckets);
    m->buckets = buckets;
    m->size = size;
    return 0;
}

int map_put(struct map *m, const char *key, void *value) {
    if (m->count >= m->size && grow(m) < 0)
        return -1;
    uint64_t hash = hash_of(key);
    struct map_entry **at = find(m, key, hash);
    if (!*at) {
        size_t len = strlen(key) + 1;
        struct map_entry *e = calloc(1, sizeof *e + len);
        if (!e)
            return -1;
        memcpy(e->key, key, len);
        e->hash = hash;
        *at = e;
        m->count++;
    }
    (*at)->value = value;
    return 0;
}

void *map_get(const struct map *m, const char *key) {
    if (!m->count)
        return NULL;
    struct map_entry *e = *find(m, key, hash_of(key));
    return e ? e->value : NULL;
}

void *map_remove(struct map *m, const char *key) {
    if (!m->count)
        return NULL;
    struct map_entry **at = find(m, key, hash_of(key)), *e = *at;
    if (!e)
        return NULL;
    void *value = e->value;
    *at = e->next;
    free(e);
    m->count--;
    return value;
}

void map_each(struct map *m, bool (*f)(const char *key, void *value, void *arg), void *arg) {
    for (size_t i = 0; i < m->size; i++)
        for (struct map_entry *e = m->buckets[i], *next; e; e = next) {
            next = e->next;
            if (!f(e->key, e->value, arg))
                return;
        }
}
