// load: drives a server the way a client would, and prints one JSON line: {"samples_ms": [...],
// "cpu_ms": N, "wall_ms": N}.
//
//   load PORT KEYFILE IMAGE MODE COUNT [PAUSE_MS]
//     create   POST to 200 of /ping at the endpoint, each deleted before the next, PAUSE_MS of
//     quiet before each;
//              a second list "delete_ms" holds the deletes
//     output   create, then the first byte of the first command's output
//     burst    COUNT creates at once; samples are milliseconds since the start of the burst until
//     ready echo     COUNT times `echo hi` in one sandbox health   GET /health, PAUSE_MS between
//     two, COUNT times many     COUNT idle sandboxes, 8 at a time; they stay (delete with `purge`)
//     purge    deletes everything that is listed
// Blocking clients on threads: the driver measures, it does not compete. The key never stands on a
// command line.
#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "http/client.h"

enum { TIME_OUT_MS = 120000, BODY_MAX = 8 << 20, THREADS_MAX = 256 };

static struct {
    unsigned port;
    char key[256], image[256];
    int64_t count, pause_ms;
    double *samples, *deletes;
    int64_t begin_ns;
    atomic_long next, failures;
} load;

static double since_ms(int64_t ns) {
    return (double)(clock_boot_ns() - ns) / 1e6;
}

static struct http_client *dial(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)load.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
        perror("connect");
        exit(1);
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1},
                     sizeof(int)); // only latency suffers when it fails
    return http_client_new(fd);
}

// Sends a request; the status, 0 when the connection failed. The reply's body is in *body.
static unsigned ask(struct http_client *c, const char *method, const char *target,
                    const char *fields, const char *data, struct strbuf *body) {
    struct error err;
    unsigned status = 0;
    char headers[1024];
    (void)snprintf(headers, sizeof headers, "OPEN-SANDBOX-API-KEY: %s\r\n%s%s", load.key,
                   data ? "Content-Type: application/json\r\n" : "", fields);
    strbuf_clear(body);
    if (http_client_request(c, method, target, headers, data, data ? strlen(data) : 0, &status,
                            body, TIME_OUT_MS, &err) < 0) {
        fprintf(stderr, "%s %s: %s\n", method, target, err.message);
        return 0;
    }
    return status;
}

struct box {
    char id[64], fields[256];
};

static bool create(struct http_client *c, struct box *b, struct strbuf *body) {
    char text[1024], target[128];
    bool pool = strncmp(load.image, "pool:", 5) == 0;
    (void)snprintf(text, sizeof text,
                   pool ? "{\"extensions\":{\"poolRef\":\"%s\"},\"timeout\":3600}"
                        : "{\"image\":{\"uri\":\"%s\"},\"entrypoint\":[\"tail\",\"-f\",\"/dev/"
                          "null\"],\"resourceLimits\":{\"cpu\":\"1\",\"memory\":\"256Mi\"},"
                          "\"timeout\":3600}",
                   load.image + (pool ? 5 : 0));
    if (ask(c, "POST", "/v1/sandboxes", "", text, body) != 202) {
        fprintf(stderr, "create: %s\n", body->data);
        return false;
    }
    cleanup_json json_t *made = json_loadb(body->data, body->len, 0, NULL);
    (void)snprintf(b->id, sizeof b->id, "%s", json_string_value(json_object_get(made, "id")));
    (void)snprintf(target, sizeof target, "/v1/sandboxes/%s/endpoints/44772", b->id);
    if (ask(c, "GET", target, "", NULL, body) != 200)
        return false;
    cleanup_json json_t *end = json_loadb(body->data, body->len, 0, NULL);
    json_t *token = json_object_get(json_object_get(end, "headers"), "X-EXECD-ACCESS-TOKEN");
    (void)snprintf(b->fields, sizeof b->fields, "X-EXECD-ACCESS-TOKEN: %s\r\n",
                   json_string_value(token));
    (void)snprintf(target, sizeof target, "/v1/sandboxes/%s/proxy/44772/ping", b->id);
    return ask(c, "GET", target, b->fields, NULL, body) == 200;
}

static bool destroy(struct http_client *c, const struct box *b, struct strbuf *body) {
    char target[128];
    (void)snprintf(target, sizeof target, "/v1/sandboxes/%s", b->id);
    return ask(c, "DELETE", target, "", NULL, body) == 204;
}

// Stops at the first output byte; the rest of the reply is not waited for.
struct first {
    struct strbuf text;
    double at_ms;
    int64_t begin_ns;
};
static int first_output(void *arg, const char *data, size_t len) {
    struct first *f = arg;
    (void)strbuf_add(&f->text, data, len);
    if (!f->at_ms && strstr(f->text.data, "\"stdout\""))
        f->at_ms = since_ms(f->begin_ns);
    return 0;
}

static bool echo(struct http_client *c, const struct box *b, struct first *f) {
    struct error err;
    unsigned status = 0;
    char target[128], headers[512];
    static const char text[] = "{\"command\":\"echo hi\"}";
    (void)snprintf(target, sizeof target, "/v1/sandboxes/%s/proxy/44772/command", b->id);
    (void)snprintf(headers, sizeof headers, "Content-Type: application/json\r\n%s", b->fields);
    strbuf_clear(&f->text);
    f->at_ms = 0;
    if (http_client_send(c, "POST", target, headers, text, sizeof text - 1, &err) < 0 ||
        http_client_receive_stream(c, &status, first_output, f, TIME_OUT_MS, &err) < 0) {
        fprintf(stderr, "command: %s\n", err.message);
        return false;
    }
    return status == 200 && f->at_ms > 0;
}

static void pause_quiet(void) {
    struct timespec t = {load.pause_ms / 1000, load.pause_ms % 1000 * 1000000};
    (void)clock_nanosleep(
        CLOCK_MONOTONIC, 0, &t,
        NULL); // quiet between samples is what is measured, not a wait for a state
}

static bool one_sample(struct http_client *c, struct strbuf *body, long i, bool output) {
    struct box b;
    struct first f = {0};
    strbuf_init(&f.text, BODY_MAX);
    pause_quiet();
    int64_t begin = f.begin_ns = clock_boot_ns();
    bool ok = create(c, &b, body);
    load.samples[i] = since_ms(begin);
    if (ok && output) {
        ok = echo(c, &b, &f);
        load.samples[i] = f.at_ms;
    }
    begin = clock_boot_ns();
    ok = ok && destroy(c, &b, body);
    load.deletes[i] = since_ms(begin);
    strbuf_free(&f.text);
    return ok;
}

static void *worker(void *stay) {
    struct http_client *c = dial();
    struct strbuf body;
    strbuf_init(&body, BODY_MAX);
    for (long i; (i = atomic_fetch_add(&load.next, 1)) < load.count;) {
        struct box b;
        if (!create(c, &b, &body))
            atomic_fetch_add(&load.failures, 1);
        load.samples[i] = since_ms(load.begin_ns);
    }
    (void)stay;
    strbuf_free(&body);
    http_client_free(c);
    return NULL;
}

static void in_parallel(long threads) {
    pthread_t t[THREADS_MAX];
    for (long i = 0; i < threads; i++)
        if (pthread_create(&t[i], NULL, worker, NULL))
            exit(1);
    for (long i = 0; i < threads; i++)
        (void)pthread_join(t[i], NULL);
}

static void echoes(struct http_client *c, struct strbuf *body) {
    struct box b;
    struct first f = {0};
    strbuf_init(&f.text, BODY_MAX);
    if (!create(c, &b, body))
        exit(1);
    for (long i = 0; i < load.count; i++) {
        int64_t begin = f.begin_ns = clock_boot_ns();
        if (!echo(c, &b, &f))
            load.failures++;
        load.samples[i] = since_ms(begin);
    }
    (void)destroy(c, &b, body);
    strbuf_free(&f.text);
}

static void purge(struct http_client *c, struct strbuf *body) {
    for (;;) {
        if (ask(c, "GET", "/v1/sandboxes?pageSize=200", "", NULL, body) != 200)
            exit(1);
        cleanup_json json_t *list = json_loadb(body->data, body->len, 0, NULL);
        json_t *items = json_object_get(list, "items"), *item;
        size_t i;
        if (!json_array_size(items))
            return;
        json_array_foreach(items, i, item) {
            struct box b;
            (void)snprintf(b.id, sizeof b.id, "%s", json_string_value(json_object_get(item, "id")));
            if (!destroy(c, &b, body))
                load.failures++;
        }
    }
}

static void healths(struct http_client *c, struct strbuf *body) {
    for (long i = 0; i < load.count; i++) {
        pause_quiet();
        int64_t begin = clock_boot_ns();
        if (ask(c, "GET", "/health", "", NULL, body) != 200)
            load.failures++;
        load.samples[i] = since_ms(begin);
    }
}

static void print(const char *mode) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
    cleanup_json json_t *samples = json_array(), *deletes = json_array();
    for (long i = 0; i < load.count; i++) {
        (void)json_array_append_new(samples, json_real(load.samples[i]));
        (void)json_array_append_new(deletes, json_real(load.deletes[i]));
    }
    cleanup_json json_t *out =
        json_pack("{s:s, s:I, s:f, s:f, s:O, s:O}", "mode", mode, "failures",
                  (json_int_t)load.failures, "cpu_ms", cpu, "wall_ms", since_ms(load.begin_ns),
                  "samples_ms", samples, "delete_ms", deletes);
    (void)json_dumpf(out, stdout, JSON_REAL_PRECISION(8));
    printf("\n");
}

int main(int argc, char **argv) {
    uint64_t port, count, pause_ms = 0;
    struct error err;
    struct strbuf key, body;
    if (argc < 6 || parse_u64(argv[1], 1, 65535, &port) || parse_u64(argv[5], 0, 1000000, &count) ||
        (argc > 6 && parse_u64(argv[6], 0, 60000, &pause_ms))) {
        fprintf(stderr, "usage: load PORT KEYFILE IMAGE create|output|burst|echo|health|many|purge "
                        "COUNT [PAUSE_MS]\n");
        return 2;
    }
    strbuf_init(&key, 200);
    strbuf_init(&body, BODY_MAX);
    if (fd_read_file(AT_FDCWD, argv[2], &key, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    key.data[strcspn(key.data, "\n")] = 0;
    (void)snprintf(load.key, sizeof load.key, "%s", key.data);
    (void)snprintf(load.image, sizeof load.image, "%s", argv[3]);
    load.port = (unsigned)port;
    load.count = (int64_t)count;
    load.pause_ms = (int64_t)pause_ms;
    load.samples = calloc(count + 1, sizeof *load.samples);
    load.deletes = calloc(count + 1, sizeof *load.deletes);
    if (!load.samples || !load.deletes)
        return 1;
    const char *mode = argv[4];
    struct http_client *c = dial();
    load.begin_ns = clock_boot_ns();
    if (!strcmp(mode, "burst"))
        in_parallel(load.count < THREADS_MAX ? load.count : THREADS_MAX);
    else if (!strcmp(mode, "many"))
        in_parallel(8);
    else if (!strcmp(mode, "echo"))
        echoes(c, &body);
    else if (!strcmp(mode, "health"))
        healths(c, &body);
    else if (!strcmp(mode, "purge"))
        purge(c, &body);
    else
        for (long i = 0; i < load.count; i++)
            load.failures += !one_sample(c, &body, i, !strcmp(mode, "output"));
    print(mode);
    http_client_free(c);
    strbuf_free(&key);
    strbuf_free(&body);
    free(load.samples);
    free(load.deletes);
    return 0;
}
