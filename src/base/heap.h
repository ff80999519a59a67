// Binary min-heap of embedded nodes, ordered by key. push, update, remove: O(log n).
#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct heap_node {
    int64_t key;
    size_t index; // position + 1; 0 = in no heap
};

struct heap {
    struct heap_node **nodes;
    size_t count, capacity;
};

void heap_init(struct heap *h);
void heap_clear(struct heap *h); // forgets all nodes, frees the array
int heap_push(struct heap *h, struct heap_node *node,
              int64_t key);                               // moves it when it is in; -1: no memory
void heap_remove(struct heap *h, struct heap_node *node); // nothing when it is not in
struct heap_node *heap_peek(const struct heap *h);        // smallest, NULL when empty
static inline int heap_contains(const struct heap_node *node) {
    return node->index != 0;
}

#endif
