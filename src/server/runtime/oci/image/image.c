// How an image comes into the store: pulled once for all who wait for it, or imported.
#include "server/runtime/oci/image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/runtime/oci/image/fetch.h"
#include "server/runtime/oci/image/index.h"
#include "server/runtime/oci/image/publish.h"
#include "server/runtime/oci/image/unpack.h"
#include "server/runtime/oci/image/work.h"

static void id_of(const char *digest, char id[IMAGE_ID_MAX]) {
    (void)snprintf(id, IMAGE_ID_MAX, "sha256-%s", digest + 7);
}

// Unless it is there: unpacks what is in <work>/layout and publishes it.
static int unpack_and_publish(struct work *w, const char *id, const struct platform *want,
                              struct manifest *m, struct error *err) {
    struct image_config config;
    char own[IMAGE_ID_MAX];
    if (unpack_layout(w, want, m, &config, err))
        return -1;
    id_of(m->digest, own);
    int result = publish(w, id ? id : own, &config, err);
    image_config_clear(&config);
    return result;
}

static int finish(struct image_store *s, const char *key, const char *id, struct image_info *ret,
                  struct error *err) {
    struct error ignored;
    if (index_name(s, key, id, err))
        return -1;
    if (!index_has(s, id, ret))
        return error_server(err, ERR_R_IMAGE_NOT_FOUND, "image %s has just been removed", id);
    if (image_store_prune(s, &ignored))
        log_warning("images: %s", ignored.message);
    return 0;
}

// ---- pulls ----

static int pull(struct image_store *s, struct fetch *f, const char *key, struct image_info *ret,
                struct error *err) {
    cleanup_free struct manifest *m = malloc(sizeof *m);
    char id[IMAGE_ID_MAX];
    if (!m)
        return error_set(err, ENOMEM, "out of memory");
    log_info("image %s: asking its registry", f->reference->text);
    if (fetch_resolve(f, m, err))
        return -1;
    id_of(m->digest, id);
    if (!index_has(s, id, ret)) {
        log_info("image %s: fetching %llu MiB in %u layers", f->reference->text,
                 (unsigned long long)(m->layer_bytes >> 20), m->layers);
        // the layout's own manifest may differ: skopeo makes Docker's into OCI's
        if (fetch_copy(f, m, err) || unpack_and_publish(f->work, id, &f->want, m, err))
            return -1;
    }
    return finish(s, key, id, ret, err);
}

static int pull_alone(struct image_store *s, const struct image_request *q,
                      const struct reference *r, const char *key, struct image_info *ret,
                      struct error *err) {
    struct work w;
    struct fetch f = {
        .work = &w,
        .reference = r,
        .username = q->username,
        .password = q->password,
        .want = {q->os ? q->os : "linux", q->arch ? q->arch : platform_host_arch(), NULL},
        .for_strangers = s->lock >= 0};
    if (reference_allowed(r, s->settings, err) ||
        work_begin(&w, s->settings, s->images, s->images_path, r->text, err))
        return -1;
    int result = pull(s, &f, key, ret, err);
    if (result)
        (void)work_failed(&w, ERR_R_IMAGE_PULL_FAILED, err);
    work_end(&w);
    return result;
}

struct flight {
    struct list node;
    char key[INDEX_KEY_SIZE];
    uint8_t secret[SHA256_SIZE]; // nobody gets an image by another one's password
    unsigned waiting;
    bool done;
    int result;
    struct image_info info;
    struct error error;
};

static void digest_secret(const struct image_request *q, uint8_t out[SHA256_SIZE]) {
    const char *user = q->username ? q->username : "", *password = q->password ? q->password : "";
    hmac_sha256(user, strlen(user), password, strlen(password), out);
}

static struct flight *find_flight(struct image_store *s, const struct flight *mine) {
    LIST_EACH(&s->flights, node) {
        struct flight *f = LIST_ENTRY(node, struct flight, node);
        if (!strcmp(f->key, mine->key) && !memcmp(f->secret, mine->secret, sizeof f->secret))
            return f;
    }
    return NULL;
}

// The flight lives on its leader's stack until the last who waits has read its end.
static int follow(struct image_store *s, struct flight *f, struct image_info *ret,
                  struct error *err) {
    f->waiting++;
    while (!f->done)
        (void)pthread_cond_wait(&s->landed, &s->mutex);
    int result = f->result;
    if (result)
        *err = f->error;
    else
        *ret = f->info;
    f->waiting--;
    (void)pthread_cond_broadcast(&s->landed);
    (void)pthread_mutex_unlock(&s->mutex);
    return result;
}

int image_store_ensure(struct image_store *s, const struct image_request *q, struct image_info *ret,
                       struct error *err) {
    struct reference r;
    struct flight own = {.result = -1};
    if (reference_parse(q->reference, &r, err) || index_refresh(s, err))
        return -1;
    index_key(&r, q->os, q->arch, own.key);
    if ((!q->always_pull || *r.digest) && index_lookup(s, own.key, ret))
        return 0;
    digest_secret(q, own.secret);
    (void)pthread_mutex_lock(&s->mutex);
    struct flight *f = find_flight(s, &own);
    if (f)
        return follow(s, f, ret, err);
    list_push_back(&s->flights, &own.node);
    (void)pthread_mutex_unlock(&s->mutex);

    int result = pull_alone(s, q, &r, own.key, ret, err);

    (void)pthread_mutex_lock(&s->mutex);
    list_remove(&own.node);
    own.done = true;
    own.result = result;
    if (result)
        own.error = *err;
    else
        own.info = *ret;
    (void)pthread_cond_broadcast(&s->landed);
    while (own.waiting)
        (void)pthread_cond_wait(&s->landed, &s->mutex);
    (void)pthread_mutex_unlock(&s->mutex);
    return result;
}

// ---- imports ----

struct import {
    struct image_store *store;
    struct work *work;
    int file;
    struct platform want;
    char id[IMAGE_ID_MAX];
};

static int import_layout(struct import *i, struct error *err) {
    cleanup_free struct manifest *m = malloc(sizeof *m);
    if (!m)
        return error_set(err, ENOMEM, "out of memory");
    if (unpack_and_publish(i->work, NULL, &i->want, m, err))
        return -1;
    id_of(m->digest, i->id);
    return 0;
}

static int import_root(struct import *i, struct error *err) {
    struct image_config config;
    if (image_config_plain(&config, i->want.os, i->want.arch, err))
        return -1;
    int result = publish(i->work, i->id, &config, err);
    image_config_clear(&config);
    return result;
}

static int import_file(struct import *i, struct error *err) {
    uint8_t sum[SHA256_SIZE];
    struct image_info info;
    memcpy(i->id, "sha256-", 7);
    if (sha256_fd(i->file, sum))
        return error_errno(err, errno, "%s", i->work->what);
    encode_hex(sum, sizeof sum, i->id + 7);
    if (index_has(i->store, i->id, &info))
        return 0;
    if (unpack_tar(i->work, i->file, err))
        return -1;
    int dir = i->work->dir;
    switch (unpack_look(i->work)) {
    case UNPACK_ROOT: return import_root(i, err);
    case UNPACK_LAYOUT:
        if (renameat(dir, "rootfs", dir, "layout"))
            return error_errno(err, errno, "%s", i->work->what);
        return import_layout(i, err);
    case UNPACK_DOCKER:
        return unpack_docker_archive(i->work, i->file, err) ? -1 : import_layout(i, err);
    }
    return -1;
}

static int import_any(struct import *i, struct error *err) {
    struct stat st;
    if (fstat(i->file, &st))
        return error_errno(err, errno, "%s", i->work->what);
    if (S_ISREG(st.st_mode))
        return import_file(i, err);
    if (!S_ISDIR(st.st_mode))
        return error_server(err, ERR_R_IMAGE_INVALID, "%s is neither a file nor a directory",
                            i->work->what);
    if (faccessat(i->file, "oci-layout", F_OK, 0))
        return error_server(err, ERR_R_IMAGE_INVALID,
                            "%s is no OCI layout: it has no file oci-layout", i->work->what);
    return unpack_copy(i->work, i->file, err) ? -1 : import_layout(i, err);
}

int image_store_import(struct image_store *s, const char *path, const char *name,
                       struct image_info *ret, struct error *err) {
    struct reference r;
    struct work w;
    char key[INDEX_KEY_SIZE];
    struct import i = {.store = s, .work = &w, .want = {"linux", platform_host_arch(), NULL}};
    if (reference_parse(name, &r, err) || index_refresh(s, err))
        return -1;
    if (*r.digest)
        return error_server(err, ERR_R_IMAGE_INVALID,
                            "an import is named by a tag, not by a digest");
    index_key(&r, NULL, NULL, key);
    cleanup_close int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return error_errno(err, errno, "%s", path);
    i.file = file;
    if (work_begin(&w, s->settings, s->images, s->images_path, path, err))
        return -1;
    int result = import_any(&i, err);
    if (!result)
        result = finish(s, key, i.id, ret, err);
    if (result)
        (void)work_failed(&w, ERR_R_IMAGE_INVALID, err);
    work_end(&w);
    return result;
}
