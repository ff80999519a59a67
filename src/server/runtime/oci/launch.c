#include "server/runtime/oci/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/parse.h"
#include "base/strbuf.h"
#include "io/spawn.h"

enum { PATH_SIZE = 512, LOG_MAX = 65536, FULL_BYTES = 65536, FULL_FILES = 8, OPTIONS_SIZE = 512 };

static char *const environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};

// Everything that the child between clone and exec needs, made before: it may only make system
// calls.
struct stage {
    const struct launcher *l;
    const struct launch *q;
    char unified[PATH_SIZE];
    char hidden[CGROUP_TREES_MAX][PATH_SIZE];
    const char *hidden_name[CGROUP_TREES_MAX];
    unsigned hidden_count;
    char volume[VOLUMES_MAX][32];
    char overlay[OPTIONS_SIZE];
};

// Relative names: the sandbox reads them in its mountinfo. 5.1: the modules' defaults differ.
static void write_options(char *text, size_t size, size_t layers) {
    size_t used = (size_t)snprintf(text, size, "lowerdir=");
    for (size_t i = layers; i-- > 0 && used < size;)
        used += (size_t)snprintf(text + used, size - used, "l%zu:", i);
    if (used < size)
        (void)snprintf(text + used, size - used,
                       "lower,upperdir=upper,workdir=work,index=off,metacopy=off,"
                       "redirect_dir=off,xino=off");
}

static int enter_stage(void *arg, const char **step) {
    struct stage *s = arg;
    const struct launch *q = s->q;
    *step = "make the mount namespace private";
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        return -1;
    *step = "cover the v2 half of hybrid control groups"; // unmounted, crun would leave plain
                                                          // directories below its mount point
    if (s->unified[0] &&
        mount("none", s->unified, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k"))
        return -1;
    *step = "mount a hidden control group hierarchy";
    for (unsigned i = 0; i < s->hidden_count; i++)
        if (mount("cgroup", s->hidden[i], "cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                  s->hidden_name[i]))
            return -1;
    (void)umask(022); // the runtime makes control groups with it; 077 would hide them from a mapped
                      // root (pitfall 51)
    // by its path: the descriptor's mount belongs to the server's namespace, and nothing can be
    // mounted on that from here. Then relative names: the sandbox reads the overlay's options in
    // its mountinfo
    *step = "enter the sandbox's directory";
    if (chdir(q->path))
        return -1;
    *step = "mount the image";
    if (move_mount(q->lower, "", AT_FDCWD, "lower", MOVE_MOUNT_F_EMPTY_PATH))
        return -1;
    *step = "mount the overlay";
    if (mount("overlay", s->l->root_path, "overlay", MS_NODEV, s->overlay))
        return -1;
    *step = "mount a volume";
    for (size_t i = 0; q->volumes && i < q->volumes->count; i++)
        if (move_mount(q->volumes->items[i].fd, "", AT_FDCWD, s->volume[i],
                       MOVE_MOUNT_F_EMPTY_PATH))
            return -1;
    return 0;
}

static void prepare_stage(struct stage *s, const struct launcher *l, const struct launch *q) {
    const struct cgroups *c = l->cgroups;
    *s = (struct stage){.l = l, .q = q};
    if (c->cover_unified && !l->runc)
        (void)snprintf(s->unified, sizeof s->unified, "%s/unified", c->root);
    write_options(s->overlay, sizeof s->overlay, q->layers);
    for (unsigned i = 0; i < c->count; i++)
        if (c->trees[i].hidden) {
            s->hidden_name[s->hidden_count] = c->trees[i].name;
            (void)snprintf(s->hidden[s->hidden_count++], PATH_SIZE, "%s/%s", c->root,
                           c->trees[i].name);
        }
    for (size_t i = 0; q->volumes && i < q->volumes->count; i++)
        (void)snprintf(s->volume[i], sizeof s->volume[i], "vol/%zu", i);
}

int launch_lower(const char *image_root, int user_namespace, int *ret_fd, struct error *err) {
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV};
    cleanup_close int tree = open_tree(AT_FDCWD, image_root, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0)
        return error_errno(err, errno, "image root %s", image_root);
    if (user_namespace >= 0) {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = (unsigned)user_namespace;
    }
    if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr))
        return error_errno(err, errno, "image root %s%s", image_root,
                           user_namespace >= 0 ? " with mapped ids" : "");
    *ret_fd = TAKE_FD(tree);
    return 0;
}

// The last line of the runtime's log without its decoration: "2026-11-24T14:00:00.1Z: text" of
// crun, or `time="..." level=error msg="text"` of runc.
static void runtime_words(int dir, char *text, size_t size) {
    cleanup_strbuf struct strbuf sb;
    struct error ignored;
    strbuf_init(&sb, LOG_MAX);
    (void)snprintf(text, size, "%s", "it left no message");
    if (fd_read_file(dir, "rt.log", &sb, &ignored) && !sb.len)
        return;
    while (sb.len && sb.data[sb.len - 1] == '\n')
        sb.data[--sb.len] = '\0';
    const char *line = strrchr(sb.data, '\n');
    line = line ? line + 1 : sb.data;
    const char *msg = strstr(line, "msg=\""), *colon = strstr(line, "Z: ");
    const char *words = msg ? msg + 5 : colon ? colon + 3 : line;
    size_t len = strlen(words);
    if (msg && len && words[len - 1] == '"')
        len--;
    if (len)
        (void)snprintf(text, size, "%.*s", (int)(len < 700 ? len : 700), words);
}

// Neither runtime tells when it could not even write its log.
static bool is_full(int dir) {
    struct statvfs v;
    return !fstatvfs(dir, &v) &&
           (v.f_bavail * v.f_frsize < FULL_BYTES || (v.f_files && v.f_favail < FULL_FILES));
}

static int read_pid(int dir, pid_t *ret_pid, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    uint64_t pid;
    strbuf_init(&sb, 64);
    if (fd_read_file(dir, "pid", &sb, err))
        return -1;
    if (parse_u64n(sb.data, strspn(sb.data, "0123456789"), 2, INT32_MAX, &pid))
        return error_set(err, EPROTO, "the runtime wrote no process id");
    *ret_pid = (pid_t)pid;
    return 0;
}

static int wait_runtime(int pidfd, int64_t time_out_ms, struct exit_status *ret,
                        struct error *err) {
    if (!spawn_wait(pidfd, time_out_ms, ret))
        return 0;
    int kind = errno;
    (void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    (void)spawn_wait(pidfd, -1, ret);
    return error_errno(err, kind, "the runtime program did not finish");
}

int launch_run(const struct launcher *l, const struct launch *q, pid_t *ret_pid,
               int64_t *ret_spawn_ns, struct error *err) {
    char log[PATH_SIZE], pid_file[PATH_SIZE], words[768];
    struct stage stage;
    struct exit_status status;
    pid_t pid;
    cleanup_close int pidfd = -1;
    (void)snprintf(log, sizeof log, "%s/rt.log", q->bundle_path);
    (void)snprintf(pid_file, sizeof pid_file, "%s/pid", q->bundle_path);
    const char *argv[24];
    unsigned n = 0;
    argv[n++] = l->runtime;
    argv[n++] = "--root", argv[n++] = l->state_path, argv[n++] = "--log", argv[n++] = log;
    if (!l->runc)
        argv[n++] =
            "--cgroup-manager=cgroupfs"; // with "disabled" crun would set no device rules either
    argv[n++] = "run", argv[n++] = "--detach", argv[n++] = "--bundle", argv[n++] = q->bundle_path;
    argv[n++] = "--pid-file", argv[n++] = pid_file, argv[n++] = "--preserve-fds", argv[n++] = "3",
    argv[n++] = q->id;
    argv[n] = NULL;
    prepare_stage(&stage, l, q);
    struct spawn s = {.file = l->runtime,
                      .exec_fd = l->runtime_fd,
                      .argv = (char *const *)argv,
                      .envp = environment,
                      .stdio = {-1, -1, -1}, // a detached sandbox keeps what the runtime had
                      .pass_count = HANDOFF_FDS,
                      .flags = SPAWN_NEW_GROUP | SPAWN_DIE_WITH_US,
                      .clone_flags = CLONE_NEWNS,
                      .prepare = enter_stage,
                      .prepare_arg = &stage};
    memcpy(s.pass, q->pass, sizeof q->pass);
    if (spawn_start(&s, &pid, &pidfd, err))
        return error_wrap(err, "launcher");
    *ret_spawn_ns = clock_boot_ns();
    if (wait_runtime(pidfd, q->time_out_ms, &status, err))
        return -1;
    if (!status.code && !status.signal)
        return read_pid(q->bundle, ret_pid, err);
    runtime_words(q->bundle, words, sizeof words);
    return error_set(err, is_full(q->dir) || is_full(q->bundle) ? ENOSPC : EIO, "%s: %s",
                     l->runc ? "runc" : "crun", words);
}

int launch_seal(const char *path, struct error *err) {
    struct stat st;
    cleanup_close int in = open(path, O_RDONLY | O_CLOEXEC),
                      out = memfd_create("runtime", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (in < 0 || out < 0 || fstat(in, &st))
        return error_errno(err, errno, "sealed copy of %s", path);
    for (off_t done = 0; done < st.st_size;) {
        ssize_t n = sendfile(out, in, &done, (size_t)(st.st_size - done));
        if (n <= 0)
            return error_errno(err, n ? errno : EIO, "sealed copy of %s", path);
    }
    if (fcntl(out, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
        return error_errno(err, errno, "sealed copy of %s", path);
    return TAKE_FD(out);
}
