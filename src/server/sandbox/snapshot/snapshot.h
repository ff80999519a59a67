// Snapshots: what a sandbox had changed at a moment, to make others from. Rows of the store, copied
// in memory; what they hold outside is the runtime's business (runtime.h). States and reasons:
// lifecycle-api.md section 10. Loop thread.
#ifndef SERVER_SANDBOX_SNAPSHOT_SNAPSHOT_H
#define SERVER_SANDBOX_SNAPSHOT_SNAPSHOT_H

#include "base/error.h"
#include "base/list.h"
#include "server/sandbox/sandbox.h"
#include "server/store/store.h"

enum snapshot_state {
    SNAPSHOT_CREATING,
    SNAPSHOT_READY,
    SNAPSHOT_FAILED,
    SNAPSHOT_DELETING,
    SNAPSHOT_STATE_COUNT
};
enum { SNAPSHOT_NAME_MAX = 256 };

struct domain;
struct snapshot {
    char id[SANDBOX_ID_SIZE], source_id[SANDBOX_ID_SIZE];
    char *name; // NULL: none
    enum snapshot_state state;
    const char *reason; // one of a fixed set
    char message[ERROR_MESSAGE_MAX];
    struct sandbox_spec *spec;        // of the source
    char artifact[RUNTIME_STATE_MAX]; // valid when Ready
    int64_t created_us, changed_us;
    // private
    struct list order;        // newest first
    struct list removals;     // who waits for its removal
    struct removing *removal; // the one that runs
};

const char *snapshot_state_name(enum snapshot_state s);               // "Creating" ...
int snapshot_state_parse(const char *name, enum snapshot_state *ret); // exact; -1 unknown

struct snapshot *snapshot_get(const struct domain *d, const char *id); // NULL: unknown
// Newest first (created_us, then id, both descending). Return false to stop.
void snapshots_each(const struct domain *d, bool (*f)(const struct snapshot *s, void *arg),
                    void *arg);

typedef void snapshot_done_fn(const struct snapshot *s, const struct error *err, void *arg);
// done when the row is durable (Creating); the work goes on. Only of a Running sandbox.
void snapshot_take(struct domain *d, const char *sandbox_id, const char *name,
                   snapshot_done_fn *done, void *arg);
// done(NULL, NULL) when artifact and row are gone.
void snapshot_delete(struct domain *d, const char *id, snapshot_done_fn *done, void *arg);

// ---- for the domain ----
// One that a create may stand on, or NULL with err: SNAPSHOT::NOT_FOUND, ::NOT_READY.
struct snapshot *snapshot_ready(const struct domain *d, const char *id, struct error *err);
int snapshots_load(struct domain *d, struct error *err);    // at start
int snapshots_recover(struct domain *d, struct error *err); // what a crash left in the middle
void snapshots_clear(struct domain *d);
bool snapshot_creating_of(const struct domain *d, const char *sandbox_id); // one is Creating
// Fills a change with its row as it is, or in another state.
int snapshot_fill(const struct snapshot *s, struct change *c, struct error *err);
struct snapshot *snapshot_add(struct domain *d, const char *id, int64_t created_us);
void snapshot_remove(struct domain *d, struct snapshot *s); // from memory
void snapshot_become(struct snapshot *s, enum snapshot_state state, const char *reason,
                     const char *message);
// Starts (or joins) the way down: Deleting, the artifact, the row.
void snapshot_take_away(struct domain *d, struct snapshot *s, snapshot_done_fn *done, void *arg);

#endif
