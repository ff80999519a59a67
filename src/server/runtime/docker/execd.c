// execd on the engine: a volume per version, filled once through a container that is never started
// (docker-runtime.md, decision 1).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/fd.h"
#include "base/random.h"
#include "fmt/json.h"
#include "fmt/tar.h"
#include "server/errors.h"
#include "server/runtime/docker/internal.h"

enum { EXECD_MAX = 64 * 1024 * 1024, TAG_HEX = 16 };

#define EXECD_IMAGE "opensandbox/execd"

struct filling {
    struct docker *d;
    struct strbuf binary;
    char tag[TAG_HEX + 1];
    char image[64], helper[CONTAINER_ID_SIZE];
};

static int read_binary(struct filling *f, struct error *err) {
    char hex[SHA256_HEX_SIZE];
    if (fd_read_file(AT_FDCWD, f->d->settings.execd_path, &f->binary, err))
        return error_wrap(err, "execd");
    sha256_hex(f->binary.data, f->binary.len, hex);
    (void)snprintf(f->tag, sizeof f->tag, "%.*s", TAG_HEX, hex);
    (void)snprintf(f->image, sizeof f->image, EXECD_IMAGE ":%s", f->tag);
    (void)snprintf(f->d->execd_volume, sizeof f->d->execd_volume, "opensandbox-execd-%s", f->tag);
    return 0;
}

// ---- an image that is nothing but execd, so that a container can be made at all ----

static int import_image(struct filling *f, struct error *err) {
    cleanup_json json_t *there = NULL;
    char path[ENGINE_PATH_MAX];
    struct strbuf archive cleanup_strbuf;
    strbuf_init(&archive, EXECD_MAX + 65536);
    if (engine_get(f->d->engine, &there, err, "/images/%s/json", f->image) == 0)
        return 0;
    if (err->kind != ENOENT)
        return -1;
    (void)engine_forgive(err);
    if (tar_add_dir(&archive, "opt", 0755) || tar_add_dir(&archive, "opt/opensandbox", 0755) ||
        tar_add_dir(&archive, "opt/opensandbox/bin", 0755) ||
        tar_add_file(&archive, "execd", 0755, f->binary.data, f->binary.len) || tar_end(&archive))
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(path, sizeof path, "/images/create?fromSrc=-&repo=%s", f->image);
    const struct engine_call c = {
        .method = "POST", .path = path, .data = archive.data, .len = archive.len, .patient = true};
    return engine_do(f->d->engine, &c, NULL, err) ? error_wrap(err, "import of execd") : 0;
}

// ---- the volume ----

static int make_helper(struct filling *f, struct error *err) {
    char path[ENGINE_PATH_MAX], word[13];
    cleanup_json json_t *reply = NULL;
    random_hex(word, 12);
    (void)snprintf(path, sizeof path, "/containers/create?name=sandbox-execd-%s", word);
    cleanup_json json_t *body =
        json_pack("{s:s,s:[s],s:{s:s},s:{s:s,s:[o]}}", "Image", f->image, "Cmd", "/execd", "Labels",
                  LABEL_SERVER, f->d->settings.instance, "HostConfig", "NetworkMode", "none",
                  "Binds", json_sprintf("%s:" EXECD_DIR, f->d->execd_volume));
    const struct engine_call c = {.method = "POST", .path = path, .body = body};
    if (engine_do(f->d->engine, &c, &reply, err))
        return error_wrap(err, "container to bring execd");
    const char *id = json_string_value(json_object_get(reply, "Id"));
    if (!id || strlen(id) >= sizeof f->helper)
        return error_set(err, EPROTO, "the engine tells no id of the container to bring execd");
    (void)snprintf(f->helper, sizeof f->helper, "%s", id);
    return 0;
}

static int collect(void *arg, const char *data, size_t len) {
    return strbuf_add(arg, data, len);
}

// The volume may hold it already, whole: sandboxes use it then, and it is left alone.
static int is_whole(struct filling *f, bool *ret, struct error *err) {
    struct strbuf archive cleanup_strbuf;
    char path[ENGINE_PATH_MAX];
    strbuf_init(&archive, EXECD_MAX + 65536);
    (void)snprintf(path, sizeof path, "/containers/%s/archive?path=" EXECD_DIR "/execd", f->helper);
    const struct engine_call c = {.method = "GET", .path = path, .piece = collect, .arg = &archive};
    *ret = false;
    if (engine_do(f->d->engine, &c, NULL, err))
        return err->kind == ENOENT || err->kind == ECANCELED ? engine_forgive(err) : -1;
    *ret = memmem(archive.data, archive.len, f->binary.data, f->binary.len) != NULL;
    return 0;
}

static int put(struct filling *f, struct error *err) {
    char path[ENGINE_PATH_MAX];
    struct strbuf archive cleanup_strbuf;
    strbuf_init(&archive, EXECD_MAX + 65536);
    if (tar_add_file(&archive, "execd", 0755, f->binary.data, f->binary.len) || tar_end(&archive))
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(path, sizeof path, "/containers/%s/archive?path=" EXECD_DIR, f->helper);
    const struct engine_call c = {
        .method = "PUT", .path = path, .data = archive.data, .len = archive.len};
    return engine_do(f->d->engine, &c, NULL, err) ? error_wrap(err, "copy of execd") : 0;
}

static int fill(struct filling *f, struct error *err) {
    bool whole = false;
    if (import_image(f, err) || make_helper(f, err))
        return -1;
    int r = is_whole(f, &whole, err);
    if (!r && !whole)
        r = put(f, err);
    if (!r && !whole)
        r = is_whole(f, &whole, err);
    if (!r && !whole)
        r = error_set(err, EPROTO, "execd did not arrive in volume %s", f->d->execd_volume);
    char path[ENGINE_PATH_MAX];
    struct error undo;
    (void)snprintf(path, sizeof path, "/containers/%s?force=1", f->helper);
    const struct engine_call c = {.method = "DELETE", .path = path};
    (void)engine_do(f->d->engine, &c, NULL, &undo); // the next start's sweep finds it by its label
    return r;
}

int docker_execd_prepare(struct docker *d, struct error *err) {
    struct filling f = {.d = d};
    strbuf_init(&f.binary, EXECD_MAX);
    int r = read_binary(&f, err);
    if (!r)
        r = fill(&f, err);
    strbuf_free(&f.binary);
    if (r && !err->code[0]) {
        struct error cause = *err;
        (void)error_server(err, ERR_R_SANDBOX_EXECD_DISTRIBUTION_FAILED, "%s", cause.message);
    }
    return r;
}
