#include "server/runtime/oci/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "io/spawn.h"

enum { TICK_MS = 200, CLOSE_TICK_MS = 5, WORDS_KEPT = 16 * 1024, VARIABLES_MAX = 16 };

#define FULL_BYTES (1ULL << 20)
#define NEAR_BYTES (256ULL << 20)
enum { NEAR_FILES = 10000 };

struct running {
    const struct tool *t;
    int pipe[2][2]; // stdout, stderr
    int pidfd;
    pid_t pid;
    char words[WORDS_KEPT]; // the end of stderr
    size_t words_len;
    bool near_full, seen_full; // the file system, meanwhile
};

// ---- in the child ----

static const char *seen_at(const struct tool *t) {
    return t->seen_at ? t->seen_at : t->writable;
}

static int prepare(void *arg, const char **step) {
    const struct tool *t = arg;
    struct rlimit limit = {t->file_max, t->file_max};
    struct mount_attr closed = {.attr_set = MOUNT_ATTR_RDONLY},
                      open = {.attr_clr = MOUNT_ATTR_RDONLY, .attr_set = MOUNT_ATTR_NODEV};
    const char *at = seen_at(t);
    *step = "mount namespace of a helper";
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount(t->writable, at, NULL, MS_BIND, NULL) ||
        mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &closed, sizeof closed) ||
        mount_setattr(AT_FDCWD, at, 0, &open, sizeof open))
        return -1;
    *step = "limit of a helper";
    return t->file_max ? setrlimit(RLIMIT_FSIZE, &limit) : 0;
}

// ---- its words ----

static void keep_words(struct running *r, const char *text, size_t len) {
    if (len > sizeof r->words - 1) {
        text += len - (sizeof r->words - 1);
        len = sizeof r->words - 1;
    }
    size_t over =
        r->words_len + len > sizeof r->words - 1 ? r->words_len + len - (sizeof r->words - 1) : 0;
    memmove(r->words, r->words + over, r->words_len - over);
    r->words_len -= over;
    memcpy(r->words + r->words_len, text, len);
    r->words_len += len;
    r->words[r->words_len] = '\0';
}

// Of a Go program in panic the reason (its stack follows), of skopeo's `level=fatal msg="..."` the
// message, of others the last line that says something.
static const char *last_words(struct running *r) {
    char *line = strstr(r->words, "panic: ");
    if (line) {
        line[strcspn(line, "\n")] = '\0';
        return line;
    }
    do {
        while (r->words_len && strchr(" \n\t", r->words[r->words_len - 1]))
            r->words[--r->words_len] = '\0';
        line = strrchr(r->words, '\n');
        line = line ? line + 1 : r->words;
        // tar's last line says only that there was another before it
    } while (strstr(line, "Exiting with failure") && line != r->words &&
             (r->words_len = (size_t)(line - r->words)));
    char *msg = strstr(line, "msg=\"");
    if (!msg)
        return line;
    char *in = msg += 5, *out = in;
    for (; *in && *in != '"'; in++) {
        if (*in == '\\' && in[1])
            in++;
        *out++ = *in;
    }
    *out = '\0';
    return msg;
}

// umoci removes what it has unpacked before it ends, so the moment must be seen.
static void look_at_disk(struct running *r) {
    struct statvfs v;
    if (statvfs(r->t->writable, &v))
        return;
    uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    r->near_full = left < NEAR_BYTES || (v.f_files && v.f_favail < NEAR_FILES);
    r->seen_full |= left < FULL_BYTES || (v.f_files && !v.f_favail);
}

// What it says, and for programs that do not say it (umoci may panic instead, tar tells of short
// writes) what was seen.
static int kind_of(const struct running *r) {
    static const struct {
        const char *text;
        int kind;
    } kinds[] = {
        {"no space left", ENOSPC}, {"disk quota exceeded", ENOSPC}, {"file too large", EFBIG}};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (strcasestr(r->words, kinds[i].text))
            return kinds[i].kind;
    if (r->seen_full)
        return ENOSPC;
    return strstr(r->words, "Wrote only") ? EFBIG : EIO;
}

// ---- from the outside ----

static void close_end(int *fd) {
    if (*fd >= 0)
        (void)close(*fd); // pipes hold nothing that a close could lose
    *fd = -1;
}

static void running_clear(struct running *r) {
    for (int i = 0; i < 2; i++) {
        close_end(&r->pipe[i][0]);
        close_end(&r->pipe[i][1]);
    }
    close_end(&r->pidfd);
}

static void drain(struct running *r, int i) {
    char piece[16 * 1024];
    ssize_t n = read(r->pipe[i][0], piece, sizeof piece);
    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0)
        close_end(&r->pipe[i][0]);
    else if (i == 1)
        keep_words(r, piece, (size_t)n);
    else
        (void)strbuf_add(r->t->out, piece, (size_t)n); // `failed` tells
}

static int give_up(struct running *r) {
    struct exit_status ended;
    (void)kill(-r->pid, SIGKILL); // the group may be gone
    (void)spawn_wait(r->pidfd, -1, &ended);
    return -1;
}

// Until it has ended and closed its output.
static int attend(struct running *r, struct exit_status *ret, struct error *err) {
    int64_t next_tick = clock_boot_ms() + TICK_MS;
    for (bool alive = true; alive;) {
        struct pollfd p[] = {{.fd = r->pipe[0][0], .events = POLLIN},
                             {.fd = r->pipe[1][0], .events = POLLIN},
                             {.fd = r->pidfd, .events = POLLIN}};
        int64_t now = clock_boot_ms(), wait = next_tick > now ? next_tick - now : 0;
        (void)poll(p, ARRAY_SIZE(p), r->near_full ? CLOSE_TICK_MS : (int)wait);
        look_at_disk(r);
        bool output = false;
        for (int i = 0; i < 2; i++)
            if (p[i].revents) {
                output = true;
                drain(r, i);
            }
        if (p[2].revents && !output)
            alive = spawn_wait(r->pidfd, 0, ret) != 0;
        if (!alive || (now = clock_boot_ms()) < next_tick)
            continue;
        next_tick = now + TICK_MS;
        if (now >= r->t->deadline_ms) {
            (void)error_set(err, ETIMEDOUT, "%s has not ended in time", r->t->argv[0]);
            return give_up(r);
        }
        if (r->t->tick && r->t->tick(r->t->arg, err))
            return give_up(r);
    }
    return 0;
}

static int start(struct running *r, struct error *err) {
    static const char *const kept[] = {"HTTP_PROXY",   "HTTPS_PROXY",  "NO_PROXY",
                                       "http_proxy",   "https_proxy",  "no_proxy",
                                       "SSL_CERT_DIR", "SSL_CERT_FILE"};
    const struct tool *t = r->t;
    cleanup_free char *home = NULL, *tmp = NULL;
    char *env[VARIABLES_MAX] = {
        (char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        (char *)"LC_ALL=C", NULL};
    char *copies[ARRAY_SIZE(kept)] = {NULL};
    size_t n = 2;
    if (asprintf(&home, "HOME=%s", seen_at(t)) < 0 || asprintf(&tmp, "TMPDIR=%s", seen_at(t)) < 0)
        return error_set(err, ENOMEM, "out of memory");
    env[n++] = home;
    env[n++] = tmp;
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        const char *value = getenv(kept[i]);
        if (value && asprintf(&copies[i], "%s=%s", kept[i], value) >= 0)
            env[n++] = copies[i];
    }
    struct spawn s = {.argv = (char *const *)t->argv,
                      .envp = env,
                      .stdio = {-1, t->out ? r->pipe[0][1] : -1, r->pipe[1][1]},
                      .pass = {t->pass},
                      .pass_count = t->pass > 0,
                      .flags = SPAWN_NEW_GROUP | SPAWN_DIE_WITH_US | SPAWN_SEARCH_PATH |
                               (t->uid ? SPAWN_SET_USER : 0),
                      .uid = t->uid,
                      .gid = t->uid,
                      .clone_flags = CLONE_NEWNS | CLONE_NEWPID,
                      .prepare = prepare,
                      .prepare_arg = (void *)t};
    int result = spawn_start(&s, &r->pid, &r->pidfd, err);
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        free(copies[i]);
    if (result && err->kind == ENOENT)
        return error_set(err, ENOENT, "%s is not installed: apt-get install %s", t->argv[0],
                         !strcmp(t->argv[0], "cp") ? "coreutils" : t->argv[0]);
    return result;
}

int tool_run(const struct tool *t, struct error *err) {
    cleanup(running_clear) struct running r = {.t = t, .pipe = {{-1, -1}, {-1, -1}}, .pidfd = -1};
    struct exit_status ended;
    for (int i = 0; i < 2; i++)
        if (pipe2(r.pipe[i], O_CLOEXEC) < 0)
            return error_errno(err, errno, "pipe");
    if (start(&r, err))
        return -1;
    close_end(&r.pipe[0][1]);
    close_end(&r.pipe[1][1]);
    if (attend(&r, &ended, err))
        return -1;
    if (ended.signal == SIGXFSZ)
        return error_set(err, EFBIG, "a file is too large");
    if (ended.signal)
        return error_set(err, EIO, "%s was killed by signal %d", t->argv[0], ended.signal);
    if (ended.code == 0)
        return 0;
    int kind = kind_of(&r);
    const char *words = last_words(&r);
    return kind == ENOSPC
               ? error_set(err, kind, "the file system is full (%s: %s)", t->argv[0], words)
               : error_set(err, kind, "%s", *words ? words : t->argv[0]);
}
