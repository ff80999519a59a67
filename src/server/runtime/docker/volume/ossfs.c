#include "server/runtime/docker/volume/ossfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "io/spawn.h"
#include "server/errors.h"

enum { MOUNT_MS = 30000, CONFIG_MAX = 16384, SAID_MAX = 4096, WORDS_MAX = 256, STACKED_MAX = 16 };

struct mounting {
    const struct volume_spec *v;
    const char *at;            // the mount point
    char config[64];           // private file with the keys, "" when there is none
    struct strbuf text;        // of that file, or of the words of the command
    char *argv[WORDS_MAX + 8]; // into text and v
};

// ---- directories ----

// "<root>/<server>/<sandbox>[/<volume>]"
static int place(const struct docker *d, const char *sandbox_id, const char *volume,
                 char path[OSSFS_PATH_SIZE], struct error *err) {
    int n = snprintf(path, OSSFS_PATH_SIZE, "%s/%s/%s%s%s", d->settings.ossfs_root,
                     d->settings.instance, sandbox_id, volume ? "/" : "", volume ? volume : "");
    return n > 0 && n < OSSFS_PATH_SIZE && path_is_clean(path)
               ? 0
               : error_set(err, EINVAL,
                           "storage.ossfs_mount_root \"%.200s\": a clean absolute path",
                           d->settings.ossfs_root);
}

static int make_point(const struct docker *d, const char *sandbox_id, const char *volume,
                      char path[OSSFS_PATH_SIZE], int *ret_dir, struct error *err) {
    if (place(d, sandbox_id, volume, path, err))
        return -1;
    cleanup_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = root < 0 ? -1 : path_make_dirs(root, path + 1, 0711);
    if (fd < 0)
        return error_errno(err, errno, "storage.ossfs_mount_root: %s", path);
    *ret_dir = fd;
    return 0;
}

// ---- the command ----

static void add_lines(struct strbuf *to, const char *options, const char *before) {
    for (const char *p = options ? options : ""; *p;) {
        size_t n = strcspn(p, "\n");
        (void)strbuf_addf(to, "%s%.*s\n", before, (int)n, p);
        p += n + (p[n] == '\n');
    }
}

static int write_config(struct mounting *m, const struct strbuf *text, struct error *err) {
    (void)snprintf(m->config, sizeof m->config, "/tmp/opensandbox-ossfs-XXXXXX");
    cleanup_close int fd = mkostemp(m->config, O_CLOEXEC); // 0600
    if (fd < 0) {
        m->config[0] = '\0';
        return error_errno(err, errno, "file for the keys");
    }
    return fd_write_all(fd, text->data, text->len) ? error_errno(err, errno, "file for the keys")
                                                   : 0;
}

static const char *scheme(const struct volume_spec *v) {
    return strstr(v->endpoint, "://") ? "" : "https://";
}

static bool has_prefix(const struct volume_spec *v) {
    return v->sub_path && *v->sub_path;
}

// ossfs2 mount PATH -c FILE
static int command_2(struct mounting *m, struct strbuf *keys, struct error *err) {
    const struct volume_spec *v = m->v;
    (void)strbuf_addf(keys,
                      "--oss_endpoint=%s%s\n--oss_bucket=%s\n--oss_access_key_id=%s\n"
                      "--oss_access_key_secret=%s\n",
                      scheme(v), v->endpoint, v->source, v->key_id, v->key_secret);
    if (has_prefix(v))
        (void)strbuf_addf(keys, "--oss_bucket_prefix=%s/\n", v->sub_path);
    add_lines(keys, v->options, "--");
    if (keys->failed || write_config(m, keys, err))
        return err->kind ? -1 : error_set(err, E2BIG, "too many options");
    char *words[] = {(char *)"ossfs2", (char *)"mount", (char *)m->at,
                     (char *)"-c",     m->config,       NULL};
    memcpy(m->argv, words, sizeof words);
    return 0;
}

// ossfs BUCKET[:/PREFIX] PATH -o url=... -o passwd_file=... -o OPTION...
static int command_1(struct mounting *m, struct strbuf *keys, struct error *err) {
    const struct volume_spec *v = m->v;
    (void)strbuf_addf(keys, "%s:%s:%s", v->source, v->key_id, v->key_secret);
    if (keys->failed || write_config(m, keys, err))
        return err->kind ? -1 : error_set(err, E2BIG, "too long keys");
    (void)strbuf_addf(&m->text, "%s%s%s\nurl=%s%s\npasswd_file=%s\n", v->source,
                      has_prefix(v) ? ":/" : "", has_prefix(v) ? v->sub_path : "", scheme(v),
                      v->endpoint, m->config);
    add_lines(&m->text, v->options, "");
    if (m->text.failed)
        return error_set(err, E2BIG, "too many options");
    size_t n = 0;
    m->argv[n++] = (char *)"ossfs";
    for (char *p = m->text.data; *p && n < WORDS_MAX;) {
        char *end = strchr(p, '\n');
        *end = '\0';
        if (n > 1)
            m->argv[n++] = (char *)"-o";
        m->argv[n++] = p;
        if (n == 2)
            m->argv[n++] = (char *)m->at;
        p = end + 1;
    }
    return 0;
}

// What the program said, unless it said a key.
static int failed(const struct mounting *m, const struct strbuf *said, const char *why,
                  struct error *err) {
    bool secret = strstr(said->data, m->v->key_secret) || strstr(said->data, m->v->key_id);
    return error_server(err, ERR_VOLUME_OSSFS_MOUNT_FAILED, "volume \"%s\": %s %s%s%.600s",
                        m->v->name, m->argv[0], why, said->len && !secret ? ": " : "",
                        secret ? "" : said->data);
}

static bool is_mounted(const char *at, int dir) {
    struct stat below, above;
    cleanup_close int now = open(at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return now >= 0 && fstat(now, &above) == 0 && fstat(dir, &below) == 0 &&
           above.st_dev != below.st_dev;
}

static int run(struct mounting *m, int dir, struct error *err) {
    struct strbuf said cleanup_strbuf;
    struct exit_status status;
    struct error why;
    const struct spawn s = {
        .argv = m->argv, .envp = environ, .stdio = {-1, -1, -1}, .flags = SPAWN_SEARCH_PATH};
    strbuf_init(&said, SAID_MAX);
    if (spawn_run(&s, NULL, 0, NULL, &said, MOUNT_MS, &status, &why))
        return failed(m, &said, why.message, err);
    if (status.code || status.signal)
        return failed(m, &said, "failed", err);
    return is_mounted(m->at, dir) ? 0 : failed(m, &said, "ended well, and nothing is mounted", err);
}

int ossfs_mount(struct docker *d, const char *sandbox_id, const struct volume_spec *v,
                char source[OSSFS_PATH_SIZE], struct error *err) {
    struct mounting m = {.v = v, .at = source};
    struct strbuf keys cleanup_strbuf;
    if (!d->near)
        return error_server(err, ERR_VOLUME_UNSUPPORTED_BACKEND,
                            "volume \"%s\": ossfs needs an engine on this host, reached by its "
                            "unix socket as root",
                            v->name);
    if (!v->key_id || !v->key_secret || !v->endpoint)
        return error_server(err, ERR_VOLUME_INVALID_OSSFS_CREDENTIALS,
                            "volume \"%s\": its keys are not kept; they come with each create",
                            v->name);
    cleanup_close int dir = -1;
    if (make_point(d, sandbox_id, v->name, source, &dir, err))
        return -1;
    *err = (struct error){0};
    strbuf_init(&keys, CONFIG_MAX);
    strbuf_init(&m.text, CONFIG_MAX);
    int r = v->version_1 ? command_1(&m, &keys, err) : command_2(&m, &keys, err);
    if (!r)
        r = run(&m, dir, err);
    if (m.config[0])
        (void)unlink(m.config); // the program has read it
    if (keys.data)
        explicit_bzero(keys.data, keys.len);
    strbuf_free(&m.text);
    return r;
}

// ---- the end ----

// A bucket that is busy is let go of when the last user does: its container is gone already.
static int release_one(const struct docker *d, const char *sandbox_id, int dir, const char *name,
                       struct error *err) {
    char at[OSSFS_PATH_SIZE];
    if (place(d, sandbox_id, name, at, err))
        return -1;
    for (int i = 0; i < STACKED_MAX && umount2(at, UMOUNT_NOFOLLOW | MNT_DETACH) == 0; i++)
        ;
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    return error_errno(err, errno, "unmount %.500s", at); // the teardown tries again
}

int ossfs_release(struct docker *d, const char *sandbox_id, struct error *err) {
    char path[OSSFS_PATH_SIZE];
    int r = 0;
    if (!d->near)
        return 0; // nothing was ever mounted
    if (place(d, sandbox_id, NULL, path, err))
        return -1;
    cleanup_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = path_open(root, path + 1, PATH_NO_SYMLINKS, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
    DIR *list = fdopendir(fd);
    if (!list) {
        (void)close(fd);
        return error_errno(err, errno, "%s", path);
    }
    for (struct dirent *e; !r && (e = readdir(list));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = release_one(d, sandbox_id, dirfd(list), e->d_name, err);
    (void)closedir(list);
    if (!r && unlinkat(root, path + 1, AT_REMOVEDIR) && errno != ENOENT)
        r = error_errno(err, errno, "%s", path);
    return r;
}
