// GET /files/watch?path=&recursive=: what happens to a file or a tree, as it happens, in the
// framing of commands. Ours: no peer has it. A client that does not read stops the reading of the
// kernel's queue; when that is full the client is told that events were lost.
//
// {"type":"change","kind":"created","path":"/w/a","directory":false,"timestamp":1795391443806}
// kinds: created, modified, closed (by a writer), attributes, deleted, moved (with "from").
// {"type":"overflow"}: some were lost, look again. The root gone: `error`, and the end.
#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"
#include "execd/events.h"
#include "execd/files/task.h"
#include "execd/files/tree.h"
#include "execd/files/tree_watch.h"
#include "execd/handlers.h"
#include "io/stream.h"

struct watch {
    struct job job; // one at a time
    struct http_exchange *x;
    struct events *events;
    struct stream *in; // the inotify descriptor, for its readiness
    const char *given;
    bool recursive, busy, gone, over;
    // the worker's while busy
    struct files_who who;
    char *path;
    struct tree_watch *tree;
    json_t *told; // what a read brought: arrays of type and members
    int result;
    struct error err;
};

// ---- worker ----

static void tell(void *arg, enum tree_change change, const char *path, const char *from,
                 bool directory) {
    static const char *const kinds[] = {
        [TREE_CREATED] = "created",       [TREE_MODIFIED] = "modified", [TREE_CLOSED] = "closed",
        [TREE_ATTRIBUTES] = "attributes", [TREE_DELETED] = "deleted",   [TREE_MOVED] = "moved",
        [TREE_GONE] = "deleted"};
    struct watch *w = arg;
    json_t *members =
        change == TREE_OVERFLOW
            ? json_object()
            : json_pack("{s:s,s:o,s:o*,s:b}", "kind", kinds[change], "path", files_text(path),
                        "from", from ? files_text(from) : NULL, "directory", directory);
    if (members)
        (void)json_array_append_new(w->told, members);
}

static int open_tree(struct watch *w) {
    if (files_who_enter(&w->who, &w->err) < 0)
        return -1;
    w->path = files_resolve(&w->who, w->given, &w->err);
    if (!w->path)
        return -1;
    cleanup_close int fd = files_open(&w->who, w->path, O_PATH);
    if (fd < 0)
        return files_error(&w->err, errno, "error watching", w->path);
    w->tree = tree_watch_new(fd, w->path, w->recursive, &w->err);
    if (w->tree)
        return 0;
    (void)error_wrap(&w->err, "error watching %s", w->path);
    return -1;
}

static void run_open(struct job *job) {
    struct watch *w = CONTAINER_OF(job, struct watch, job);
    w->told = json_array();
    w->result = open_tree(w);
}

static void run_read(struct job *job) {
    struct watch *w = CONTAINER_OF(job, struct watch, job);
    w->over = !tree_watch_read(w->tree, tell, w);
}

// Closing an inotify descriptor with many watches takes its time.
static void run_end(struct job *job) {
    struct watch *w = CONTAINER_OF(job, struct watch, job);
    tree_watch_free(TAKE_PTR(w->tree));
}

// ---- loop ----

static void watch_free(struct watch *w) {
    tree_watch_free(w->tree);
    json_decref(w->told);
    files_who_clear(&w->who);
    free(w);
}

static void ended(struct job *job) {
    watch_free(CONTAINER_OF(job, struct watch, job));
}

static bool submit(struct watch *w, void (*run)(struct job *job), void (*done)(struct job *job)) {
    struct error err;
    struct workers *workers = execd_workers(execd_of(w->x), &err);
    w->job.run = run;
    w->job.done = done;
    w->busy = workers && !workers_submit(workers, &w->job);
    return w->busy;
}

static void end(struct watch *w) {
    struct error err;
    struct workers *workers = execd_workers(execd_of(w->x), &err);
    stream_close(w->in);
    events_end(w->events);
    w->job.run = run_end;
    w->job.done = ended;
    if (!workers || workers_submit(workers, &w->job) < 0)
        watch_free(w);
}

static void send_told(struct watch *w) {
    json_t *members;
    size_t i;
    json_array_foreach(w->told, i, members) events_emit(
        w->events, json_object_size(members) ? "change" : "overflow", json_incref(members));
    (void)json_array_clear(w->told);
    if (w->over)
        events_error(w->events, CODE_NOT_FOUND, "the watched path is gone", json_array());
    events_flush(w->events);
}

static void read_done(struct job *job) {
    struct watch *w = CONTAINER_OF(job, struct watch, job);
    w->busy = false;
    if (!w->gone)
        send_told(w);
    if (w->gone || w->over)
        end(w);
    else if (!events_blocked(w->events))
        stream_want(w->in, STREAM_READABLE);
}

static void on_ready(struct stream *s, unsigned events, void *arg) {
    struct watch *w = arg;
    (void)events;
    // no room in the queue: the loop comes back with the next readiness
    stream_want(s, submit(w, run_read, read_done) ? 0 : STREAM_READABLE);
}

static void on_room(void *arg) {
    struct watch *w = arg;
    if (!w->busy)
        stream_want(w->in, STREAM_READABLE);
}

static void on_gone(void *arg) {
    struct watch *w = arg;
    w->gone = true;
    if (!w->busy)
        end(w);
}

static void open_done(struct job *job) {
    struct watch *w = CONTAINER_OF(job, struct watch, job);
    const struct events_owner owner = {on_room, on_gone, w};
    w->busy = false;
    if (w->result == 0) {
        int fd = fcntl(tree_watch_fd(w->tree), F_DUPFD_CLOEXEC, 3);
        w->in = fd < 0 ? NULL : stream_open(w->x->loop, fd, on_ready, w);
        if (!w->in)
            w->result = error_api(&w->err, 500, CODE_RUNTIME, "error watching %s: %s", w->path,
                                  strerrordesc_np(errno));
    }
    if (w->result < 0) {
        http_reply_error(w->x, &w->err);
        watch_free(w);
        return;
    }
    w->events = events_begin(w->x, w->path, EVENTS_PINGS, &owner);
    if (!w->events) {
        stream_close(w->in);
        watch_free(w);
        return;
    }
    events_flush(w->events);
    stream_want(w->in, STREAM_READABLE);
}

void handle_files_watch(struct http_exchange *x) {
    const char *given = execd_query(x, "path"), *recursive = execd_query(x, "recursive");
    struct watch *w = calloc(1, sizeof *w);
    if (!given || !*given)
        execd_fail(x, 400, CODE_QUERY, "missing query parameter 'path'");
    else if (!w)
        execd_fail(x, 500, CODE_RUNTIME, "out of memory");
    else if (files_who_init(&w->who, x)) {
        w->x = x;
        w->given = given;
        w->recursive = recursive && (!strcmp(recursive, "true") || !strcmp(recursive, "1"));
        w->job.run = run_open;
        w->job.done = open_done;
        w->busy = true;
        if (!files_submit(x, &w->job))
            watch_free(w);
        return;
    }
    free(w);
}
