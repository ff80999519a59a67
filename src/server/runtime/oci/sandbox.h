// One sandbox of the built-in runtime, and the runtime's own state that all of them share. Private
// to runtime/oci.
#ifndef SERVER_RUNTIME_OCI_SANDBOX_H
#define SERVER_RUNTIME_OCI_SANDBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/map.h"
#include "server/runtime/oci/bundle.h"
#include "server/runtime/oci/cgroup.h"
#include "server/runtime/oci/chores.h"
#include "server/runtime/oci/egress/keeper.h"
#include "server/runtime/oci/egress/parking.h"
#include "server/runtime/oci/image/image.h"
#include "server/runtime/oci/launch.h"
#include "server/runtime/oci/net/network.h"
#include "server/runtime/oci/oci.h"
#include "server/runtime/oci/snapshot.h"
#include "server/runtime/oci/watch.h"

enum { OCI_PATH_SIZE = 512 };

struct box {
    char id[SANDBOX_ID_SIZE];
    int dir;   // sandboxes/<id>
    int pidfd; // of the first process; -1 once it was torn down
    pid_t pid;
    uint64_t started; // field 22 of its /proc/<pid>/stat: with the pid it names one process
    bool has_net;
    struct network_entry net;
    int egress; // pidfd of its egress until the keeper has it; -1: none
    char *base; // snapshot.h: what it stands on
    bool named; // perhaps it uses named volumes
    bool retired;
    struct inspection end; // valid when retired
};

struct oci {
    struct runtime base;
    struct oci_settings settings; // defaults filled in
    char dir_path[OCI_PATH_SIZE], run_path[OCI_PATH_SIZE], root_path[OCI_PATH_SIZE],
        state_path[OCI_PATH_SIZE], bundles_path[OCI_PATH_SIZE], sandboxes_path[OCI_PATH_SIZE + 16];
    int layers, layer_refs; // snapshot.h
    int volumes;            // volume/named.h
    pthread_mutex_t volume_lock;
    int dir, sandboxes, trash; // <state_dir>/oci, below it
    int state, bundles;        // below <run_dir>/<instance>: the OCI runtime's --root; bundles of
                               // sandboxes that are being started
    struct cgroups cgroups, egress_groups;
    struct egress_program egress;
    struct keeper *keeper;
    struct parking *parking;
    struct launcher launcher;
    struct bundle_template *bundle;
    struct image_store *images;
    struct network *network;
    struct watch *watch;
    struct chores *chores;
    bool user_namespaces;
    uint64_t nofile_hard;
    pthread_mutex_t
        lock; // guards `boxes` (the map; an entry belongs to the one operation of its sandbox)
    struct map boxes; // id -> struct box
};

struct box *box_new(const char *id);
void box_free(struct box *b);                                 // closes; NULL is fine
struct box *box_find(struct oci *o, const char *id);          // NULL: unknown
int box_put(struct oci *o, struct box *b, struct error *err); // takes it on success
struct box *box_take(struct oci *o, const char *id);          // out of the map

// The operations of runtime.h.
int sandbox_provision(struct oci *o, const struct provision_request *q,
                      struct provision_result *ret, struct error *err);
int sandbox_adopt(struct oci *o, const char *id, const char *state, struct inspection *ret,
                  struct error *err);
int sandbox_destroy(struct oci *o, const char *id, struct error *err);
int sandbox_retire(struct oci *o, const char *id, struct error *err);
int sandbox_pause(struct oci *o, const char *id, struct error *err);
int sandbox_resume(struct oci *o, const char *id, struct error *err);
int sandbox_inspect(struct oci *o, const char *id, struct inspection *ret, struct error *err);
int sandbox_logs(struct oci *o, const char *id, struct strbuf *ret, struct error *err);
int sandbox_facts(struct oci *o, const char *id, struct pairs *ret, struct error *err);
int sandbox_dial(struct oci *o, const char *id, unsigned port, int *ret_fd, struct error *err);

// Provisions with a given root (also for the probe of start(), which stands on nothing).
struct sandbox_root {
    const char *path;
    const struct image_config *config; // NULL: an empty one
    const json_t *base;                // NULL: none
};
int sandbox_provision_root(struct oci *o, const struct provision_request *q,
                           const struct sandbox_root *root, struct provision_result *ret,
                           struct error *err);

// Field 22 of /proc/<pid>/stat; 0 when there is no such process.
uint64_t process_start_time(pid_t pid);

#endif
