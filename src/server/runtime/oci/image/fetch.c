#include "server/runtime/oci/image/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "fmt/json.h"
#include "server/errors.h"

// What skopeo may change when it asks a registry.
#define FETCH_DIR "fetch"
#define AUTH_FILE "auth.json"

enum { AUTH_MAX = 16 * 1024, SOURCE_MAX = 1024 };

// ---- command lines ----

struct command {
    struct tool tool;
    size_t words;
    char writable[WORK_PATH_SIZE + 16], point[WORK_PATH_SIZE], authfile[WORK_PATH_SIZE + 32],
        source[SOURCE_MAX], target[WORK_PATH_SIZE + 32], os[64], arch[64];
};

static void word(struct command *c, const char *text) {
    if (c->words < TOOL_WORDS_MAX - 1)
        c->tool.argv[c->words++] = text;
}

static void begin(struct command *c, struct work *w) {
    *c = (struct command){.tool = {.writable = w->path,
                                   .deadline_ms = w->deadline_ms,
                                   .file_max = w->settings->image_max_bytes,
                                   .tick = work_tick,
                                   .arg = w}};
}

// skopeo and its global options.
static void skopeo(struct command *c) {
    word(c, "skopeo");
    word(c, "--tmpdir");
    word(c, c->tool.seen_at ? c->tool.seen_at : c->tool.writable);
    if (access("/etc/containers/policy.json", R_OK)) // the operator's, where there is one
        word(c, "--insecure-policy");
}

// A stranger's request is made by nobody in particular. A proxy decides for itself whom it asks.
static bool confined(const struct fetch *f) {
    const struct oci_settings *s = f->work->settings;
    return f->for_strangers && !reference_listed(f->reference, s->registries) &&
           !reference_listed(f->reference, s->insecure_registries) && !getenv("HTTPS_PROXY") &&
           !getenv("https_proxy");
}

static uid_t fetch_id(const struct fetch *f) {
    return confined(f) ? f->work->settings->id_base + OCI_FETCH_ID : 0;
}

// skopeo with what it takes to ask a registry. It sees nothing of ours but FETCH_DIR, which the
// confined one could not reach by its own path.
static void begin_registry(struct command *c, const struct fetch *f) {
    const struct oci_settings *s = f->work->settings;
    begin(c, f->work);
    (void)snprintf(c->writable, sizeof c->writable, "%s/" FETCH_DIR, f->work->path);
    c->tool.writable = c->writable;
    c->tool.uid = fetch_id(f);
    if (c->tool.uid) { // the empty directory on which sandboxes have their roots
        (void)snprintf(c->point, sizeof c->point, "%s/%s/rootfs", s->run_dir, s->instance);
        c->tool.seen_at = c->point;
    }
    (void)snprintf(c->os, sizeof c->os, "--override-os=%.40s", f->want.os);
    (void)snprintf(c->arch, sizeof c->arch, "--override-arch=%.40s", f->want.arch);
    skopeo(c);
    word(c, c->os);
    word(c, c->arch);
}

static const char *fetch_path(const struct command *c) {
    return c->tool.seen_at ? c->tool.seen_at : c->tool.writable;
}

static void registry_options(struct command *c, const struct fetch *f, const char *tls,
                             const char *certs) {
    const struct oci_settings *s = f->work->settings;
    (void)snprintf(c->authfile, sizeof c->authfile, "--authfile=%s/" AUTH_FILE, fetch_path(c));
    word(c, c->authfile); // also when it is empty: never the credentials of the host's root
    if (reference_listed(f->reference, s->insecure_registries))
        word(c, tls);
    if (s->registry_ca_dir && *s->registry_ca_dir) {
        word(c, certs);
        word(c, s->registry_ca_dir);
    }
}

// umoci 0.4 knows no zstd.
static void gzip_layers(struct command *c) {
    word(c, "--dest-compress");
    word(c, "--dest-compress-format=gzip");
}

// ---- credentials ----

static char *encode_pair(const char *username, const char *password) {
    char *pair = NULL, *text = NULL;
    int n = asprintf(&pair, "%s:%s", username, password);
    if (n < 0)
        return NULL;
    text = malloc(4 * (((size_t)n + 2) / 3) + 1);
    if (text)
        (void)encode_base64(pair, (size_t)n, text);
    explicit_bzero(pair, (size_t)n);
    free(pair);
    return text;
}

static void wipe(char *text) {
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

static int write_credentials(const struct fetch *f, struct error *err) {
    bool given = f->username && *f->username && f->password;
    char *pair = given ? encode_pair(f->username, f->password) : NULL;
    json_t *j = given ? json_pack("{s:{s:{s:s}}}", "auths", f->reference->registry, "auth", pair)
                      : json_pack("{s:{}}", "auths");
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    int result = 0;
    cleanup_close int fd = openat(f->work->dir, FETCH_DIR "/" AUTH_FILE,
                                  O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (!text || strlen(text) > AUTH_MAX)
        result = error_server(err, ERR_R_IMAGE_UNAUTHORIZED, "image.auth is not usable");
    else if (fd < 0 || fchown(fd, fetch_id(f), fetch_id(f)) || fd_write_all(fd, text, strlen(text)))
        result = error_errno(err, errno, "credentials for skopeo");
    wipe(text);
    wipe(pair);
    json_decref(j);
    return result;
}

// ---- what skopeo says ----

static bool says(const char *text, const char *const *parts) {
    for (; *parts; parts++)
        if (strcasestr(text, *parts))
            return true;
    return false;
}

// skopeo quotes bodies that it cannot read, and a registry may redirect it to any server: what that
// says is not for whoever named the registry.
static void drop_bodies(char *text) {
    char *body = strstr(text, "response body"), *code = strstr(text, "StatusCode: ");
    if (body)
        *body = '\0';
    if (code)
        code[strcspn(code, ",")] = '\0';
}

static int explain(const struct fetch *f, struct error *err) {
    static const char *const unknown[] = {"manifest unknown",      "name unknown",
                                          "not known to registry", "status code 404",
                                          "statuscode: 404",       NULL},
                             *const refused[] = {"unauthorized",
                                                 "authentication required",
                                                 "access to the resource is denied",
                                                 "denied:",
                                                 "invalid username/password",
                                                 NULL},
                             *const platform[] = {"no image found in", NULL},
                             *const trust[] = {"x509", "certificate", "https client", NULL};
    struct error cause = *err;
    const char *ref = f->reference->text;
    drop_bodies(cause.message);
    if (cause.code[0] || cause.kind != EIO)
        return work_failed(f->work, ERR_R_IMAGE_PULL_FAILED, err);
    if (says(cause.message, unknown))
        return error_server(err, ERR_R_IMAGE_NOT_FOUND, "image %s: %s", ref, cause.message);
    if (says(cause.message, refused))
        return error_server(err, ERR_R_IMAGE_UNAUTHORIZED, "image %s: %s", ref, cause.message);
    if (says(cause.message, platform))
        return error_server(err, ERR_R_IMAGE_INVALID, "image %s: %s", ref, cause.message);
    if (says(cause.message, trust))
        return error_server(err, ERR_R_IMAGE_PULL_FAILED,
                            "image %s: %s; see oci.registry_ca_dir and oci.insecure_registries",
                            ref, cause.message);
    return error_server(err, ERR_R_IMAGE_PULL_FAILED, "image %s: %s", ref, cause.message);
}

// ---- asking ----

static int inspect(const struct fetch *f, const char *digest, struct manifest *ret,
                   struct error *err) {
    struct command c;
    cleanup_strbuf struct strbuf out;
    const struct reference *r = f->reference;
    strbuf_init(&out, MANIFEST_MAX);
    begin_registry(&c, f);
    word(&c, "inspect");
    word(&c, "--raw");
    registry_options(&c, f, "--tls-verify=false", "--cert-dir");
    (void)snprintf(c.source, sizeof c.source, "docker://%s/%s%s%s", r->registry, r->repository,
                   *digest ? "@" : ":", *digest ? digest : r->tag);
    word(&c, c.source);
    c.tool.out = &out;
    work_step(f->work, "asking the registry", ".", 0);
    if (tool_run(&c.tool, err))
        return explain(f, err);
    if (out.failed)
        return error_server(err, ERR_R_IMAGE_INVALID,
                            "the manifest of image %s is larger than %d bytes", r->text,
                            (int)MANIFEST_MAX);
    return manifest_parse(out.data, out.len, *digest ? digest : NULL, &f->want, ret, err);
}

static int resolve(const struct fetch *f, struct manifest *ret, struct error *err) {
    enum { LEVELS = 4 };
    char digest[DIGEST_TEXT_SIZE];
    memcpy(digest, f->reference->digest, sizeof digest);
    for (int level = 0; level < LEVELS; level++) {
        if (inspect(f, digest, ret, err))
            return -1;
        if (ret->kind == MANIFEST_IMAGE)
            return 0;
        memcpy(digest, ret->chosen.digest, sizeof digest);
    }
    return error_server(err, ERR_R_IMAGE_INVALID, "image %s: an index of indexes of indexes",
                        f->reference->text);
}

// FETCH_DIR with credentials in it, as long as skopeo needs it.
static int open_dir(const struct fetch *f, struct error *err) {
    if (mkdirat(f->work->dir, FETCH_DIR, 0700) ||
        fchownat(f->work->dir, FETCH_DIR, fetch_id(f), fetch_id(f), AT_SYMLINK_NOFOLLOW)) {
        (void)error_errno(err, errno, "directory for skopeo");
        return work_failed(f->work, ERR_R_IMAGE_PULL_FAILED, err);
    }
    return write_credentials(f, err) ? work_failed(f->work, ERR_R_IMAGE_PULL_FAILED, err) : 0;
}

static int close_dir(const struct fetch *f, int result, struct error *err) {
    struct error ignored; // the whole work goes in any case
    return path_remove_tree(f->work->dir, FETCH_DIR, result ? &ignored : err) || result ? -1 : 0;
}

int fetch_resolve(const struct fetch *f, struct manifest *ret, struct error *err) {
    if (open_dir(f, err))
        return -1;
    return close_dir(f, resolve(f, ret, err), err);
}

// ---- copying ----

static int copy(const struct fetch *f, const struct manifest *m, struct error *err) {
    struct command c;
    begin_registry(&c, f);
    word(&c, "copy");
    word(&c, "-q");
    registry_options(&c, f, "--src-tls-verify=false", "--src-cert-dir");
    if (m->zstd)
        gzip_layers(&c);
    (void)snprintf(c.source, sizeof c.source, "docker://%s/%s@%s", f->reference->registry,
                   f->reference->repository, m->digest);
    (void)snprintf(c.target, sizeof c.target, "oci:%s/layout:x", fetch_path(&c));
    word(&c, c.source);
    word(&c, c.target);
    work_step(f->work, "fetching", FETCH_DIR, m->layer_bytes);
    return tool_run(&c.tool, err);
}

static int copy_twice(const struct fetch *f, const struct manifest *m, struct error *err) {
    if (!copy(f, m, err))
        return 0;
    if (!strcasestr(err->message, "digest did not match"))
        return -1;
    log_info("image %s: a layer came damaged, fetching again", f->reference->text);
    return copy(f, m, err);
}

int fetch_copy(const struct fetch *f, const struct manifest *m, struct error *err) {
    if (m->layer_bytes > f->work->settings->image_max_bytes) {
        (void)error_set(err, EFBIG, "%s", f->reference->text);
        return work_failed(f->work, ERR_R_IMAGE_INVALID, err);
    }
    if (open_dir(f, err))
        return -1;
    int result = copy_twice(f, m, err) ? explain(f, err) : 0;
    if (!result && renameat(f->work->dir, FETCH_DIR "/layout", f->work->dir, "layout"))
        result = error_errno(err, errno, "layout");
    return close_dir(f, result, err);
}

int fetch_archive(struct work *w, int file, struct error *err) {
    struct command c;
    begin(&c, w);
    skopeo(&c);
    c.tool.pass = file;
    word(&c, "copy");
    word(&c, "-q");
    word(&c, "docker-archive:/proc/self/fd/3");
    (void)snprintf(c.target, sizeof c.target, "oci:%s/layout:x", w->path);
    word(&c, c.target);
    work_step(w, "reading", "layout", 0);
    return tool_run(&c.tool, err) ? work_failed(w, ERR_R_IMAGE_INVALID, err) : 0;
}

int fetch_convert(struct work *w, struct error *err) {
    struct command c;
    begin(&c, w);
    skopeo(&c);
    word(&c, "copy");
    word(&c, "-q");
    gzip_layers(&c);
    // by its tag it would find OCI's types only
    (void)snprintf(c.source, sizeof c.source, "oci:%s/layout", w->path);
    (void)snprintf(c.target, sizeof c.target, "oci:%s/converted:x", w->path);
    word(&c, c.source);
    word(&c, c.target);
    work_step(w, "converting", "converted", 0);
    return tool_run(&c.tool, err) ? work_failed(w, ERR_R_IMAGE_INVALID, err) : 0;
}
