#include "egress/resolve/forward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/random.h"

static void attempt(struct flight *f);

static uint16_t draw(struct forwarder *fw) {
    if (!fw->random_left) {
        random_bytes(fw->random, sizeof fw->random);
        fw->random_left = ARRAY_SIZE(fw->random);
    }
    return fw->random[--fw->random_left];
}

static void release(struct flight *f) {
    timer_stop(&f->timer);
    stream_close(TAKE_PTR(f->stream));
    stream_close(TAKE_PTR(f->udp.stream));
    free(TAKE_PTR(f->buffer));
    f->got = 0;
}

static void finish(struct flight *f, uint8_t *message, size_t len) {
    uint8_t *buffer = TAKE_PTR(f->buffer); // the message may be in it
    list_remove(&f->node);
    f->forwarder->flights -= !f->probe;
    release(f);
    f->forwarder = NULL;
    f->done(f, message, len);
    free(buffer);
}

static void failed(struct flight *f) {
    if (f->at < f->forwarder->count)
        f->forwarder->upstreams[f->at].failed++;
    release(f);
    attempt(f);
}

static void on_time_out(struct timer *t) {
    failed(CONTAINER_OF(t, struct flight, timer));
}

// A server that was not asked yet: healthy ones first, in their order.
static bool choose(struct flight *f) {
    const struct forwarder *fw = f->forwarder;
    for (int sick = 0; sick < 2; sick++)
        for (unsigned i = 0; i < fw->count; i++)
            if (!(f->tried & 1u << i) && fw->upstreams[i].sick == sick) {
                f->at = i;
                f->tried |= 1u << i;
                return true;
            }
    return false;
}

static bool others_left(const struct flight *f) {
    return (f->tried & ((1u << f->forwarder->count) - 1)) != (1u << f->forwarder->count) - 1;
}

static int open_socket(struct flight *f, int type) {
    const struct upstream *u = &f->forwarder->upstreams[f->at];
    struct sockaddr_storage to;
    socklen_t size = net_sockaddr(&u->address, u->port, &to);
    cleanup_close int fd = socket(to.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    uint32_t mark = f->forwarder->mark;
    if (fd < 0 || (mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) < 0) ||
        (connect(fd, (struct sockaddr *)&to, size) < 0 && errno != EINPROGRESS))
        return -1;
    return TAKE_FD(fd);
}

// ---- the stock ----

// Late answers, and refusals of questions that nobody waits for any more.
static void on_idle(struct stream *s, unsigned events, void *arg) {
    struct forwarder *fw = arg;
    (void)events;
    for (int i = 0; i < 8; i++)
        if (stream_read(s, fw->scratch, sizeof fw->scratch) < 0)
            return;
}

static void keep_socket(struct flight *f) {
    struct forwarder *fw = f->forwarder;
    if (f->probe || !f->udp.stream || f->udp.uses >= FORWARD_SOCKET_USES ||
        fw->stocked == FORWARD_STOCK) {
        stream_close(TAKE_PTR(f->udp.stream));
        return;
    }
    stream_set_owner(f->udp.stream, on_idle, fw);
    fw->stock[fw->stocked++] = f->udp;
    f->udp.stream = NULL;
}

// One of the idle sockets of the server, any; false: there is none.
static bool take_socket(struct flight *f) {
    struct forwarder *fw = f->forwarder;
    unsigned random = draw(fw);
    for (unsigned i = 0; i < fw->stocked; i++) {
        struct forward_socket *s = &fw->stock[(i + random) % fw->stocked];
        if (s->upstream != f->at)
            continue;
        f->udp = *s;
        *s = fw->stock[--fw->stocked];
        return true;
    }
    return false;
}

void forward_renew(struct forwarder *fw) {
    while (fw->stocked)
        stream_close(fw->stock[--fw->stocked].stream);
}

static void arrived(struct flight *f, uint8_t *message, size_t len) {
    enum dns_rcode rcode = dns_rcode(message);
    if (f->at < f->forwarder->count)
        f->forwarder->upstreams[f->at].sick = false;
    keep_socket(f);
    if (f->probe || rcode == DNS_NOERROR || rcode == DNS_NXDOMAIN)
        finish(f, message, len);
    else
        failed(f);
}

// ---- TCP ----

static void read_tcp(struct flight *f) {
    if (!f->buffer && !(f->buffer = calloc(1, DNS_MESSAGE_MAX + 2))) {
        failed(f);
        return;
    }
    for (;;) {
        size_t whole = f->got < 2 ? 2 : 2 + ((size_t)f->buffer[0] << 8 | f->buffer[1]);
        if (f->got >= 2 && f->got == whole)
            break;
        ssize_t n = stream_read(f->stream, f->buffer + f->got, whole - f->got);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            failed(f);
            return;
        }
        f->got += (size_t)n;
    }
    if (dns_response_fits(f->buffer + 2, f->got - 2, &f->q, f->id) &&
        !dns_is_truncated(f->buffer + 2))
        arrived(f, f->buffer + 2, f->got - 2);
    else
        failed(f);
}

static void on_tcp(struct stream *s, unsigned events, void *arg) {
    struct flight *f = arg;
    if (events & STREAM_WRITABLE) {
        uint8_t message[DNS_SHORT_MAX + 2];
        size_t len = dns_write_query(message + 2, &f->q, f->id);
        message[0] = (uint8_t)(len >> 8);
        message[1] = (uint8_t)len;
        if (stream_write(s, message, len + 2) != (ssize_t)len + 2) { // the first bytes always fit
            failed(f);
            return;
        }
        stream_want(s, STREAM_READABLE);
        return;
    }
    read_tcp(f);
}

static void ask_again_tcp(struct flight *f) {
    keep_socket(f);
    f->tcp = true;
    int fd = open_socket(f, SOCK_STREAM);
    if (fd < 0 || !(f->stream = stream_open(f->forwarder->loop, fd, on_tcp, f))) {
        failed(f);
        return;
    }
    stream_want(f->stream, STREAM_WRITABLE);
}

// ---- UDP ----

static int ask_udp(struct flight *f, bool old);

static void on_udp(struct stream *s, unsigned events, void *arg) {
    struct flight *f = arg;
    struct forwarder *fw = f->forwarder;
    (void)events;
    for (;;) {
        ssize_t n = stream_read(s, fw->scratch, sizeof fw->scratch);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) { // refused; on an old socket perhaps long ago
            bool old = f->udp.uses > 1;
            stream_close(TAKE_PTR(f->udp.stream));
            if (!old || ask_udp(f, false) < 0)
                failed(f);
            return;
        }
        if (!dns_response_fits(fw->scratch, (size_t)n, &f->q, f->id))
            continue; // somebody else's, or forged: the real one may still come
        if (dns_is_truncated(fw->scratch) && !f->probe)
            ask_again_tcp(f);
        else
            arrived(f, fw->scratch, (size_t)n);
        return;
    }
}

static int ask_udp(struct flight *f, bool old) {
    uint8_t message[DNS_SHORT_MAX];
    size_t len = dns_write_query(message, &f->q, f->id);
    if (old && take_socket(f)) {
        stream_set_owner(f->udp.stream, on_udp, f);
    } else {
        int fd = open_socket(f, SOCK_DGRAM);
        f->udp = (struct forward_socket){.upstream = f->at};
        if (fd < 0 || !(f->udp.stream = stream_open(f->forwarder->loop, fd, on_udp, f)))
            return -1;
        stream_want(f->udp.stream, STREAM_READABLE);
    }
    f->udp.uses++;
    if (send(stream_fd(f->udp.stream), message, len, MSG_DONTWAIT) == (ssize_t)len)
        return 0;
    stream_close(TAKE_PTR(f->udp.stream));
    return old && f->udp.uses > 1 ? ask_udp(f, false) : -1; // an old one tells of an old refusal
}

static int64_t patience(const struct flight *f) {
    int64_t left = f->deadline_ms - clock_boot_ms();
    int64_t ms = f->probe ? FORWARD_PROBE_MS : f->forwarder->time_out_ms;
    if (!f->probe && others_left(f) && ms > FORWARD_FAIL_OVER_MS)
        ms = FORWARD_FAIL_OVER_MS;
    return ms < left ? ms : left;
}

// The next server, or the end. A server that cannot even be sent to costs nothing.
static void attempt(struct flight *f) {
    while (clock_boot_ms() < f->deadline_ms && (f->probe ? !f->tried : choose(f))) {
        f->tried |= 1u << f->at;
        f->tcp = false;
        f->id = draw(f->forwarder);
        f->forwarder->upstreams[f->at].asked++;
        if (!ask_udp(f, !f->probe)) {
            timer_start(f->forwarder->loop, &f->timer, patience(f), on_time_out);
            return;
        }
        f->forwarder->upstreams[f->at].failed++;
        release(f);
    }
    finish(f, NULL, 0);
}

static void launch(struct forwarder *fw, struct flight *f) {
    f->forwarder = fw;
    f->stream = f->udp.stream = NULL;
    f->buffer = NULL;
    f->tried = 0;
    f->got = 0;
    f->timer = (struct timer){0};
    f->deadline_ms = clock_boot_ms() + 2 * fw->time_out_ms;
    list_push_back(&fw->running, &f->node);
    attempt(f);
}

int forward_ask(struct forwarder *fw, struct flight *f) {
    if (fw->flights >= FORWARD_FLIGHTS_MAX)
        return -1;
    fw->flights++;
    f->probe = false;
    launch(fw, f);
    return 0;
}

void forward_cancel(struct flight *f) {
    if (!f->forwarder)
        return;
    list_remove(&f->node);
    f->forwarder->flights -= !f->probe;
    release(f);
    f->forwarder = NULL;
}

// ---- health ----

static void probe_done(struct flight *f, uint8_t *message, size_t len) {
    struct forwarder *fw = CONTAINER_OF(f - f->at, struct forwarder, probes[0]);
    (void)message;
    fw->upstreams[f->at].sick = !len;
}

static void on_probe(struct timer *t) {
    struct forwarder *fw = CONTAINER_OF(t, struct forwarder, probe_timer);
    static const unsigned ns = 2;
    for (unsigned i = 0; i < fw->count; i++) {
        struct flight *f = &fw->probes[i];
        bool root = !*fw->probe_name;
        if (f->forwarder ||
            dns_make_query(&f->q, fw->probe_name, root ? (enum dns_type)ns : DNS_A) < 0)
            continue;
        f->probe = true;
        f->at = i;
        f->done = probe_done;
        launch(fw, f);
    }
    timer_start(fw->loop, t, fw->probe_every_ms, on_probe);
}

void forward_start(struct forwarder *fw, struct loop *l) {
    fw->loop = l;
    list_init(&fw->running);
    on_probe(&fw->probe_timer);
}

void forward_stop(struct forwarder *fw) {
    timer_stop(&fw->probe_timer);
    while (!list_empty(&fw->running))
        finish(LIST_ENTRY(fw->running.next, struct flight, node), NULL, 0);
    forward_renew(fw);
}
