#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>

enum { BLOCK = 4096, ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    size_t dirty; // bytes that an earlier use may have written
    _Alignas(ALIGN) char data[];
};

void arena_init(struct arena *a, size_t max) {
    *a = (struct arena){.max = max};
}

void arena_free(struct arena *a) {
    for (struct arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    arena_init(a, a->max);
}

void arena_reset(struct arena *a) {
    struct arena_block *kept = NULL;
    for (struct arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        if (!kept && b->size == BLOCK)
            kept = b;
        else
            free(b);
    }
    if (kept) {
        kept->next = NULL;
        if (kept->dirty < kept->used)
            kept->dirty = kept->used;
        kept->used = 0;
    }
    *a = (struct arena){.blocks = kept, .max = a->max};
}

void *arena_alloc(struct arena *a, size_t size) {
    if (size > a->max || a->used > a->max - size)
        return NULL;
    size_t rounded = (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    struct arena_block *b = a->blocks;
    if (!b || b->size - b->used < rounded) {
        size_t room = rounded > BLOCK ? rounded : BLOCK;
        b = calloc(1, sizeof *b + room);
        if (!b)
            return NULL;
        b->size = room;
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = b->data + b->used;
    if (b->used < b->dirty)
        memset(p, 0, rounded < b->dirty - b->used ? rounded : b->dirty - b->used);
    b->used += rounded;
    a->used += size;
    return p;
}

char *arena_strndup(struct arena *a, const char *text, size_t len) {
    char *copy = arena_alloc(a, len + 1);
    if (copy && len)
        memcpy(copy, text, len);
    return copy;
}

char *arena_strdup(struct arena *a, const char *text) {
    return arena_strndup(a, text, strlen(text));
}

char *arena_printf(struct arena *a, const char *format, ...) {
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    char *text = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (text)
        (void)vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}
