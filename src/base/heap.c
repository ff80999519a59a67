#include "base/heap.h"

void heap_init(struct heap *h) {
    *h = (struct heap){0};
}

void heap_clear(struct heap *h) {
    for (size_t i = 0; i < h->count; i++)
        h->nodes[i]->index = 0;
    free(h->nodes);
    heap_init(h);
}

static void place(struct heap *h, size_t at, struct heap_node *node) {
    h->nodes[at] = node;
    node->index = at + 1;
}

static void sift(struct heap *h, struct heap_node *node) {
    size_t at = node->index - 1;
    for (size_t up; at > 0 && h->nodes[up = (at - 1) / 2]->key > node->key; at = up)
        place(h, at, h->nodes[up]);
    for (size_t down; (down = 2 * at + 1) < h->count; at = down) {
        if (down + 1 < h->count && h->nodes[down + 1]->key < h->nodes[down]->key)
            down++;
        if (h->nodes[down]->key >= node->key)
            break;
        place(h, at, h->nodes[down]);
    }
    place(h, at, node);
}

int heap_push(struct heap *h, struct heap_node *node, int64_t key) {
    if (!node->index) {
        if (h->count == h->capacity) {
            size_t capacity = h->capacity ? 2 * h->capacity : 16;
            struct heap_node **grown = reallocarray(h->nodes, capacity, sizeof(struct heap_node *));
            if (!grown)
                return -1;
            h->nodes = grown;
            h->capacity = capacity;
        }
        place(h, h->count++, node);
    }
    node->key = key;
    sift(h, node);
    return 0;
}

void heap_remove(struct heap *h, struct heap_node *node) {
    if (!node->index)
        return;
    size_t at = node->index - 1;
    struct heap_node *last = h->nodes[--h->count];
    node->index = 0;
    if (last != node) {
        place(h, at, last);
        sift(h, last);
    }
}

struct heap_node *heap_peek(const struct heap *h) {
    return h->count ? h->nodes[0] : NULL;
}
