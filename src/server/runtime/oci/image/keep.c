// What keeps an image and what lets it go: references of sandboxes, `image rm`, age and size.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/path.h"
#include "base/random.h"
#include "server/errors.h"
#include "server/runtime/oci/image/index.h"

enum { GRACE_S = 60, PREFIX_MIN = 8 };

// ---- references ----

int image_store_ref(struct image_store *s, const char *image_id, const char *user,
                    struct error *err) {
    cleanup_close int guard = index_guard(s, LOCK_SH);
    if (guard < 0)
        return error_errno(err, errno, "image store");
    // the time of the directory is that of the last use; nothing else changes it
    if (utimensat(s->images, image_id, NULL, AT_SYMLINK_NOFOLLOW))
        return error_server(err, ERR_R_IMAGE_NOT_FOUND, "image %s has just been removed", image_id);
    if (symlinkat(image_id, s->refs, user) && errno != EEXIST)
        return error_errno(err, errno, "reference to image %s", image_id);
    return 0;
}

void image_store_unref(struct image_store *s, const char *user) {
    (void)unlinkat(s->refs, user, 0); // there may be none; one that stays is dropped at a start
}

// image id -> unsigned *, how many references it has.
struct uses {
    struct map map;
};

static bool free_count(const char *key, void *value, void *arg) {
    (void)key;
    (void)arg;
    free(value);
    return true;
}
static void uses_clear(struct uses *u) {
    map_each(&u->map, free_count, NULL);
    map_clear(&u->map);
}
static unsigned uses_of(const struct uses *u, const char *id) {
    const unsigned *n = map_get(&u->map, id);
    return n ? *n : 0;
}

static int count_one(struct uses *u, const char *id) {
    unsigned *n = map_get(&u->map, id);
    if (!n) {
        n = calloc(1, sizeof *n);
        if (!n || map_put(&u->map, id, n) < 0) {
            free(n);
            return -1;
        }
    }
    ++*n;
    return 0;
}

static int count_refs(struct image_store *s, struct uses *used, struct error *err) {
    int fd = openat(s->refs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    map_init(&used->map);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return error_errno(err, errno ? errno : ENOMEM, "references to images");
    }
    for (struct dirent *e; !result && (e = readdir(d));) {
        char id[IMAGE_ID_MAX];
        ssize_t n = e->d_name[0] == '.' ? -1 : readlinkat(s->refs, e->d_name, id, sizeof id - 1);
        if (n < 0)
            continue;
        id[n] = '\0';
        result = count_one(used, id);
    }
    (void)closedir(d);
    return result ? error_set(err, ENOMEM, "out of memory") : 0;
}

static int64_t last_use_us(const struct image_store *s, const char *id) {
    struct stat st;
    if (fstatat(s->images, id, &st, AT_SYMLINK_NOFOLLOW))
        return 0;
    return (int64_t)st.st_mtim.tv_sec * 1000000 + st.st_mtim.tv_nsec / 1000;
}

// ---- list ----

struct listing {
    struct image_store *store;
    const struct uses *used;
    struct image_listing *items;
    size_t count, room;
    bool failed;
};

static void add_image(const struct image *i, void *arg) {
    struct listing *l = arg;
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 16;
        struct image_listing *grown = reallocarray(l->items, room, sizeof *grown);
        if (!grown) {
            l->failed = true;
            return;
        }
        l->items = grown;
        l->room = room;
    }
    struct image_listing *item = &l->items[l->count++];
    *item = (struct image_listing){.bytes = i->bytes, .used_by = uses_of(l->used, i->id)};
    memcpy(item->id, i->id, sizeof item->id);
    item->last_use_us = last_use_us(l->store, i->id);
    if (!(item->names = strdup("")))
        l->failed = true;
}

static void add_name(const struct name_row *row, void *arg) {
    struct listing *l = arg;
    for (size_t k = 0; k < l->count && !l->failed; k++) {
        struct image_listing *item = &l->items[k];
        char *names = NULL;
        if (strcmp(item->id, row->id) != 0)
            continue;
        if (asprintf(&names, "%s%s%.*s", item->names, *item->names ? " " : "",
                     (int)strcspn(row->key, " "), row->key) < 0) {
            l->failed = true;
            return;
        }
        free(item->names);
        item->names = names;
    }
}

static int by_last_use(const void *a, const void *b) {
    const struct image_listing *x = a, *y = b;
    return (x->last_use_us > y->last_use_us) - (x->last_use_us < y->last_use_us);
}

void image_listing_free(struct image_listing *items, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(items[i].names);
    free(items);
}

int image_store_list(struct image_store *s, struct image_listing **ret_items, size_t *ret_count,
                     struct error *err) {
    cleanup(uses_clear) struct uses used = {{.count = 0}};
    struct listing l = {.store = s, .used = &used};
    int result = index_refresh(s, err);
    if (!result)
        result = count_refs(s, &used, err);
    if (!result) {
        index_each_image(s, add_image, &l);
        if (!l.failed)
            index_each_name(s, add_name, &l);
        result = l.failed ? error_set(err, ENOMEM, "out of memory") : 0;
    }
    if (result) {
        image_listing_free(l.items, l.count);
        return -1;
    }
    if (l.count)
        qsort(l.items, l.count, sizeof *l.items, by_last_use);
    *ret_items = l.items;
    *ret_count = l.count;
    return 0;
}

// ---- removal ----

// Under an exclusive guard, so that no reference appears between look and rename.
static int retire(struct image_store *s, const char *id, char trash[IMAGE_ID_MAX + 16],
                  struct error *err) {
    cleanup(uses_clear) struct uses used = {{.count = 0}};
    char salt[9];
    cleanup_close int guard = index_guard(s, LOCK_EX);
    if (guard < 0)
        return error_errno(err, errno, "image store");
    if (count_refs(s, &used, err))
        return -1;
    unsigned n = uses_of(&used, id);
    if (n)
        return error_set(err, EBUSY, "image %s is used by %u sandbox%s", id, n, n == 1 ? "" : "es");
    random_hex(salt, 8);
    (void)snprintf(trash, IMAGE_ID_MAX + 16, "%s.%s", id, salt);
    if (renameat(s->images, id, s->trash, trash))
        return error_errno(err, errno, "image %s", id);
    return 0;
}

static int remove_image(struct image_store *s, const char *id, struct error *err) {
    char trash[IMAGE_ID_MAX + 16];
    if (retire(s, id, trash, err) || index_forget_names(s, id, NULL, err))
        return -1;
    return path_remove_tree(s->trash, trash, err);
}

struct search {
    const char *text;
    size_t len, hits;
    char id[IMAGE_ID_MAX];
};

static void by_prefix(const struct image *i, void *arg) {
    struct search *q = arg;
    if (strncmp(i->id + 7, q->text, q->len) != 0)
        return;
    q->hits++;
    memcpy(q->id, i->id, sizeof q->id);
}

struct names {
    const char *text, *id;
    size_t len, of_image;
    struct name_row row; // one that matched
    size_t hits;
};

static void by_reference(const struct name_row *row, void *arg) {
    struct names *q = arg;
    if (!strncmp(row->key, q->text, q->len) && row->key[q->len] == ' ') {
        q->row = *row;
        q->hits++;
    }
}

static void of_image(const struct name_row *row, void *arg) {
    struct names *q = arg;
    q->of_image += !strcmp(row->id, q->id);
}

static int remove_by_id(struct image_store *s, const char *hex, struct error *err) {
    struct search q = {.text = hex, .len = strlen(hex)};
    index_each_image(s, by_prefix, &q);
    if (q.hits > 1)
        return error_set(err, EINVAL, "%zu images begin with %s; give more digits", q.hits, hex);
    return q.hits ? remove_image(s, q.id, err)
                  : error_server(err, ERR_R_IMAGE_NOT_FOUND, "no image %s", hex);
}

int image_store_remove(struct image_store *s, const char *which, struct error *err) {
    struct reference r;
    struct names q = {.len = 0};
    const char *hex = !strncmp(which, "sha256", 6) && strlen(which) > 7 ? which + 7 : which;
    size_t digits = strspn(hex, "0123456789abcdef");
    bool id = digits >= PREFIX_MIN && digits < SHA256_HEX_SIZE && !hex[digits];
    if (index_refresh(s, err))
        return -1;
    if (!reference_parse(which, &r, err)) {
        q.text = r.text;
        q.len = strlen(r.text);
        index_each_name(s, by_reference, &q);
    } else if (!id) {
        return -1;
    }
    if (!q.hits)
        return id ? remove_by_id(s, hex, err)
                  : error_server(err, ERR_R_IMAGE_NOT_FOUND, "no image %s", which);
    q.id = q.row.id;
    index_each_name(s, of_image, &q);
    if (q.of_image > 1) // it has another name: only this one goes
        return index_forget_names(s, q.row.id, q.row.key, err);
    return remove_image(s, q.row.id, err);
}

// ---- age and size ----

static int prune_listed(struct image_store *s, const struct image_listing *items, size_t count,
                        struct error *err) {
    const struct oci_settings *o = s->settings;
    int64_t now = clock_wall_us(), oldest = now - (int64_t)o->image_max_age_days * 86400 * 1000000;
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += items[i].bytes;
    for (size_t i = 0; i < count; i++) { // least recently used first
        const struct image_listing *item = &items[i];
        bool aged = o->image_max_age_days && item->last_use_us < oldest,
             full = o->image_store_max_bytes && total > o->image_store_max_bytes,
             fresh = item->last_use_us > now - GRACE_S * INT64_C(1000000); // its create may be near
        if (item->used_by || fresh || !(aged || full))
            continue;
        if (!remove_image(s, item->id, err)) {
            total -= item->bytes;
            log_info("image %s (%s) removed: %s", item->id, item->names,
                     aged ? "oci.image_max_age_days" : "oci.image_store_max_bytes");
        } else if (err->kind != EBUSY && err->kind != ENOENT) {
            return -1; // else a sandbox or somebody else was faster
        }
    }
    return 0;
}

int image_store_prune(struct image_store *s, struct error *err) {
    struct image_listing *items = NULL;
    size_t count = 0;
    if (!s->settings->image_max_age_days && !s->settings->image_store_max_bytes)
        return 0;
    if (image_store_list(s, &items, &count, err))
        return -1;
    int result = prune_listed(s, items, count, err);
    image_listing_free(items, count);
    return result;
}
