#include "server/runtime/oci/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/path.h"
#include "server/runtime/oci/probe.h"
#include "server/runtime/oci/sandbox.h"
#include "server/runtime/oci/sweep.h"
#include "server/runtime/oci/volume/named.h"

enum { NOFILE_MAX = 1048576 };

static const struct oci_settings defaults = {.run_dir = "/run/opensandbox",
                                             .runtime = "auto",
                                             .id_base = 1U << 20,
                                             .cgroup_root = "/sys/fs/cgroup",
                                             .cgroup_prefix = "opensandbox",
                                             .pool = "10.200.0.0/16",
                                             .stock = 16,
                                             .default_pids = 4096,
                                             .shm_bytes = 64ULL << 20,
                                             .start_timeout_ms = 30000,
                                             .egress_ready_ms = 30000,
                                             .image_max_bytes = 20ULL << 30,
                                             .image_max_entries = 2000000,
                                             .pull_timeout_ms = 600000};

static void fill_defaults(struct oci_settings *s) {
#define DEFAULT(member)                                                                            \
    if (!s->member)                                                                                \
    s->member = defaults.member
    DEFAULT(run_dir);
    DEFAULT(runtime);
    DEFAULT(id_base);
    DEFAULT(cgroup_root);
    DEFAULT(cgroup_prefix);
    DEFAULT(pool);
    DEFAULT(stock);
    DEFAULT(default_pids);
    DEFAULT(shm_bytes);
    DEFAULT(start_timeout_ms);
    DEFAULT(egress_ready_ms);
    DEFAULT(image_max_bytes);
    DEFAULT(image_max_entries);
    DEFAULT(pull_timeout_ms);
#undef DEFAULT
}

// ---- start ----

// Makes a directory with exactly this mode, whatever the umask; parents as they come.
static int make_dir(const char *path, mode_t mode, int *ret_fd, struct error *err) {
    cleanup_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), made = -1, fd = -1;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 &&
        errno == ENOENT) { // an existing path may have links of the operator's; a new one has none
        made = path_make_dirs(root, path + 1, 0755);
        if (made < 0)
            return error_errno(err, errno, "directory %s", path);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (fd < 0 || (mode && fchmod(fd, mode)))
        return error_errno(err, errno, "directory %s", path);
    if (ret_fd)
        *ret_fd = TAKE_FD(fd);
    return 0;
}

static int make_dirs(struct oci *o, struct error *err) {
    char path[OCI_PATH_SIZE + 16];
    if (make_dir(o->settings.state_dir, 0, NULL, err) || make_dir(o->dir_path, 0700, &o->dir, err))
        return -1;
    if (make_dir(o->sandboxes_path, 0700, &o->sandboxes, err))
        return -1;
    (void)snprintf(path, sizeof path, "%s/trash", o->dir_path);
    if (make_dir(path, 0700, &o->trash, err))
        return -1;
    // the mount point of all roots must be searchable for the mapped root; nothing else is
    // (oci-runtime.md 2.5)
    if (make_dir(o->settings.run_dir, 0711, NULL, err) || make_dir(o->run_path, 0711, NULL, err) ||
        make_dir(o->root_path, 0711, NULL, err))
        return -1;
    return make_dir(o->state_path, 0700, &o->state, err);
}

// Of starts that an earlier server did not see the end of.
static int make_bundles(struct oci *o, struct error *err) {
    cleanup_close int run = open(o->run_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run < 0)
        return error_errno(err, errno, "directory %s", o->run_path);
    return path_remove_tree(run, "bundles", err)
               ? -1
               : make_dir(o->bundles_path, 0700, &o->bundles, err);
}

static int find_runtime(struct oci *o, struct error *err) {
    static char runtime[PROBE_PATH_SIZE]; // one runtime per process
    bool runc;
    if (probe_kernel(err) || probe_programs(&o->settings, runtime, &runc, err))
        return -1;
    o->launcher = (struct launcher){.cgroups = &o->cgroups,
                                    .runtime = runtime,
                                    .runtime_fd = -1,
                                    .runc = runc,
                                    .state_path = o->state_path,
                                    .root_path = o->root_path};
    if (!runc && (o->launcher.runtime_fd = launch_seal(runtime, err)) < 0)
        return -1;
    struct bundle_shared shared = {.instance = o->settings.instance,
                                   .root_path = o->root_path,
                                   .execd_path = o->settings.execd_path,
                                   .runc = runc,
                                   .swap_limit = o->cgroups.swap_limit,
                                   .id_base = o->settings.id_base,
                                   .seccomp = o->settings.seccomp,
                                   .seccomp_arches = o->settings.seccomp_arches};
    o->bundle = bundle_template_new(&shared, err);
    return o->bundle ? 0 : -1;
}

// One sandbox of an empty image, made and destroyed like any other; provision itself checks what
// came to be.
static int probe_sandbox(struct oci *o, struct error *err) {
    char key[512], id[SANDBOX_ID_SIZE], path[OCI_PATH_SIZE + 16];
    probe_key(o->launcher.runtime, bundle_template_hash(o->bundle), cgroups_layout(&o->cgroups),
              o->user_namespaces, key, sizeof key);
    if (probe_remembered(o->dir, key))
        return 0;
    if (path_remove_tree(o->dir, "probe-root", err))
        return -1;
    (void)snprintf(path, sizeof path, "%s/probe-root", o->dir_path);
    if (make_dir(path, 0755, NULL, err))
        return -1;
    random_uuid(id);
    struct sandbox_spec spec = {.refs = 1};
    struct provision_request q = {
        .id = id,
        .spec = &spec,
        .image_id = "",
        .token_sha256_hex = "0000000000000000000000000000000000000000000000000000000000000000"};
    struct provision_result result;
    struct sandbox_root probe_root = {.path = path};
    struct error undo;
    int r = sandbox_provision_root(o, &q, &probe_root, &result, err);
    if (!r)
        r = sandbox_destroy(o, id, err);
    (void)path_remove_tree(o->dir, "probe-root", &undo); // tried again by the next probe
    if (!r)
        probe_remember(o->dir, key);
    return r;
}

static int try_with(struct oci *o, bool user_namespaces, struct error *err) {
    o->user_namespaces = user_namespaces;
    o->network = network_new(&o->settings, user_namespaces, err);
    if (o->network) {
        o->egress.resolvers = network_resolvers(o->network);
        o->egress.user_namespaces = user_namespaces;
        parking_use(o->parking, o->network);
    }
    if (o->network && !probe_sandbox(o, err))
        return 0;
    network_free(o->network, NETWORK_KEEP);
    o->network = NULL;
    return -1;
}

static int choose_user_namespaces(struct oci *o, struct error *err) {
    struct error with;
    enum oci_user_namespace wish = o->settings.user_namespace;
    if (wish == OCI_USERNS_NEVER)
        return try_with(o, false, err);
    if (!try_with(o, true, &with))
        return 0;
    if (wish == OCI_USERNS_REQUIRE || try_with(o, false, err)) {
        *err = with;
        return error_wrap(err, "probe sandbox");
    }
    log_warning("sandboxes run without user namespaces: %s", with.message);
    return 0;
}

static int oci_start(struct runtime *r, struct error *err) {
    struct oci *o = (struct oci *)r;
    struct rlimit limit;
    char parent[CGROUP_NAME_MAX];
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); // the first processes of sandboxes become our children
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return error_errno(err, errno, "limits");
    o->nofile_hard = limit.rlim_max < NOFILE_MAX
                         ? limit.rlim_max
                         : NOFILE_MAX; // above ours: EPERM without CAP_SYS_RESOURCE
    (void)snprintf(parent, sizeof parent, "%s-%s", o->settings.cgroup_prefix, o->settings.instance);
    if (cgroups_open(&o->cgroups, o->settings.cgroup_root, "/proc/self/cgroup", parent, err))
        return -1;
    cgroups_beside(&o->cgroups, ".egress", &o->egress_groups);
    o->egress = (struct egress_program){
        .settings = &o->settings, .groups = &o->egress_groups, .sandboxes_path = o->sandboxes_path};
    if (!(o->keeper = keeper_new(&o->egress, err)))
        return -1;
    if (make_dirs(o, err) || !(o->parking = parking_new(&o->egress, o->sandboxes, err)))
        return -1;
    if (sweep_runtimes(o->state_path, err) || make_bundles(o, err) || find_runtime(o, err))
        return -1;
    o->images = image_store_open(&o->settings, IMAGE_STORE_SERVER, err);
    o->watch = o->images ? watch_new(err) : NULL;
    o->chores = o->watch ? chores_new(o->cgroups.self_procs, o->trash, o->images, err) : NULL;
    if (!o->chores)
        return -1;
    chores_empty(o->chores);
    if (snapshots_open(o, err) || named_start(o, err) || choose_user_namespaces(o, err))
        return -1;
    log_info("oci runtime: %s, control groups %s, %s", o->launcher.runtime,
             cgroups_layout(&o->cgroups),
             o->user_namespaces ? "user namespaces" : "no user namespaces");
    return 0;
}

// ---- the table ----

static struct oci *self(struct runtime *r) {
    return (struct oci *)r;
}

static int oci_list_all(struct runtime *r, struct runtime_found **ret_found, size_t *ret_count,
                        struct error *err) {
    return sweep_list(self(r), ret_found, ret_count, err);
}
static int oci_adopt(struct runtime *r, const char *id, const struct sandbox_spec *spec,
                     const char *state, struct inspection *ret, struct error *err) {
    (void)spec; // all that matters is in the state
    return sandbox_adopt(self(r), id, state, ret, err);
}
static int oci_sweep(struct runtime *r, struct error *err) {
    return sweep_all(self(r), err);
}
static int oci_ensure_image(struct runtime *r, const struct image_request *q,
                            struct image_info *ret, struct error *err) {
    return image_store_ensure(self(r)->images, q, ret, err);
}
static bool oci_image_ready(struct runtime *r, const struct image_request *q,
                            struct image_info *ret) {
    return self(r)->images && image_store_ready(self(r)->images, q, ret);
}
static void oci_expect(struct runtime *r) {
    if (self(r)->chores)
        chores_expect(self(r)->chores);
}
static int oci_provision(struct runtime *r, const struct provision_request *q,
                         struct provision_result *ret, struct error *err) {
    return sandbox_provision(self(r), q, ret, err);
}
static int oci_destroy(struct runtime *r, const char *id, struct error *err) {
    return sandbox_destroy(self(r), id, err);
}
static int oci_retire(struct runtime *r, const char *id, struct error *err) {
    return sandbox_retire(self(r), id, err);
}
static int oci_pause(struct runtime *r, const char *id, struct error *err) {
    return sandbox_pause(self(r), id, err);
}
static int oci_resume(struct runtime *r, const char *id, struct error *err) {
    return sandbox_resume(self(r), id, err);
}
static int oci_snapshot(struct runtime *r, const char *id, const char *snapshot_id,
                        char *ret_artifact, struct error *err) {
    return snapshot_make(self(r), id, snapshot_id, ret_artifact, err);
}
static int oci_snapshot_find(struct runtime *r, const char *snapshot_id, char *ret_artifact,
                             struct error *err) {
    return snapshot_look(self(r), snapshot_id, ret_artifact, err);
}
static int oci_snapshot_remove(struct runtime *r, const char *snapshot_id, const char *artifact,
                               struct error *err) {
    (void)artifact; // the layer is found by the snapshot's id
    return snapshot_destroy(self(r), snapshot_id, err);
}
static int oci_inspect(struct runtime *r, const char *id, struct inspection *ret,
                       struct error *err) {
    return sandbox_inspect(self(r), id, ret, err);
}
static int oci_logs(struct runtime *r, const char *id, struct strbuf *ret, struct error *err) {
    return sandbox_logs(self(r), id, ret, err);
}
static int oci_facts(struct runtime *r, const char *id, struct pairs *ret, struct error *err) {
    return sandbox_facts(self(r), id, ret, err);
}
static int oci_dial(struct runtime *r, const char *id, unsigned port, int *ret_fd,
                    struct error *err) {
    return sandbox_dial(self(r), id, port, ret_fd, err);
}
static void oci_watch(struct runtime *r, struct loop *l, runtime_event_fn *event, void *arg) {
    watch_deliver(self(r)->watch, l, event, arg);
}
static void oci_stop(struct runtime *r) {
    if (self(r)->watch)
        watch_stop(self(r)->watch);
}

static bool free_box(const char *key, void *value, void *arg) {
    struct box *b = value;
    (void)key;
    if (!b->retired)
        *(enum network_end *)arg = NETWORK_KEEP;
    if (b->net.net_fd >= 0)
        (void)close(b->net.net_fd); // the sandbox holds its namespaces itself
    if (b->net.user_fd >= 0)
        (void)close(b->net.user_fd);
    box_free(b);
    return true;
}

static void close_all(const int *fds, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
}

static void oci_free(struct runtime *r) {
    struct oci *o = self(r);
    watch_free(o->watch);
    keeper_free(o->keeper);
    parking_free(o->parking);
    chores_free(o->chores);
    enum network_end end = NETWORK_LAST;
    map_each(&o->boxes, free_box, &end);
    map_clear(&o->boxes);
    network_free(o->network, end);
    image_store_close(o->images);
    bundle_template_free(o->bundle);
    cgroups_drop(&o->egress_groups);
    cgroups_close(&o->cgroups);
    const int fds[] = {
        o->launcher.runtime_fd, o->dir,     o->sandboxes, o->trash, o->state, o->layers,
        o->layer_refs,          o->volumes, o->bundles};
    close_all(fds, ARRAY_SIZE(fds));
    (void)rmdir(o->bundles_path);
    (void)rmdir(o->state_path); // these go when no sandbox lives
    if (access(o->state_path, F_OK)) {
        (void)rmdir(o->root_path);
        (void)rmdir(o->run_path);
        (void)rmdir(o->settings.run_dir);
    }
    (void)pthread_mutex_destroy(&o->lock);
    (void)pthread_mutex_destroy(&o->volume_lock);
    free(o);
}

static const struct runtime_ops ops = {.name = "oci",
                                       .code_prefix = "OCI",
                                       .features = RUNTIME_PAUSE | RUNTIME_NAMED_VOLUMES |
                                                   RUNTIME_NETWORK_POLICY,
                                       .start = oci_start,
                                       .list = oci_list_all,
                                       .adopt = oci_adopt,
                                       .sweep = oci_sweep,
                                       .ensure_image = oci_ensure_image,
                                       .image_ready = oci_image_ready,
                                       .expect = oci_expect,
                                       .provision = oci_provision,
                                       .destroy = oci_destroy,
                                       .retire = oci_retire,
                                       .pause = oci_pause,
                                       .resume = oci_resume,
                                       .snapshot = oci_snapshot,
                                       .snapshot_find = oci_snapshot_find,
                                       .snapshot_remove = oci_snapshot_remove,
                                       .inspect = oci_inspect,
                                       .logs = oci_logs,
                                       .facts = oci_facts,
                                       .dial = oci_dial,
                                       .watch = oci_watch,
                                       .stop = oci_stop,
                                       .free = oci_free};

static int check_settings(const struct oci_settings *s, struct error *err) {
    if (!s->state_dir || !path_is_clean(s->state_dir) || strlen(s->state_dir) > OCI_PATH_SIZE - 128)
        return error_set(
            err, EINVAL,
            "state directory \"%s\" is not an absolute, clean path of at most %d bytes",
            s->state_dir ? s->state_dir : "", OCI_PATH_SIZE - 128);
    if (!path_is_clean(s->run_dir) || strlen(s->run_dir) > OCI_PATH_SIZE - 128)
        return error_set(err, EINVAL, "run directory \"%s\" is not an absolute, clean path",
                         s->run_dir);
    if (!s->execd_path || !path_is_clean(s->execd_path))
        return error_set(err, EINVAL, "execd path \"%s\" is not an absolute, clean path",
                         s->execd_path ? s->execd_path : "");
    if (!s->instance || strlen(s->instance) != 8 || strspn(s->instance, "0123456789abcdef") != 8)
        return error_set(err, EINVAL, "instance id \"%s\" is not 8 lower-case hex digits",
                         s->instance ? s->instance : "");
    if (s->id_base < 65536 || s->id_base > INT32_MAX - 65536)
        return error_set(err, EINVAL, "id base %u lies outside of 65536..%d", s->id_base,
                         INT32_MAX - 65536);
    for (oci_list p = s->allowed_host_paths; p && *p; p++)
        if (!path_is_clean(*p))
            return error_set(err, EINVAL, "allowed host path \"%s\" is not an absolute, clean path",
                             *p);
    return 0;
}

struct runtime *oci_new(const struct oci_settings *s, struct error *err) {
    struct oci *o = calloc(1, sizeof *o);
    if (!o)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    o->base.ops = &ops;
    o->settings = *s;
    fill_defaults(&o->settings);
    if (check_settings(&o->settings, err)) {
        free(o);
        return NULL;
    }
    o->dir = o->sandboxes = o->trash = o->state = o->launcher.runtime_fd = -1;
    o->layers = o->layer_refs = o->volumes = o->bundles = -1;
    o->cgroups.self_procs = -1;
    (void)snprintf(o->dir_path, sizeof o->dir_path, "%s/oci", o->settings.state_dir);
    (void)snprintf(o->sandboxes_path, sizeof o->sandboxes_path, "%s/sandboxes", o->dir_path);
    (void)snprintf(o->run_path, sizeof o->run_path, "%s/%s", o->settings.run_dir,
                   o->settings.instance);
    (void)snprintf(o->root_path, sizeof o->root_path, "%s/%s/rootfs", o->settings.run_dir,
                   o->settings.instance);
    (void)snprintf(o->bundles_path, sizeof o->bundles_path, "%s/%s/bundles", o->settings.run_dir,
                   o->settings.instance);
    (void)snprintf(o->state_path, sizeof o->state_path, "%s/%s/runtime", o->settings.run_dir,
                   o->settings.instance);
    (void)pthread_mutex_init(&o->lock, NULL);
    (void)pthread_mutex_init(&o->volume_lock, NULL);
    map_init(&o->boxes);
    return &o->base;
}
