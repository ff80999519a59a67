// Listening sockets: bursts, pause, a full descriptor table.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include "io/stream.h"
#include "io_test.h"

enum { MANY = 200 };

struct door {
    int fds[MANY];
    unsigned count;
    unsigned close_after; // > 0: the listener is closed in that call
    bool drop;
};

static void accepted(struct listener *li, int fd, void *arg) {
    struct door *d = arg;
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(d->count < MANY);
    d->fds[d->count++] = fd;
    if (d->count == d->close_after)
        listener_close(li);
}

static void clear(struct door *d) {
    while (d->count)
        close(d->fds[--d->count]);
}

static struct listener *open_door(struct loop *l, struct door *d) {
    struct error err;
    int fd = listen_tcp("127.0.0.1", 0, MANY, &err);
    assert_true(fd >= 0);
    struct listener *li = listener_open(l, fd, accepted, d);
    assert_non_null(li);
    return li;
}

static int knock(unsigned port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void many_clients_at_once_are_all_accepted(void **state) {
    struct loop *l = *state;
    struct door d = {0};
    struct listener *li = open_door(l, &d);
    int clients[MANY];
    for (int i = 0; i < MANY; i++)
        clients[i] = knock(listener_port(li));
    UNTIL(l, d.count == MANY);
    for (int i = 0; i < MANY; i++)
        close(clients[i]);
    clear(&d);
    listener_close(li);
    listener_close(NULL);
}

static void a_paused_listener_leaves_clients_in_the_queue(void **state) {
    struct loop *l = *state;
    struct door d = {0};
    struct listener *li = open_door(l, &d);
    listener_pause(li, true);
    int client = knock(listener_port(li));
    for (int i = 0; i < 5; i++)
        loop_step(l);
    assert_int_equal(d.count, 0);
    listener_pause(li, false);
    UNTIL(l, d.count == 1);
    close(client);
    clear(&d);
    listener_close(li);
}

static void a_listener_closes_inside_its_callback(void **state) {
    struct loop *l = *state;
    struct door d = {.close_after = 2};
    struct listener *li = open_door(l, &d);
    int clients[4];
    for (int i = 0; i < 4; i++)
        clients[i] = knock(listener_port(li));
    UNTIL(l, d.count == 2);
    loop_step(l);
    assert_int_equal(d.count, 2);
    for (int i = 0; i < 4; i++)
        close(clients[i]);
    clear(&d);
}

static void a_full_descriptor_table_pauses_and_recovers(void **state) {
    struct loop *l = *state;
    struct door d = {0};
    struct listener *li = open_door(l, &d);
    struct rlimit before, tight;
    int client = knock(listener_port(li));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    int next = dup(client); // the lowest free number is where the table ends
    assert_true(next >= 0);
    close(next);
    tight.rlim_cur = (rlim_t)next;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    UNTIL(l, heap_peek(&l->timers)); // waits for a while instead of spinning
    assert_int_equal(d.count, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    UNTIL(l, d.count == 1);
    close(client);
    clear(&d);
    listener_close(li);
}

static void a_closed_listener_waits_for_nothing(void **state) {
    struct loop *l = *state;
    struct door d = {0};
    struct listener *li = open_door(l, &d);
    unsigned port = listener_port(li);
    listener_close(li);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), -1);
    assert_int_equal(errno, ECONNREFUSED);
}

static void addresses_are_literal(void **state) {
    struct error err = {0};
    (void)state;
    assert_int_equal(listen_tcp("localhost", 0, 1, &err), -1);
    assert_int_equal(err.kind, EINVAL);
    assert_non_null(strstr(err.message, "localhost"));
    cleanup_close int fd = listen_tcp("::1", 0, 1, &err);
    assert_true(fd >= 0);
    assert_int_equal(listen_tcp("192.0.2.1", 0, 1, &err), -1);
    assert_int_equal(err.kind, EADDRNOTAVAIL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(many_clients_at_once_are_all_accepted),
        LOOP_TEST(a_paused_listener_leaves_clients_in_the_queue),
        LOOP_TEST(a_listener_closes_inside_its_callback),
        LOOP_TEST(a_full_descriptor_table_pauses_and_recovers),
        LOOP_TEST(a_closed_listener_waits_for_nothing),
        LOOP_TEST(addresses_are_literal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
