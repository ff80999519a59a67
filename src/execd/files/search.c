// Search by name and replace in contents (execd.md 6.7, 6.8).
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "execd/files/glob.h"
#include "execd/files/place.h"
#include "execd/files/task.h"
#include "execd/files/tree.h"
#include "execd/handlers.h"

enum { REPLACE_READ = 128 * 1024 };

DEFINE_CLEANUP(struct files_glob *, files_glob_free)

struct search {
    struct files_task *task;
    struct files_glob *glob;
};

static int search_visit(void *arg, const char *path, const struct stat *st, struct error *err) {
    struct search *s = arg;
    if (S_ISDIR(st->st_mode) || !files_glob_match(s->glob, strrchr(path, '/') + 1))
        return 0;
    return files_task_element(s->task, files_info(&s->task->who, path, st), err);
}

static int search(struct files_task *t, struct error *err) {
    static const char what[] = "error searching files.";
    struct stat st;
    const char *path = files_resolve(&t->who, t->paths[0], err);
    if (!path)
        return -1;
    cleanup_close int fd = files_open(&t->who, path, O_PATH | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st))
        return files_error(err, errno, what, path);
    cleanup(files_glob_free_p) struct files_glob *glob = files_glob_new(t->pattern);
    if (!glob)
        return error_api(err, 500, CODE_RUNTIME, "invalid pattern %.200s: %s", t->pattern,
                         errno == EINVAL ? "syntax error in pattern" : strerrordesc_np(errno));
    struct search s = {t, glob};
    struct files_walk walk = {&t->who, FILES_WALK_DEPTH_MAX, &t->gone, search_visit, &s};
    if (!S_ISDIR(st.st_mode)) {
        if (search_visit(&s, path, &st, err) < 0)
            return -1;
    } else {
        int directory = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (directory < 0)
            return files_error(err, errno, what, path);
        if (files_walk(&walk, directory, path, what, err) < 0)
            return -1;
    }
    return files_task_array_end(t, err);
}

void handle_files_search(struct http_exchange *x) {
    struct files_task *t = files_task_new(x);
    if (!t)
        return;
    t->paths = execd_query_all(x, "path");
    const char *pattern = execd_query(x, "pattern");
    t->pattern = pattern && *pattern ? pattern : "**";
    if (t->paths && t->paths[0] && *t->paths[0]) {
        files_task_start(t, search);
        return;
    }
    execd_fail(x, 400, CODE_QUERY, "missing query parameter 'path'");
    files_task_free(t);
}

// ---- POST /files/replace ----

struct replacement {
    const char *old, *fresh;
    size_t old_len, fresh_len;
    uint64_t count;
    struct files_place place;
};

// Writes what the window gives for sure; what may be the beginning of a match stays for the next
// read.
static int replace_window(struct replacement *r, struct strbuf *window, bool last) {
    size_t at = 0;
    for (;;) {
        const char *from = window->data + at,
                   *hit = memmem(from, window->len - at, r->old, r->old_len);
        size_t left = window->len - at, keep = last ? 0 : r->old_len - 1;
        keep = keep < left ? keep : left;
        size_t plain = hit ? (size_t)(hit - from) : left - keep;
        if (files_place_write(&r->place, from, plain) < 0)
            return -1;
        at += plain;
        if (!hit)
            break;
        if (files_place_write(&r->place, r->fresh, r->fresh_len) < 0)
            return -1;
        at += r->old_len;
        r->count++;
    }
    strbuf_consume(window, at);
    return 0;
}

static int replace_stream(struct replacement *r, int from, const atomic_bool *gone) {
    cleanup_strbuf struct strbuf window;
    strbuf_init(&window, 2 * (REPLACE_READ + r->old_len));
    for (;;) {
        char *room = strbuf_reserve(&window, REPLACE_READ);
        ssize_t n = room ? read(from, room, REPLACE_READ) : -1;
        if (!room)
            errno = ENOMEM;
        if (atomic_load(gone)) {
            errno = ECANCELED;
            return -1;
        }
        if (n < 0)
            return -1;
        window.len += (size_t)n;
        if (replace_window(r, &window, n == 0) < 0)
            return -1;
        if (n == 0)
            return 0;
    }
}

static int replace_file(struct files_task *t, struct replacement *r, const char *path,
                        struct error *err) {
    static const char what[] = "error replacing in file";
    struct stat st;
    cleanup_close int from = files_open(&t->who, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (from < 0 || fstat(from, &st))
        return files_error(err, errno, what, path);
    if (!S_ISREG(st.st_mode))
        return files_error(err, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, what, path);
    if (files_place_open(&t->who, &r->place, path, false, NULL, err) < 0)
        return -1;
    if (replace_stream(r, from, &t->gone) < 0)
        return files_error(err, errno == ENOENT ? EIO : errno, what, path);
    return r->count ? files_place_commit(&t->who, &r->place, path, NULL, err) : 0;
}

// Members that are absent or null are empty texts.
static int replacement_read(const json_t *item, const char *given, struct replacement *ret,
                            struct error *err) {
    const json_t *old = execd_member(item, "old"), *fresh = execd_member(item, "new");
    if ((!json_is_object(item) && !json_is_null(item)) || (old && !json_is_string(old)) ||
        (fresh && !json_is_string(fresh)))
        return error_api(err, 400, CODE_BODY, "%.200s: old and new must be strings", given);
    *ret = (struct replacement){.old = old ? json_string_value(old) : "",
                                .fresh = fresh ? json_string_value(fresh) : ""};
    ret->old_len = strlen(ret->old);
    ret->fresh_len = strlen(ret->fresh);
    return 0;
}

static int replace_one(struct files_task *t, const char *given, const json_t *item, json_t *counts,
                       struct error *err) {
    struct replacement r = {0};
    const char *path = files_resolve(&t->who, given, err);
    if (!path || replacement_read(item, given, &r, err) < 0)
        return -1;
    if (!r.old_len)
        return error_api(err, 400, CODE_BODY, "old content must not be empty");
    files_place_init(&r.place);
    int result = replace_file(t, &r, path, err);
    files_place_clear(&r.place);
    if (!result && json_object_set_new(counts, given,
                                       json_pack("{s:I}", "replacedCount", (json_int_t)r.count)))
        return error_errno(err, ENOMEM, "reply");
    return result;
}

static int replace(struct files_task *t, struct error *err) {
    const char *given;
    struct replacement unused;
    json_t *item, *counts;
    json_object_foreach(t->body, given, item) { // all of it is looked at before anything is done
        if (replacement_read(item, given, &unused, err) < 0)
            return -1;
    }
    counts = json_object();
    json_object_foreach(t->body, given, item) {
        if (replace_one(t, given, item, counts, err) < 0) {
            json_decref(counts);
            return -1;
        }
    }
    if (t->verbose)
        return files_task_reply(t, counts, err);
    json_decref(counts);
    return 0;
}

void handle_files_replace(struct http_exchange *x) {
    struct files_task *t = files_task_new(x);
    if (!t || !files_task_body(t, JSON_OBJECT))
        return;
    const char *verbose = execd_query(x, "verbose");
    t->verbose = verbose && !strcmp(verbose, "true");
    files_task_start(t, replace);
}
