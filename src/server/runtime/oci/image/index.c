// Opening, and the index: files are the truth, the maps a copy that is read again when inotify says
// that somebody (the command line, the server, ourselves) changed them.
#include "server/runtime/oci/image/index.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/random.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/oci/image/publish.h"
#include "server/runtime/oci/image/work.h"

enum { RECORD_MAX = 16 * 1024 * 1024, ROW_MAX = 16 * 1024 };

// ---- images ----

void image_put(struct image *i) {
    if (!i || __atomic_sub_fetch(&i->refs, 1, __ATOMIC_ACQ_REL))
        return;
    image_config_clear(&i->config);
    free(i->root);
    free(i);
}

static uint64_t number(const json_t *j, const char *name) {
    json_int_t v = json_integer_value(json_object_get(j, name));
    return v > 0 ? (uint64_t)v : 0;
}

static struct image *read_image(const struct image_store *s, const char *id, struct error *err) {
    char path[IMAGE_ID_MAX + 16];
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, RECORD_MAX);
    (void)snprintf(path, sizeof path, "%.95s/image.json", id);
    if (fd_read_file(s->images, path, &sb, err))
        return NULL;
    cleanup_json json_t *j = json_parse(sb.data, sb.len, NULL, err);
    struct image *i = j ? calloc(1, sizeof *i) : NULL;
    if (!i || image_config_from_json(json_object_get(j, "config"), &i->config, err)) {
        free(i);
        return NULL;
    }
    i->refs = 1;
    (void)snprintf(i->id, sizeof i->id, "%.95s", id);
    i->bytes = number(j, "bytes");
    i->entries = number(j, "entries");
    i->created_us = (int64_t)number(j, "created_us");
    if (asprintf(&i->root, "%s/%s/rootfs", s->images_path, id) < 0) {
        i->root = NULL;
        image_put(i);
        return NULL;
    }
    return i;
}

// ---- rows of names ----

void index_key(const struct reference *r, const char *os, const char *arch,
               char key[INDEX_KEY_SIZE]) {
    (void)snprintf(key, INDEX_KEY_SIZE, "%s %.24s/%.24s", r->text, os ? os : "linux",
                   arch ? arch : platform_host_arch());
}

static void row_file(const char *key, char name[SHA256_HEX_SIZE + 8]) {
    char hex[SHA256_HEX_SIZE];
    sha256_hex(key, strlen(key), hex);
    (void)snprintf(name, SHA256_HEX_SIZE + 8, "%s.json", hex);
}

static struct name_row *read_row(const struct image_store *s, const char *file) {
    struct error ignored;
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, ROW_MAX);
    if (fd_read_file(s->names, file, &sb, &ignored)) // removed meanwhile
        return NULL;
    cleanup_json json_t *j = json_parse(sb.data, sb.len, NULL, &ignored);
    const char *key = json_string_value(json_object_get(j, "name")),
               *id = json_string_value(json_object_get(j, "image"));
    struct name_row *row = key && id ? calloc(1, sizeof *row) : NULL;
    if (!row)
        return NULL;
    (void)snprintf(row->key, sizeof row->key, "%s", key);
    (void)snprintf(row->id, sizeof row->id, "%s", id);
    row->checked_us = (int64_t)number(j, "checked_us");
    return row;
}

int index_name(struct image_store *s, const char *key, const char *image_id, struct error *err) {
    char file[SHA256_HEX_SIZE + 8];
    cleanup_json json_t *j = json_pack("{s:s,s:s,s:I}", "name", key, "image", image_id,
                                       "checked_us", (json_int_t)clock_wall_us());
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, ROW_MAX);
    row_file(key, file);
    if (!j || json_write(j, &sb))
        return error_set(err, ENOMEM, "out of memory");
    if (fd_replace_file(s->names, file, sb.data, sb.len, 0600, err))
        return -1;
    return index_refresh(s, err);
}

// ---- the index ----

static bool free_value(const char *key, void *value, void *arg) {
    (void)key;
    void (*f)(void *) = *(void (**)(void *))arg;
    f(value);
    return true;
}
static void put_image(void *i) {
    image_put(i);
}

static void clear_maps(struct map *names, struct map *images) {
    void (*row)(void *) = free, (*image)(void *) = put_image;
    map_each(names, free_value, &row);
    map_each(images, free_value, &image);
    map_clear(names);
    map_clear(images);
}

static bool is_image(const char *name) {
    return !strncmp(name, "sha256-", 7) && strlen(name) < IMAGE_ID_MAX;
}

static DIR *list_dir(int dir) {
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        (void)close(fd);
    return d;
}

static int load_images(struct image_store *s, struct map *images, struct error *err) {
    DIR *d = list_dir(s->images);
    if (!d)
        return error_errno(err, errno, "%s", s->images_path);
    for (struct dirent *e; (e = readdir(d));) {
        struct error why;
        if (!is_image(e->d_name))
            continue;
        (void)pthread_mutex_lock(&s->mutex);
        struct image *i = map_get(&s->by_id, e->d_name); // they never change
        if (i)
            (void)__atomic_add_fetch(&i->refs, 1, __ATOMIC_RELAXED);
        (void)pthread_mutex_unlock(&s->mutex);
        if (!i && !(i = read_image(s, e->d_name, &why))) {
            log_warning("image %s is not used: %s", e->d_name, why.message);
            continue;
        }
        if (map_put(images, i->id, i) < 0)
            image_put(i);
    }
    (void)closedir(d);
    return 0;
}

static int load_names(struct image_store *s, struct map *names, const struct map *images,
                      struct error *err) {
    DIR *d = list_dir(s->names);
    if (!d)
        return error_errno(err, errno, "%s", s->path);
    for (struct dirent *e; (e = readdir(d));) {
        struct name_row *row =
            strlen(e->d_name) == SHA256_HEX_SIZE + 4 ? read_row(s, e->d_name) : NULL;
        if (row && (!map_get(images, row->id) || map_put(names, row->key, row) < 0))
            free(row);
    }
    (void)closedir(d);
    return 0;
}

// Takes what inotify has to say. Does not block: the descriptor is non-blocking. Mutex held.
static void notice(struct image_store *s) {
    _Alignas(struct inotify_event) char buffer[4096];
    ssize_t n;
    if (s->inotify < 0)
        s->stale = true;
    while (s->inotify >= 0 && (n = read(s->inotify, buffer, sizeof buffer)) > 0)
        for (char *p = buffer; p < buffer + n;) {
            const struct inotify_event *e = (const struct inotify_event *)(const void *)p;
            // directories in progress begin with a dot, files in progress go by ".tmp-"
            if (!e->len || (e->name[0] != '.' && !strstr(e->name, ".tmp-")))
                s->stale = true;
            p += sizeof *e + e->len;
        }
}

int index_refresh(struct image_store *s, struct error *err) {
    struct map names, images;
    (void)pthread_mutex_lock(&s->mutex);
    notice(s);
    bool stale = s->stale;
    s->stale = false; // what changes from here on says so again
    (void)pthread_mutex_unlock(&s->mutex);
    if (!stale)
        return 0;
    map_init(&names);
    map_init(&images);
    if (load_images(s, &images, err) || load_names(s, &names, &images, err)) {
        clear_maps(&names, &images);
        (void)pthread_mutex_lock(&s->mutex);
        s->stale = true;
        (void)pthread_mutex_unlock(&s->mutex);
        return -1;
    }
    (void)pthread_mutex_lock(&s->mutex);
    struct map old_names = s->by_name, old_images = s->by_id;
    s->by_name = names;
    s->by_id = images;
    (void)pthread_mutex_unlock(&s->mutex);
    clear_maps(&old_names, &old_images);
    return 0;
}

static bool describe(const struct image *i, struct image_info *ret) {
    if (!i)
        return false;
    (void)snprintf(ret->id, sizeof ret->id, "%s", i->id);
    ret->bytes = i->bytes;
    return true;
}

bool index_lookup(struct image_store *s, const char *key, struct image_info *ret) {
    (void)pthread_mutex_lock(&s->mutex);
    const struct name_row *row = map_get(&s->by_name, key);
    bool there = row && describe(map_get(&s->by_id, row->id), ret);
    (void)pthread_mutex_unlock(&s->mutex);
    return there;
}

bool index_has(struct image_store *s, const char *image_id, struct image_info *ret) {
    (void)pthread_mutex_lock(&s->mutex);
    bool there = describe(map_get(&s->by_id, image_id), ret);
    (void)pthread_mutex_unlock(&s->mutex);
    return there;
}

bool image_store_ready(struct image_store *s, const struct image_request *q,
                       struct image_info *ret) {
    struct reference r;
    struct error ignored; // ensure() will tell
    char key[INDEX_KEY_SIZE];
    if (reference_parse(q->reference, &r, &ignored) || (q->always_pull && !*r.digest))
        return false;
    (void)pthread_mutex_lock(&s->mutex);
    notice(s);
    bool stale = s->stale;
    (void)pthread_mutex_unlock(&s->mutex);
    index_key(&r, q->os, q->arch, key);
    return !stale && index_lookup(s, key, ret);
}

struct image *image_store_get(struct image_store *s, const char *image_id) {
    (void)pthread_mutex_lock(&s->mutex);
    struct image *i = map_get(&s->by_id, image_id);
    if (i)
        (void)__atomic_add_fetch(&i->refs, 1, __ATOMIC_RELAXED);
    (void)pthread_mutex_unlock(&s->mutex);
    return i;
}

// ---- each ----

struct each {
    void (*row)(const struct name_row *, void *);
    void (*image)(const struct image *, void *);
    void *arg;
};

static bool each_row(const char *key, void *value, void *arg) {
    const struct each *e = arg;
    (void)key;
    e->row(value, e->arg);
    return true;
}
static bool each_image(const char *key, void *value, void *arg) {
    const struct each *e = arg;
    (void)key;
    e->image(value, e->arg);
    return true;
}

void index_each_name(struct image_store *s, void (*f)(const struct name_row *, void *), void *arg) {
    struct each e = {.row = f, .arg = arg};
    (void)pthread_mutex_lock(&s->mutex);
    map_each(&s->by_name, each_row, &e);
    (void)pthread_mutex_unlock(&s->mutex);
}

void index_each_image(struct image_store *s, void (*f)(const struct image *, void *), void *arg) {
    struct each e = {.image = f, .arg = arg};
    (void)pthread_mutex_lock(&s->mutex);
    map_each(&s->by_id, each_image, &e);
    (void)pthread_mutex_unlock(&s->mutex);
}

int index_forget_names(struct image_store *s, const char *image_id, const char *key,
                       struct error *err) {
    DIR *d = list_dir(s->names);
    if (!d)
        return error_errno(err, errno, "%s", s->path);
    for (struct dirent *e; (e = readdir(d));) {
        cleanup_free struct name_row *row =
            strlen(e->d_name) == SHA256_HEX_SIZE + 4 ? read_row(s, e->d_name) : NULL;
        if (row && !strcmp(row->id, image_id) && (!key || !strcmp(row->key, key)))
            (void)unlinkat(s->names, e->d_name, 0); // a row without its image counts for nothing
    }
    (void)closedir(d);
    return index_refresh(s, err);
}

// ---- opening ----

int index_guard(struct image_store *s, int operation) {
    int fd = openat(s->refs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); // a lock of its own
    while (fd >= 0 && flock(fd, operation))
        if (errno != EINTR) {
            (void)close(fd);
            return -1;
        }
    return fd;
}

static int make_dir(int at, const char *name, int *ret, struct error *err) {
    if (mkdirat(at, name, 0700) && errno != EEXIST)
        return error_errno(err, errno, "directory %s of the image store", name);
    *ret = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*ret < 0 || fchmod(*ret, 0700))
        return error_errno(err, errno, "directory %s of the image store", name);
    return 0;
}

static int take_lock(struct image_store *s, int dir, enum image_store_mode mode,
                     struct error *err) {
    char text[16];
    cleanup_close int fd = openat(dir, "version", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "%s/version", s->path);
    if (mode == IMAGE_STORE_SERVER && fd_lock(fd))
        return error_set(err, EBUSY, "another server uses %s; give each its own oci.state_dir",
                         s->path);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n == 0 && fd_write_all(fd, "1\n", 2))
        return error_errno(err, errno, "%s/version", s->path);
    if (n > 0 && (text[0] != '1' || (n > 1 && text[1] != '\n')))
        return error_set(err, EPROTO, "%s is of another version of this program", s->path);
    if (mode == IMAGE_STORE_SERVER)
        s->lock = TAKE_FD(fd);
    return 0;
}

static bool lives(const int *homes, size_t count, const char *user) {
    for (size_t i = 0; i < count; i++)
        if (homes[i] >= 0 && !faccessat(homes[i], user, F_OK, AT_SYMLINK_NOFOLLOW))
            return true;
    return false;
}

// References of sandboxes and snapshots that ended between two steps of ours. Nobody creates one
// now: the server that could holds the lock, and it is us.
static void drop_dead_refs(struct image_store *s, int dir) {
    static const char *const names[] = {"sandboxes", "layers"};
    int homes[ARRAY_SIZE(names)];
    DIR *d = list_dir(s->refs);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        homes[i] = openat(dir, names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && !lives(homes, ARRAY_SIZE(homes), e->d_name))
            (void)unlinkat(s->refs, e->d_name, 0); // tried again at the next start
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (homes[i] >= 0)
            (void)close(homes[i]);
    if (d)
        (void)closedir(d);
}

static int drop_damaged(struct image_store *s, struct error *err) {
    DIR *d = list_dir(s->images);
    if (!d)
        return error_errno(err, errno, "%s", s->images_path);
    for (struct dirent *e; (e = readdir(d));) {
        struct error why;
        char name[IMAGE_ID_MAX + 16], salt[9];
        if (!is_image(e->d_name) || !publish_confirm(s->images, e->d_name, &why))
            continue;
        random_hex(salt, 8);
        (void)snprintf(name, sizeof name, "%.95s.%s", e->d_name, salt);
        log_warning("image %s is damaged and goes: %s", e->d_name, why.message);
        if (renameat(s->images, e->d_name, s->trash, name)) // the server empties the trash
            log_warning("image %s: %s", e->d_name, strerrordesc_np(errno));
    }
    (void)closedir(d);
    return 0;
}

static void watch(struct image_store *s) {
    const uint32_t mask = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;
    char path[INDEX_PATH_SIZE + 16];
    s->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    (void)snprintf(path, sizeof path, "%s/image-names", s->path);
    if (s->inotify >= 0 && inotify_add_watch(s->inotify, s->images_path, mask) >= 0 &&
        inotify_add_watch(s->inotify, path, mask) >= 0)
        return;
    log_warning("no inotify for the image store (fs.inotify.max_user_instances?): its index is "
                "read at each use");
    if (s->inotify >= 0)
        (void)close(s->inotify);
    s->inotify = -1;
}

static int open_all(struct image_store *s, enum image_store_mode mode, struct error *err) {
    cleanup_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), dir = -1;
    dir = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 && errno == ENOENT) {
        cleanup_close int made = path_make_dirs(root, s->path + 1, 0755);
        dir = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir >= 0 && fchmod(dir, 0700))
            return error_errno(err, errno, "%s", s->path);
    }
    if (dir < 0)
        return error_errno(err, errno, "image store %s", s->path);
    if (take_lock(s, dir, mode, err) || make_dir(dir, "images", &s->images, err) ||
        make_dir(dir, "image-names", &s->names, err) ||
        make_dir(dir, "image-refs", &s->refs, err) || make_dir(dir, "trash", &s->trash, err))
        return -1;
    if (work_sweep(s->images, err))
        return -1;
    if (mode == IMAGE_STORE_SERVER) {
        drop_dead_refs(s, dir);
        if (drop_damaged(s, err))
            return -1;
    }
    watch(s);
    return index_refresh(s, err);
}

struct image_store *image_store_open(const struct oci_settings *settings,
                                     enum image_store_mode mode, struct error *err) {
    struct image_store *s = calloc(1, sizeof *s);
    if (!s)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    s->settings = settings;
    s->images = s->names = s->refs = s->trash = s->lock = s->inotify = -1;
    s->stale = true;
    (void)pthread_mutex_init(&s->mutex, NULL);
    (void)pthread_cond_init(&s->landed, NULL);
    map_init(&s->by_name);
    map_init(&s->by_id);
    list_init(&s->flights);
    (void)snprintf(s->path, sizeof s->path, "%s/oci", settings->state_dir);
    (void)snprintf(s->images_path, sizeof s->images_path, "%.500s/images", s->path);
    if (strlen(settings->state_dir) > INDEX_PATH_SIZE - 64)
        (void)error_set(err, ENAMETOOLONG, "state directory %s", settings->state_dir);
    else if (!open_all(s, mode, err))
        return s;
    image_store_close(s);
    return NULL;
}

void image_store_close(struct image_store *s) {
    if (!s)
        return;
    const int fds[] = {s->images, s->names, s->refs, s->trash, s->lock, s->inotify};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    clear_maps(&s->by_name, &s->by_id);
    (void)pthread_cond_destroy(&s->landed);
    (void)pthread_mutex_destroy(&s->mutex);
    free(s);
}
