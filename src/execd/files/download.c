// GET /files/download: bytes, byte ranges and windows of lines (execd.md 6.10, compat-1.1.1.md
// E11). A worker reads one piece while the other one is on its way to the client; a client that
// does not read stops the reading.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "execd/files/range.h"
#include "execd/files/task.h"
#include "execd/handlers.h"

enum { PIECE = 256 * 1024, PIECE_MAX = 4 * PIECE, READS_MAX = 64 };

struct download {
    struct job job; // one at a time
    struct http_exchange *x;
    const char *given, *range, *if_range, *if_modified, *if_unmodified; // of the request
    bool by_lines;
    uint64_t offset, limit;
    bool busy, gone;
    // the worker's while busy
    struct files_who who;
    const char *path;
    int fd, result;
    struct stat st;
    struct error err;
    unsigned status;
    uint64_t start, length, size; // of the part of a 206, of the file
    uint64_t at, left;            // bytes still to read; UINT64_MAX: to the end
    bool over, broken;
    char *raw; // of a window of lines
    struct files_lines window;
    struct strbuf pieces[2]; // the worker fills pieces[reading]
    // the loop's
    unsigned reading, sending;
    bool full[2];
};

static void download_free(struct download *d) {
    strbuf_free(&d->pieces[0]);
    strbuf_free(&d->pieces[1]);
    if (d->fd >= 0)
        (void)close(d->fd);
    free(d->raw);
    files_who_clear(&d->who);
    free(d);
}

// ---- worker ----

static ssize_t read_at(struct download *d, void *data, size_t size) {
    ssize_t n;
    do
        n = pread(d->fd, data, size, (off_t)d->at);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        d->at += (uint64_t)n;
    d->broken = n < 0;
    d->over = n <= 0;
    return n;
}

static void read_bytes(struct download *d, struct strbuf *piece) {
    size_t want = d->left < PIECE ? (size_t)d->left : PIECE;
    char *room = strbuf_reserve(piece, want);
    if (!room) {
        d->broken = d->over = true;
        return;
    }
    while (piece->len < want && !d->over) {
        ssize_t n = read_at(d, piece->data + piece->len, want - piece->len);
        piece->len += n > 0 ? (size_t)n : 0;
    }
    if (d->left == UINT64_MAX)
        return;
    d->left -= piece->len;
    d->broken = d->broken || (d->over && d->left); // it became shorter than what was promised
    d->over = d->over || !d->left;
}

// Until something comes out; but not for ever, the client may be gone.
static void read_lines(struct download *d, struct strbuf *piece) {
    if (!d->raw && !(d->raw = malloc(PIECE)))
        d->broken = d->over = true;
    for (int reads = 0; reads < READS_MAX && !piece->len && !d->over; reads++) {
        ssize_t n = read_at(d, d->raw, PIECE);
        if (n > 0 && files_lines_feed(&d->window, d->raw, (size_t)n, piece) < 0)
            d->broken = true;
        d->over = d->over || d->broken || files_lines_over(&d->window);
    }
}

static void read_piece(struct download *d) {
    struct strbuf *piece = &d->pieces[d->reading];
    strbuf_clear(piece);
    if (d->by_lines)
        read_lines(d, piece);
    else
        read_bytes(d, piece);
}

static int unsatisfiable(struct download *d, const char *why) {
    return error_api(&d->err, 416, CODE_UNKNOWN, "invalid range: %s", why);
}

// Seconds from the date of a field to the file's time, above 0 when it changed since; false when
// that is no date.
static bool changed_since(const struct download *d, const char *date, int64_t *ret) {
    int64_t then;
    if (!files_date_parse(date, &then))
        return false;
    *ret = d->st.st_mtim.tv_sec - then;
    return true;
}

// Status and what is to be read (RFC 9110 13.2.2).
static int decide(struct download *d) {
    int64_t since;
    const char *range = d->range;
    uint64_t start, len;
    d->status = 200;
    d->left = d->size;
    if (range && d->if_range && (!changed_since(d, d->if_range, &since) || since))
        range = NULL;
    switch (files_range_parse(range, d->size, &start, &len)) {
    case FILES_RANGE_MALFORMED: return unsatisfiable(d, "malformed");
    case FILES_RANGE_OUTSIDE: return unsatisfiable(d, "failed to overlap");
    case FILES_RANGE_PART:
        d->status = 206;
        d->start = d->at = start;
        d->length = d->left = len;
        return 0;
    case FILES_RANGE_WHOLE: break;
    }
    if (changed_since(d, d->if_unmodified, &since) && since > 0)
        d->status = 412;
    else if (changed_since(d, d->if_modified, &since) && since <= 0)
        d->status = 304;
    return 0;
}

static int open_file(struct download *d) {
    static const char what[] = "error opening file";
    d->path = files_resolve(&d->who, d->given, &d->err);
    if (!d->path)
        return -1;
    // O_NONBLOCK: a FIFO must not hold a worker
    d->fd = files_open(&d->who, d->path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (d->fd < 0 || fstat(d->fd, &d->st))
        return files_error(&d->err, errno, what, d->path);
    if (!S_ISREG(d->st.st_mode))
        return error_api(&d->err, 400, CODE_FILE, "not a regular file: %s", d->path);
    d->size = (uint64_t)d->st.st_size;
    if (d->by_lines)
        return 0;
    if (decide(d) < 0)
        return -1;
    if (!d->size && d->status == 200) // files of /proc have contents, but no size
        d->left = UINT64_MAX;
    return 0;
}

static void run_open(struct job *job) {
    struct download *d = CONTAINER_OF(job, struct download, job);
    d->result = files_who_enter(&d->who, &d->err);
    if (d->result < 0)
        return;
    d->result = open_file(d);
    if (!d->result && d->status != 304 && d->status != 412)
        read_piece(d);
    files_who_leave(&d->who);
}

static void run_read(struct job *job) {
    read_piece(CONTAINER_OF(job, struct download, job));
}

// ---- loop ----

static void finish(struct download *d, bool whole) {
    if (whole)
        http_stream_end(d->x);
    else
        http_stream_abort(d->x);
    download_free(d);
}

static void read_done(struct job *job);

// False: no worker takes it.
static bool read_next(struct download *d) {
    struct error err;
    if (d->busy || d->over || d->full[d->reading])
        return true;
    d->job.run = run_read;
    d->job.done = read_done;
    struct workers *w = execd_workers(execd_of(d->x), &err);
    d->busy = w && !workers_submit(w, &d->job);
    return d->busy;
}

// Sends what is there; ends and frees when all is sent.
static void send_pieces(struct download *d) {
    while (d->full[d->sending]) {
        const struct strbuf *piece = &d->pieces[d->sending];
        if (http_stream_write(d->x, piece->data, piece->len) < 0)
            return;
        d->full[d->sending] = false;
        d->sending ^= 1;
        if (!read_next(d)) {
            finish(d, false);
            return;
        }
    }
    if (d->over && !d->busy)
        finish(d, !d->broken);
}

static void piece_came(struct download *d) {
    if (d->pieces[d->reading].len) {
        d->full[d->reading] = true;
        d->reading ^= 1;
    }
    if (read_next(d))
        send_pieces(d);
    else
        finish(d, false);
}

static void read_done(struct job *job) {
    struct download *d = CONTAINER_OF(job, struct download, job);
    d->busy = false;
    if (d->gone)
        finish(d, false);
    else
        piece_came(d);
}

static void on_room(struct http_exchange *x) {
    send_pieces(x->user);
}

static void on_gone(struct http_exchange *x) {
    struct download *d = x->user;
    d->gone = true;
    if (!d->busy)
        finish(d, false);
}

static void reply_head(struct download *d) {
    cleanup_strbuf struct strbuf name;
    char text[96];
    strbuf_init(&name, 4096);
    if (files_disposition(&name, d->path) == 0)
        (void)http_reply_header(d->x, "Content-Disposition", name.data);
    if (d->status == 206) {
        // an empty part ("-0") gives the words of the reference: its end is before its beginning
        (void)snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIi64 "/%" PRIu64, d->start,
                       (int64_t)(d->start + d->length) - 1, d->size);
        (void)http_reply_header(d->x, "Content-Range", text);
        return;
    }
    clock_format_http(d->st.st_mtim.tv_sec, text);
    (void)http_reply_header(d->x, "Accept-Ranges", "bytes");
    (void)http_reply_header(d->x, "Last-Modified", text);
}

static void reply_error(struct download *d) {
    char text[40];
    if (d->err.status == 416) {
        (void)snprintf(text, sizeof text, "bytes */%" PRIu64, d->size);
        (void)http_reply_header(d->x, "Content-Range", text);
    }
    http_reply_error(d->x, &d->err);
}

static void open_done(struct job *job) {
    static const char octets[] = "application/octet-stream";
    struct download *d = CONTAINER_OF(job, struct download, job);
    struct http_exchange *x = d->x;
    struct strbuf *first = &d->pieces[0];
    d->busy = false;
    if (d->result == 0 && !d->by_lines)
        reply_head(d);
    if (d->result < 0)
        reply_error(d);
    else if (d->status == 304 || d->status == 412)
        http_reply_empty(x, d->status);
    else if (!d->by_lines && d->over && !d->broken) // all of it is here
        http_reply(x, d->status, octets, first->data, first->len);
    else {
        bool known = !d->by_lines && d->left != UINT64_MAX;
        x->on_room = on_room;
        x->on_gone = on_gone;
        http_stream_begin(x, d->by_lines ? 200 : d->status,
                          d->by_lines ? "text/plain; charset=utf-8" : octets,
                          known ? (int64_t)(first->len + d->left) : -1);
        if (d->gone)
            finish(d, false);
        else
            piece_came(d);
        return;
    }
    download_free(d);
}

static bool line_number(struct http_exchange *x, const char *name, uint64_t absent, uint64_t *ret) {
    const char *text = execd_query(x, name);
    *ret = absent;
    if (!text || !parse_u64(text, 1, INT64_MAX, ret))
        return true;
    execd_fail(x, 400, CODE_BODY, "query parameter '%s' must be a number of at least 1", name);
    return false;
}

static bool read_request(struct download *d) {
    struct http_exchange *x = d->x;
    d->given = execd_query(x, "path");
    d->range = http_header(x, "range");
    d->if_range = http_header(x, "if-range");
    d->if_modified = http_header(x, "if-modified-since");
    d->if_unmodified = http_header(x, "if-unmodified-since");
    d->by_lines = execd_query(x, "offset") || execd_query(x, "limit");
    if (!d->given || !*d->given) {
        execd_fail(x, 400, CODE_QUERY, "missing query parameter 'path'");
        return false;
    }
    if (d->by_lines && d->range) {
        execd_fail(x, 400, CODE_BODY, "offset and limit do not go together with a Range header");
        return false;
    }
    if (!line_number(x, "offset", 1, &d->offset) || !line_number(x, "limit", UINT64_MAX, &d->limit))
        return false;
    files_lines_init(&d->window, d->offset, d->limit);
    return files_who_init(&d->who, x);
}

void handle_files_download(struct http_exchange *x) {
    struct download *d = calloc(1, sizeof *d);
    if (!d) {
        execd_fail(x, 500, CODE_RUNTIME, "out of memory");
        return;
    }
    d->x = x;
    d->fd = -1;
    strbuf_init(&d->pieces[0], PIECE_MAX);
    strbuf_init(&d->pieces[1], PIECE_MAX);
    if (!read_request(d)) {
        free(d);
        return;
    }
    d->job.run = run_open;
    d->job.done = open_done;
    d->busy = true;
    x->user = d;
    if (!files_submit(x, &d->job))
        download_free(d);
}
