#include "server/runtime/oci/egress/egress.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/encode.h"
#include "base/fd.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "http/client.h"
#include "io/spawn.h"
#include "server/errors.h"
#include "server/runtime/oci/sandbox.h"

enum {
    BACKLOG = 128,
    SETTINGS_MAX = 1 << 20,
    VARIABLES_MAX = 64,
    LOG_MAX = 16 << 20, // its own limit is lower
    MEMORY_MAX = 256 << 20,
    PROCESSES_MAX = 64,
    END_MS = 5000,
    AGAIN_MS = 5,
    WRONG_SETTING = 2 // its exit code
};

#define SETTINGS_FILE "egress.json"
#define PID_FILE      "egress.pid"
#define LOG_FILE      "egress.log"
#define SOCKET_FILE   "e"
#define OWN_DIR       "egress"
#define POLICY_FILE   "policy.json"
#define OWNER_FILE    "settings.json"
#define PREFIX        "OPENSANDBOX_EGRESS_"

// Its user: root of the user namespace, else a host user that nothing belongs to.
static uid_t host_user(const struct egress_program *p) {
    return p->settings->id_base;
}

// ---- before the first start ----

// What every egress is told, whoever owns it.
static json_t *common_settings(const struct egress_program *p) {
    return json_pack("{s:s,s:s,s:s,s:s}", PREFIX "MODE",
                     p->settings->egress_names_only ? "dns" : "dns+nft", PREFIX "HTTP_ADDR", "fd:3",
                     PREFIX "POLICY_FILE", POLICY_FILE, PREFIX "DNS_UPSTREAM", p->resolvers);
}

static json_t *settings_of(const struct egress_program *p, const struct provision_request *q) {
    char digest[SHA256_HEX_SIZE];
    json_t *j = json_object();
    const struct pairs *asked = &q->spec->egress_env;
    for (size_t i = 0; i < asked->count; i++)
        (void)json_object_set_new(j, asked->items[i].name, json_string(asked->items[i].value));
    sha256_hex(q->egress_token, strlen(q->egress_token), digest);
    (void)json_object_set_new(j, PREFIX "TOKEN_SHA256", json_string(digest));
    (void)json_object_set_new(j, PREFIX "SANDBOX_ID", json_string(q->id));
    // last, so that nobody overrides them: POLICY_FILE would be a path of the host's
    cleanup_json json_t *common = common_settings(p);
    if (common && json_object_update(j, common) == 0)
        return j;
    json_decref(j);
    return NULL;
}

static int write_new(int dir, const char *name, const char *text, uid_t owner, struct error *err) {
    cleanup_close int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0 ||
        (owner && fchown(fd, owner, owner) < 0))
        return error_errno(err, errno, "%s of the sandbox", name);
    return 0;
}

// Consumes j.
static int write_settings(int dir, const char *name, json_t *j, uid_t owner, struct error *err) {
    cleanup_json json_t *owned = j;
    cleanup_free char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    return text ? write_new(dir, name, text, owner, err) : error_set(err, ENOMEM, "out of memory");
}

static int make_own_dir(const struct egress_program *p, int dir, int *ret_own, struct error *err) {
    uid_t user = host_user(p);
    cleanup_close int own = -1;
    if (mkdirat(dir, OWN_DIR, 0700) < 0 ||
        (own = openat(dir, OWN_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0 ||
        fchown(own, user, user) < 0)
        return error_errno(err, errno, "directory of egress");
    *ret_own = TAKE_FD(own);
    return 0;
}

int egress_prepare(const struct egress_program *p, const struct provision_request *q, int dir,
                   struct error *err) {
    cleanup_close int own = -1;
    if (make_own_dir(p, dir, &own, err) < 0 ||
        write_new(own, POLICY_FILE, q->spec->network_policy, host_user(p), err) < 0)
        return -1;
    return write_settings(dir, SETTINGS_FILE, settings_of(p, q), 0, err);
}

int egress_park(const struct egress_program *p, int dir, struct error *err) {
    cleanup_close int own = -1;
    json_t *j = common_settings(p);
    if (j)
        (void)json_object_set_new(j, PREFIX "SETTINGS", json_string(OWNER_FILE));
    int r = write_settings(dir, SETTINGS_FILE, j, 0, err);
    return r < 0 ? -1 : make_own_dir(p, dir, &own, err);
}

int egress_name(const struct egress_program *p, const char *parked, const char *id,
                struct error *err) {
    return cgroup_rename(p->groups, parked, id, err);
}

int egress_settle(const struct egress_program *p, const struct provision_request *q, int from,
                  int dir, struct error *err) {
    static const char *const moved[] = {OWN_DIR, LOG_FILE, PID_FILE, SOCKET_FILE};
    for (size_t i = 0; i < ARRAY_SIZE(moved); i++)
        if (renameat(from, moved[i], dir, moved[i]) < 0)
            return error_errno(err, errno, "%s of a parked egress", moved[i]);
    cleanup_close int own = openat(dir, OWN_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (own < 0)
        return error_errno(err, errno, "directory of egress");
    if (write_settings(dir, SETTINGS_FILE, settings_of(p, q), 0, err) < 0 ||
        write_new(own, POLICY_FILE, q->spec->network_policy, host_user(p), err) < 0)
        return -1;
    return write_settings(own, OWNER_FILE, settings_of(p, q), host_user(p), err);
}

bool egress_is_prepared(int dir) {
    return faccessat(dir, SETTINGS_FILE, F_OK, 0) == 0;
}

// ---- start ----

static void socket_address(int dir, struct sockaddr_un *a) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/" SOCKET_FILE, dir);
}

static int open_socket(int dir, struct error *err) {
    struct sockaddr_un a;
    socket_address(dir, &a);
    (void)unlinkat(dir, SOCKET_FILE, 0); // of the one before
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, BACKLOG))
        return error_errno(err, errno, "socket of egress");
    return TAKE_FD(fd);
}

struct environment {
    char *items[VARIABLES_MAX + 1];
    size_t count;
};

static void environment_clear(struct environment *e) {
    for (size_t i = 0; i < e->count; i++)
        free(e->items[i]);
}

static int environment_add(struct environment *e, const char *name, const char *value,
                           struct error *err) {
    if (e->count == VARIABLES_MAX)
        return error_set(err, E2BIG, "more than %d settings of egress", VARIABLES_MAX);
    if (asprintf(&e->items[e->count], "%s=%s", name, value) < 0) {
        e->items[e->count] = NULL;
        return error_set(err, ENOMEM, "out of memory");
    }
    e->count++;
    return 0;
}

// What was written, and where its descriptors will be.
static int environment_read(struct environment *e, const struct egress_program *p, int dir,
                            struct error *err) {
    cleanup_strbuf struct strbuf text;
    const char *name;
    json_t *value;
    char place[40];
    strbuf_init(&text, SETTINGS_MAX);
    if (fd_read_file(dir, SETTINGS_FILE, &text, err) < 0)
        return -1;
    cleanup_json json_t *j = json_parse(text.data, text.len, NULL, err);
    if (!j)
        return -1;
    json_object_foreach(j, name, value) {
        if (json_is_string(value) && environment_add(e, name, json_string_value(value), err) < 0)
            return -1;
    }
    (void)snprintf(place, sizeof place, p->user_namespaces ? "4,5:0" : "4:%u", host_user(p));
    return environment_add(e, PREFIX "NAMESPACES", place, err);
}

static int enter_group(void *arg, const char **step) {
    const int *procs = arg;
    *step = "control group of egress";
    for (int i = 0; i < 2; i++)
        if (procs[i] >= 0 && write(procs[i], "0", 1) != 1)
            return -1;
    return 0;
}

// So that another server finds it.
static int note_process(int dir, pid_t pid, struct error *err) {
    char text[64];
    (void)snprintf(text, sizeof text, "%d %llu\n", (int)pid,
                   (unsigned long long)process_start_time(pid));
    (void)unlinkat(dir, PID_FILE ".new", 0); // of a server that was killed here
    if (write_new(dir, PID_FILE ".new", text, 0, err) < 0)
        return -1;
    return renameat(dir, PID_FILE ".new", dir, PID_FILE) < 0
               ? error_errno(err, errno, "process of egress")
               : 0;
}

static int launch(const struct egress_program *p, const char *id, int dir, struct spawn *s,
                  int *ret_pidfd, struct error *err) {
    char path[OCI_PATH_SIZE + 80];
    int procs[2] = {-1, -1};
    pid_t pid;
    if (cgroup_make(p->groups, id, MEMORY_MAX, PROCESSES_MAX, procs, err) < 0)
        return -1;
    (void)snprintf(path, sizeof path, "%s/%s/" OWN_DIR, p->sandboxes_path, id);
    s->cwd = path;
    s->clone_flags = CLONE_NEWPID;
    s->prepare = enter_group;
    s->prepare_arg = procs;
    int r = spawn_start(s, &pid, ret_pidfd, err);
    for (int i = 0; i < 2; i++)
        if (procs[i] >= 0)
            (void)close(procs[i]);
    if (r < 0)
        return error_wrap(err, "egress");
    if (note_process(dir, pid, err) == 0)
        return 0;
    struct error why = *err;
    (void)egress_end(p, id, TAKE_FD(*ret_pidfd), err);
    *err = why;
    return -1;
}

int egress_start(const struct egress_program *p, const char *id, int dir, int net_fd,
                 int *ret_pidfd, struct error *err) {
    char *const argv[] = {(char *)p->settings->egress_path, NULL};
    cleanup(environment_clear) struct environment e = {.count = 0};
    if (!p->settings->egress_path || !*p->settings->egress_path)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy: this server has no egress program (egress.path)");
    cleanup_close int user = p->user_namespaces ? ioctl(net_fd, NS_GET_USERNS) : -1;
    if (p->user_namespaces && user < 0)
        return error_errno(err, errno, "owner of the network namespace");
    if (environment_read(&e, p, dir, err) < 0)
        return -1;
    cleanup_close int api = open_socket(dir, err);
    if (api < 0)
        return -1;
    cleanup_close int log =
        openat(dir, LOG_FILE, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (log < 0)
        return error_errno(err, errno, "log of egress");
    struct spawn s = {.argv = argv,
                      .envp = e.items,
                      .exec_fd = -1,
                      .stdio = {-1, log, log},
                      .pass = {api, net_fd, user},
                      .pass_count = p->user_namespaces ? 3 : 2,
                      .flags = SPAWN_NEW_SESSION};
    return launch(p, id, dir, &s, ret_pidfd, err);
}

// ---- is it there ----

int egress_find(const struct egress_program *p, const char *id, int dir) {
    char text[64];
    struct error none;
    uint64_t pid, started;
    if (fd_read_text(dir, PID_FILE, text, sizeof text, &none) < 0)
        return -1;
    size_t n = strcspn(text, " ");
    if (!text[n] || parse_u64n(text, n, 2, INT32_MAX, &pid) < 0 ||
        parse_u64(text + n + 1, 1, UINT64_MAX, &started) < 0)
        return -1;
    cleanup_close int fd = pidfd_open((pid_t)pid, 0); // first: then it cannot change between
    if (fd < 0 || process_start_time((pid_t)pid) != started ||
        !cgroup_holds(p->groups, id, (pid_t)pid))
        return -1;
    return TAKE_FD(fd);
}

int egress_dial(int dir, struct error *err) {
    struct sockaddr_un a;
    if (!egress_is_prepared(dir))
        return error_set(err, ENOTCONN, "this sandbox has no network policy");
    socket_address(dir, &a);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
        return error_errno(err, errno, "egress of the sandbox");
    return TAKE_FD(fd);
}

// The last complaint in its log.
static void last_words(int dir, char *text, size_t size) {
    cleanup_strbuf struct strbuf log;
    struct error none;
    strbuf_init(&log, LOG_MAX);
    (void)snprintf(text, size, "%s", "it left no message");
    if (fd_read_file(dir, LOG_FILE, &log, &none) < 0)
        return;
    for (char *rest = log.data, *line; (line = strsep(&rest, "\n"));) {
        cleanup_json json_t *j = json_parse(line, strlen(line), NULL, &none);
        const char *level = json_string_value(json_object_get(j, "level")),
                   *message = json_string_value(json_object_get(j, "msg"));
        if (level && message && (!strcmp(level, "ERROR") || !strcmp(level, "error")))
            (void)snprintf(text, size, "%.700s", message);
    }
}

static int explain(int dir, int pidfd, struct error *err) {
    struct error cause = *err;
    char words[768];
    siginfo_t info = {.si_pid = 0};
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    if (poll(&ended, 1, AGAIN_MS) == 1)
        (void)waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT);
    last_words(dir, words, sizeof words);
    if (info.si_pid && info.si_code == CLD_EXITED && info.si_status == WRONG_SETTING)
        return error_server(err, ERR_INVALID_PARAMETER, "networkPolicy: egress: %s", words);
    return error_set(err, cause.kind, "the network policy is not in force: %s; egress: %s",
                     cause.message, words);
}

int egress_await(const struct egress_program *p, int dir, int pidfd, struct error *err) {
    const struct timespec moment = {.tv_nsec = AGAIN_MS * 1000000L};
    int64_t end = clock_boot_ms() + p->settings->egress_ready_ms;
    int fd = egress_dial(dir, err);
    struct http_client *c = fd < 0 ? NULL : http_client_new(fd);
    int r = c ? 0 : -1;
    for (bool ready = false; !r && !ready;) {
        cleanup_strbuf struct strbuf body;
        unsigned status = 0;
        int64_t left = end - clock_boot_ms();
        strbuf_init(&body, 4096);
        r = http_client_request(c, "GET", "/healthz", "", NULL, 0, &status, &body,
                                left > 0 ? left : 1, err);
        ready = !r && status == 200;
        if (!r && !ready && left <= 0)
            r = error_set(err, ETIMEDOUT, "%s", body.data);
        else if (!r && !ready)
            (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
    }
    if (fd >= 0 && !c)
        (void)error_set(err, ENOMEM, "out of memory");
    http_client_free(c);
    return r ? explain(dir, pidfd, err) : 0;
}

// ---- the end ----

int egress_end(const struct egress_program *p, const char *id, int pidfd, struct error *err) {
    siginfo_t info;
    cleanup_close int fd = pidfd;
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    if (fd >= 0)
        (void)pidfd_send_signal(fd, SIGKILL, NULL, 0); // ESRCH: it is dead already
    (void)cgroup_kill(p->groups, id);                  // one that nobody knows of
    if (fd >= 0 && poll(&ended, 1, END_MS) != 1)
        return error_set(err, EBUSY, "the egress of sandbox %s survives SIGKILL", id);
    if (fd >= 0)
        (void)waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG); // ECHILD: another server's
    return cgroup_remove(p->groups, id, err);
}
