// The parts of the docker runtime, for the files of this directory only. Workers and the events
// thread; `lock` guards the maps and the boxes in them.
#ifndef SERVER_RUNTIME_DOCKER_INTERNAL_H
#define SERVER_RUNTIME_DOCKER_INTERNAL_H

#include <jansson.h>
#include <pthread.h>

#include "base/map.h"
#include "server/runtime/docker/docker.h"

enum {
    CONTAINER_ID_SIZE = 80,
    CONTAINER_NAME_SIZE = 64,
    VOLUME_NAME_SIZE = 64,
    DOCKER_HOST_SIZE = 256,
    GUEST_PORTS = 4
};

#define LABEL            "opensandbox.io/"
#define LABEL_ID         LABEL "id"
#define LABEL_SERVER     LABEL "server" // instance of the server that owns it
#define LABEL_EXPIRES    LABEL "expires-at"
#define LABEL_MANUAL     LABEL "manual-cleanup"
#define LABEL_MANAGED_BY LABEL "volume-managed-by"
#define EXECD_DIR        "/opt/opensandbox/bin"
#define LABEL_SNAPSHOT_ENV                                                                         \
    LABEL "snapshot-env" // of an image: names of variables that are its source's alone
#define SNAPSHOT_IMAGES "opensandbox-snapshots"
#define EXECD_BEGAN     "\"listening on port " // execd says so when the entrypoint runs
#define OWN_NETWORK     "opensandbox"

// A sandbox as far as this process knows it.
struct box {
    char container[CONTAINER_ID_SIZE]; // "" until the engine has made it
    int net_fd;                        // its network namespace; -1: not to be entered
    uint32_t address;                  // IPv4, network order; 0: none
    char host[DOCKER_HOST_SIZE];       // where `port` is published
    unsigned port;                     // of execd, published or on the host's network; 0: neither
    unsigned egress_port;              // of its sidecar's API, published; 0: not
    bool guest;                        // a Windows guest, reached at these alone:
    unsigned guest_ports[GUEST_PORTS]; // where windows_ports are published; 0: not
    bool policy;                       // it has a sidecar, which keeps its network policy
    bool volumes;                      // it has volumes of its own on the engine
    bool running;                      // its create is over: its end is told
    bool paused, ended;
    struct inspection end; // valid when ended
};

struct docker_events;
struct docker {
    struct runtime base;
    struct docker_settings settings;
    struct engine *engine;
    struct docker_events *events;
    struct ssh_forwards *forwards; // to the loopback of an engine's host; NULL: it is not by ssh
    struct bridge_rules *rules;    // of our bridge; NULL: none, or not here
    bool host_network, publish;
    bool near;           // the engine is on this host, and both are root: its files are ours
    bool foreign_execd;  // of runtime.execd_image: no init, started by its own bootstrap.sh
    bool no_limits;      // the engine cannot limit memory, processor or processes
    const char *network; // as the engine knows it
    char *seccomp;       // SecurityOpt, NULL: none
    char execd_volume[VOLUME_NAME_SIZE];
    pthread_mutex_t lock;
    struct map boxes;     // id -> struct box
    struct map ready;     // image as it was asked for -> struct docker_image
    struct map inherited; // image -> what docker_image_inherited() says
};

// ---- sandbox.c ----
struct box *docker_box_new(void);
void docker_box_free(struct box *b);
int docker_box_put(struct docker *d, const char *id, struct box *b,
                   struct error *err);                  // takes b when it works
void docker_box_drop(struct docker *d, const char *id); // of a sandbox that the engine has not
int docker_sandbox_list(struct docker *d, struct runtime_found **ret, size_t *ret_count,
                        struct error *err);
int docker_sandbox_destroy(struct docker *d, const char *id, struct error *err);
int docker_sandbox_freeze(struct docker *d, const char *id, bool pause, struct error *err);
int docker_sandbox_inspect(struct docker *d, const char *id, struct inspection *ret,
                           struct error *err);
int docker_sandbox_logs(struct docker *d, const char *id, struct strbuf *ret, struct error *err);
int docker_sandbox_adopt(struct docker *d, const char *id, const struct sandbox_spec *spec,
                         const char *state, struct inspection *ret, struct error *err);
int docker_sandbox_sweep(struct docker *d, struct error *err);
// What an inspected container's State says.
void docker_inspection_of(const json_t *container, struct inspection *ret);
// Fills what reaches a running container; `network`: the one whose network it is in, mostly itself.
int docker_box_reach(struct docker *d, const json_t *container, const json_t *network,
                     struct box *b, struct error *err);
void docker_pause_ms(int64_t ms); // between two questions; a worker's own time
// Removes a container by name or id, running or not, or waits until somebody has; none is fine.
int docker_container_remove(struct docker *d, const char *name, struct error *err);
// The sandbox has ended, and stays visible.
int docker_sandbox_retire(struct docker *d, const char *id, struct error *err);
// Appends what a container wrote, frames taken off.
int docker_container_logs(struct docker *d, const char *container, const char *query,
                          struct strbuf *ret, struct error *err);

// ---- provision.c ----
int docker_provision(struct docker *d, const struct provision_request *q,
                     struct provision_result *ret, struct error *err);

// ---- image.c ----
int docker_image_ensure(struct docker *d, const struct image_request *q, struct image_info *ret,
                        struct error *err);
bool docker_image_ready(struct docker *d, const struct image_request *q, struct image_info *ret);
void docker_image_forget(struct docker *d); // what is ready may have changed
// What a container must not have of its image: {"labels": [name], "env": [name]}, a new reference.
int docker_image_inherited(struct docker *d, const char *image, json_t **ret, struct error *err);
void docker_image_clear(struct docker *d);

// ---- snapshot.c ----
int docker_snapshot(struct docker *d, const char *id, const char *snapshot_id, char *ret_artifact,
                    struct error *err);
int docker_snapshot_find(struct docker *d, const char *snapshot_id, char *ret_artifact,
                         struct error *err);
int docker_snapshot_remove(struct docker *d, const char *snapshot_id, struct error *err);

// ---- network.c ----
bool docker_publishes_openly(const struct docker *d); // to the network, not to this host alone
int docker_network_prepare(struct docker *d, struct error *err);

// ---- volume.c ----
// Checks and makes what the spec names; appends to binds. *ret_own: volumes were made that go with
// the sandbox.
int docker_volumes_prepare(struct docker *d, const struct provision_request *q, json_t *binds,
                           bool *ret_own, struct error *err);
int docker_volumes_remove(struct docker *d, const char *id, struct error *err);

// ---- dial.c ----
int docker_dial(struct docker *d, const char *id, unsigned port, int *ret_fd, struct error *err);
int docker_dial_box(struct docker *d, const struct box *b, unsigned port, int *ret_fd,
                    struct error *err);
// GET of a program in it: 1: status 200, 0: not yet, err says why; -1: no memory.
int docker_ask(struct docker *d, const struct box *b, unsigned port, const char *path,
               struct error *err);
// The network namespace of a container's first process, opened behind its pidfd.
int docker_namespace_open(int pid, const char *container, int *ret_fd, struct error *err);

// ---- events.c ----
struct docker_events *docker_events_new(struct docker *d, struct error *err);
void docker_events_free(struct docker_events *e); // ends the thread
void docker_events_deliver(struct docker_events *e, struct loop *l, runtime_event_fn *event,
                           void *arg);
void docker_events_tell(struct docker_events *e, const char *id); // of its end, again
void docker_events_stop(struct docker_events *e); // loop thread: nothing is told afterwards

#endif
