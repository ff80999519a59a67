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

enum { STORE_KEY_SIZE = 32, STORE_SCHEMA_VERSION = 2 };

// The tables. Strings of a record are malloc'd, NULL where SQL has NULL; store_record_clear() frees
// them. Times are wall clock in microseconds.
enum store_table { STORE_SANDBOXES, STORE_KEYS, STORE_SNAPSHOTS, STORE_POOLS, STORE_TABLE_COUNT };
struct sandbox_record {
    char id[UUID_TEXT_SIZE];
    char *state; // text of enum sandbox_state, "Pending" ...
    char *reason, *message;
    char *spec;          // spec_to_json()
    char *metadata;      // JSON object: the current map
    char *runtime;       // "oci"
    char *runtime_state; // of provision_result
    char *image_id;
    char *pool; // the pool it was made for; NULL: none
    int64_t
        stock; // 1: it waits in that pool's stock and is nobody's yet; 2: it was being given out
    int64_t created_us, changed_us;
    int64_t expires_us; // 0: until deleted
    int64_t forget_us;  // 0; else when an ended one's record goes
};
struct key_record { // Idempotency-Key; both digests are HMACs with the store's key, in hex
    char *key, *body;
    char *sandbox_id;
    int64_t created_us;
};
struct snapshot_record {
    char id[UUID_TEXT_SIZE];
    char *source_id, *name;
    char *state, *reason, *message;
    char *spec;     // spec_to_json() of the sandbox that it was taken of
    char *artifact; // opaque JSON of the runtime
    int64_t created_us, changed_us;
};
struct pool_record {
    char *name;
    char *spec;     // spec_to_json(): the template
    char *capacity; // JSON object
    int64_t created_us, changed_us;
};
union store_record {
    struct sandbox_record sandbox;
    struct key_record key;
    struct snapshot_record snapshot;
    struct pool_record pool;
};
void store_record_clear(enum store_table table, union store_record *r); // a zeroed one is fine

struct store_row {
    enum store_table table;
    bool remove; // by its key, the record's first member; else the whole row is put
    union store_record record;
};
enum { CHANGE_ROWS_MAX = 2 };
// What becomes true together. Immutable once committed; owned by the store from store_commit()
// until done() was called, then the caller clears the records and frees it (embed it in your
// operation).
struct change {
    struct store_row rows[CHANGE_ROWS_MAX];
    unsigned count;
    // Loop thread. err NULL: durable. Otherwise nothing of it is, and err says why (disk full...).
    void (*done)(struct change *c, const struct error *err);
    // private
    struct list node;
    struct loop_task task;
    struct store *store;
    int failed;
    struct error error;
};
// The next row of a change that is being built, zeroed; at most CHANGE_ROWS_MAX.
union store_record *change_put(struct change *c, enum store_table table);
union store_record *change_remove(struct change *c, enum store_table table);
void change_clear(struct change *c); // its records; empty again

struct store;
struct store_settings {
    const char *path; // database file; its directory is made 0700. Where it is a reference server's
                      // (reference.h), "<path>.server" beside it
    bool full_sync;   // synchronous=FULL
    unsigned queue_max;
};
// Start-up, blocking. Locks, migrates, loads or makes the key and the instance id. A newer schema
// version is refused.
struct store *store_open(struct loop *l, const struct store_settings *s, struct error *err);
const uint8_t *store_key(const struct store *s);   // STORE_KEY_SIZE random bytes, made once
const char *store_instance(const struct store *s); // 8 lower-case hex digits, made once
// All rows of a table, once at start, oldest first; any thread while nothing is being committed.
// each() owns nothing; return -1 to stop.
typedef int store_each_fn(const union store_record *r, void *arg);
int store_load(struct store *s, enum store_table table, store_each_fn *each, void *arg,
               struct error *err);
// Loop thread. -1 with errno EAGAIN when queue_max changes wait (done is not called then).
int store_commit(struct store *s, struct change *c);
uint64_t store_commits(const struct store *s); // transactions so far, for metrics
// Commits what is queued, closes. Pending done() callbacks have been called by then.
void store_close(struct store *s); // NULL is fine

#endif
