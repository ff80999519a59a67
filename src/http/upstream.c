#include "http/upstream.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"

enum {
    // The largest head (target and fields, ours added) and one piece of a body behind it.
    OUT_MAX = H1_TARGET_MAX + H1_HEAD_BYTES_MAX + 512 * 1024,
    OUT_KEPT = 16 * 1024, // by an idle connection
    TUNNEL_BUFFER = 64 * 1024,
    PIECES_MAX = 3
};

struct http_dial {
    struct http_upstream *upstream;
    struct upstream_wait *wait; // NULL: nobody waits for it any more
};

struct http_upstream {
    struct list node; // in http_upstreams.all
    unsigned port;
    struct loop *loop;
    struct http_upstream_settings settings;
    struct list idle;    // struct upstream_link, last used first
    struct list tunnels; // struct upstream_link
    struct list waiting; // struct upstream_wait, first come first served
    struct timer sweep;  // of the oldest idle connection
    unsigned users, links, dials, idle_count, waiting_count;
    bool freed;   // by its owner
    bool serving; // serve() is on the stack
};

struct http_upstream *http_upstream_new(struct loop *l, const struct http_upstream_settings *s) {
    struct http_upstream *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->loop = l;
    u->settings = *s;
    list_init(&u->idle);
    list_init(&u->tunnels);
    list_init(&u->waiting);
    return u;
}

void upstream_enter(struct http_upstream *u) {
    u->users++;
}

void upstream_leave(struct http_upstream *u) {
    if (--u->users || !u->freed || u->links || u->dials)
        return;
    timer_stop(&u->sweep);
    free(u);
}

// ---- connections ----

static void idle_remove(struct upstream_link *link) {
    list_remove(&link->node);
    link->upstream->idle_count--;
}

// An idle peer has nothing to say: it closed the connection, or broke the protocol.
static void on_idle_ready(struct stream *s, unsigned events, void *arg) {
    struct upstream_link *link = arg;
    (void)s;
    (void)events;
    idle_remove(link);
    upstream_drop(link);
}

static void on_sweep(struct timer *t) {
    struct http_upstream *u = CONTAINER_OF(t, struct http_upstream, sweep);
    int64_t now = clock_boot_ms();
    upstream_enter(u);
    while (!list_empty(&u->idle)) {
        struct upstream_link *oldest = LIST_ENTRY(u->idle.prev, struct upstream_link, node);
        int64_t left = oldest->idle_since_ms + u->settings.idle_ms - now;
        if (left > 0) {
            timer_start(u->loop, &u->sweep, left, on_sweep);
            break;
        }
        idle_remove(oldest);
        upstream_drop(oldest);
    }
    upstream_leave(u);
}

static struct upstream_link *link_new(struct http_upstream *u, int fd) {
    struct upstream_link *link = calloc(1, sizeof *link);
    if (!link) {
        (void)close(fd);
        errno = ENOMEM;
        return NULL;
    }
    // Heads and bodies are written when there is something to send; fails on unix sockets.
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    link->stream = stream_open(u->loop, fd, NULL, NULL);
    if (!link->stream) {
        free(link);
        return NULL;
    }
    link->upstream = u;
    h1_init(&link->parser, H1_RESPONSE, &http_proxy_response, NULL);
    strbuf_init(&link->out, OUT_MAX);
    u->links++;
    return link;
}

static void serve(struct http_upstream *u);

void upstream_drop(struct upstream_link *link) {
    struct http_upstream *u = link->upstream;
    upstream_enter(u);
    stream_close(link->stream);
    h1_free(&link->parser);
    strbuf_free(&link->out);
    free(link);
    u->links--;
    serve(u);
    upstream_leave(u);
}

void upstream_put(struct upstream_link *link) {
    struct http_upstream *u = link->upstream;
    if (u->freed || u->settings.idle_ms <= 0 ||
        (u->idle_count >= u->settings.idle_max && list_empty(&u->waiting))) {
        upstream_drop(link);
        return;
    }
    if (link->out.capacity > OUT_KEPT)
        strbuf_free(&link->out);
    link->used = true;
    link->idle_since_ms = clock_boot_ms();
    stream_set_owner(link->stream, on_idle_ready, link);
    stream_want(link->stream, STREAM_READABLE);
    list_push_front(&u->idle, &link->node);
    u->idle_count++;
    if (!timer_armed(&u->sweep)) // else it comes early, and goes on with what is left then
        timer_start(u->loop, &u->sweep, u->settings.idle_ms, on_sweep);
    upstream_enter(u);
    serve(u);
    upstream_leave(u);
}

struct upstream_link *upstream_take(struct http_upstream *u) {
    struct list *node = list_pop(&u->idle);
    if (!node)
        return NULL;
    u->idle_count--;
    struct upstream_link *link = LIST_ENTRY(node, struct upstream_link, node);
    stream_set_owner(link->stream, NULL, NULL);
    return link;
}

bool upstream_is_alive(const struct upstream_link *link) {
    char c;
    ssize_t n = recv(stream_fd(link->stream), &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return n < 0 && errno == EAGAIN;
}

int upstream_send(struct upstream_link *link, const struct iovec *pieces, int count) {
    struct iovec all[PIECES_MAX + 1] = {{.iov_base = link->out.data, .iov_len = link->out.len}};
    for (int i = 0; i < count; i++)
        all[i + 1] = pieces[i];
    ssize_t n = stream_writev(link->stream, all, count + 1);
    if (n < 0 && errno != EAGAIN)
        return -1;
    size_t taken = n < 0 ? 0 : (size_t)n, from_out = taken < link->out.len ? taken : link->out.len;
    strbuf_consume(&link->out, from_out);
    taken -= from_out;
    for (int i = 0; i < count; i++) {
        size_t skip = taken < pieces[i].iov_len ? taken : pieces[i].iov_len;
        taken -= skip;
        if (strbuf_add(&link->out, (const char *)pieces[i].iov_base + skip,
                       pieces[i].iov_len - skip) < 0)
            return -1;
    }
    return 0;
}

static void on_tunnel_over(void *arg, uint64_t from_client, uint64_t to_client,
                           enum tunnel_end end) {
    struct upstream_link *link = arg;
    (void)from_client;
    (void)to_client;
    (void)end; // both sides have seen it
    list_remove(&link->node);
    upstream_drop(link);
}

void upstream_tunnel(struct upstream_link *link, struct stream *client, const void *early_client,
                     size_t early_client_len, const void *early_link, size_t early_link_len) {
    struct http_upstream *u = link->upstream;
    struct stream *ours = TAKE_PTR(link->stream);
    link->tunnel = tunnel_start(u->loop, client, ours, early_client, early_client_len, early_link,
                                early_link_len, TUNNEL_BUFFER, 0, on_tunnel_over, link);
    if (!link->tunnel) {
        upstream_drop(link);
        return;
    }
    list_push_back(&u->tunnels, &link->node);
}

// ---- dials and who waits for them ----

static void fail(struct upstream_wait *w, int kind, int status, const char *text) {
    struct error err;
    (void)error_set(&err, kind, "%s", text);
    err.status = status;
    w->ready(w, NULL, &err);
}

static void dial(struct http_upstream *u, struct upstream_wait *w) {
    struct http_dial *d = calloc(1, sizeof *d);
    if (!d) {
        fail(w, ENOMEM, 503, "out of memory");
        return;
    }
    *d = (struct http_dial){.upstream = u, .wait = w};
    w->dial = d;
    u->dials++;
    u->settings.dial(d, u->settings.arg);
}

static bool is_full(const struct http_upstream *u) {
    return u->links + u->dials >= u->settings.connections_max;
}

// Whoever waits gets what became free. A dial may fail on the spot, hence the guard: the loop goes
// on where a recursion of any depth would be.
static void serve(struct http_upstream *u) {
    if (u->serving)
        return;
    u->serving = true;
    while (!list_empty(&u->waiting) && (!list_empty(&u->idle) || !is_full(u))) {
        struct upstream_wait *w = LIST_ENTRY(list_pop(&u->waiting), struct upstream_wait, node);
        u->waiting_count--;
        struct upstream_link *link = upstream_take(u);
        if (link)
            w->ready(w, link, NULL);
        else
            dial(u, w);
    }
    u->serving = false;
}

void http_dial_done(struct http_dial *d, int fd, const struct error *err) {
    struct http_upstream *u = d->upstream;
    struct upstream_wait *w = d->wait;
    struct error why;
    struct upstream_link *link = fd < 0 ? NULL : link_new(u, fd);
    if (!link && fd >= 0) {
        (void)error_errno(&why, errno, "connection to the upstream");
        err = &why;
    }
    upstream_enter(u);
    u->dials--;
    free(d);
    if (w) {
        w->dial = NULL;
        w->ready(w, link, err);
    } else if (link) {
        upstream_put(link);
    }
    serve(u);
    upstream_leave(u);
}

void upstream_ask(struct http_upstream *u, struct upstream_wait *w) {
    w->dial = NULL;
    if (u->freed) {
        fail(w, ECONNREFUSED, 0, "the upstream is gone");
        return;
    }
    if (is_full(u) && !list_empty(&u->idle)) { // asked for a new one: the oldest makes room
        struct upstream_link *oldest = LIST_ENTRY(u->idle.prev, struct upstream_link, node);
        idle_remove(oldest);
        upstream_drop(oldest);
    }
    if (!is_full(u)) {
        dial(u, w);
    } else if (u->waiting_count < u->settings.waiting_max) {
        list_push_back(&u->waiting, &w->node);
        u->waiting_count++;
    } else {
        fail(w, EAGAIN, 503, "all connections to the upstream are in use and its queue is full");
    }
}

void upstream_cancel(struct http_upstream *u, struct upstream_wait *w) {
    if (w->dial) {
        w->dial->wait = NULL;
        w->dial = NULL;
    } else if (w->node.next) {
        list_remove(&w->node);
        u->waiting_count--;
    }
}

bool http_upstream_in_use(const struct http_upstream *u) {
    return u->users || u->dials || u->links > u->idle_count;
}

void http_upstream_free(struct http_upstream *u) {
    if (!u)
        return;
    u->freed = true;
    upstream_enter(u);
    for (struct list *node; (node = list_pop(&u->waiting));) {
        u->waiting_count--;
        fail(LIST_ENTRY(node, struct upstream_wait, node), ECONNREFUSED, 0, "the upstream is gone");
    }
    while (!list_empty(&u->idle)) {
        struct upstream_link *link = LIST_ENTRY(u->idle.next, struct upstream_link, node);
        idle_remove(link);
        upstream_drop(link);
    }
    while (!list_empty(&u->tunnels))
        tunnel_abort(LIST_ENTRY(u->tunnels.next, struct upstream_link, node)->tunnel);
    upstream_leave(u);
}

// ---- by port ----

struct http_upstreams {
    struct loop *loop;
    struct http_upstream_settings settings;
    struct list all; // struct http_upstream, latest use first
    unsigned count, max;
};

struct http_upstreams *http_upstreams_new(struct loop *l, const struct http_upstream_settings *s,
                                          unsigned max) {
    struct http_upstreams *set = calloc(1, sizeof *set);
    if (!set)
        return NULL;
    *set = (struct http_upstreams){.loop = l, .settings = *s, .max = max};
    list_init(&set->all);
    return set;
}

static void remove_upstream(struct http_upstreams *set, struct http_upstream *u) {
    list_remove(&u->node);
    set->count--;
    http_upstream_free(u);
}

// Makes room by the one that nobody has used for the longest time.
static bool make_room(struct http_upstreams *set) {
    for (struct list *node = set->all.prev; set->count >= set->max && node != &set->all;) {
        struct http_upstream *u = LIST_ENTRY(node, struct http_upstream, node);
        node = node->prev;
        if (!http_upstream_in_use(u))
            remove_upstream(set, u);
    }
    return set->count < set->max;
}

struct http_upstream *http_upstreams_at(struct http_upstreams *set, unsigned port) {
    LIST_EACH(&set->all, node) {
        struct http_upstream *u = LIST_ENTRY(node, struct http_upstream, node);
        if (u->port == port) {
            list_remove(&u->node);
            list_push_front(&set->all, &u->node);
            return u;
        }
    }
    struct http_upstream *u = make_room(set) ? http_upstream_new(set->loop, &set->settings) : NULL;
    if (!u)
        return NULL;
    u->port = port;
    list_push_front(&set->all, &u->node);
    set->count++;
    return u;
}

void http_upstreams_free(struct http_upstreams *set) {
    if (!set)
        return;
    while (!list_empty(&set->all))
        remove_upstream(set, LIST_ENTRY(set->all.next, struct http_upstream, node));
    free(set);
}

unsigned http_dial_port(const struct http_dial *d) {
    return d->upstream->port;
}
