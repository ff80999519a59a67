#include "execd/init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/handoff.h"
#include "base/log.h"
#include "execd/environment.h"
#include "execd/request.h"
#include "fmt/json.h"

static const int forwarded[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH};

struct init {
    struct execd *e;
    struct init_settings settings;
    struct process entry;
    bool idle, entered;
    uint64_t oom_kills;
    struct signal_watch signals[ARRAY_SIZE(forwarded)];
    int exit_code;
};

// ---- what to run ----

bool init_idles(char *const *argv) {
    return !argv[0] || (argv[1] && argv[2] && !argv[3] && !strcmp(argv[0], "tail") &&
                        !strcmp(argv[1], "-f") && !strcmp(argv[2], "/dev/null"));
}

static char *join(struct arena *a, char *const *words) {
    char *text = arena_strdup(a, "");
    for (; text && *words; words++)
        text = arena_printf(a, "%s%s%s", text, *text ? " " : "", *words);
    return text;
}

char *const *init_program(struct arena *a, char *const *argv, struct error *err) {
    const char *given = getenv("BOOTSTRAP_CMD"), *shell = getenv("BOOTSTRAP_SHELL");
    const char *script = given && *given ? given : NULL;
    bool bash;
    if (!script && argv[0] && !strcmp(argv[0], "-c"))
        script = join(a, argv + 1);
    if (!script)
        return argv;
    if (!shell || !*shell)
        shell = process_shell(a, &bash);
    char **words = arena_alloc(a, 4 * sizeof *words);
    if (!shell || !words) {
        (void)error_set(err, ENOENT, "no shell for BOOTSTRAP_CMD: neither bash nor sh is in PATH");
        return NULL;
    }
    words[0] = arena_strdup(a, shell);
    words[1] = arena_strdup(a, "-c");
    words[2] = arena_strdup(a, script);
    return words;
}

// ---- before the start ----

static void take_variables(const char *data, size_t len) {
    (void)clearenv(); // cannot fail
    for (size_t i = 0; i < len; i += strlen(data + i) + 1) {
        char *equals = strchr(data + i, '=');
        if (!equals)
            continue;
        *equals = '\0';
        (void)setenv(data + i, equals + 1, 1); // no memory: one variable less
        *equals = '=';
    }
}

// What the script said goes where the entrypoint's output will go.
static void keep_output(int from, int log_fd) {
    cleanup_strbuf struct strbuf sb;
    struct handoff_log log;
    struct error ignored;
    strbuf_init(&sb, HANDOFF_LOG_BYTES);
    if (from < 0 || handoff_log_open(&log, log_fd) < 0 || lseek(from, 0, SEEK_SET) < 0)
        return;
    (void)fd_read_all(from, &sb, &ignored); // more than the log can hold is cut
    (void)handoff_log_append(&log, sb.data, sb.len);
}

// Runs it to its end. A descriptor with what its shell exported, -1 with err.
static int run_script(const char *script, const char *self, int log_fd, struct exit_status *ret_end,
                      struct error *err) {
    extern char **environ;
    pid_t pid;
    bool bash;
    cleanup(arena_free) struct arena a;
    arena_init(&a, 64 * 1024);
    const char *shell = process_shell(&a, &bash), *dot = strchr(script, '/') ? "" : "./";
    char *file = arena_printf(&a, "%s%s", dot, script);
    cleanup_close int dump = memfd_create("environment", MFD_CLOEXEC), pidfd = -1;
    cleanup_close int said = log_fd >= 0 ? memfd_create("output", MFD_CLOEXEC) : -1;
    if (!shell || !file || dump < 0)
        return error_set(err, ENOENT, "EXECD_BOOTSTRAP_PRE_SCRIPT needs a shell in PATH");
    const char *argv[] = {
        shell, "-c", "set -e; osb_self=$2; . \"$1\"; exec \"$osb_self\" environment", shell, file,
        self,  NULL};
    struct spawn s = {.argv = (char *const *)argv,
                      .envp = environ,
                      .stdio = {-1, log_fd >= 0 ? said : 1, log_fd >= 0 ? said : 2},
                      .pass = {dump},
                      .pass_count = 1};
    if (spawn_start(&s, &pid, &pidfd, err) < 0)
        return error_wrap(err, "EXECD_BOOTSTRAP_PRE_SCRIPT");
    if (spawn_wait(pidfd, -1, ret_end) < 0)
        return error_errno(err, errno, "EXECD_BOOTSTRAP_PRE_SCRIPT");
    keep_output(said, log_fd);
    return lseek(dump, 0, SEEK_SET) < 0 ? error_errno(err, errno, "environment") : TAKE_FD(dump);
}

int init_pre_script(const char *self, int log_fd, struct error *err) {
    const char *script = getenv("EXECD_BOOTSTRAP_PRE_SCRIPT");
    struct stat st;
    struct exit_status end = {.code = -1};
    if (!script || !*script)
        return 0;
    if (stat(script, &st) < 0 || !S_ISREG(st.st_mode) || access(script, R_OK) < 0) {
        log_warning("EXECD_BOOTSTRAP_PRE_SCRIPT %s is no readable file; it is not run", script);
        return 0;
    }
    cleanup_close int dump = run_script(script, self, log_fd, &end, err);
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, HANDOFF_START_MAX);
    if (dump < 0 || fd_read_all(dump, &sb, err) < 0)
        return -1;
    if (!sb.len)
        return error_set(err, EINVAL, "EXECD_BOOTSTRAP_PRE_SCRIPT %s ended with status %d", script,
                         end.code);
    take_variables(sb.data, sb.len);
    return 0;
}

// A file that is there is not opened: an overlay would copy it up from the image.
static bool can_append(const char *path) {
    struct stat st;
    if (stat(path, &st) == 0)
        return S_ISREG(st.st_mode) && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
    cleanup_close int fd =
        open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    return fd >= 0;
}

static bool can_make(const char *file) {
    struct error ignored; // can_append() fails as well then
    const char *slash = strrchr(file, '/');
    cleanup_free char *parent = strndup(file, slash > file ? (size_t)(slash - file) : 1);
    if (parent)
        (void)request_make_dirs(parent, &ignored);
    return can_append(file);
}

void init_envs_file(void) {
    const char *home = getenv("HOME"), *tmp = getenv("TMPDIR");
    char path[512];
    struct error ignored; // then there is none
    cleanup(arena_free) struct arena a;
    arena_init(&a, 256 * 1024);
    const char *given = environment_file(&a, &ignored);
    if (given && can_make(given))
        return;
    const struct {
        const char *dir, *below;
    } places[] = {{"/opt/opensandbox", ""}, {home, "/.opensandbox"}, {tmp ? tmp : "/tmp", ""}};
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (!places[i].dir || !*places[i].dir)
            continue;
        (void)snprintf(path, sizeof path, "%s%s", places[i].dir, places[i].below);
        (void)mkdir(path, 0700); // there already, or the next step says so
        (void)snprintf(path, sizeof path, "%s%s/.env", places[i].dir, places[i].below);
        if (can_append(path)) {
            (void)setenv("EXECD_ENVS", path, 1);
            return;
        }
    }
    log_warning("no place for the EXECD_ENVS file can be written; setEnv of clients will fail");
}

void init_last_words(int log_fd, const char *text) {
    struct handoff_log log;
    if (log_fd >= 0 && !handoff_log_open(&log, log_fd)) {
        (void)handoff_log_append(&log, text, strlen(text)); // there is nowhere else to say it
        (void)handoff_log_append(&log, "\n", 1);
    }
}

// ---- the end ----

static void write_record(const struct init *i, struct exit_status status, bool oom) {
    cleanup_json json_t *j =
        json_pack("{s:i,s:i,s:b,s:I}", "code", i->exit_code & 255, "signal", status.signal, "oom",
                  oom, "time_us", (json_int_t)clock_wall_us());
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 1024);
    int fd = i->settings.record_fd;
    if (fd < 0 || !j || json_write(j, &sb) < 0)
        return;
    // a record that could not be written is judged as none: the server knows what that means
    if (pwrite(fd, sb.data, sb.len, 0) < 0)
        log_error("exit record: %s", strerrordesc_np(errno));
}

static void end_with(struct init *i, struct exit_status status) {
    if (i->e->stopping)
        return; // a second SIGTERM
    journal_drain(i->e);
    bool oom = status.signal == SIGKILL && process_oom_kills() > i->oom_kills;
    i->exit_code = status.signal > 0 ? 128 + status.signal : status.code;
    write_record(i, status, oom);
    i->settings.over(i->e);
}

static void on_ended(struct process *p, struct exit_status status) {
    end_with(CONTAINER_OF(p, struct init, entry), status);
}

static void on_signal(struct signal_watch *w, int number) {
    // every watch knows its place, so that the number leads back to the init
    struct init *i = NULL;
    for (size_t n = 0; n < ARRAY_SIZE(forwarded); n++)
        if (forwarded[n] == number)
            i = CONTAINER_OF(w - n, struct init, signals[0]);
    if (i && process_running(&i->entry))
        (void)kill(i->entry.pid, number); // its end may be on the way to us
    else if (i && !i->entered && (number == SIGTERM || number == SIGINT))
        end_with(i, (struct exit_status){.code = 128 + number}); // before it had begun
    else if (i && i->idle && (number == SIGTERM || number == SIGINT))
        end_with(i, (struct exit_status){.code = 0}); // as bootstrap.sh: a stop is a success
}

// ---- the start ----

static int watch_signals(struct init *i, struct error *err) {
    for (size_t n = 0; n < ARRAY_SIZE(forwarded); n++)
        if (signal_watch_start(&i->e->loop, &i->signals[n], forwarded[n], on_signal) < 0)
            return error_errno(err, errno, "watch for signals");
    return 0;
}

static int start_entry(struct init *i, struct error *err) {
    const struct init_settings *s = &i->settings;
    cleanup(arena_free) struct arena a;
    cleanup_close int out = -1;
    arena_init(&a, 16 << 20);
    struct spawn child = {.argv = s->entrypoint,
                          .envp = process_environment(&a, NULL, err),
                          .cwd = s->cwd,
                          .stdio = {0, 1, 2},
                          .flags = SPAWN_NEW_SESSION | SPAWN_SEARCH_PATH,
                          .nofile_soft = i->e->nofile_soft};
    if (!child.envp || journal_begin(i->e, &out, err) < 0)
        return -1;
    if (out >= 0) {
        child.stdio[0] = -1;
        child.stdio[1] = child.stdio[2] = out;
    }
    i->oom_kills = process_oom_kills();
    i->entry.ended = on_ended;
    return process_start(i->e, &i->entry, &child, err) < 0 ? error_wrap(err, "entrypoint") : 0;
}

int init_start(struct execd *e, const struct init_settings *s, struct error *err) {
    struct init *i = calloc(1, sizeof *i);
    if (!i)
        return error_set(err, ENOMEM, "out of memory");
    e->init = i;
    i->e = e;
    i->settings = *s;
    i->idle = init_idles(s->entrypoint);
    return watch_signals(i, err);
}

int init_enter(struct init *i, struct error *err) {
    int r = i->idle ? 0 : start_entry(i, err);
    i->entered = r == 0;
    return r;
}

void init_give_up(struct init *i) {
    end_with(i, (struct exit_status){.code = 1});
}

int init_exit_code(const struct init *i) {
    return i->exit_code;
}

void init_free(struct init *i) {
    if (!i)
        return;
    for (size_t n = 0; n < ARRAY_SIZE(forwarded); n++)
        signal_watch_stop(&i->signals[n]);
    process_forget(&i->entry);
    free(i);
}
