#include "server/runtime/oci/image/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/oci/image/fetch.h"

static struct tool tool_of(struct work *w) {
    return (struct tool){.writable = w->path,
                         .deadline_ms = w->deadline_ms,
                         .file_max = w->settings->image_max_bytes,
                         .tick = work_tick,
                         .arg = w};
}

// ---- layouts ----

// Tools read index.json again and want a tag: it gets one entry, the manifest that was checked.
static int write_index(int layout, const struct manifest *m, struct error *err) {
    char path[96];
    struct stat st;
    (void)snprintf(path, sizeof path, "blobs/sha256/%s", m->digest + 7);
    if (fstatat(layout, path, &st, AT_SYMLINK_NOFOLLOW))
        return error_errno(err, errno, "manifest");
    cleanup_json json_t *j =
        json_pack("{s:i,s:[{s:s,s:s,s:I,s:{s:s}}]}", "schemaVersion", 2, "manifests", "mediaType",
                  m->docker ? "application/vnd.docker.distribution.manifest.v2+json"
                            : "application/vnd.oci.image.manifest.v1+json",
                  "digest", m->digest, "size", (json_int_t)st.st_size, "annotations",
                  "org.opencontainers.image.ref.name", "x");
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 4096);
    if (!j || json_write(j, &sb))
        return error_set(err, ENOMEM, "out of memory");
    return fd_replace_file(layout, "index.json", sb.data, sb.len, 0600, err);
}

// Reads <work>/layout and leaves one image in it.
static int check_layout(struct work *w, const struct platform *want, struct manifest *m,
                        struct image_config *config, struct error *err) {
    cleanup_close int layout =
        openat(w->dir, "layout", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (layout < 0)
        return error_server(err, ERR_R_IMAGE_INVALID, "image %s is no OCI layout", w->what);
    if (manifest_read_layout(layout, want, m, config, err))
        return error_wrap(err, "image %s", w->what);
    if (m->layer_bytes > w->settings->image_max_bytes)
        (void)error_set(err, EFBIG, "layers");
    else if (!write_index(layout, m, err))
        return 0;
    image_config_clear(config);
    return -1;
}

// What umoci cannot read, skopeo makes it.
static int convert(struct work *w, const struct platform *want, struct error *err) {
    cleanup_free struct manifest *m = malloc(sizeof *m);
    struct image_config config;
    if (!m)
        return error_set(err, ENOMEM, "out of memory");
    if (fetch_convert(w, err) || path_remove_tree(w->dir, "layout", err))
        return -1;
    if (renameat(w->dir, "converted", w->dir, "layout"))
        return error_errno(err, errno, "layout");
    if (check_layout(w, want, m, &config, err))
        return -1;
    image_config_clear(&config);
    return 0;
}

static int run_umoci(struct work *w, struct error *err) {
    char image[WORK_PATH_SIZE + 16], rootfs[WORK_PATH_SIZE + 16];
    struct tool t = tool_of(w);
    (void)snprintf(image, sizeof image, "%s/layout:x", w->path);
    (void)snprintf(rootfs, sizeof rootfs, "%s/rootfs", w->path);
    const char *const words[] = {"umoci", "raw", "unpack", "--image", image, rootfs, NULL};
    memcpy(t.argv, words, sizeof words);
    work_step(w, "unpacking", "rootfs", 0);
    return tool_run(&t, err);
}

int unpack_layout(struct work *w, const struct platform *want, struct manifest *ret,
                  struct image_config *ret_config, struct error *err) {
    struct image_config config;
    if (check_layout(w, want, ret, &config, err))
        return work_failed(w, ERR_R_IMAGE_INVALID, err);
    if (((ret->docker || ret->zstd) && convert(w, want, err)) || run_umoci(w, err) ||
        path_remove_tree(w->dir, "layout", err)) {
        image_config_clear(&config);
        return work_failed(w, ERR_R_IMAGE_INVALID, err);
    }
    *ret_config = config;
    return 0;
}

int unpack_copy(struct work *w, int dir, struct error *err) {
    char target[WORK_PATH_SIZE + 16];
    uint64_t bytes;
    struct tool t = tool_of(w);
    (void)snprintf(target, sizeof target, "%s/layout", w->path);
    const char *const words[] = {"cp", "-r", "--reflink=auto", "/proc/self/fd/3/.", target, NULL};
    if (path_measure_tree(dir, ".", w->settings->image_max_bytes, w->settings->image_max_entries,
                          &bytes) < 0)
        (void)error_errno(err, errno == EOVERFLOW ? EFBIG : errno, "%s", w->what);
    else {
        memcpy(t.argv, words, sizeof words);
        t.pass = dir;
        work_step(w, "copying", "layout", bytes);
        if (!tool_run(&t, err))
            return 0;
    }
    return work_failed(w, ERR_R_IMAGE_INVALID, err);
}

// ---- tarballs ----

static const struct {
    const char *magic, *option;
    unsigned len;
} compressions[] = {{"\x1f\x8b", "--gzip", 2},
                    {"\xfd"
                     "7zXZ\0",
                     "--xz", 6},
                    {"\x28\xb5\x2f\xfd", "--zstd", 4},
                    {"BZh", "--bzip2", 3}};

static const char *compression(int file) {
    char head[6] = {0};
    if (pread(file, head, sizeof head, 0) < 0)
        return NULL; // tar says it
    for (size_t i = 0; i < ARRAY_SIZE(compressions); i++)
        if (!memcmp(head, compressions[i].magic, compressions[i].len))
            return compressions[i].option;
    return NULL;
}

int unpack_tar(struct work *w, int file, struct error *err) {
    char target[WORK_PATH_SIZE + 32];
    struct tool t = tool_of(w);
    struct stat st;
    const char *option = compression(file);
    (void)snprintf(target, sizeof target, "--directory=%s/rootfs", w->path);
    // what the sandbox covers with its own mounts is not needed, and device nodes may not be made
    // trusted.* is how overlays talk to the kernel
    const char *const words[] = {"tar",
                                 "--extract",
                                 "--file=/proc/self/fd/3",
                                 target,
                                 "--numeric-owner",
                                 "--same-owner",
                                 "--same-permissions",
                                 "--delay-directory-restore",
                                 "--xattrs",
                                 "--xattrs-include=*",
                                 "--xattrs-exclude=trusted.*",
                                 "--anchored",
                                 "--exclude=./dev/*",
                                 "--exclude=dev/*",
                                 "--exclude=./proc/*",
                                 "--exclude=proc/*",
                                 "--exclude=./sys/*",
                                 "--exclude=sys/*",
                                 "--warning=none",
                                 option,
                                 NULL};
    memcpy(t.argv, words, sizeof words);
    t.pass = file;
    if (mkdirat(w->dir, "rootfs", 0755) || fchmodat(w->dir, "rootfs", 0755, 0)) {
        (void)error_errno(err, errno, "rootfs");
        return work_failed(w, ERR_R_IMAGE_PULL_FAILED, err);
    }
    work_step(w, "unpacking", "rootfs", !option && !fstat(file, &st) ? (uint64_t)st.st_size : 0);
    return tool_run(&t, err) ? work_failed(w, ERR_R_IMAGE_INVALID, err) : 0;
}

// ---- archives ----

// skopeo 1.9 reads compressed docker-archives wrongly: <work>/rootfs becomes a plain one again.
static int repack(struct work *w, struct error *err) {
    char source[WORK_PATH_SIZE + 32], target[WORK_PATH_SIZE + 32];
    struct tool t = tool_of(w);
    (void)snprintf(source, sizeof source, "--directory=%s/rootfs", w->path);
    (void)snprintf(target, sizeof target, "--file=%s/archive.tar", w->path);
    const char *const words[] = {"tar", "--create", target, source, "--transform=s,^[.]/,,",
                                 ".",   NULL};
    memcpy(t.argv, words, sizeof words);
    work_step(w, "reading", "archive.tar", 0);
    return tool_run(&t, err);
}

int unpack_docker_archive(struct work *w, int file, struct error *err) {
    cleanup_close int plain = -1;
    if (compression(file)) {
        if (repack(w, err))
            return work_failed(w, ERR_R_IMAGE_INVALID, err);
        plain = openat(w->dir, "archive.tar", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (plain < 0)
            return error_errno(err, errno, "archive.tar");
    }
    if (path_remove_tree(w->dir, "rootfs", err))
        return -1;
    return fetch_archive(w, plain < 0 ? file : plain, err);
}

static json_t *read_json(int root, const char *name) {
    struct error ignored;
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, MANIFEST_MAX);
    if (fd_read_file(root, name, &sb, &ignored)) // none: it is a root like any other
        return NULL;
    return json_parse(sb.data, sb.len, NULL, &ignored);
}

enum unpack_found unpack_look(const struct work *w) {
    cleanup_close int root =
        openat(w->dir, "rootfs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    cleanup_json json_t *layout = root < 0 ? NULL : read_json(root, "oci-layout");
    if (json_object_get(layout, "imageLayoutVersion"))
        return UNPACK_LAYOUT;
    cleanup_json json_t *docker = root < 0 ? NULL : read_json(root, "manifest.json");
    return json_object_get(json_array_get(docker, 0), "Layers") ? UNPACK_DOCKER : UNPACK_ROOT;
}
