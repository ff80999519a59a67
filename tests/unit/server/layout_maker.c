#include "layout_maker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"

void layout_write(int at, const char *name, const char *text) {
    cleanup_close int fd = openat(at, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        fail_msg("%s: %s", name, strerror(errno));
    assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

void layout_write_json(int at, const char *name, const json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT);
    assert_non_null(text);
    layout_write(at, name, text);
    free(text);
}

json_t *layout_blob(int layout, const char *media_type, const void *data, size_t len) {
    char path[128] = "blobs/sha256/", digest[DIGEST_TEXT_SIZE] = "sha256:";
    sha256_hex(data, len, path + strlen(path));
    sha256_hex(data, len, digest + 7);
    cleanup_close int fd = openat(layout, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, data, len), 0);
    return json_pack("{s:s,s:s,s:I}", "mediaType", media_type, "digest", digest, "size",
                     (json_int_t)len);
}

json_t *layout_blob_json(int layout, const char *media_type, const json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT);
    assert_non_null(text);
    json_t *d = layout_blob(layout, media_type, text, strlen(text));
    free(text);
    return d;
}

void layout_begin(int layout) {
    layout_write(layout, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    assert_int_equal(mkdirat(layout, "blobs", 0755), 0);
    assert_int_equal(mkdirat(layout, "blobs/sha256", 0755), 0);
}

json_t *layout_manifest(int layout, const void *tar, size_t len, const char *os, const char *arch) {
    char diff_id[DIGEST_TEXT_SIZE] = "sha256:";
    sha256_hex(tar, len, diff_id + 7);
    json_t *config =
        json_pack("{s:s,s:s,s:{s:[s],s:s},s:{s:s,s:[s]}}", "os", os ? os : "linux", "architecture",
                  arch ? arch : platform_host_arch(), "config", "Env", "PATH=/bin", "User", "7",
                  "rootfs", "type", "layers", "diff_ids", diff_id);
    json_t *manifest = json_pack(
        "{s:i,s:s,s:o,s:[o]}", "schemaVersion", 2, "mediaType",
        "application/vnd.oci.image.manifest.v1+json", "config",
        layout_blob_json(layout, "application/vnd.oci.image.config.v1+json", config), "layers",
        layout_blob(layout, "application/vnd.oci.image.layer.v1.tar", tar, len));
    json_decref(config);
    return manifest;
}

void layout_index(int layout, json_t *descriptor) {
    json_t *index = json_pack("{s:i,s:[o]}", "schemaVersion", 2, "manifests", descriptor);
    layout_write_json(layout, "index.json", index);
    json_decref(index);
}
