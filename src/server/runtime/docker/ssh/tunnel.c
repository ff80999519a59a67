#include "server/runtime/docker/ssh/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "io/spawn.h"

enum { PROGRAMS = 64, BACKLOG = 64 };

struct engine_tunnel {
    pthread_t thread;
    char *const *argv;
    char name[32];
    int listener, inode;    // of its socket, O_PATH
    int programs[PROGRAMS]; // pidfds; -1: free
};

// A place for one more; ended programs are reaped on the way.
static int *place(struct engine_tunnel *t) {
    int *ret = NULL;
    for (size_t i = 0; i < PROGRAMS; i++) {
        struct exit_status status;
        if (t->programs[i] >= 0 && spawn_wait(t->programs[i], 0, &status) == 0)
            (void)close(TAKE_FD(t->programs[i]));
        if (t->programs[i] < 0)
            ret = &t->programs[i];
    }
    return ret;
}

static void start(struct engine_tunnel *t, int fd) {
    struct error err;
    pid_t pid;
    int *pidfd = place(t);
    const struct spawn s = {.argv = t->argv,
                            .envp = environ,
                            .stdio = {fd, fd, STDERR_FILENO}, // why ssh refuses is in our log
                            .flags = SPAWN_NEW_GROUP | SPAWN_SEARCH_PATH};
    if (!pidfd)
        log_warning("engine: more than %d connections through %s", PROGRAMS, t->argv[0]);
    else if (spawn_start(&s, &pid, pidfd, &err))
        log_warning("engine: %s: %s", t->argv[0], err.message);
}

// Whoever sees our descriptors could connect, too.
static bool is_us(int fd) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == getpid();
}

static void *run(void *arg) {
    struct engine_tunnel *t = arg;
    for (;;) {
        cleanup_close int fd = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && is_us(fd))
            start(t, fd);
        else if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
            return NULL; // shut down
    }
}

// A socket whose name is gone as soon as it is bound: it is reached by a descriptor, through /proc.
static int bind_unnamed(struct engine_tunnel *t) {
    char dir[] = "/tmp/opensandbox-XXXXXX"; // 0700
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!mkdtemp(dir))
        return errno;
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s/engine", dir);
    int r = bind(t->listener, (struct sockaddr *)&a, sizeof a) ? errno : 0;
    if (!r && (t->inode = open(a.sun_path, O_PATH | O_CLOEXEC)) < 0)
        r = errno;
    (void)unlink(a.sun_path); // it may not be there
    (void)rmdir(dir);
    (void)snprintf(t->name, sizeof t->name, "/proc/self/fd/%d", t->inode);
    return r;
}

static void close_sockets(struct engine_tunnel *t) {
    if (t->inode >= 0)
        (void)close(t->inode);
    if (t->listener >= 0)
        (void)close(t->listener);
}

struct engine_tunnel *engine_tunnel_new(char *const *argv, struct error *err) {
    struct engine_tunnel *t = calloc(1, sizeof *t);
    if (!t)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    for (size_t i = 0; i < PROGRAMS; i++)
        t->programs[i] = -1;
    t->argv = argv;
    t->inode = -1;
    t->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = t->listener < 0 ? errno : bind_unnamed(t);
    if (!r)
        r = listen(t->listener, BACKLOG) ? errno : pthread_create(&t->thread, NULL, run, t);
    if (!r)
        return t;
    close_sockets(t);
    free(t);
    return (void)error_errno(err, r, "socket for ssh"), NULL;
}

void engine_tunnel_free(struct engine_tunnel *t) {
    struct exit_status status;
    if (!t)
        return;
    (void)shutdown(t->listener, SHUT_RDWR);
    (void)pthread_join(t->thread, NULL);
    for (size_t i = 0; i < PROGRAMS; i++) {
        if (t->programs[i] < 0)
            continue;
        (void)pidfd_send_signal(t->programs[i], SIGKILL, NULL, 0); // it may have ended
        (void)spawn_wait(t->programs[i], -1, &status);
        (void)close(t->programs[i]);
    }
    close_sockets(t);
    free(t);
}

const char *engine_tunnel_name(const struct engine_tunnel *t) {
    return t->name;
}
