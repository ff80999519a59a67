// Hash map from a string to a pointer. Keys are copied, values are the caller's. Not for threads to
// share.
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>

struct map_entry;
struct map {
    struct map_entry **buckets;
    size_t count, size;
};

void map_init(struct map *m); // allocates nothing
void map_clear(struct map *m);
int map_put(struct map *m, const char *key, void *value); // replaces; -1 when out of memory
void *map_get(const struct map *m, const char *key);      // NULL when absent
void *map_remove(struct map *m, const char *key);         // the value, NULL when absent
// Calls f for each entry in no order until it returns false; f may remove the entry that it is
// given, no other.
void map_each(struct map *m, bool (*f)(const char *key, void *value, void *arg), void *arg);

#endif
