// Memory of one request: allocated piece by piece, freed at once. Every piece is zeroed and aligned
// for any type. NULL when out of memory or past the maximum given at init. One owner, any thread.
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_block;
struct arena {
    struct arena_block *blocks;
    size_t used, max;
};

void arena_init(struct arena *a, size_t max);
void arena_free(struct arena *a);
void arena_reset(struct arena *a); // empty, but one block of usual size is kept for the next use
void *arena_alloc(struct arena *a, size_t size);
char *arena_strndup(struct arena *a, const char *text, size_t len);
char *arena_strdup(struct arena *a, const char *text);
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
