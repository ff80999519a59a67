#include "server/runtime/docker/ssh/forward.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/path.h"
#include "io/spawn.h"

enum { READY_MS = 15000, ORDER_MS = 10000, RETRY_MS = 1000, ARGS = 48, ERRORS_MAX = 1024 };

struct ssh_forwards {
    char *const *ssh;
    const char *host;
    char directory[64], control[80];
    pthread_mutex_t lock; // guards what follows, and orders to ssh
    int master;           // pidfd; -1: none
    int64_t failed_ms;    // boot clock; 0: the last attempt worked
};

static void path_of(const struct ssh_forwards *f, unsigned port, char ret[80]) {
    (void)snprintf(ret, 80, "%s/%u", f->directory, port);
}

// ssh's own arguments, with options of ours before those it has for the engine.
static void command(const struct ssh_forwards *f, const char *const *options, char *ret[ARGS]) {
    size_t n = 0;
    ret[n++] = f->ssh[0];
    while (*options)
        ret[n++] = (char *)*options++;
    for (char *const *rest = f->ssh + 1; *rest && n + 1 < ARGS; rest++)
        ret[n++] = *rest;
    ret[n] = NULL;
}

// ---- the ssh that carries them ----

static void end_master(struct ssh_forwards *f) {
    struct exit_status status;
    if (f->master < 0)
        return;
    (void)pidfd_send_signal(f->master, SIGKILL, NULL, 0); // it may have ended
    (void)spawn_wait(f->master, -1, &status);
    (void)close(TAKE_FD(f->master));
}

static bool master_lives(struct ssh_forwards *f) {
    struct pollfd p = {.fd = f->master, .events = POLLIN};
    return f->master >= 0 && poll(&p, 1, 0) == 0;
}

// The local command runs once the way is there and ssh listens for orders.
static int await_master(int from, struct error *err) {
    struct pollfd p = {.fd = from, .events = POLLIN};
    char byte;
    int r = poll(&p, 1, READY_MS);
    if (r == 1 && read(from, &byte, 1) == 1)
        return 0;
    return error_set(err, EHOSTUNREACH,
                     "ssh to the engine's host %s; this server's log has its why",
                     r == 1 ? "ended" : "is not there yet");
}

static int start_master(struct ssh_forwards *f, struct error *err) {
    static const char *const options[] = {"-N",
                                          "-oControlMaster=yes",
                                          "-oControlPersist=no",
                                          "-oServerAliveInterval=15",
                                          "-oStreamLocalBindMask=0177",
                                          "-oStreamLocalBindUnlink=yes",
                                          "-oPermitLocalCommand=yes",
                                          "-oLocalCommand=echo"};
    const char *all[ARRAY_SIZE(options) + 2] = {0};
    char *argv[ARGS], path[100];
    pid_t pid;
    int ends[2];
    end_master(f);
    (void)unlink(f->control); // a dead one's
    (void)snprintf(path, sizeof path, "-oControlPath=%s", f->control);
    memcpy(all, options, sizeof options);
    all[ARRAY_SIZE(options)] = path;
    command(f, all, argv);
    if (pipe2(ends, O_CLOEXEC))
        return error_errno(err, errno, "ssh");
    cleanup_close int from = ends[0], to = ends[1];
    const struct spawn s = {.argv = argv,
                            .envp = environ,
                            .stdio = {-1, to, STDERR_FILENO}, // why ssh refuses is in our log
                            .flags = SPAWN_NEW_GROUP | SPAWN_SEARCH_PATH | SPAWN_DIE_WITH_US};
    if (spawn_start(&s, &pid, &f->master, err))
        return error_wrap(err, "ssh");
    (void)close(TAKE_FD(to));
    if (!await_master(from, err))
        return 0;
    end_master(f);
    return -1;
}

static int order(struct ssh_forwards *f, const char *what, unsigned port, struct error *err) {
    char control[100], path[80], forward[400];
    struct strbuf errors cleanup_strbuf;
    struct exit_status status = {0};
    strbuf_init(&errors, ERRORS_MAX);
    path_of(f, port, path);
    (void)snprintf(control, sizeof control, "-oControlPath=%s", f->control);
    (void)snprintf(forward, sizeof forward, "-L%s:[%s]:%u", path, f->host, port);
    const char *const options[] = {control, "-O", what, forward, NULL};
    char *argv[ARGS];
    command(f, options, argv);
    const struct spawn s = {
        .argv = argv, .envp = environ, .stdio = {-1, -1, -1}, .flags = SPAWN_SEARCH_PATH};
    if (spawn_run(&s, NULL, 0, NULL, &errors, ORDER_MS, &status, err))
        return error_wrap(err, "ssh -O %s", what);
    return status.code == 0
               ? 0
               : error_set(err, EHOSTUNREACH, "ssh -O %s %u: %.200s", what, port, errors.data);
}

// ---- dialling ----

static int connect_to(const struct ssh_forwards *f, unsigned port) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char path[80];
    path_of(f, port, path);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof a))
        return -1;
    return TAKE_FD(fd);
}

static int forward(struct ssh_forwards *f, unsigned port, struct error *err) {
    int64_t now = clock_boot_ms();
    if (!master_lives(f)) {
        if (f->failed_ms && now - f->failed_ms < RETRY_MS)
            return error_set(err, EHOSTUNREACH, "ssh to the engine's host failed a moment ago");
        if (start_master(f, err)) {
            f->failed_ms = clock_boot_ms();
            return -1;
        }
        f->failed_ms = 0;
    }
    return order(f, "forward", port, err);
}

int ssh_forward_dial(struct ssh_forwards *f, unsigned port, int *ret_fd, struct error *err) {
    int fd = connect_to(f, port);
    if (fd < 0) {
        (void)pthread_mutex_lock(&f->lock);
        fd = connect_to(f, port); // somebody else may have done it meanwhile
        int r = fd < 0 ? forward(f, port, err) : 0;
        if (!r && fd < 0 && (fd = connect_to(f, port)) < 0)
            r = error_errno(err, errno, "port %u through ssh", port);
        (void)pthread_mutex_unlock(&f->lock);
        if (r)
            return -1;
    }
    *ret_fd = fd;
    return 0;
}

void ssh_forward_drop(struct ssh_forwards *f, unsigned port) {
    char path[80];
    struct error ignored; // an ssh that has ended forwards nothing
    path_of(f, port, path);
    (void)pthread_mutex_lock(&f->lock);
    if (access(path, F_OK) == 0 && master_lives(f))
        (void)order(f, "cancel", port, &ignored);
    (void)unlink(path);
    (void)pthread_mutex_unlock(&f->lock);
}

// ---- life ----

// Ours alone: nobody else made it, or can put anything there.
static int own_directory(const char *path, struct error *err) {
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST)
        return error_errno(err, errno, "%s", path);
    if (lstat(path, &st))
        return error_errno(err, errno, "%s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return error_set(err, EACCES, "%s is another user's, or open to others; remove it", path);
    return 0;
}

struct ssh_forwards *ssh_forwards_new(char *const *ssh, const char *host, const char *name,
                                      struct error *err) {
    struct ssh_forwards *f = calloc(1, sizeof *f);
    if (!f)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    f->ssh = ssh;
    f->host = host;
    f->master = -1;
    (void)snprintf(f->directory, sizeof f->directory, "/tmp/opensandbox-ssh-%.32s", name);
    (void)snprintf(f->control, sizeof f->control, "%s/ssh", f->directory);
    if (own_directory(f->directory, err)) {
        free(f);
        return NULL;
    }
    (void)pthread_mutex_init(&f->lock, NULL);
    return f;
}

void ssh_forwards_free(struct ssh_forwards *f) {
    struct error err;
    if (!f)
        return;
    end_master(f);
    if (path_remove_tree(AT_FDCWD, f->directory, &err))
        log_warning("%s stays: %s", f->directory, err.message);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}
