// The durable truth: SQLite behind one thread. The loop queues changes; the thread commits what has
// gathered in one transaction (group commit) and tells the loop. A reply that promises something is
// sent after its commit. File 0600 in a directory 0700, locked: one server per store (flock on
// "<path>.lock").
#ifndef SERVER_STORE_STORE_H
#define SERVER_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "base/random.h"
#include "io/loop.h"

enum { STORE_KEY_SIZE = 32, STORE_SCHEMA_VERSION = 1 };

// One row of `sandboxes`. Strings are malloc'd; sandbox_record_clear() frees them. NULL where SQL
// has NULL.
struct sandbox_record {
    char id[UUID_TEXT_SIZE];
    char *state; // text of enum sandbox_state, "Pending" ...
    char *reason, *message;
    char *spec;          // spec_to_json()
    char *metadata;      // JSON object: the current map
    char *runtime;       // "oci"
    char *runtime_state; // of provision_result
    char *image_id;
    int64_t created_us, changed_us;
    int64_t expires_us; // 0: until deleted
    int64_t forget_us;  // 0; else when an ended one's record goes
};
void sandbox_record_clear(struct sandbox_record *r);

enum change_kind { CHANGE_SANDBOX_PUT, CHANGE_SANDBOX_DELETE };
// Immutable once committed; owned by the store from store_commit() until done() was called, then
// freed by the caller inside done() (embed it in your operation).
struct change {
    enum change_kind kind;
    struct sandbox_record record; // PUT: whole row; DELETE: id only
    // Loop thread. err NULL: durable. Otherwise nothing of it is, and err says why (disk full...).
    void (*done)(struct change *c, const struct error *err);
    // private
    struct list node;
    struct loop_task task;
    struct store *store;
    int failed;
    struct error error;
};

struct store;
struct store_settings {
    const char *path; // database file; its directory is made 0700
    bool full_sync;   // synchronous=FULL
    unsigned queue_max;
};
// Start-up, blocking. Locks, migrates, loads or makes the key and the instance id. A newer schema
// version is refused.
struct store *store_open(struct loop *l, const struct store_settings *s, struct error *err);
const uint8_t *store_key(const struct store *s);   // STORE_KEY_SIZE random bytes, made once
const char *store_instance(const struct store *s); // 8 lower-case hex digits, made once
// All sandbox rows, once at start, oldest first; any thread while nothing is being committed.
// each() owns nothing; return -1 to stop.
int store_load(struct store *s, int (*each)(const struct sandbox_record *r, void *arg), void *arg,
               struct error *err);
// Loop thread. -1 with errno EAGAIN when queue_max changes wait (done is not called then).
int store_commit(struct store *s, struct change *c);
uint64_t store_commits(const struct store *s); // transactions so far, for metrics
// Commits what is queued, closes. Pending done() callbacks have been called by then.
void store_close(struct store *s); // NULL is fine

#endif
