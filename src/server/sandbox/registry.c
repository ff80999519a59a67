#include "server/sandbox/registry.h"

#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "server/sandbox/state.h"

struct registry {
    struct map by_id;
    struct list by_age; // newest first
    size_t in_state[SANDBOX_STATE_COUNT];
    void (*release)(struct sandbox *sb, void *arg);
    void *release_arg;
};

struct registry *registry_new(void) {
    struct registry *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    map_init(&r->by_id);
    list_init(&r->by_age);
    return r;
}

void registry_free(struct registry *r) {
    if (!r)
        return;
    while (!list_empty(&r->by_age))
        registry_remove(r, LIST_ENTRY(r->by_age.next, struct sandbox, order));
    map_clear(&r->by_id);
    free(r);
}

struct sandbox *registry_get(const struct registry *r, const char *id) {
    return map_get(&r->by_id, id);
}

struct sandbox *registry_visible(const struct registry *r, const char *id) {
    struct sandbox *sb = registry_get(r, id);
    return sb && !sb->deleting && !sb->stock ? sb : NULL;
}

size_t registry_count(const struct registry *r) {
    return r->by_id.count;
}
size_t registry_count_state(const struct registry *r, enum sandbox_state s) {
    return r->in_state[s];
}

void registry_counted(struct registry *r, enum sandbox_state from, enum sandbox_state to) {
    r->in_state[from]--;
    r->in_state[to]++;
}

void registry_each(const struct registry *r, bool (*f)(struct sandbox *sb, void *arg), void *arg) {
    LIST_EACH(&r->by_age, node) {
        if (!f(LIST_ENTRY(node, struct sandbox, order), arg))
            return;
    }
}

void registry_on_release(struct registry *r, void (*f)(struct sandbox *sb, void *arg), void *arg) {
    r->release = f;
    r->release_arg = arg;
}

void registry_release(struct registry *r, struct sandbox *sb) {
    if (r->release)
        r->release(sb, r->release_arg);
}

static bool older(const struct sandbox *a, const struct sandbox *b) {
    return a->created_us != b->created_us ? a->created_us < b->created_us
                                          : strcmp(a->id, b->id) < 0;
}

static void insert(struct registry *r, struct sandbox *sb) {
    struct list *at = &r->by_age; // nearly always the newest
    while (at->next != &r->by_age && older(sb, LIST_ENTRY(at->next, struct sandbox, order)))
        at = at->next;
    list_insert(at, &sb->order);
}

void registry_date(struct registry *r, struct sandbox *sb, int64_t created_us) {
    list_remove(&sb->order);
    sb->created_us = created_us;
    insert(r, sb);
}

struct sandbox *registry_add(struct registry *r, const char *id, struct sandbox_spec *spec,
                             int64_t created_us) {
    struct sandbox *sb = calloc(1, sizeof *sb);
    if (!sb)
        return NULL;
    (void)snprintf(sb->id, sizeof sb->id, "%s", id);
    sb->created_us = sb->changed_us = created_us;
    (void)snprintf(sb->reason, sizeof sb->reason, "%s", state_reason(SANDBOX_PENDING));
    (void)snprintf(sb->message, sizeof sb->message, "%s", state_message(SANDBOX_PENDING));
    list_init(&sb->queued);
    list_init(&sb->holds);
    if (pairs_copy(&sb->metadata, &spec->metadata) < 0 || map_put(&r->by_id, id, sb) < 0) {
        pairs_clear(&sb->metadata);
        free(sb);
        return NULL;
    }
    sb->spec = spec;
    insert(r, sb);
    r->in_state[SANDBOX_PENDING]++; // the state of a zeroed sandbox
    return sb;
}

void registry_remove(struct registry *r, struct sandbox *sb) {
    registry_release(r, sb);
    (void)map_remove(&r->by_id, sb->id);
    list_remove(&sb->order);
    r->in_state[sb->state]--;
    pairs_clear(&sb->metadata);
    spec_unref(sb->spec);
    free(sb->pool);
    free(sb);
}
