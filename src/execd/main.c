// execd: wiring, start and end. Plain (`execd`), or as the init of a sandbox (`execd init`).
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "execd/environment.h"
#include "execd/execd.h"
#include "execd/hooks/hooks.h"
#include "execd/init.h"
#include "execd/options.h"
#include "execd/orphans.h"
#include "execd/routes.h"
#include "execd/telemetry/telemetry.h"
#include "fmt/json.h"
#include "io/clone3.h"
#include "io/signals.h"
#include "io/stream.h"

enum {
    BACKLOG = 1024,
    DRAIN_MS = 5000,
    LAST_MS = 500, // after the end of the entrypoint: for the last events of streams
    GRACE_MS = 3000,
    WORKERS = 4,
    WORKERS_QUEUE = 1024,
    USAGE = 2
};

struct program {
    struct execd e;
    struct orphans orphans;
    struct options options;
    struct arena arena;
    struct signal_watch stop[2]; // plain mode
    struct timer grace;
    bool drained;
    bool no_clone3; // the filter is there
    bool gave_up;   // the start has failed while the loop ran
    size_t rooms;   // that were started
    char output_dir[EXECD_PATH_SIZE];
};

static void banner(void) {
    static const char bar[] = "=====================================================";
    dprintf(1,
            "%s\n OpenSandbox Execd\n-----------------------------------------------------\n"
            " Version:     %s\n Git Commit:  %s\n Build Time:  %s\n Go Version:  none, this is C\n"
            " Platform:    linux/%s\n%s\n",
            bar, OPENSANDBOX_VERSION, "unknown", "unknown",
#ifdef __aarch64__
            "arm64",
#else
            "amd64",
#endif
            bar);
}

static void start_log(int level) {
    static const enum log_level levels[] = {LOG_LEVEL_ERROR, LOG_LEVEL_ERROR,   LOG_LEVEL_ERROR,
                                            LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO,
                                            LOG_LEVEL_INFO};
    const char *file = getenv("EXECD_LOG_FILE");
    bool wanted = file && *file;
    int fd = wanted ? open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    log_configure(level < (int)ARRAY_SIZE(levels) ? levels[level] : LOG_LEVEL_DEBUG,
                  LOG_FORMAT_JSON, fd < 0 ? 1 : fd);
    if (wanted && fd < 0)
        log_warning("EXECD_LOG_FILE %s: %s; the log goes to the standard output", file,
                    strerrordesc_np(errno));
}

// Descriptors for a thousand commands; children keep the limit that we found.
static void raise_limit(struct execd *e) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    e->nofile_soft = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); // up to the hard limit is always allowed
}

static int start_base(struct program *p, struct error *err) {
    struct execd *e = &p->e;
    const char *tmp = getenv("TMPDIR");
    raise_limit(e);
    e->guarded = p->options.guarded;
    memcpy(e->token, p->options.token, sizeof e->token);
    if (!getcwd(e->cwd, sizeof e->cwd))
        (void)snprintf(e->cwd, sizeof e->cwd, "/");
    (void)snprintf(p->output_dir, sizeof p->output_dir, "%s/opensandbox-execd",
                   tmp && *tmp == '/' ? tmp : "/tmp");
    output_space_init(&e->outputs);
    e->outputs.dir = p->output_dir;
    map_init(&e->commands);
    map_init(&e->sessions);
    map_init(&e->ptys);
    e->scratch = malloc(EXECD_SCRATCH);
    if (!e->scratch)
        return error_set(err, ENOMEM, "out of memory");
    if (loop_init(&e->loop, err) < 0)
        return -1;
    reaper_start(&e->reaper, &e->loop);
    return journal_open(&e->journal, p->options.handoff < 0 ? -1 : p->options.handoff + 2, err);
}

static int start_rooms(struct program *p, struct error *err) {
    for (; execd_rooms[p->rooms].name; p->rooms++)
        if (execd_rooms[p->rooms].start && execd_rooms[p->rooms].start(&p->e, err) < 0)
            return error_wrap(err, "%s", execd_rooms[p->rooms].name);
    return 0;
}

// The passed socket, if any, and TCP on all addresses. With the socket, a port that is taken is a
// warning: the server does not need it.
static int start_server(struct program *p, struct error *err) {
    struct execd *e = &p->e;
    struct http_server_settings s;
    routes_serve(e, &s);
    e->http = http_server_new(&e->loop, &s, err);
    if (!e->http)
        return -1;
    if (p->options.handoff >= 0) {
        (void)listen(p->options.handoff, BACKLOG); // a thousand commands may begin at once
        if (http_server_listen(e->http, p->options.handoff, err) < 0)
            return error_wrap(err, "passed socket");
    }
    int fd = listen_tcp("0.0.0.0", p->options.port, BACKLOG, err);
    if (fd >= 0 && !http_server_listen(e->http, fd, err)) {
        e->port = http_server_port(e->http);
        return 0;
    }
    if (p->options.handoff < 0)
        return -1;
    log_warning("no TCP port: %s", err->message);
    return 0;
}

static void stop_if_quiet(struct program *p) {
    if (p->drained && !p->e.reaper.running)
        telemetry_last(&p->e);
}

static void on_drained(void *arg) {
    struct program *p = arg;
    p->drained = true;
    stop_if_quiet(p);
}

static void on_quiet(struct reaper *r) {
    stop_if_quiet(CONTAINER_OF(r, struct program, e.reaper));
}

static void on_give_up(struct timer *t) {
    log_warning("what was under way did not end in time");
    loop_stop(t->loop);
}

static void on_grace_over(struct timer *t) {
    struct program *p = CONTAINER_OF(t, struct program, grace);
    reaper_signal(&p->e.reaper, SIGKILL);
    timer_start(t->loop, t, DRAIN_MS - GRACE_MS, on_give_up);
}

// No new requests, and what runs ends, so that streams get their last event.
static void stop(struct program *p, int signal_number, int64_t limit_ms) {
    p->e.stopping = true;
    p->e.reaper.quiet = on_quiet;
    reaper_signal(&p->e.reaper, signal_number);
    http_server_drain(p->e.http, limit_ms, on_drained, p);
}

// SIGTERM: what runs is told to end, and killed 3 s later; 5 s are the end of all.
static void on_stop(struct signal_watch *w, int number) {
    struct program *p = CONTAINER_OF(w - (number == SIGINT), struct program, stop[0]);
    if (p->e.stopping)
        return;
    log_info("stopping");
    timer_start(&p->e.loop, &p->grace, GRACE_MS, on_grace_over);
    stop(p, SIGTERM, DRAIN_MS);
}

static void on_entrypoint_over(struct execd *e) {
    struct program *p = CONTAINER_OF(e, struct program, e);
    timer_start(&e->loop, &p->grace, LAST_MS, on_give_up);
    stop(p, SIGKILL, LAST_MS);
}

static int enter(struct execd *e, struct error *err) {
    return e->init ? init_enter(e->init, err) : 0;
}

static void give_up(struct execd *e) {
    CONTAINER_OF(e, struct program, e)->gave_up = true;
    if (e->init)
        init_give_up(e->init);
    else
        on_entrypoint_over(e);
}

static int start_hooks(struct program *p, struct error *err) {
    const struct hooks_settings s = {.lifecycle = p->options.lifecycle,
                                     .status_file = p->options.status_file,
                                     .enter = enter,
                                     .give_up = give_up};
    return hooks_start(&p->e, &s, err);
}

static int start_init(struct program *p, struct error *err) {
    const struct options *o = &p->options;
    struct init_settings s = {.cwd = o->cwd,
                              .over = on_entrypoint_over,
                              .record_fd = o->handoff >= 0 ? o->handoff + 1 : -1};
    if (!o->init) {
        static const int numbers[] = {SIGTERM, SIGINT};
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
            if (signal_watch_start(&p->e.loop, &p->stop[i], numbers[i], on_stop) < 0)
                return error_errno(err, errno, "watch for signals");
        return 0;
    }
    s.entrypoint = init_program(&p->arena, o->entrypoint, err);
    return s.entrypoint ? init_start(&p->e, &s, err) : -1;
}

static int prepare(struct program *p, struct error *err) {
    const struct options *o = &p->options;
    char self[EXECD_PATH_SIZE];
    if (o->cwd && chdir(o->cwd) < 0)
        log_warning("working directory %s: %s", o->cwd, strerrordesc_np(errno));
    if (!o->init) {
        banner();
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    init_envs_file();
    return init_pre_script(self, o->handoff >= 0 ? o->handoff + 2 : -1, err);
}

#define CLONE3_APPLIED "_EXECD_CLONE3_COMPAT_APPLIED"

// EXECD_CLONE3_COMPAT (execd.md 1.8). argv: of this program, to execute it again under the filter
// where that is asked for; NULL: the start object is spent, and the filter holds for all threads
// anyway.
static int refuse_clone3(struct program *p, char **argv, struct error *err) {
    enum { OFF, ON, AGAIN };
    static const struct {
        const char *word;
        int mode;
    } words[] = {{"", OFF}, {"0", OFF},   {"false", OFF}, {"off", OFF}, {"no", OFF},
                 {"1", ON}, {"true", ON}, {"yes", ON},    {"on", ON},   {"reexec", AGAIN}};
    static const char blanks[] = " \t\r\n\v\f";
    const char *given = getenv("EXECD_CLONE3_COMPAT"), *value = given ? given : "";
    const char *applied = getenv(CLONE3_APPLIED);
    value += strspn(value, blanks);
    size_t i = 0, len = strlen(value);
    while (len && strchr(blanks, value[len - 1]))
        len--;
    while (i < ARRAY_SIZE(words) &&
           (strlen(words[i].word) != len || strncasecmp(words[i].word, value, len) != 0))
        i++;
    if (i == ARRAY_SIZE(words))
        return error_set(
            err, EINVAL,
            "EXECD_CLONE3_COMPAT: invalid value \"%.40s\": 1, true, yes, on, reexec, or "
            "0, false, no, off",
            given);
    if (words[i].mode == OFF || p->no_clone3)
        return 0;
    p->no_clone3 = true;
    if (applied && !strcmp(applied, "1"))
        return 0;
    if (clone3_refuse(err) < 0)
        return error_wrap(err, "EXECD_CLONE3_COMPAT");
    if (words[i].mode == ON || !argv)
        return 0;
    (void)setenv(CLONE3_APPLIED, "1", 1); // no memory: it would begin again, and fail
    (void)execv("/proc/self/exe", argv);
    return error_errno(err, errno, "EXECD_CLONE3_COMPAT: /proc/self/exe");
}

static int start(struct program *p, struct error *err) {
    if (options_handoff(&p->options, &p->arena, err) < 0 || refuse_clone3(p, NULL, err) < 0)
        return -1;
    start_log(p->options.log_level);
    if (p->no_clone3)
        log_warning("EXECD_CLONE3_COMPAT: clone3 answers ENOSYS here, and no program gains "
                    "privileges (sudo)");
    if (prepare(p, err) < 0)
        return -1;
    environment_check();
    if (start_base(p, err) < 0 || start_rooms(p, err) < 0)
        return -1;
    if (start_server(p, err) < 0 || start_init(p, err) < 0 || start_hooks(p, err) < 0)
        return -1;
    if (p->e.port) // last: who reads it knows that the entrypoint has begun (docker/provision.c)
        log_info("listening on port %u", p->e.port);
    return 0;
}

static int finish(struct program *p) {
    struct execd *e = &p->e;
    int code = e->init ? init_exit_code(e->init) : p->gave_up;
    http_server_free(e->http);
    for (size_t i = p->rooms; i-- > 0;)
        if (execd_rooms[i].stop)
            execd_rooms[i].stop(e);
    timer_stop(&p->grace);
    workers_free(e->workers);
    init_free(e->init);
    journal_close(&e->journal);
    for (size_t i = 0; i < ARRAY_SIZE(p->stop); i++)
        signal_watch_stop(&p->stop[i]);
    reaper_stop(&e->reaper);
    map_clear(&e->commands);
    map_clear(&e->sessions);
    map_clear(&e->ptys);
    output_space_clear(&e->outputs);
    free(e->scratch);
    arena_free(&p->arena);
    if (loop_close(&e->loop) != 0)
        log_error("a handle was left open");
    return code;
}

// `execd environment`: what a shell exported, for init_pre_script().
static int dump_environment(void) {
    extern char **environ;
    for (char **v = environ; v && *v; v++)
        if (fd_write_all(3, *v, strlen(*v) + 1) < 0)
            return 1;
    return 0;
}

static int serve(void *arg) {
    struct program *p = arg;
    struct error err = {0};
    if (start(p, &err) < 0) {
        log_error("%s", err.message);
        init_last_words(p->options.handoff < 0 ? -1 : p->options.handoff + 2, err.message);
        return 1;
    }
    loop_run(&p->e.loop);
    return finish(p);
}

int main(int argc, char **argv) {
    static struct program p; // zeroed, and not on the stack
    struct error err = {0};
    (void)prctl(PR_SET_DUMPABLE, 0); // nobody in the sandbox reads us or our descriptors
    // Memory is worth more here than threads that allocate at once; and what a burst of commands
    // took goes back: a kept output between two buffers would hold all of the heap below it.
    (void)mallopt(M_ARENA_MAX, 1);
    (void)mallopt(M_MMAP_THRESHOLD, OUTPUT_MEMORY);
    if (argc == 2 && !strcmp(argv[1], "environment"))
        return dump_environment();
    arena_init(&p.arena, 8 << 20);
    json_init();
    signals_init();
    if (refuse_clone3(&p, argv, &err) < 0) {
        dprintf(2, "%s\n", err.message);
        return 1;
    }
    if (options_parse(&p.options, argc, argv, &err) < 0 || p.options.help) {
        if (!p.options.help)
            dprintf(2, "%s\n", err.message);
        options_usage(p.options.help ? 1 : 2);
        return p.options.help ? 0 : USAGE;
    }
    return orphans_run(&p.orphans, serve, &p);
}
