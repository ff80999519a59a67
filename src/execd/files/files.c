// The routes on names: info, delete, move, permissions, and directories (execd.md 6.3 to 6.6, 6.11
// to 6.13).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "base/path.h"
#include "execd/files/meta.h"
#include "execd/files/task.h"
#include "execd/files/tree.h"
#include "execd/handlers.h"
#include "fmt/json.h"

static struct files_task *task_with_paths(struct http_exchange *x) {
    struct files_task *t = files_task_new(x);
    if (t && !(t->paths = execd_query_all(x, "path"))) {
        execd_fail(x, 500, CODE_RUNTIME, "out of memory");
        files_task_free(t);
        t = NULL;
    }
    return t;
}

// ---- GET /files/info ----

static int info_one(struct files_task *t, json_t *all, const char *given, struct error *err) {
    struct stat st;
    const char *path = files_resolve(&t->who, given, err);
    if (!path)
        return -1;
    cleanup_close int fd = files_open(&t->who, path, O_PATH | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st))
        return files_error(err, errno, "error accessing file:", path);
    cleanup_json json_t *key = files_text(given); // the path as it was given
    if (json_object_set_new(all, json_string_value(key), files_info(&t->who, path, &st)) < 0)
        return error_api(err, 500, CODE_RUNTIME, "cannot describe %s", given);
    return 0;
}

static int info(struct files_task *t, struct error *err) {
    json_t *all = json_object();
    for (const char **p = t->paths; *p; p++)
        if (info_one(t, all, *p, err) < 0) {
            json_decref(all);
            return -1;
        }
    return files_task_reply(t, all, err);
}

void handle_files_info(struct http_exchange *x) {
    struct files_task *t = task_with_paths(x);
    if (t)
        files_task_start(t, info);
}

// ---- DELETE /files ----

static int remove_failed(struct error *err, int why, const char *given, const char *path) {
    char what[256];
    if (why == EISDIR)
        return error_api(err, 500, CODE_RUNTIME, "error removing file %s. path is a directory: %s",
                         given, path);
    (void)snprintf(what, sizeof what, "error removing file %.200s.", given);
    return files_error(err, why, what, path);
}

// unlink(2) removes no directory, whatever the name stands for by then.
static int remove_one(struct files_task *t, const char *given, struct error *err) {
    const char *path = files_resolve(&t->who, given, err), *name;
    if (!path)
        return -1;
    cleanup_close int directory = files_open(&t->who, path, O_PATH | O_DIRECTORY);
    if (directory >= 0) // or a link to one
        return remove_failed(err, EISDIR, given, path);
    cleanup_close int at = files_open_parent(&t->who, path, &name);
    if ((at >= 0 && !unlinkat(at, name, 0)) || errno == ENOENT)
        return 0;
    return remove_failed(err, errno, given, path);
}

static int remove_files(struct files_task *t, struct error *err) {
    for (const char **p = t->paths; *p; p++)
        if (remove_one(t, *p, err) < 0)
            return -1;
    return 0;
}

void handle_files_delete(struct http_exchange *x) {
    struct files_task *t = task_with_paths(x);
    if (t)
        files_task_start(t, remove_files);
}

// ---- POST /files/mv ----

// Kernels or file systems without RENAME_NOREPLACE answer EINVAL: there a look before has to do.
static int rename_new(int from, const char *old, int to, const char *fresh) {
    struct stat st;
    if (!renameat2(from, old, to, fresh, RENAME_NOREPLACE))
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (!fstatat(to, fresh, &st, AT_SYMLINK_NOFOLLOW)) {
        errno = EEXIST;
        return -1;
    }
    return renameat(from, old, to, fresh);
}

static int move_one(struct files_task *t, const char *src, const char *dest, struct error *err) {
    const char *from_path = files_resolve(&t->who, src, err), *from_name;
    const char *to_path = from_path ? files_resolve(&t->who, dest, err) : NULL;
    struct stat st;
    if (!to_path)
        return -1;
    cleanup_close int from = files_open_parent(&t->who, from_path, &from_name);
    if (from < 0 || fstatat(from, from_name, &st, AT_SYMLINK_NOFOLLOW))
        return files_error(err, errno, "error accessing file:", from_path);
    const char *to_name = strrchr(to_path, '/') + 1;
    char *parent = arena_strndup(&t->who.arena, to_path, (size_t)(to_name - to_path));
    if (!parent)
        return error_errno(err, ENOMEM, "path");
    if (to_name - to_path > 1)
        parent[to_name - to_path - 1] = 0;
    cleanup_close int to = files_make_dirs(&t->who, parent, 0755, NULL, err);
    if (to < 0)
        return -1;
    if (!*to_name)
        errno = EEXIST; // "/"
    else if (!rename_new(from, from_name, to, to_name))
        return 0;
    if (errno == EEXIST)
        return error_api(err, 500, CODE_RUNTIME,
                         "error accessing file: destination path already exists: %s", to_path);
    return files_error(err, errno, "error moving file", from_path);
}

static int move_files(struct files_task *t, struct error *err) {
    json_t *item;
    size_t i;
    json_array_foreach(t->body, i, item) {
        const char *src = json_string_value(execd_member(item, "src"));
        const char *dest = json_string_value(execd_member(item, "dest"));
        if (!src || !dest)
            return error_api(err, 400, CODE_BODY, "item %zu: src and dest must be strings", i);
        if (move_one(t, src, dest, err) < 0)
            return -1;
    }
    return 0;
}

void handle_files_mv(struct http_exchange *x) {
    struct files_task *t = files_task_new(x);
    if (t && files_task_body(t, JSON_ARRAY))
        files_task_start(t, move_files);
}

// ---- POST /files/permissions and /directories: an object of metadata by path ----

static int each_meta(struct files_task *t, struct error *err,
                     int (*f)(struct files_who *w, const char *path, const struct files_meta *m,
                              struct error *err)) {
    const char *given;
    json_t *value;
    json_object_foreach(t->body, given, value) { // all of it is looked at before anything is done
        struct files_meta m;
        if (files_meta_parse(value, CODE_BODY, &m, err) < 0)
            return error_wrap(err, "%.200s", given);
    }
    json_object_foreach(t->body, given, value) {
        struct files_meta m;
        (void)files_meta_parse(value, CODE_BODY, &m, err); // it was fine above
        const char *path = files_resolve(&t->who, given, err);
        if (!path || f(&t->who, path, &m, err) < 0)
            return -1;
    }
    return 0;
}

static int permit_one(struct files_who *w, const char *path, const struct files_meta *m,
                      struct error *err) {
    cleanup_close int fd = files_open(w, path, O_PATH);
    if (fd < 0) {
        (void)files_error(err, errno, "error changing permissions for", path);
        err->status = 500; // as the reference answers, also for what is missing
        return -1;
    }
    return files_meta_apply(w, m, fd, path, err);
}

static int permit(struct files_task *t, struct error *err) {
    return each_meta(t, err, permit_one);
}

void handle_files_permissions(struct http_exchange *x) {
    struct files_task *t = files_task_new(x);
    if (t && files_task_body(t, JSON_OBJECT))
        files_task_start(t, permit);
}

static int make_one(struct files_who *w, const char *path, const struct files_meta *m,
                    struct error *err) {
    cleanup_close int fd = files_make_dirs(w, path, 0777, NULL, err);
    return fd < 0 ? -1 : files_meta_apply(w, m, fd, path, err);
}

static int make_directories(struct files_task *t, struct error *err) {
    return each_meta(t, err, make_one);
}

void handle_directories_make(struct http_exchange *x) {
    struct files_task *t = files_task_new(x);
    if (t && files_task_body(t, JSON_OBJECT))
        files_task_start(t, make_directories);
}

// ---- DELETE /directories ----

static int remove_tree(struct files_task *t, const char *given, struct error *err) {
    const char *path = files_resolve(&t->who, given, err), *name;
    if (!path)
        return -1;
    if (!strcmp(path, "/"))
        return error_api(err, 400, CODE_BODY, "the root directory is not removed");
    cleanup_close int at = files_open_parent(&t->who, path, &name);
    if (at < 0)
        return errno == ENOENT ? 0 : remove_failed(err, errno, given, path);
    if (path_remove_tree(at, name, err) < 0)
        return remove_failed(err, err->kind, given, path);
    return 0;
}

static int remove_trees(struct files_task *t, struct error *err) {
    for (const char **p = t->paths; *p; p++)
        if (**p && remove_tree(t, *p, err) < 0)
            return -1;
    return 0;
}

void handle_directories_delete(struct http_exchange *x) {
    struct files_task *t = task_with_paths(x);
    if (t)
        files_task_start(t, remove_trees);
}

// ---- GET /directories/list ----

static int list_visit(void *arg, const char *path, const struct stat *st, struct error *err) {
    struct files_task *t = arg;
    return files_task_element(t, files_info(&t->who, path, st), err);
}

static int list(struct files_task *t, struct error *err) {
    struct stat st;
    const char *path = files_resolve(&t->who, t->paths[0], err);
    if (!path)
        return -1;
    cleanup_close int fd = files_open(&t->who, path, O_PATH | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st))
        return files_error(err, errno, "error accessing file:", path);
    if (S_ISLNK(st.st_mode))
        return error_api(err, 400, CODE_BODY, "path is a symbolic link, refusing to traverse: %s",
                         path);
    if (!S_ISDIR(st.st_mode))
        return error_api(err, 400, CODE_BODY, "path is not a directory: %s", path);
    int directory = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return files_error(err, errno, "error listing directory", path);
    struct files_walk walk = {&t->who, t->depth, &t->gone, list_visit, t};
    if (files_walk(&walk, directory, path, "error listing directory", err) < 0)
        return -1;
    return files_task_array_end(t, err);
}

void handle_directories_list(struct http_exchange *x) {
    struct files_task *t = task_with_paths(x);
    if (!t)
        return;
    const char *depth = execd_query(x, "depth");
    t->depth = 1;
    if (!t->paths[0] || !*t->paths[0])
        execd_fail(x, 400, CODE_QUERY, "missing query parameter 'path'");
    else if (depth && *depth && parse_u64(depth, 0, INT64_MAX, &t->depth) < 0)
        execd_fail(x, 400, CODE_BODY, "invalid query parameter 'depth': %s", depth);
    else {
        files_task_start(t, list);
        return;
    }
    files_task_free(t);
}
