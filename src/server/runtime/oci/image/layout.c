// An OCI layout directory, read as a stranger's: regular files only, every digest and size checked.
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
#include "server/runtime/oci/image/manifest.h"

#define INVALID(err, ...) error_server(err, ERR_R_IMAGE_INVALID, __VA_ARGS__)

enum { LEVELS = 4 };

static int open_file(int layout, const char *path, uint64_t *ret_bytes, struct error *err) {
    struct stat st;
    cleanup_close int fd =
        path_open(layout, path, PATH_NO_SYMLINKS, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0)
        return INVALID(err, "the layout's %s: %s", path, strerrordesc_np(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return INVALID(err, "the layout's %s is no regular file", path);
    *ret_bytes = (uint64_t)st.st_size;
    return TAKE_FD(fd);
}

static int read_file(int layout, const char *path, struct strbuf *sb, struct error *err) {
    uint64_t bytes = 0;
    cleanup_close int fd = open_file(layout, path, &bytes, err);
    if (fd < 0)
        return -1;
    strbuf_clear(sb);
    if (bytes > MANIFEST_MAX)
        return INVALID(err, "the layout's %s has more than %d bytes", path, (int)MANIFEST_MAX);
    return fd_read_all(fd, sb, err) ? error_wrap(err, "%s", path) : 0;
}

static void blob_path(const struct blob *b, char path[96]) {
    (void)snprintf(path, 96, "blobs/sha256/%s", b->digest + 7);
}

static int read_blob(int layout, const struct blob *b, struct strbuf *sb, struct error *err) {
    char path[96];
    blob_path(b, path);
    if (read_file(layout, path, sb, err))
        return -1;
    if (sb->len != b->bytes)
        return INVALID(err, "the layout's blob %s has %zu bytes instead of %llu", b->digest,
                       sb->len, (unsigned long long)b->bytes);
    return 0;
}

static int differs(const struct blob *b, struct error *err) {
    return INVALID(err, "the layout is corrupt: blob %s does not hash to its name", b->digest);
}

static int check_layer(int layout, const struct blob *b, struct error *err) {
    char path[96], hex[SHA256_HEX_SIZE];
    uint8_t sum[SHA256_SIZE];
    uint64_t bytes = 0;
    blob_path(b, path);
    cleanup_close int fd = open_file(layout, path, &bytes, err);
    if (fd < 0)
        return -1;
    if (bytes != b->bytes)
        return INVALID(err, "the layout's blob %s has %llu bytes instead of %llu", b->digest,
                       (unsigned long long)bytes, (unsigned long long)b->bytes);
    if (sha256_fd(fd, sum))
        return error_errno(err, errno, "%s", path);
    encode_hex(sum, sizeof sum, hex);
    return strcmp(hex, b->digest + 7) != 0 ? differs(b, err) : 0;
}

static int check_version(int layout, struct strbuf *sb, struct error *err) {
    if (read_file(layout, "oci-layout", sb, err))
        return -1;
    cleanup_json json_t *j = json_parse(sb->data, sb->len, NULL, err);
    const char *version = json_string_value(json_object_get(j, "imageLayoutVersion"));
    if (!version || strncmp(version, "1.", 2) != 0)
        return INVALID(err, "the layout is of version \"%.20s\", not 1", version ? version : "");
    return 0;
}

static int read_config(int layout, const struct platform *want, const struct manifest *m,
                       struct strbuf *sb, struct image_config *ret, struct error *err) {
    char hex[SHA256_HEX_SIZE];
    if (read_blob(layout, &m->config, sb, err))
        return -1;
    sha256_hex(sb->data, sb->len, hex);
    if (strcmp(hex, m->config.digest + 7) != 0)
        return differs(&m->config, err);
    for (unsigned i = 0; i < m->layers; i++)
        if (check_layer(layout, &m->layer[i], err))
            return -1;
    return manifest_parse_config(sb->data, sb->len, want, ret, err);
}

int manifest_read_layout(int layout, const struct platform *want, struct manifest *ret,
                         struct image_config *ret_config, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, MANIFEST_MAX);
    if (check_version(layout, &sb, err) || read_file(layout, "index.json", &sb, err) ||
        manifest_parse(sb.data, sb.len, NULL, want, ret, err))
        return -1;
    if (ret->kind != MANIFEST_INDEX)
        return INVALID(err, "the layout's index.json is no index");
    for (int level = 0; level < LEVELS; level++) {
        const struct blob next = ret->chosen;
        if (read_blob(layout, &next, &sb, err) ||
            manifest_parse(sb.data, sb.len, next.digest, want, ret, err))
            return -1;
        if (ret->kind == MANIFEST_IMAGE)
            return read_config(layout, want, ret, &sb, ret_config, err);
    }
    return INVALID(err, "the layout is an index of indexes of indexes");
}
