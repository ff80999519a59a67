// A runtime that holds nothing but ids, with scripted failures and calls that hang until let go;
// and a world to use it in: loop, store in a private directory, domain. Test thread = loop thread.
#ifndef TESTS_FAKE_RUNTIME_H
#define TESTS_FAKE_RUNTIME_H

#include "base/clock.h"
#include "server/sandbox/lifecycle.h"

enum fake_call {
    FAKE_START,
    FAKE_LIST,
    FAKE_ADOPT,
    FAKE_SWEEP,
    FAKE_IMAGE,
    FAKE_PROVISION,
    FAKE_DESTROY,
    FAKE_RETIRE,
    FAKE_PAUSE,
    FAKE_RESUME,
    FAKE_INSPECT,
    FAKE_LOGS,
    FAKE_FACTS,
    FAKE_DIAL,
    FAKE_SNAPSHOT,
    FAKE_SNAPSHOT_REMOVE,
    FAKE_CALLS
};

struct runtime *fake_new(void);
void fake_fail(struct runtime *r, enum fake_call call, unsigned times); // the next ones fail
void fake_hold(struct runtime *r, enum fake_call call, bool hold);      // they hang; false: let go
void fake_hook(struct runtime *r, enum fake_call call, void (*hook)(void)); // in each, on a worker
unsigned fake_count(struct runtime *r, enum fake_call call);                // calls that have begun
unsigned fake_most(struct runtime *r, enum fake_call call);                 // at the same time
unsigned fake_overlaps(struct runtime *r); // calls for one sandbox at the same time: must be 0
size_t fake_existing(struct runtime *r);
bool fake_exists(struct runtime *r, const char *id);
// Snapshots are ids like sandboxes, but sweeps and lists do not see them.
bool fake_kept(struct runtime *r, const char *snapshot_id);
void fake_busy_snapshots(struct runtime *r, bool busy); // removals answer EBUSY
void fake_put(struct runtime *r, const char *id);       // as if it had been provisioned
void fake_away(struct runtime *r, bool away);           // adopt() answers UNAVAILABLE
// dial() answers with the descriptor that this gives, on a worker; default: a copy of descriptor 0.
void fake_dial(struct runtime *r, int (*dial)(unsigned port));
void fake_relay(struct runtime *r, bool relay);        // relays() answers that; default false
void fake_notice(struct runtime *r, const char *text); // notice() answers that
void fake_images(struct runtime *r, bool ready);       // image_ready() answers that; default true
void fake_inspection(struct runtime *r, const struct inspection *i);               // default: alive
void fake_exit(struct runtime *r, const char *id, int code, int signal, bool oom); // and the event

struct world {
    struct loop loop;
    struct store *store;
    struct runtime *runtime;
    struct domain *domain;
    struct domain_settings settings;
    char dir[64], path[96];
    struct timer tick;
    int ready; // 1, or -1 when the start failed
    struct error start_error;
};
void world_open(struct world *w);   // fresh store, started
void world_begin(struct world *w);  // settings, directory, loop, store, runtime; no domain yet
void world_start(struct world *w);  // domain over what is there, until it is ready or has failed
void world_stop(struct world *w);   // domain and store gone; store file and runtime stay
void world_reopen(struct world *w); // the store again; then world_start()
void world_close(struct world *w);
void world_turn(struct world *w); // one turn of the loop, at most a few ms
void disk_full(bool full);        // writes to files fail from now on

#define UNTIL(w, condition)                                                                        \
    do {                                                                                           \
        int64_t end_ = clock_boot_ms() + 30000;                                                    \
        while (!(condition)) {                                                                     \
            assert_true(clock_boot_ms() < end_);                                                   \
            world_turn(w);                                                                         \
        }                                                                                          \
    } while (0)

struct sandbox_spec *test_spec(int64_t timeout_s); // the caller's reference
// What a callback was told.
struct answer {
    unsigned times;
    enum sandbox_state state;
    bool has_sandbox;
    char id[SANDBOX_ID_SIZE];
    struct error error;
};
void answered(const struct sandbox *sb, const struct error *err, void *answer);
struct create_ticket *test_create(struct world *w, struct answer *a, int64_t timeout_s,
                                  int64_t wait_ms);
void create_running(struct world *w, int64_t timeout_s, char id[SANDBOX_ID_SIZE]);
int stored_rows(struct world *w);                          // in the store now
const char *stored_state(struct world *w, const char *id); // "" when there is no row

#endif
