// The interface of a runtime (docs/architecture.md section 5), in the domain's words, not an
// engine's. Every call except watch() is blocking and runs on a worker; input is immutable; output
// is written on success only; 0, or -1 with *err set. Calls for one sandbox never overlap (the
// registry serialises them) but for logs(), facts() and dial(), which come at any time; calls for
// different sandboxes run in parallel, so an implementation locks its own shared state.
#ifndef SERVER_RUNTIME_RUNTIME_H
#define SERVER_RUNTIME_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"
#include "base/strbuf.h"
#include "io/loop.h"
#include "server/runtime/spec.h"

enum { SANDBOX_ID_SIZE = UUID_TEXT_SIZE, RUNTIME_PHASES_MAX = 8, RUNTIME_STATE_MAX = 2048 };
enum { EXECD_PORT = 44772, EGRESS_PORT = 18080 };

struct image_request {
    const char *reference;           // as the user wrote it
    const char *username, *password; // NULL: none. Never logged, never on a command line
    const char *os, *arch;           // NULL: the host's
    bool always_pull;
};
struct image_info {
    char id[96]; // the runtime's own name of the unpacked image, e.g. "sha256-<hex>"
    uint64_t bytes;
};

struct provision_request {
    const char *id; // sandbox id
    const struct sandbox_spec *spec;
    const char *image_id;               // of ensure_image; "" when restored
    const char *snapshot_id, *artifact; // restored from this snapshot; NULL: from the image
    const char *token_sha256_hex;       // execd demands the token with this digest
    const char *egress_token;           // the egress API demands it; NULL: no network policy
};
struct runtime_phase {
    char name[24];
    int64_t ns;
};
struct provision_result {
    char state[RUNTIME_STATE_MAX]; // opaque JSON, kept in the record, handed back to adopt()
    char address[64];              // of the sandbox, "" when it has none
    struct runtime_phase phases[RUNTIME_PHASES_MAX];
    unsigned phase_count;
};

// How a sandbox ended, or that it lives.
struct inspection {
    bool alive, paused;
    bool has_record;  // execd wrote how the entrypoint ended
    int exit_code;    // valid when !alive; -1 unknown
    int signal;       // 0: none
    bool oom;         // the out-of-memory counter rose
    int64_t ended_us; // wall clock; 0 unknown
};

enum runtime_event_kind { RUNTIME_EVENT_EXITED };
struct runtime_event {
    enum runtime_event_kind kind;
    char id[SANDBOX_ID_SIZE];
};
typedef void runtime_event_fn(const struct runtime_event *e, void *arg); // loop thread

enum runtime_feature {
    RUNTIME_NAMED_VOLUMES = 1 << 0,
    RUNTIME_PAUSE = 1 << 1,
    RUNTIME_PLATFORM = 1 << 2, // other platforms than the host's
    RUNTIME_GPU = 1 << 3,
    RUNTIME_OSSFS = 1 << 4,
    RUNTIME_NETWORK_POLICY = 1 << 5, // egress stands before it, closed whenever it is not there
    RUNTIME_WINDOWS = 1 << 6         // Windows guests, whatever the host's platform
};

struct runtime_found { // what really exists, for reconcile
    char id[SANDBOX_ID_SIZE];
};

struct runtime;
struct runtime_ops {
    const char *name;        // "oci"
    const char *code_prefix; // "OCI"
    unsigned features;
    // Probes and prepares, once, before all else (/health is served): may take seconds.
    int (*start)(struct runtime *r, struct error *err);
    // Ids of every sandbox of this instance of which anything exists, whole or in ruins.
    int (*list)(struct runtime *r, struct runtime_found **ret_found, size_t *ret_count,
                struct error *err);
    // Takes over a sandbox, alive or ended: ret says which. err only when that cannot be told.
    int (*adopt)(struct runtime *r, const char *id, const struct sandbox_spec *spec,
                 const char *state, struct inspection *ret, struct error *err);
    // After all adoptions and destroys of reconcile: removes what belongs to no live id (the
    // sweep), then is ready.
    int (*sweep)(struct runtime *r, struct error *err);
    // Before provision, on a pull worker. Single flight per image is the caller's.
    int (*ensure_image)(struct runtime *r, const struct image_request *q, struct image_info *ret,
                        struct error *err);
    // True without blocking when the image is there and nothing need be pulled: loop thread, an
    // in-memory look-up.
    bool (*image_ready)(struct runtime *r, const struct image_request *q, struct image_info *ret);
    // A hint from the loop that a provision comes soon (oci-runtime.md 8.1). May be NULL.
    void (*expect)(struct runtime *r);
    // Done when execd has answered, or a Windows guest's machine runs. On failure nothing is left
    // behind; with EHOSTDOWN nothing was even begun for want of who would do it: no destroy then.
    int (*provision)(struct runtime *r, const struct provision_request *q,
                     struct provision_result *ret, struct error *err);
    int (*destroy)(struct runtime *r, const char *id,
                   struct error *err); // idempotent; unknown id is success
    // After the end of a sandbox that stays visible: processes, network and cgroup go, exit record
    // and log stay.
    int (*retire)(struct runtime *r, const char *id, struct error *err);
    int (*pause)(struct runtime *r, const char *id, struct error *err);
    int (*resume)(struct runtime *r, const char *id, struct error *err);
    // ---- snapshots ----
    // Keeps what a running sandbox has changed; it stands still for as short a time as the runtime
    // can. ret_artifact (RUNTIME_STATE_MAX bytes): JSON of the runtime for what follows.
    int (*snapshot)(struct runtime *r, const char *id, const char *snapshot_id, char *ret_artifact,
                    struct error *err);
    // After a crash: 1 and the artifact when it is whole, 0 when there is none.
    int (*snapshot_find)(struct runtime *r, const char *snapshot_id, char *ret_artifact,
                         struct error *err);
    // Idempotent. EBUSY while a sandbox or another snapshot stands on it.
    int (*snapshot_remove)(struct runtime *r, const char *snapshot_id, const char *artifact,
                           struct error *err);
    int (*inspect)(struct runtime *r, const char *id, struct inspection *ret, struct error *err);
    int (*logs)(struct runtime *r, const char *id, struct strbuf *ret, struct error *err);
    // Lines of a diagnosis: "IP Address" = "10.200.0.7". Names of at most 15 bytes. May be NULL.
    int (*facts)(struct runtime *r, const char *id, struct pairs *ret, struct error *err);
    // A connected, non-blocking stream socket to a port of the sandbox, in microseconds. EXECD_PORT
    // means execd, EGRESS_PORT the API of its egress (ENOTCONN: it has none).
    int (*dial)(struct runtime *r, const char *id, unsigned port, int *ret_fd, struct error *err);
    // dial() does not reach this port: it is behind execd's /proxy/{port}. Loop. NULL: it does.
    bool (*relays)(const struct runtime *r, const struct sandbox_spec *spec, unsigned port);
    // Tells of ends from now on. Loop thread.
    void (*watch)(struct runtime *r, struct loop *l, runtime_event_fn *event, void *arg);
    // What is not as asked while it runs, a static text; NULL: nothing. Loop thread. May be NULL.
    const char *(*notice)(const struct runtime *r, const struct sandbox_spec *spec);
    void (*stop)(struct runtime *r); // sandboxes run on. Loop thread, when workers are idle
    void (*free)(struct runtime *r);
};

struct runtime {
    const struct runtime_ops *ops;
};

#endif
