#include "server/runtime/oci/bundle.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/handoff.h"
#include "fmt/json.h"
#include "server/runtime/oci/seccomp.h"

enum {
    ID_RANGE = 65536,
    CPU_PERIOD_US = 100000,
    CPU_SHARES_MIN = 2,
    NOFILE_SOFT = 1024,
    UMASK = 022
};

struct bundle_template {
    struct bundle_shared shared;
    json_t *capabilities, *mounts, *masked, *read_only, *devices, *env, *args;
    json_t *seccomp;     // runc only
    json_t *annotations; // crun: with the compiled program
    json_t *mappings;    // runc only
    char hash[SHA256_HEX_SIZE];
};

// The usual capabilities of containers less AUDIT_WRITE, MKNOD and NET_RAW.
static const char *const capabilities[] = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE",     "CAP_FOWNER",    "CAP_FSETID",
    "CAP_KILL",    "CAP_NET_BIND_SERVICE", "CAP_SETFCAP",   "CAP_SETGID",
    "CAP_SETPCAP", "CAP_SETUID",           "CAP_SYS_CHROOT"};

// In this order; options separated by commas. /dev/shm is added with its size, volumes come last.
static const struct {
    const char *destination, *type, *options;
} mounts[] = {
    {"/proc", "proc", "nosuid,noexec,nodev"},
    {"/dev", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k"},
    {"/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"/dev/mqueue", "mqueue", "nosuid,noexec,nodev"},
    {"/sys", "sysfs", "nosuid,noexec,nodev,ro"},
    {"/sys/fs/cgroup", "cgroup",
     "ro,nosuid,nodev,noexec,relatime"}, // execd reads its usage and limits there
};
static const char *const masked[] = {
    "/proc/acpi",          "/proc/asound",     "/proc/kcore",       "/proc/keys",
    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
    "/proc/scsi",          "/proc/interrupts", "/sys/firmware",     "/sys/devices/virtual/powercap",
    "/sys/fs/selinux",     "/sys/dev/block",   "/sys/kernel/debug", "/sys/kernel/tracing",
    "/sys/kernel/security"};
static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                        "/proc/sysrq-trigger"};

static json_t *strings(const char *const *items, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_string(items[i]));
    return list;
}

static json_t *mount_json(const char *destination, const char *type, const char *source,
                          const char *options) {
    json_t *list = json_array();
    for (const char *p = options; *p;) {
        size_t len = strcspn(p, ",");
        json_array_append_new(list, json_stringn(p, len));
        p += len + (p[len] == ',');
    }
    return json_pack("{s:s,s:s,s:s,s:o}", "destination", destination, "type", type, "source",
                     source, "options", list);
}

static int add_seccomp(struct bundle_template *t, struct error *err) {
    const struct bundle_shared *s = &t->shared;
    if (s->runc)
        return (t->seccomp = seccomp_section(s->seccomp, s->seccomp_arches, err)) ? 0 : -1;
    // crun compiles a section at 22 ms per create: it gets the program itself. The section is not
    // kept beside it, because crun would parse it each time; that the program is in force is
    // checked on every sandbox (probe.h).
    cleanup_free char *program = seccomp_compile(s->seccomp, s->seccomp_arches, err);
    if (!program)
        return -1;
    json_object_set_new(t->annotations, "run.oci.seccomp_bpf_data", json_string(program));
    return 0;
}

static int hash_template(struct bundle_template *t, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, BUNDLE_MAX);
    const json_t *const parts[] = {t->capabilities, t->mounts, t->masked,      t->read_only,
                                   t->devices,      t->env,    t->annotations, t->seccomp};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (parts[i] && json_write(parts[i], &sb))
            return error_set(err, ENOMEM, "out of memory");
    sha256_hex(sb.data, sb.len, t->hash);
    return 0;
}

struct bundle_template *bundle_template_new(const struct bundle_shared *s, struct error *err) {
    struct bundle_template *t = calloc(1, sizeof *t);
    if (!t)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    t->shared = *s;
    json_t *caps = strings(capabilities, ARRAY_SIZE(capabilities));
    t->capabilities =
        json_pack("{s:O,s:O,s:O}", "bounding", caps, "effective", caps, "permitted", caps);
    json_decref(caps);
    t->mounts = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(mounts); i++)
        json_array_append_new(t->mounts, mount_json(mounts[i].destination, mounts[i].type,
                                                    mounts[i].type, mounts[i].options));
    json_array_append_new(t->mounts,
                          mount_json(BUNDLE_EXECD, "bind", s->execd_path, "bind,ro,nosuid,nodev"));
    t->masked = strings(masked, ARRAY_SIZE(masked));
    t->read_only = strings(read_only, ARRAY_SIZE(read_only));
    t->devices = json_pack("[{s:b,s:s}]", "allow", 0, "access", "rwm");
    char handoff[64];
    (void)snprintf(handoff, sizeof handoff, "%s=%d", HANDOFF_VARIABLE, HANDOFF_FIRST_FD);
    // without HOME crun reads the image's /etc/passwd, which may be a FIFO
    t->env =
        json_pack("[s,s,s]", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                  "HOME=/", handoff);
    t->args = json_pack("[s,s]", BUNDLE_EXECD, "init");
    t->annotations = json_pack("{s:s}", "io.opensandbox.instance", s->instance);
    if (s->runc)
        t->mappings = json_pack("[{s:i,s:I,s:i}]", "containerID", 0, "hostID",
                                (json_int_t)s->id_base, "size", ID_RANGE);
    bool whole = t->capabilities && t->mounts && t->masked && t->read_only && t->devices &&
                 t->env && t->args && t->annotations;
    if (!whole)
        (void)error_set(err, ENOMEM, "out of memory");
    if (!whole || add_seccomp(t, err) || hash_template(t, err)) {
        bundle_template_free(t);
        return NULL;
    }
    return t;
}

void bundle_template_free(struct bundle_template *t) {
    if (!t)
        return;
    json_t *const parts[] = {t->capabilities, t->mounts, t->masked,  t->read_only,   t->devices,
                             t->env,          t->args,   t->seccomp, t->annotations, t->mappings};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        json_decref(parts[i]);
    free(t);
}

const char *bundle_template_hash(const struct bundle_template *t) {
    return t->hash;
}

// ---- one sandbox ----

static json_t *process_json(const struct bundle_template *t, const struct bundle *b) {
    json_t *groups = json_array();
    for (unsigned i = 0; i < b->group_count; i++)
        json_array_append_new(groups, json_integer((json_int_t)b->groups[i]));
    json_t *user = json_pack("{s:I,s:I,s:i,s:o}", "uid", (json_int_t)b->uid, "gid",
                             (json_int_t)b->gid, "umask", UMASK, "additionalGids", groups);
    json_int_t soft = b->nofile_hard < NOFILE_SOFT ? (json_int_t)b->nofile_hard : NOFILE_SOFT;
    json_t *limits = json_pack("[{s:s,s:I,s:I},{s:s,s:i,s:i}]", "type", "RLIMIT_NOFILE", "hard",
                               (json_int_t)b->nofile_hard, "soft", soft, "type", "RLIMIT_CORE",
                               "hard", 0, "soft", 0);
    return json_pack("{s:b,s:o,s:O,s:O,s:s,s:b,s:O,s:o,s:i}", "terminal", 0, "user", user, "args",
                     t->args, "env", t->env, "cwd", "/", "noNewPrivileges", 1, "capabilities",
                     t->capabilities, "rlimits", limits, "oomScoreAdj", 0);
}

static json_t *mounts_json(const struct bundle_template *t, const struct bundle *b) {
    char text[4200], options[96];
    json_t *list = json_copy(t->mounts);
    (void)snprintf(options, sizeof options, "nosuid,noexec,nodev,mode=1777,size=%llu",
                   (unsigned long long)b->shm_bytes);
    json_array_append_new(list, mount_json("/dev/shm", "tmpfs", "shm", options));
    for (size_t i = 0; b->volumes && i < b->volumes->count; i++) {
        const struct volume *v = &b->volumes->items[i];
        (void)snprintf(text, sizeof text, "%s/%zu", b->volume_dir, i);
        // repeated here: crun's own bind drops the flags of the source mount
        json_array_append_new(
            list, mount_json(v->mount_path, "bind", text,
                             v->read_only ? "bind,ro,nosuid,nodev" : "bind,nosuid,nodev"));
    }
    return list;
}

static json_t *resources_json(const struct bundle_template *t, const struct bundle *b) {
    json_t *j =
        json_pack("{s:O,s:{s:I}}", "devices", t->devices, "pids", "limit", (json_int_t)b->pids);
    if (b->memory_bytes) {
        json_t *memory = json_pack("{s:I}", "limit", (json_int_t)b->memory_bytes);
        if (t->shared.swap_limit) // of memory and swap together: none
            json_object_set_new(memory, "swap", json_integer((json_int_t)b->memory_bytes));
        json_object_set_new(j, "memory", memory);
    }
    if (b->cpu_millis) {
        json_int_t millis = (json_int_t)b->cpu_millis, shares = millis * 1024 / 1000;
        json_int_t quota = millis * (CPU_PERIOD_US / 1000);
        json_object_set_new(j, "cpu",
                            json_pack("{s:I,s:I,s:i}", "shares",
                                      shares < CPU_SHARES_MIN ? CPU_SHARES_MIN : shares, "quota",
                                      quota, "period", CPU_PERIOD_US));
    }
    return j;
}

static json_t *namespaces_json(const struct bundle *b) {
    static const char *const own[] = {"pid", "ipc", "uts", "mount", "cgroup"};
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        json_array_append_new(list, json_pack("{s:s}", "type", own[i]));
    json_array_append_new(list, json_pack("{s:s,s:s}", "type", "network", "path", b->net_path));
    if (b->user_path)
        json_array_append_new(list, json_pack("{s:s,s:s}", "type", "user", "path", b->user_path));
    return list;
}

int bundle_write(const struct bundle_template *t, const struct bundle *b, struct strbuf *sb,
                 struct error *err) {
    json_t *platform = json_pack("{s:o,s:s,s:O,s:O,s:o}", "namespaces", namespaces_json(b),
                                 "cgroupsPath", b->cgroup_path, "maskedPaths", t->masked,
                                 "readonlyPaths", t->read_only, "resources", resources_json(t, b));
    if (t->seccomp)
        json_object_set(platform, "seccomp", t->seccomp);
    if (b->user_path && t->mappings) {
        json_object_set(platform, "uidMappings", t->mappings);
        json_object_set(platform, "gidMappings", t->mappings);
    }
    cleanup_json json_t *config = json_pack(
        "{s:s,s:o,s:{s:s,s:b},s:s,s:o,s:O,s:o}", "ociVersion", "1.0.2", "process",
        process_json(t, b), "root", "path", t->shared.root_path, "readonly", 0, "hostname", b->id,
        "mounts", mounts_json(t, b), "annotations", t->annotations, "linux", platform);
    if (!config || json_write(config, sb))
        return error_set(err, ENOMEM,
                         "the sandbox's configuration does not fit into memory or %d bytes",
                         (int)BUNDLE_MAX);
    return 0;
}
