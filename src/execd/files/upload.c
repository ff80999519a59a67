// POST /files/upload (execd.md 6.9). A worker takes the body apart and writes the files. Most of a
// body of known length it reads from the client's socket itself, for as long as there is something;
// of the rest, and of chunked bodies, the loop gathers bytes and hands them over in batches: while
// the worker is at one the next is gathered, and when that is full the client is not read.
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "execd/files/place.h"
#include "execd/files/task.h"
#include "execd/handlers.h"
#include "fmt/json.h"
#include "http/multipart.h"
#include "io/stream.h"

enum {
    BATCH = 512 * 1024,  // handed over at once: a change of threads costs as much as 64 KiB
    BATCH_MAX = 2 << 20, // with what comes in the call that fills it
    LENT_READ = 256 * 1024,
    LENT_LEAST = 64 * 1024,   // what is there; smaller pieces are gathered first
    LENT_MAX = 16 << 20,      // in one go; others may wait for the worker
    METADATA_MAX = 64 * 1024, // one metadata part
    PAIRS_MAX = 100000,
    SPOOLS_MAX = 64 // files that came before their metadata
};

enum part { PART_OTHER, PART_METADATA, PART_FILE };

struct upload {
    struct job job;
    struct http_exchange *x;
    struct strbuf filling; // the loop's
    bool busy, paused, ended, whole;
    int from; // the client's socket, -1 until it was lent
    // the worker's while busy
    uint64_t lent, taken; // bytes that it may read from there, and those that it has read
    struct files_who who;
    struct strbuf working;
    struct multipart *parser;
    enum part part;
    struct strbuf metadata_text;
    json_t *metadata; // array of what came, in order
    size_t files;     // begun
    struct files_place place;
    int spools[SPOOLS_MAX]; // by index of the file; -1: none
    bool last, failed;
    struct error err;
};

static void drop_files(struct upload *u);

static void upload_free(struct upload *u) {
    drop_files(u); // normally done by the worker
    if (u->from >= 0)
        (void)close(u->from);
    multipart_free(u->parser);
    json_decref(u->metadata);
    strbuf_free(&u->filling);
    strbuf_free(&u->working);
    strbuf_free(&u->metadata_text);
    files_who_clear(&u->who);
    free(u);
}

// ---- worker: one pair of metadata and file ----

static int read_metadata(struct upload *u, size_t index, struct files_meta *ret, char **ret_path) {
    const json_t *m = json_array_get(u->metadata, index);
    const char *path = json_string_value(execd_member(m, "path"));
    if (files_meta_parse(m, CODE_METADATA, ret, &u->err) < 0)
        return -1;
    if (!path || !*path)
        return error_api(&u->err, 400, CODE_METADATA, "metadata path is empty");
    *ret_path = files_resolve(&u->who, path, &u->err);
    return *ret_path ? 0 : -1;
}

static int copy_failed(struct upload *u, const char *path) {
    return files_error(&u->err, errno == ENOENT ? EIO : errno, "error copying file", path);
}

static int begin_file(struct upload *u) {
    struct files_meta meta;
    char *path = NULL;
    size_t index = u->files++;
    if (index < json_array_size(u->metadata)) {
        if (read_metadata(u, index, &meta, &path) < 0)
            return -1;
        return files_place_open(&u->who, &u->place, path, true, &meta, &u->err);
    }
    if (index >= SPOOLS_MAX)
        return error_api(&u->err, 400, CODE_FILE,
                         "more than %d files came before their metadata: send the metadata first",
                         SPOOLS_MAX);
    return files_place_spool(&u->who, &u->place, &u->err);
}

static int end_file(struct upload *u) {
    struct files_meta meta;
    char *path = NULL;
    size_t index = u->files - 1;
    if (!u->place.name[0]) {
        u->spools[index] = TAKE_FD(u->place.fd);
        files_place_clear(&u->place);
        return 0;
    }
    if (read_metadata(u, index, &meta, &path) < 0 ||
        files_place_commit(&u->who, &u->place, path, &meta, &u->err) < 0)
        return -1;
    files_place_clear(&u->place);
    return 0;
}

static int end_metadata(struct upload *u) {
    struct error why;
    json_t *value = json_parse(u->metadata_text.data, u->metadata_text.len, NULL, &why);
    size_t index = json_array_size(u->metadata);
    strbuf_clear(&u->metadata_text);
    if (!json_is_object(value)) {
        int r = error_api(&u->err, 400, CODE_METADATA, "invalid metadata format. %s",
                          value ? "an object is expected" : why.message);
        json_decref(value);
        return r;
    }
    if (index >= PAIRS_MAX || json_array_append_new(u->metadata, value))
        return error_api(&u->err, 400, CODE_FILE, "more than %d files in one upload", PAIRS_MAX);
    if (index >= SPOOLS_MAX || u->spools[index] < 0)
        return 0;
    // its file waits already: it is begun again as the one of this index
    cleanup_close int spool = TAKE_FD(u->spools[index]);
    size_t files = u->files;
    u->files = index;
    int r = begin_file(u);
    if (!r && files_place_copy(&u->place, spool) < 0)
        r = copy_failed(u, u->place.name);
    if (!r)
        r = end_file(u);
    u->files = files;
    return r;
}

// ---- worker: parts ----

static int on_begin(void *arg, const struct multipart_part *part) {
    struct upload *u = arg;
    u->part = PART_OTHER;
    if (part->filename && !strcmp(part->name, "metadata"))
        u->part = PART_METADATA;
    else if (part->filename && !strcmp(part->name, "file"))
        u->part = PART_FILE;
    return u->part == PART_FILE ? begin_file(u) : 0;
}

static int on_data(void *arg, const char *data, size_t len) {
    struct upload *u = arg;
    if (u->part == PART_FILE && files_place_write(&u->place, data, len) < 0)
        return copy_failed(u, u->place.name[0] ? u->place.name : "spool");
    if (u->part == PART_METADATA && strbuf_add(&u->metadata_text, data, len) < 0)
        return error_api(&u->err, 400, CODE_METADATA, "invalid metadata format. longer than %d KiB",
                         METADATA_MAX / 1024);
    return 0;
}

static int on_end(void *arg) {
    struct upload *u = arg;
    if (u->part == PART_FILE)
        return end_file(u);
    return u->part == PART_METADATA ? end_metadata(u) : 0;
}

static const struct multipart_callbacks callbacks = {on_begin, on_data, on_end};

static int not_multipart(struct upload *u, const char *why) {
    return error_api(&u->err, 400, CODE_FILE, "multipart form is empty. %s", why);
}

static int finish(struct upload *u) {
    struct error why = {0};
    if (multipart_finish(u->parser, &why) < 0)
        return not_multipart(u, why.message);
    size_t metadata = json_array_size(u->metadata);
    if (!metadata)
        return error_api(&u->err, 400, CODE_METADATA, "metadata file is missing");
    if (!u->files)
        return error_api(&u->err, 400, CODE_CONTENT, "file is missing");
    if (u->files != metadata)
        return error_api(&u->err, 400, CODE_FILE, "metadata and file count mismatch: %zu vs %zu",
                         metadata, u->files);
    return 0;
}

static int feed(struct upload *u, const char *data, size_t len) {
    struct error why = {0};
    if (multipart_feed(u->parser, data, len, &why) < 0)
        return why.kind ? not_multipart(u, why.message) : -1;
    return 0;
}

// Ends early when nothing is there now, or the client is gone: the loop sees to both.
static int read_lent(struct upload *u) {
    strbuf_clear(&u->working);
    char *buffer = u->lent ? strbuf_reserve(&u->working, LENT_READ) : NULL;
    while (buffer && u->taken < u->lent) {
        uint64_t left = u->lent - u->taken;
        ssize_t n = read(u->from, buffer, left < LENT_READ ? left : LENT_READ);
        if (n <= 0)
            break;
        u->taken += (uint64_t)n;
        if (feed(u, buffer, (size_t)n) < 0)
            return -1;
    }
    return 0;
}

static int work(struct upload *u) {
    if (feed(u, u->working.data, u->working.len) < 0 || read_lent(u) < 0)
        return -1;
    return u->last ? finish(u) : 0;
}

// Nothing half written stays beside its place.
static void drop_files(struct upload *u) {
    files_place_clear(&u->place);
    for (size_t i = 0; i < SPOOLS_MAX; i++)
        if (u->spools[i] >= 0)
            (void)close(TAKE_FD(u->spools[i]));
}

static void run(struct job *job) {
    struct upload *u = CONTAINER_OF(job, struct upload, job);
    if (!u->failed && (!u->last || u->whole)) {
        u->failed = files_who_enter(&u->who, &u->err) < 0;
        if (!u->failed) {
            u->failed = work(u) < 0;
            files_who_leave(&u->who);
        }
    }
    if (u->failed || u->last)
        drop_files(u);
}

// ---- loop ----

static void hand_over(struct upload *u);

static void answer(struct upload *u) {
    if (u->ended && !u->whole) // nobody is there
        http_stream_abort(u->x);
    else if (u->failed)
        http_reply_error(u->x, &u->err);
    else
        http_reply_empty(u->x, 200);
    upload_free(u);
}

static void done(struct job *job) {
    struct upload *u = CONTAINER_OF(job, struct upload, job);
    u->busy = false;
    strbuf_clear(&u->working);
    http_body_took(u->x, u->taken);
    u->lent = u->taken = 0;
    if (u->last) {
        answer(u);
        return;
    }
    struct http_exchange *x = u->x;
    bool resume = u->paused && !u->ended;
    u->paused = false;
    hand_over(u); // and is gone when its end could not be handed over
    if (resume)
        http_body_resume(x); // the last thing: it may call back
}

// Gives the free worker what was gathered. After a failure the rest of the body is only read, so
// that the client reads the answer.
static void submit(struct upload *u) {
    struct strbuf swap = u->working;
    struct error why;
    u->working = u->filling;
    u->filling = swap;
    u->last = u->ended;
    struct workers *w = execd_workers(execd_of(u->x), &why);
    u->busy = w && !workers_submit(w, &u->job);
    if (u->busy)
        return;
    strbuf_clear(&u->working);
    if (!u->failed)
        (void)error_api(&u->err, 503, CODE_UNAVAILABLE, "too many file operations at once");
    u->failed = true;
    u->lent = 0;
    if (u->last)
        answer(u);
}

static void hand_over(struct upload *u) {
    if (!u->busy && (u->filling.len >= BATCH || u->ended))
        submit(u);
}

static bool on_body(struct http_exchange *x, const char *data, size_t len) {
    struct upload *u = x->user;
    (void)strbuf_add(&u->filling, data, len); // a failure is told at the end
    hand_over(u);
    u->paused = u->busy && u->filling.len >= BATCH;
    return !u->paused;
}

static bool on_lend(struct http_exchange *x, struct stream *from, uint64_t max) {
    struct upload *u = x->user;
    int there = 0;
    if (u->failed || ioctl(stream_fd(from), FIONREAD, &there) < 0 || there < LENT_LEAST)
        return true;
    if (u->from < 0 && (u->from = fcntl(stream_fd(from), F_DUPFD_CLOEXEC, 3)) < 0)
        return true;
    if (!u->busy) {
        u->lent = max < LENT_MAX ? max : LENT_MAX;
        submit(u);
    }
    u->paused = u->busy;
    return !u->paused;
}

static void on_body_end(struct http_exchange *x, bool ok) {
    struct upload *u = x->user;
    if (u->ended)
        return;
    u->ended = true;
    u->whole = ok && !u->filling.failed;
    hand_over(u);
}

// A connection that was reset, or cut at our own end, has no end of its body.
static void on_gone(struct http_exchange *x) {
    on_body_end(x, false);
}

void handle_files_upload(struct http_exchange *x) {
    static const struct http_body body = {.data = on_body, .end = on_body_end, .lend = on_lend};
    struct upload *u = calloc(1, sizeof *u);
    const char *type = http_header(x, "content-type");
    struct error why;
    if (!u) {
        execd_fail(x, 500, CODE_RUNTIME, "out of memory");
        return;
    }
    if (!files_who_init(&u->who, x)) {
        free(u);
        return;
    }
    u->x = x;
    u->from = -1;
    u->job.run = run;
    u->job.done = done;
    strbuf_init(&u->filling, BATCH_MAX);
    strbuf_init(&u->working, BATCH_MAX);
    strbuf_init(&u->metadata_text, METADATA_MAX);
    files_place_init(&u->place);
    memset(u->spools, -1, sizeof u->spools);
    u->metadata = json_array();
    u->parser = multipart_new(type ? type : "", &callbacks, u, &why);
    if (!u->parser || !u->metadata) {
        execd_fail(x, 400, CODE_FILE, "multipart form is empty. %s",
                   u->parser ? "out of memory" : why.message);
        upload_free(u);
        return;
    }
    x->user = u;
    x->on_gone = on_gone;
    http_body_start(x, &body);
}
