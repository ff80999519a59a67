#include "server/sandbox/keys.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

static const int64_t KEY_LIFE_US = 24LL * 3600 * 1000000;

struct removal { // of one row
    struct change change;
    struct domain *domain;
};

static void removed(struct change *c, const struct error *err) {
    struct removal *r = CONTAINER_OF(c, struct removal, change);
    if (err) // it is too old to count; the next start removes it
        log_debug("an idempotency key stays in the store: %s", err->message);
    r->domain->inflight--;
    change_clear(c);
    free(r);
}

static void remove_row(struct domain *d, const char *text) {
    struct removal *r = calloc(1, sizeof *r);
    char *copy = strdup(text);
    if (!r || !copy) {
        free(r);
        free(copy);
        return; // the next start removes it
    }
    r->domain = d;
    r->change.done = removed;
    change_remove(&r->change, STORE_KEYS)->key.key = copy;
    if (store_commit(d->settings.store, &r->change) == 0) {
        d->inflight++;
        return;
    }
    change_clear(&r->change);
    free(r);
}

void key_forget(struct domain *d, struct key *k) {
    (void)map_remove(&d->keys, k->text);
    list_remove(&k->age);
    free(k);
}

// A create that is not over, or whose failure is not, whatever the clock says.
static bool in_use(const struct domain *d, const struct key *k) {
    const struct sandbox *sb = registry_get(d->registry, k->sandbox_id);
    return sb && sb->key == k;
}

static void forget_old(struct domain *d) {
    int64_t now = clock_wall_us();
    LIST_EACH(&d->keys_by_age, node) {
        struct key *k = LIST_ENTRY(node, struct key, age);
        if (now - k->created_us < KEY_LIFE_US)
            return;
        if (in_use(d, k))
            continue;
        remove_row(d, k->text);
        key_forget(d, k);
    }
}

struct key *key_find(struct domain *d, const char *text) {
    forget_old(d);
    return map_get(&d->keys, text);
}

static struct key *insert(struct domain *d, const char *text, const char *body, const char *id,
                          int64_t created_us) {
    struct key *k = calloc(1, sizeof *k);
    if (!k || map_put(&d->keys, text, k) < 0) {
        free(k);
        return NULL;
    }
    (void)snprintf(k->text, sizeof k->text, "%s", text);
    (void)snprintf(k->body, sizeof k->body, "%s", body);
    (void)snprintf(k->sandbox_id, sizeof k->sandbox_id, "%s", id);
    k->created_us = created_us;
    list_push_back(&d->keys_by_age, &k->age);
    return k;
}

struct key *key_add(struct domain *d, const char *text, const char *body, const char *sandbox_id,
                    struct error *err) {
    if (d->keys.count >= KEYS_MAX) {
        (void)error_server(err, ERR_TOO_MANY, "%d idempotency keys are remembered; try again later",
                           KEYS_MAX);
        return NULL;
    }
    struct key *k = insert(d, text, body, sandbox_id, clock_wall_us());
    if (!k)
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    return k;
}

int key_put(const struct key *k, struct change *c, struct error *err) {
    struct key_record *r = &change_put(c, STORE_KEYS)->key;
    *r = (struct key_record){.key = strdup(k->text),
                             .body = strdup(k->body),
                             .sandbox_id = strdup(k->sandbox_id),
                             .created_us = k->created_us};
    return r->key && r->body && r->sandbox_id
               ? 0
               : error_server(err, ERR_INTERNAL_ERROR, "out of memory");
}

void key_remove(const struct key *k, struct change *c) {
    change_remove(c, STORE_KEYS)->key.key = strdup(k->text); // no memory: no row, it grows old
}

static int load(const union store_record *record, void *arg) {
    struct domain *d = arg;
    const struct key_record *r = &record->key;
    return insert(d, r->key, r->body, r->sandbox_id, r->created_us) ? 0 : -1;
}

// A create that a crash cut short has failed: its key is free again.
int keys_load(struct domain *d, struct error *err) {
    if (store_load(d->settings.store, STORE_KEYS, load, d, err) < 0)
        return -1;
    LIST_EACH(&d->keys_by_age, node) {
        struct key *k = LIST_ENTRY(node, struct key, age);
        struct sandbox *sb = registry_get(d->registry, k->sandbox_id);
        if (sb && sb->state == SANDBOX_PENDING)
            sb->key = k;
    }
    return 0;
}

void keys_clear(struct domain *d) {
    while (!list_empty(&d->keys_by_age))
        key_forget(d, LIST_ENTRY(d->keys_by_age.next, struct key, age));
    map_clear(&d->keys);
}
