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
#include "server/runtime/docker/execd.h"

enum { TAG_HEX = 16, FILES_MAX = 2, TAR_BLOCK = 512 };

#define EXECD_IMAGE  "opensandbox/execd"
#define LABEL_EXECD  LABEL "execd"        // of an image: "init" when its execd is ours
#define HELPER_MOUNT "/opensandbox-execd" // no directory of the image: nothing is copied from it

struct file {
    const char *name;
    struct strbuf data;
};

struct filling {
    struct docker *d;
    struct file files[FILES_MAX]; // that go into the volume
    size_t count;
    char tag[TAG_HEX + 1];
    char image[512], helper[CONTAINER_ID_SIZE];
};

static struct strbuf *add_file(struct filling *f, const char *name) {
    struct file *file = &f->files[f->count++];
    file->name = name;
    strbuf_init(&file->data, EXECD_FILE_MAX);
    return &file->data;
}

static void name_volume(struct filling *f, const void *data, size_t len) {
    char hex[SHA256_HEX_SIZE];
    sha256_hex(data, len, hex);
    (void)snprintf(f->tag, sizeof f->tag, "%.*s", TAG_HEX, hex);
    (void)snprintf(f->d->execd_volume, sizeof f->d->execd_volume, "opensandbox-execd-%s", f->tag);
}

static int read_binary(struct filling *f, struct error *err) {
    struct strbuf *binary = add_file(f, "execd");
    if (fd_read_file(AT_FDCWD, f->d->settings.execd_path, binary, err))
        return error_wrap(err, "execd");
    name_volume(f, binary->data, binary->len);
    (void)snprintf(f->image, sizeof f->image, EXECD_IMAGE ":%s", f->tag);
    return 0;
}

// ---- an image that is nothing but execd, so that a container can be made at all ----

static int import_image(struct filling *f, struct error *err) {
    cleanup_json json_t *there = NULL;
    char path[ENGINE_PATH_MAX];
    struct strbuf archive cleanup_strbuf;
    strbuf_init(&archive, EXECD_FILE_MAX + 65536);
    if (engine_get(f->d->engine, &there, err, "/images/%s/json", f->image) == 0)
        return 0;
    if (err->kind != ENOENT)
        return -1;
    (void)engine_forgive(err);
    const struct strbuf *binary = &f->files[0].data;
    if (tar_add_dir(&archive, HELPER_MOUNT + 1, 0755) ||
        tar_add_file(&archive, "execd", 0755, binary->data, binary->len) || tar_end(&archive))
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(path, sizeof path, "/images/create?fromSrc=-&repo=%s", f->image);
    const struct engine_call c = {
        .method = "POST", .path = path, .data = archive.data, .len = archive.len, .patient = true};
    return engine_do(f->d->engine, &c, NULL, err) ? error_wrap(err, "import of execd") : 0;
}

// ---- the volume ----

int docker_helper_make(struct docker *d, const char *image, const char *bind,
                       char ret_container[CONTAINER_ID_SIZE], struct error *err) {
    char path[ENGINE_PATH_MAX], word[13];
    cleanup_json json_t *reply = NULL;
    random_hex(word, 12);
    (void)snprintf(path, sizeof path, "/containers/create?name=sandbox-execd-%s", word);
    cleanup_json json_t *body = json_pack(
        "{s:s,s:[s],s:{s:s},s:{s:s,s:[s*]}}", "Image", image, "Cmd", "/execd", "Labels",
        LABEL_SERVER, d->settings.instance, "HostConfig", "NetworkMode", "none", "Binds", bind);
    const struct engine_call c = {.method = "POST", .path = path, .body = body};
    if (engine_do(d->engine, &c, &reply, err))
        return error_wrap(err, "container to bring execd");
    const char *id = json_string_value(json_object_get(reply, "Id"));
    if (!id || strlen(id) >= CONTAINER_ID_SIZE)
        return error_set(err, EPROTO, "the engine tells no id of the container to bring execd");
    (void)snprintf(ret_container, CONTAINER_ID_SIZE, "%s", id);
    return 0;
}

void docker_helper_remove(struct docker *d, const char *container) {
    char path[ENGINE_PATH_MAX];
    struct error undo;
    (void)snprintf(path, sizeof path, "/containers/%s?force=1", container);
    const struct engine_call c = {.method = "DELETE", .path = path};
    (void)engine_do(d->engine, &c, NULL, &undo); // the next start's sweep finds it by its label
}

static int collect(void *arg, const char *data, size_t len) {
    return strbuf_add(arg, data, len);
}

// A file of the helper's container, as the archive that the engine makes of it.
static int get(struct docker *d, const char *helper, const char *path_inside,
               struct strbuf *archive, struct error *err) {
    char path[ENGINE_PATH_MAX];
    strbuf_init(archive, EXECD_FILE_MAX + 65536);
    (void)snprintf(path, sizeof path, "/containers/%s/archive?path=%s", helper, path_inside);
    const struct engine_call c = {.method = "GET", .path = path, .piece = collect, .arg = archive};
    return engine_do(d->engine, &c, NULL, err);
}

// The volume may hold it already, whole: sandboxes use it then, and it is left alone.
static int is_whole(struct filling *f, bool *ret, struct error *err) {
    *ret = false;
    for (size_t i = 0; i < f->count; i++) {
        struct strbuf archive cleanup_strbuf;
        char path[64];
        const struct strbuf *want = &f->files[i].data;
        (void)snprintf(path, sizeof path, HELPER_MOUNT "/%s", f->files[i].name);
        if (get(f->d, f->helper, path, &archive, err))
            return err->kind == ENOENT || err->kind == ECANCELED ? engine_forgive(err) : -1;
        if (!memmem(archive.data, archive.len, want->data, want->len))
            return 0;
    }
    *ret = true;
    return 0;
}

static int put(struct filling *f, struct error *err) {
    char path[ENGINE_PATH_MAX];
    struct strbuf archive cleanup_strbuf;
    int r = 0;
    strbuf_init(&archive, FILES_MAX * (EXECD_FILE_MAX + 65536));
    for (size_t i = 0; i < f->count && !r; i++)
        r = tar_add_file(&archive, f->files[i].name, 0755, f->files[i].data.data,
                         f->files[i].data.len);
    if (r || tar_end(&archive))
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(path, sizeof path, "/containers/%s/archive?path=" HELPER_MOUNT, f->helper);
    const struct engine_call c = {
        .method = "PUT", .path = path, .data = archive.data, .len = archive.len};
    return engine_do(f->d->engine, &c, NULL, err) ? error_wrap(err, "copy of execd") : 0;
}

// ---- runtime.execd_image ----

// Its name in the volume goes with its id: a tag that moves makes another volume.
static int find_image(struct filling *f, struct error *err) {
    cleanup_json json_t *image = NULL;
    struct image_info info;
    const struct image_request q = {.reference = f->d->settings.execd_image};
    if (docker_image_ensure(f->d, &q, &info, err) ||
        engine_get(f->d->engine, &image, err, "/images/%s/json", info.id))
        return error_wrap(err, "runtime.execd_image; without that key this server's own execd is "
                               "used");
    const char *kind = json_string_value(
        json_object_get(json_object_get(json_object_get(image, "Config"), "Labels"), LABEL_EXECD));
    f->d->foreign_execd = !kind || strcmp(kind, "init") != 0;
    (void)snprintf(f->image, sizeof f->image, "%s", info.id);
    name_volume(f, info.id, strlen(info.id));
    return 0;
}

static uint64_t octal(const char *text, size_t n) {
    uint64_t value = 0;
    for (size_t i = 0; i < n && text[i] >= '0' && text[i] <= '7'; i++)
        value = value * 8 + (uint64_t)(text[i] - '0');
    return value;
}

// The first regular file of an archive (POSIX.1: name 100, mode, uid, gid 8 each, size 12 at 124,
// type at 156), entries that only describe it passed over.
static int unpack(const struct strbuf *archive, struct strbuf *ret) {
    for (size_t at = 0; at + TAR_BLOCK <= archive->len;) {
        const char *head = archive->data + at;
        uint64_t size = octal(head + 124, 12);
        at += TAR_BLOCK;
        if (size > archive->len - at)
            return -1;
        if (head[156] == '0' || head[156] == '\0')
            return size ? strbuf_add(ret, archive->data + at, (size_t)size) : -1;
        at += (size_t)((size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK);
    }
    return -1;
}

int docker_helper_read(struct docker *d, const char *container, const char *file,
                       struct strbuf *ret, struct error *err) {
    struct strbuf archive cleanup_strbuf;
    if (get(d, container, file, &archive, err))
        return -1;
    return unpack(&archive, ret) ? error_set(err, EPROTO, "it is no regular file, or empty") : 0;
}

static int read_from_image(struct filling *f, struct error *err) {
    static const char *const names[FILES_MAX] = {"execd", "bootstrap.sh"};
    for (size_t i = 0; i < (f->d->foreign_execd ? FILES_MAX : 1); i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "/%s", names[i]);
        if (docker_helper_read(f->d, f->helper, path, add_file(f, names[i]), err))
            return error_wrap(err, "runtime.execd_image %s: /%s", f->d->settings.execd_image,
                              names[i]);
    }
    return 0;
}

// ---- all of it ----

static int fill_volume(struct filling *f, struct error *err) {
    bool whole = false;
    if (f->d->settings.execd_image && read_from_image(f, err))
        return -1;
    int r = is_whole(f, &whole, err);
    if (!r && !whole)
        r = put(f, err);
    if (!r && !whole)
        r = is_whole(f, &whole, err);
    if (!r && !whole)
        r = error_set(err, EPROTO, "execd did not arrive in volume %s", f->d->execd_volume);
    return r;
}

static int fill(struct filling *f, struct error *err) {
    char bind[VOLUME_NAME_SIZE + sizeof HELPER_MOUNT];
    bool own = !f->d->settings.execd_image;
    if (own ? read_binary(f, err) || import_image(f, err) : find_image(f, err))
        return -1;
    (void)snprintf(bind, sizeof bind, "%s:" HELPER_MOUNT, f->d->execd_volume);
    if (docker_helper_make(f->d, f->image, bind, f->helper, err))
        return -1;
    int r = fill_volume(f, err);
    docker_helper_remove(f->d, f->helper);
    return r;
}

int docker_execd_prepare(struct docker *d, struct error *err) {
    struct filling f = {.d = d};
    int r = fill(&f, err);
    for (size_t i = 0; i < f.count; i++)
        strbuf_free(&f.files[i].data);
    return r ? error_wrap(err, "bring execd to the engine") : 0;
}
