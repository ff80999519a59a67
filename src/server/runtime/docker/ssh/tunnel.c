#include "server/runtime/docker/ssh/tunnel.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/random.h"
#include "io/spawn.h"

enum { PROGRAMS = 64, BACKLOG = 64 };

struct engine_tunnel {
    pthread_t thread;
    char *const *argv;
    char name[48];
    int listener;
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

// Others on this host may connect to an abstract socket, too.
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

struct engine_tunnel *engine_tunnel_new(char *const *argv, struct error *err) {
    struct engine_tunnel *t = calloc(1, sizeof *t);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char word[33];
    if (!t)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    for (size_t i = 0; i < PROGRAMS; i++)
        t->programs[i] = -1;
    random_hex(word, 32);
    (void)snprintf(t->name, sizeof t->name, "opensandbox-%s", word);
    (void)snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "%s", t->name);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(t->name));
    t->argv = argv;
    t->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = t->listener < 0 || bind(t->listener, (struct sockaddr *)&a, len) ||
                    listen(t->listener, BACKLOG)
                ? errno
                : 0;
    if (!r)
        r = pthread_create(&t->thread, NULL, run, t);
    if (!r)
        return t;
    if (t->listener >= 0)
        (void)close(t->listener);
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
    (void)close(t->listener);
    free(t);
}

const char *engine_tunnel_name(const struct engine_tunnel *t) {
    return t->name;
}
