// Pulls: one per image and credentials, for all creates that wait for it.
#include <string.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

struct flight {
    struct job job;
    struct domain *domain;
    char *key;
    struct list waits;
    char *reference, *username, *password, *os, *arch;
    struct image_request request; // points to them
    struct image_info info;
    struct error error;
};

static void wipe(char *text) {
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

static void flight_free(struct flight *f) {
    free(f->key);
    free(f->reference);
    wipe(f->username);
    wipe(f->password);
    free(f->os);
    free(f->arch);
    free(f);
}

static void run(struct job *job) {
    struct flight *f = CONTAINER_OF(job, struct flight, job);
    struct runtime *r = f->domain->settings.runtime;
    (void)r->ops->ensure_image(r, &f->request, &f->info, &f->error); // f->error says it
}

static void done(struct job *job) {
    struct flight *f = CONTAINER_OF(job, struct flight, job);
    struct list *node;
    f->domain->inflight--;
    (void)map_remove(&f->domain->flights, f->key);
    while ((node = list_pop(&f->waits))) {
        struct image_wait *w = LIST_ENTRY(node, struct image_wait, node);
        w->done(w, &f->info, f->error.kind ? &f->error : NULL);
    }
    flight_free(f);
}

static const char *or_empty(const char *text) {
    return text ? text : "";
}

// Credentials are part of it, so that nobody gets an image by another one's password; as a digest,
// so that they stand nowhere.
static char *key_of(const struct image_request *q) {
    char secret[SHA256_HEX_SIZE], *pair = NULL, *key = NULL;
    int n = asprintf(&pair, "%s%c%s", or_empty(q->username), '\0', or_empty(q->password));
    if (n < 0)
        return NULL;
    sha256_hex(pair, (size_t)n, secret);
    explicit_bzero(pair, (size_t)n);
    free(pair);
    return asprintf(&key, "%s %s %s %s", or_empty(q->os), or_empty(q->arch), secret, q->reference) <
                   0
               ? NULL
               : key;
}

static int copy(const char *text, char **ret) {
    *ret = text ? strdup(text) : NULL;
    return text && !*ret ? -1 : 0;
}

static struct flight *flight_new(struct domain *d, const struct image_request *q) {
    struct flight *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->domain = d;
    f->job = (struct job){.run = run, .done = done};
    list_init(&f->waits);
    if (copy(q->reference, &f->reference) < 0 || copy(q->username, &f->username) < 0 ||
        copy(q->password, &f->password) < 0 || copy(q->os, &f->os) < 0 ||
        copy(q->arch, &f->arch) < 0) {
        flight_free(f);
        return NULL;
    }
    f->request = (struct image_request){f->reference, f->username, f->password,
                                        f->os,        f->arch,     q->always_pull};
    return f;
}

int image_join(struct domain *d, struct image_wait *w, const struct image_request *q,
               struct error *err) {
    char *key cleanup_free = key_of(q);
    struct flight *f = key ? map_get(&d->flights, key) : NULL;
    if (!f) {
        f = key ? flight_new(d, q) : NULL;
        if (!f || map_put(&d->flights, key, f) < 0) {
            if (f)
                flight_free(f);
            return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
        }
        f->key = TAKE_PTR(key);
        if (workers_submit(d->pull_workers, &f->job) < 0) {
            (void)map_remove(&d->flights, f->key);
            flight_free(f);
            return error_server(err, ERR_TOO_MANY, "too many images are being pulled");
        }
        d->inflight++;
    }
    list_push_back(&f->waits, &w->node);
    return 0;
}

void image_leave(struct image_wait *w) {
    list_remove(&w->node);
}
