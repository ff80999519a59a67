// Sandboxes that a reference server (Python) made on the same engine: found by its labels, taken
// over by a mark of ours beside them (architecture.md section 4, docker-runtime.md 1.4 and 4.6).
//
// Labels of a container cannot be changed, so the mark is an empty volume
// "opensandbox-adopted-<id>" with the labels that everything of ours has: by it the sandbox is
// listed, found and removed as if it were ours. It also names what goes with the sandbox: its
// sidecar and its volumes.
#ifndef SERVER_RUNTIME_DOCKER_ADOPT_ADOPT_H
#define SERVER_RUNTIME_DOCKER_ADOPT_ADOPT_H

#include "server/runtime/docker/engine.h"
#include "server/runtime/runtime.h"

enum { FOREIGN_PROBLEM_MAX = 160 };

struct foreign {
    char id[SANDBOX_ID_SIZE];
    struct sandbox_spec *spec;      // what the container tells of its create; NULL with a problem
    char image_id[96];              // as of ensure_image
    char state[RUNTIME_STATE_MAX];  // for runtime->adopt
    int64_t created_us, expires_us; // wall clock; 0: until deleted
    bool paused;
    char problem[FOREIGN_PROBLEM_MAX]; // why it cannot be taken over; "": it can
    json_t *mark;                      // private: labels of the mark
};

// All that carry no label of a server of ours and no mark of this one. each() may keep nothing; -1
// with its err stops. One that goes away meanwhile is left out. Blocking.
typedef int foreign_fn(const struct foreign *f, void *arg, struct error *err);
int foreign_each(struct engine *e, const char *instance, foreign_fn *each, void *arg,
                 struct error *err);
// Makes the mark, after the record is durable: without it the next start would take the sandbox for
// a ruin. EEXIST: another server was faster.
int foreign_claim(struct engine *e, const char *instance, const struct foreign *f,
                  struct error *err);
// How many there are, marked ones left out. Blocking.
int foreign_count(struct engine *e, size_t *ret, struct error *err);
// What a snapshot of the reference is to this runtime: its artifact. False: the image is none of
// the engine's commits.
bool foreign_snapshot(const char *snapshot_id, const char *image, char artifact[RUNTIME_STATE_MAX]);

// For the removal of a sandbox: what a volume that goes with it takes along (a mark; others take
// nothing).
int foreign_follow(struct engine *e, const json_t *volume, struct error *err);

#endif
