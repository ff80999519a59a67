// All sandboxes by id and by age. Loop thread.
#ifndef SERVER_SANDBOX_REGISTRY_H
#define SERVER_SANDBOX_REGISTRY_H

#include "server/sandbox/sandbox.h"

struct registry;
struct registry *registry_new(void);
void registry_free(struct registry *r); // frees all sandboxes

struct sandbox *registry_get(const struct registry *r, const char *id); // NULL when unknown
struct sandbox *registry_visible(const struct registry *r,
                                 const char *id); // NULL also when it is being deleted or in stock
size_t registry_count(const struct registry *r);
size_t registry_count_state(const struct registry *r,
                            enum sandbox_state s); // kept up to date, not counted
// Newest first (created_us descending, id descending). Return false to stop.
void registry_each(const struct registry *r, bool (*f)(struct sandbox *sb, void *arg), void *arg);
// Called before a sandbox is freed and whenever its runtime address stops being valid; for the
// proxy's upstreams.
void registry_on_release(struct registry *r, void (*f)(struct sandbox *sb, void *arg), void *arg);

// For the domain only.
// Takes the reference of spec; NULL when out of memory (the reference stays the caller's).
struct sandbox *registry_add(struct registry *r, const char *id, struct sandbox_spec *spec,
                             int64_t created_us);
void registry_date(struct registry *r, struct sandbox *sb, int64_t created_us);
void registry_remove(struct registry *r, struct sandbox *sb);  // frees it
void registry_release(struct registry *r, struct sandbox *sb); // its address is not valid any more
void registry_counted(struct registry *r, enum sandbox_state from, enum sandbox_state to);

#endif
