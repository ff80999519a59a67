#include "execd/files/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/utf8.h"

enum { NAMES_MAX = 64 << 20, PATH_TEXT_MAX = 1 << 20 };

json_t *files_text(const char *text) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, PATH_TEXT_MAX);
    json_t *value = json_string(text);
    if (value || utf8_add_lossy(&sb, text, strlen(text)) < 0)
        return value;
    return json_stringn(sb.data, sb.len);
}

static const char *type_name(mode_t mode) {
    if (S_ISREG(mode))
        return "file";
    if (S_ISDIR(mode))
        return "directory";
    return S_ISLNK(mode) ? "symlink" : "other";
}

json_t *files_info(struct files_who *w, const char *path, const struct stat *st) {
    char modified[CLOCK_TEXT_MAX], created[CLOCK_TEXT_MAX];
    clock_format_ns(st->st_mtim.tv_sec, st->st_mtim.tv_nsec, modified);
    clock_format_ns(st->st_ctim.tv_sec, st->st_ctim.tv_nsec, created);
    return json_pack("{s:o,s:s,s:I,s:s,s:s,s:o,s:o,s:I}", "path", files_text(path), "type",
                     type_name(st->st_mode), "size", (json_int_t)st->st_size, "modified_at",
                     modified, "created_at", created, "owner",
                     files_text(files_owner_name(&w->accounts, st->st_uid)), "group",
                     files_text(files_group_name(&w->accounts, st->st_gid)), "mode",
                     (json_int_t)files_mode_show(st->st_mode));
}

// ---- walks ----

struct names {
    struct strbuf text; // NUL-terminated, one behind the other
    char **list;
    size_t count;
};

static void names_clear(struct names *n) {
    strbuf_free(&n->text);
    free(n->list);
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int names_read(struct names *n, DIR *d) {
    struct dirent *e;
    errno = 0;
    while ((e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        strbuf_add(&n->text, e->d_name, strlen(e->d_name) + 1);
        n->count++;
        errno = 0;
    }
    if (errno)
        return -1;
    if (n->text.failed || !(n->list = calloc(n->count + 1, sizeof *n->list))) {
        errno = ENOMEM;
        return -1;
    }
    char *at = n->text.data;
    for (size_t i = 0; i < n->count; i++, at += strlen(at) + 1)
        n->list[i] = at;
    qsort(n->list, n->count, sizeof *n->list, compare);
    return 0;
}

struct walker {
    const struct files_walk *walk;
    struct strbuf path;
    const char *what;
    struct error *err;
};

static int walk_failed(struct walker *w, int why) {
    return files_error(w->err, why == ENOENT ? EIO : why, w->what, w->path.data);
}

static int walk_directory(struct walker *w, int fd, uint64_t depth);

static int walk_entry(struct walker *w, int at, const char *name, uint64_t depth) {
    struct stat st;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT ? 0 : walk_failed(w, errno);
    if (w->walk->visit(w->walk->arg, w->path.data, &st, w->err) < 0)
        return -1;
    if (!S_ISDIR(st.st_mode) || depth + 1 >= w->walk->depth)
        return 0;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) // gone, or something else by now
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : walk_failed(w, errno);
    return walk_directory(w, fd, depth + 1);
}

static int walk_names(struct walker *w, int at, const struct names *names, uint64_t depth) {
    size_t len = w->path.len;
    int result = 0;
    for (size_t i = 0; i < names->count && !result; i++) {
        if (atomic_load(w->walk->gone))
            return walk_failed(w, ECANCELED);
        if (w->path.data[len - 1] != '/')
            strbuf_addc(&w->path, '/');
        if (strbuf_adds(&w->path, names->list[i]) < 0)
            return walk_failed(w, ENAMETOOLONG);
        result = walk_entry(w, at, names->list[i], depth);
        w->path.len = len;
        w->path.data[len] = 0;
    }
    return result;
}

static int walk_directory(struct walker *w, int fd, uint64_t depth) {
    DIR *d = depth < FILES_WALK_DEPTH_MAX ? fdopendir(fd) : NULL;
    if (!d) {
        int why = depth < FILES_WALK_DEPTH_MAX ? errno : ENAMETOOLONG;
        (void)close(fd);
        return walk_failed(w, why);
    }
    struct names names = {0};
    strbuf_init(&names.text, NAMES_MAX);
    int result =
        names_read(&names, d) < 0 ? walk_failed(w, errno) : walk_names(w, dirfd(d), &names, depth);
    names_clear(&names);
    (void)closedir(d);
    return result;
}

int files_walk(const struct files_walk *walk, int fd, const char *path, const char *what,
               struct error *err) {
    struct walker w = {.walk = walk, .what = what, .err = err};
    strbuf_init(&w.path, PATH_TEXT_MAX);
    strbuf_adds(&w.path, path);
    int result = 0;
    if (w.path.failed)
        (void)close(fd), result = files_error(err, ENOMEM, what, path);
    else if (walk->depth)
        result = walk_directory(&w, fd, 0);
    else
        (void)close(fd);
    strbuf_free(&w.path);
    return result;
}
