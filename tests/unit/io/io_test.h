// What the tests of io share: a loop that must be left clean, and waiting for conditions.
#ifndef IO_TEST_H
#define IO_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "io/loop.h"

// Turns the loop until the condition holds; a test that hangs is ended by the alarm. The poll only
// saves processor time: handles that were started in the last turn are not in it yet.
#define UNTIL(l, condition)                                                                        \
    do {                                                                                           \
        loop_step(l);                                                                              \
        if (!(condition))                                                                          \
            (void)poll(&(struct pollfd){.fd = uv_backend_fd(&(l)->uv), .events = POLLIN}, 1, 2);   \
    } while (!(condition))

// The bytes of long bodies: no two places look alike.
static inline char byte_at(size_t i) {
    return (char)(i * 2654435761u >> 13);
}

static inline int loop_begin(void **state) {
    struct error err;
    struct loop *l = malloc(sizeof *l);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)alarm(60);
    if (!l || loop_init(l, &err) < 0)
        return -1;
    *state = l;
    return 0;
}

static inline int loop_end(void **state) {
    struct loop *l = *state;
    int r = loop_close(l); // 0: nobody left a handle open
    free(l);
    (void)alarm(0);
    return r;
}

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, loop_begin, loop_end)

static inline void pair(int fds[2]) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

// Number of open descriptors of this process.
static inline unsigned open_descriptors(void) {
    unsigned n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

#endif
