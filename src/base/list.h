// Intrusive doubly linked list. A node belongs to one list at most; list_remove() of a node in none
// does nothing.
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l) {
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l) {
    return l->next == l || !l->next;
}
static inline void list_insert(struct list *at, struct list *node) { // behind `at`
    node->prev = at;
    node->next = at->next;
    at->next->prev = node;
    at->next = node;
}
static inline void list_push_back(struct list *head, struct list *node) {
    list_insert(head->prev, node);
}
static inline void list_push_front(struct list *head, struct list *node) {
    list_insert(head, node);
}
static inline void list_remove(struct list *node) {
    if (!node->next)
        return;
    node->next->prev = node->prev;
    node->prev->next = node->next;
    node->next = node->prev = NULL;
}
// First node, removed; NULL when empty.
static inline struct list *list_pop(struct list *head) {
    struct list *node = list_empty(head) ? NULL : head->next;
    if (node)
        list_remove(node);
    return node;
}
#define LIST_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))
// Removal of the current entry is allowed.
#define LIST_EACH(head, node)                                                                      \
    for (struct list *node = (head)->next, *n_ = node->next; node != (head);                       \
         node = n_, n_ = n_->next)

#endif
