// Drives the built-in runtime without the server, for development and for measuring its phases:
//
//   oci_try -s STATE -x EXECD [-r RUNTIME] [-n COUNT] [-w WORKERS] [-p MS] [-u] [-k] ROOT
//   [REQUEST...]
//
// ROOT is an unpacked image. COUNT sandboxes are made and destroyed, one after another with MS of
// quiet before each, or by WORKERS at once (then destroyed together). -u: no user namespaces. -k:
// leave the sandboxes alive and end, as a crash would. With REQUESTs one sandbox is made, each
// request is written to a connection to execd as it is ("\n" and "\r" are understood) and the
// answer printed; "host COMMAND" runs on the host with $PID and $ID.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "server/runtime/oci/sandbox.h"

enum { BOXES_MAX = 4096, ANSWER_MS = 20000, PHASES = RUNTIME_PHASES_MAX + 2 };

struct try_box {
    char id[SANDBOX_ID_SIZE];
    struct provision_result result;
    int64_t began, ready, destroy_ns;
    bool ok;
};

static struct {
    struct runtime *runtime;
    const char *root;
    unsigned count, workers, pause_ms;
    bool keep;
    char *volume, *user;
    struct try_box boxes[BOXES_MAX];
    atomic_uint next;
} t = {.count = 1};

static void create(struct try_box *b) {
    static char from_image[] = "FROM_IMAGE=yes", rw[] = "/rw", ro[] = "/ro",
                *entrypoint[] = {"tail", "-f", "/dev/null", NULL};
    struct sandbox_spec spec = {.refs = 1,
                                .entrypoint = entrypoint,
                                .entrypoint_count = 3,
                                .memory_bytes = 256 << 20,
                                .cpu_millis = 1000};
    struct volume_spec volumes[] = {
        {.name = rw, .mount_path = rw, .source = t.volume},
        {.name = ro, .mount_path = ro, .source = t.volume, .read_only = true}};
    if (t.volume) {
        spec.volumes = volumes;
        spec.volume_count = 2;
    }
    static char nothing[] = "", workdir[] = "/srv/work/deep", *none[] = {NULL},
                *env[] = {from_image, NULL};
    const struct image_config config = {.env = env,
                                        .entrypoint = none,
                                        .cmd = none,
                                        .user = t.user ? t.user : nothing,
                                        .workdir = workdir};
    struct sandbox_root root = {.path = t.root, .config = &config};
    struct error err;
    random_uuid(b->id);
    char token[65];
    memset(token, '0', 64);
    token[64] = '\0';
    struct provision_request q = {
        .id = b->id, .spec = &spec, .image_id = "", .token_sha256_hex = token};
    b->began = clock_boot_ns();
    t.runtime->ops->expect(t.runtime);
    b->ok = !sandbox_provision_root((struct oci *)t.runtime, &q, &root, &b->result, &err);
    b->ready = clock_boot_ns();
    if (!b->ok)
        (void)printf("%s: %s %s\n", b->id, err.code, err.message);
}

static void destroy(struct try_box *b) {
    struct error err;
    int64_t began = clock_boot_ns();
    if (t.runtime->ops->destroy(t.runtime, b->id, &err))
        (void)printf("destroy %s: %s\n", b->id, err.message);
    b->destroy_ns = clock_boot_ns() - began;
}

static void *create_some(void *arg) {
    (void)arg;
    for (unsigned i; (i = atomic_fetch_add(&t.next, 1)) < t.count;)
        create(&t.boxes[i]);
    return NULL;
}

static void *destroy_some(void *arg) {
    (void)arg;
    for (unsigned i; (i = atomic_fetch_add(&t.next, 1)) < t.count;)
        destroy(&t.boxes[i]);
    return NULL;
}

static double in_parallel(void *(*work)(void *)) {
    pthread_t threads[64];
    int64_t began = clock_boot_ns();
    atomic_store(&t.next, 0);
    for (unsigned i = 0; i < t.workers; i++)
        (void)pthread_create(&threads[i], NULL, work, NULL);
    for (unsigned i = 0; i < t.workers; i++)
        (void)pthread_join(threads[i], NULL);
    return (double)(clock_boot_ns() - began) / 1e6;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double of_box(const struct try_box *b, unsigned column) {
    if (column == 0)
        return (double)(b->ready - b->began) / 1e6;
    if (column == 1)
        return (double)b->destroy_ns / 1e6;
    return (double)b->result.phases[column - 2].ns / 1e6;
}

static void report(void) {
    static double x[BOXES_MAX];
    unsigned phases = 0, bad = 0;
    for (unsigned i = 0; i < t.count; i++) {
        bad += !t.boxes[i].ok;
        if (t.boxes[i].result.phase_count > phases)
            phases = t.boxes[i].result.phase_count;
    }
    (void)printf("%u sandboxes, %u failed\n", t.count, bad);
    for (unsigned column = 0; column < phases + 2; column++) {
        unsigned n = 0;
        const char *name = column == 0 ? "create" : column == 1 ? "destroy" : NULL;
        for (unsigned i = 0; i < t.count; i++)
            if (t.boxes[i].ok) {
                x[n++] = of_box(&t.boxes[i], column);
                if (column >= 2)
                    name = t.boxes[i].result.phases[column - 2].name;
            }
        if (!n)
            return;
        qsort(x, n, sizeof x[0], compare);
        (void)printf("  %-10s p50 %7.2f  p90 %7.2f  p99 %7.2f  max %7.2f ms\n", name, x[n / 2],
                     x[n * 9 / 10], x[n * 99 / 100], x[n - 1]);
    }
}

static void ask(const struct try_box *b, const char *request) {
    char text[8192];
    struct error err;
    int fd = -1;
    size_t n = 0;
    for (const char *p = request; *p && n + 2 < sizeof text; p++)
        if (p[0] == '\\' && (p[1] == 'n' || p[1] == 'r'))
            text[n++] = *++p == 'n' ? '\n' : '\r';
        else
            text[n++] = *p;
    if (t.runtime->ops->dial(t.runtime, b->id, EXECD_PORT, &fd, &err)) {
        (void)printf("dial: %s\n", err.message);
        return;
    }
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t got = write(fd, text, n);
    while (got > 0 && poll(&p, 1, ANSWER_MS) == 1 && (got = read(fd, text, sizeof text)) > 0)
        (void)fwrite(text, 1, (size_t)got, stdout);
    (void)putchar('\n');
    (void)close(fd);
}

static void on_host(const struct try_box *b, const char *command) {
    char pid[16];
    (void)snprintf(pid, sizeof pid, "%d", box_find((struct oci *)t.runtime, b->id)->pid);
    (void)setenv("PID", pid, 1);
    (void)setenv("ID", b->id, 1);
    (void)fflush(stdout);
    pid_t child = fork();
    if (!child) {
        (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    (void)waitpid(child, NULL, 0);
}

static void show(const struct try_box *b) {
    struct inspection end;
    struct error err;
    if (t.runtime->ops->inspect(t.runtime, b->id, &end, &err))
        (void)printf("inspect: %s\n", err.message);
    else
        (void)printf("alive %d paused %d record %d code %d signal %d oom %d\n", end.alive,
                     end.paused, end.has_record, end.exit_code, end.signal, end.oom);
}

static void connect_port(const struct try_box *b, const char *text) {
    struct error err;
    uint64_t port = 0;
    char answer[4096];
    int fd = -1;
    if (parse_u64(text, 1, 65535, &port) ||
        t.runtime->ops->dial(t.runtime, b->id, (unsigned)port, &fd, &err)) {
        (void)printf("dial: %s\n", err.message);
        return;
    }
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n = poll(&p, 1, ANSWER_MS) == 1 ? read(fd, answer, sizeof answer) : -1;
    (void)printf("connected, %zd bytes: %.*s\n", n, n > 0 ? (int)n : 0, answer);
    (void)close(fd);
}

static void restart(const struct try_box *b) {
    struct inspection end;
    struct error err;
    const struct oci_settings s = ((struct oci *)t.runtime)->settings;
    t.runtime->ops->free(t.runtime);
    t.runtime = oci_new(&s, &err);
    if (!t.runtime || t.runtime->ops->start(t.runtime, &err) ||
        t.runtime->ops->adopt(t.runtime, b->id, NULL, b->result.state, &end, &err) ||
        t.runtime->ops->sweep(t.runtime, &err))
        (void)printf("restart: %s\n", err.message);
}

// Whether the request was one to the runtime.
static bool command(const struct try_box *b, const char *request) {
    struct error err = {.message = "done"};
    struct runtime *r = t.runtime;
    if (!strncmp(request, "host ", 5)) {
        on_host(b, request + 5);
    } else if (!strncmp(request, "port ", 5)) {
        connect_port(b, request + 5);
    } else if (!strcmp(request, "restart")) {
        restart(b);
        show(b);
    } else if (!strcmp(request, "pause") || !strcmp(request, "resume") ||
               !strcmp(request, "retire")) {
        (void)(*request == 'p'     ? r->ops->pause
               : request[2] == 's' ? r->ops->resume
                                   : r->ops->retire)(r, b->id, &err);
        (void)printf("%s\n", err.message);
        show(b);
    } else if (!strcmp(request, "logs")) {
        cleanup_strbuf struct strbuf sb;
        strbuf_init(&sb, 2 << 20);
        (void)r->ops->logs(r, b->id, &sb, &err);
        (void)printf("%s\n%s\n", err.message, sb.data);
    } else {
        return false;
    }
    return true;
}

static int converse(char **requests, int count) {
    struct try_box *b = &t.boxes[0];
    create(b);
    if (!b->ok)
        return 1;
    (void)printf("state %s\n", b->result.state);
    for (int i = 0; i < count; i++) {
        (void)printf("--- %s\n", requests[i]);
        if (!command(b, requests[i]))
            ask(b, requests[i]);
    }
    show(b);
    if (!t.keep)
        destroy(b);
    return 0;
}

static void measure(void) {
    if (t.workers) {
        double up = in_parallel(create_some), down = t.keep ? 0 : in_parallel(destroy_some);
        (void)printf("burst: ready after %.0f ms, gone after %.0f ms\n", up, down);
    }
    for (unsigned i = 0; !t.workers && i < t.count; i++) {
        (void)poll(NULL, 0, (int)t.pause_ms);
        create(&t.boxes[i]);
        if (!t.keep)
            destroy(&t.boxes[i]);
    }
    report();
}

static unsigned number(const char *text) {
    uint64_t n = 0;
    if (parse_u64(text, 0, BOXES_MAX, &n))
        (void)fprintf(stderr, "not a number: %s\n", text);
    return (unsigned)n;
}

int main(int argc, char **argv) {
    struct oci_settings s = {.instance = "7e577e57", .cgroup_prefix = "try"};
    static const char *const dns[] = {"192.0.2.53", NULL}, *const everywhere[] = {"/", NULL};
    struct error err;
    s.dns = dns;
    s.run_dir = "/run/opensandbox-try";
    for (int c; (c = getopt(argc, argv, "+s:x:r:n:w:p:v:U:uk")) > 0;)
        switch (c) {
        case 's': s.state_dir = optarg; break;
        case 'x': s.execd_path = optarg; break;
        case 'r': s.runtime = optarg; break;
        case 'n': t.count = number(optarg); break;
        case 'w': t.workers = number(optarg); break;
        case 'p': t.pause_ms = number(optarg); break;
        case 'v':
            t.volume = optarg;
            s.allowed_host_paths = everywhere;
            break;
        case 'u': s.user_namespace = OCI_USERNS_NEVER; break;
        case 'U': t.user = optarg; break;
        case 'k': t.keep = true; break;
        default: return 2;
        }
    if (optind >= argc)
        return 2;
    t.root = argv[optind];
    (void)signal(SIGPIPE, SIG_IGN);
    json_init();
    t.runtime = oci_new(&s, &err);
    if (!t.runtime || t.runtime->ops->start(t.runtime, &err) ||
        t.runtime->ops->sweep(t.runtime, &err)) {
        (void)fprintf(stderr, "start: %s\n", err.message);
        if (t.runtime)
            t.runtime->ops->free(t.runtime);
        return 1;
    }
    int r = 0;
    if (optind + 1 < argc)
        r = converse(argv + optind + 1, argc - optind - 1);
    else
        measure();
    if (t.keep)
        _exit(r); // as after a crash
    t.runtime->ops->free(t.runtime);
    return r;
}
