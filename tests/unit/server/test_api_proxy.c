// The server's proxy to sandboxes: who may pass, what passes, what a state answers. Clients come
// over TCP, so that they have an address; services in the sandbox are raw bytes on sockets.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "fake_runtime.h"
#include "io/stream.h"
#include "server/api/api.h"

#define KEY "a-key-of-this-server"

enum { SERVICES_MAX = 80 };

// Our ends of the connections into the sandbox, in order of dialling; written by workers.
static struct {
    int fd[SERVICES_MAX];
    unsigned port[SERVICES_MAX];
    atomic_uint count;
} services;

static int dial(unsigned port) {
    int fds[2];
    unsigned i = atomic_load(&services.count);
    if (i == SERVICES_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return -1;
    (void)fcntl(fds[0], F_SETFL, O_NONBLOCK);
    services.fd[i] = fds[0];
    services.port[i] = port;
    atomic_store(&services.count, i + 1);
    return fds[1];
}

struct setting {
    struct world w;
    struct config config;
    struct api api;
    struct http_server *server;
    char id[SANDBOX_ID_SIZE];
    int client;
};

static int client(struct setting *t) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_server_port(t->server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void begin(struct setting *t, const char *trusted) {
    static char *none[] = {NULL}, *keys[] = {(char *)KEY, NULL};
    static char *proxies[2];
    struct http_server_settings s;
    struct error err;
    (void)signal(SIGPIPE, SIG_IGN);
    memset(t, 0, sizeof *t);
    memset(&services, 0, sizeof services);
    proxies[0] = (char *)trusted;
    t->config = (struct config){.api_keys = keys,
                                .keys = keys,
                                .key_count = 1,
                                .cors_origins = none,
                                .trusted_proxies = trusted ? proxies : none,
                                .upstream_per_sandbox = 8,
                                .keep_alive_s = 30,
                                .connections_max = 1024,
                                .body_max = 1 << 20};
    world_open(&t->w);
    fake_dial(t->w.runtime, dial);
    assert_int_equal(api_init(&t->api, &t->config, t->w.domain, 0, &err), 0);
    api_serve(&t->api, &s);
    t->server = http_server_new(&t->w.loop, &s, &err);
    assert_non_null(t->server);
    t->api.server = t->server;
    int fd = listen_tcp("127.0.0.1", 0, 16, &err);
    assert_true(fd >= 0);
    assert_int_equal(http_server_listen(t->server, fd, &err), 0);
    create_running(&t->w, 3600, t->id);
    t->client = client(t);
}

static void end(struct setting *t) {
    http_server_free(t->server);
    close(t->client);
    for (unsigned i = 0; i < atomic_load(&services.count); i++)
        close(services.fd[i]);
    world_stop(&t->w);
    api_clear(&t->api);
    world_close(&t->w);
}

static bool readable(int fd) {
    return poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 1;
}

// A head up to its empty line; the rest of the message stays in the socket. Valid until the next.
static const char *head(struct setting *t, int fd) {
    static char text[16 * 1024];
    size_t n = 0;
    while (n < 4 || memcmp(text + n - 4, "\r\n\r\n", 4) != 0) {
        assert_true(n < sizeof text - 1);
        UNTIL(&t->w, readable(fd));
        assert_int_equal(read(fd, text + n++, 1), 1);
    }
    text[n] = 0;
    return text;
}

static void has(const char *text, const char *part) {
    if (!strstr(text, part))
        assert_string_equal(text, part); // shows both
}

static void has_not(const char *text, const char *part) {
    if (strcasestr(text, part))
        assert_string_equal(text, "no such part");
}

// Sends a request to a path of a port; `fields` are whole lines.
static void ask(struct setting *t, const char *method, const char *rest, const char *fields) {
    char text[4096];
    int n =
        snprintf(text, sizeof text, "%s /v1/sandboxes/%s/proxy/%s HTTP/1.1\r\nHost: h:1\r\n%s\r\n",
                 method, t->id, rest, fields);
    assert_true(n > 0 && n < (int)sizeof text);
    assert_int_equal(write(t->client, text, (size_t)n), n);
}

static int service(struct setting *t, unsigned i) {
    UNTIL(&t->w, atomic_load(&services.count) > i);
    return services.fd[i];
}

static void answer(int fd, const char *fields) {
    char text[1024];
    int n = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n%s\r\n", fields);
    assert_int_equal(write(fd, text, (size_t)n), n);
}

// The answer is ours: this status, and this code in its body.
static void refused(struct setting *t, const char *status, const char *code) {
    char body[1024];
    const char *h = head(t, t->client);
    has(h, status);
    const char *length = strstr(h, "Content-Length: ");
    assert_non_null(length);
    size_t n = 0, got = 0;
    for (length += 16; *length >= '0' && *length <= '9'; length++)
        n = n * 10 + (size_t)(*length - '0');
    assert_true(n < sizeof body);
    while (got < n) {
        UNTIL(&t->w, readable(t->client));
        ssize_t r = read(t->client, body + got, n - got);
        assert_true(r > 0);
        got += (size_t)r;
    }
    body[n] = 0;
    has(body, code);
}

static void test_paths_and_queries_pass_as_they_came(void **state) {
    static const char *const rests[][2] = {
        {"8080", "/"},
        {"8080/", "/"},
        {"8080?", "/?"},
        {"8080?a=1&b=2&a=%20", "/?a=1&b=2&a=%20"},
        {"8080//x/%2Fy/a..b.js;p?q=%2e%2e/", "//x/%2Fy/a..b.js;p?q=%2e%2e/"},
    };
    struct setting t;
    (void)state;
    begin(&t, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(rests); i++) {
        char line[128];
        ask(&t, i % 2 ? "PROPFIND" : "OPTIONS", rests[i][0], "");
        (void)snprintf(line, sizeof line, "%s %s HTTP/1.1\r\nHost: h:1\r\n",
                       i % 2 ? "PROPFIND" : "OPTIONS", rests[i][1]);
        has(head(&t, service(&t, 0)), line);
        answer(services.fd[0], "");
        has(head(&t, t.client), "HTTP/1.1 200 OK\r\n");
    }
    assert_int_equal(services.port[0], 8080);
    assert_int_equal(atomic_load(&services.count), 1); // kept alive
    end(&t);
}

static void test_keys_and_tokens_stay_here(void **state) {
    struct setting t;
    char token[SANDBOX_TOKEN_SIZE], fields[512];
    (void)state;
    begin(&t, NULL);
    domain_token(t.w.domain, "execd", t.id, token);
    (void)snprintf(fields, sizeof fields,
                   "OPEN-SANDBOX-API-KEY: %s\r\nX-Other: %s\r\nAuthorization: Bearer %s\r\n"
                   "OpenSandbox-Secure-Access: s\r\nOpenSandbox-Access-Renew: skip\r\n"
                   "X-EXECD-ACCESS-TOKEN: %s\r\nCookie: a=b\r\nOrigin: http://o\r\n",
                   KEY, KEY, KEY, token);
    ask(&t, "GET", "80/", fields);
    const char *h = head(&t, service(&t, 0));
    has_not(h, KEY);
    has_not(h, token);
    has_not(h, "OpenSandbox");
    has(h, "Cookie: a=b\r\nOrigin: http://o\r\n");
    answer(services.fd[0], "");
    (void)head(&t, t.client);
    ask(&t, "GET", "80/", "Authorization: Bearer of-the-app\r\nAuthorization: Basic eDp5\r\n");
    has(head(&t, services.fd[0]),
        "Authorization: Bearer of-the-app\r\nAuthorization: Basic eDp5\r\n");
    end(&t);
}

#define CLAIMS                                                                                     \
    "X-Forwarded-For: 1.1.1.1\r\nForwarded: for=2.2.2.2\r\nX-Real-IP: 3.3.3.3\r\n"                 \
    "X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /p\r\n"             \
    "x-forwarded-for: 4.4.4.4\r\n"

static void test_strangers_cannot_name_their_address(void **state) {
    struct setting t;
    (void)state;
    begin(&t, NULL);
    ask(&t, "GET", "80/", CLAIMS);
    assert_string_equal(head(&t, service(&t, 0)),
                        "GET / HTTP/1.1\r\nHost: h:1\r\nX-Forwarded-For: 127.0.0.1\r\n"
                        "X-Forwarded-Host: h:1\r\nX-Forwarded-Proto: http\r\n\r\n");
    end(&t);
}

static void test_trusted_proxies_are_believed(void **state) {
    struct setting t;
    (void)state;
    begin(&t, "127.0.0.0/8");
    ask(&t, "GET", "80/", CLAIMS);
    assert_string_equal(
        head(&t, service(&t, 0)),
        "GET / HTTP/1.1\r\nHost: h:1\r\nForwarded: for=2.2.2.2\r\nX-Real-IP: 3.3.3.3\r\n"
        "X-Forwarded-Prefix: /p\r\nX-Forwarded-For: 1.1.1.1, 4.4.4.4, 127.0.0.1\r\n"
        "X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n\r\n");
    end(&t);
}

static void test_answers_stay_below_their_path(void **state) {
    struct setting t;
    char text[256];
    (void)state;
    begin(&t, NULL);
    ask(&t, "GET", "80/x", "X-Request-ID: mine\r\n");
    has(head(&t, service(&t, 0)), "X-Request-ID: mine\r\n");
    answer(services.fd[0],
           "Location: /y\r\nSet-Cookie: a=1; Path=/; Domain=h\r\nSet-Cookie: b=2\r\n"
           "X-Request-ID: theirs\r\nService-Worker-Allowed: /\r\nClear-Site-Data: \"*\"\r\n"
           "Strict-Transport-Security: max-age=1\r\nServer: theirs\r\nDate: then\r\n"
           "Access-Control-Allow-Origin: *\r\n");
    const char *h = head(&t, t.client);
    (void)snprintf(text, sizeof text, "Location: /v1/sandboxes/%s/proxy/80/y\r\n", t.id);
    has(h, text);
    (void)snprintf(text, sizeof text,
                   "Set-Cookie: a=1; Path=/v1/sandboxes/%s/proxy/80\r\n"
                   "Set-Cookie: b=2; Path=/v1/sandboxes/%s/proxy/80\r\n",
                   t.id, t.id);
    has(h, text);
    has(h, "X-Request-ID: mine\r\n");
    has(h, "Server: theirs\r\nDate: then\r\nAccess-Control-Allow-Origin: *\r\n");
    has_not(h, "X-Request-ID: theirs");
    has_not(h, "Service-Worker");
    has_not(h, "Clear-Site");
    has_not(h, "Strict-Transport");
    end(&t);
}

static void test_execd_demands_its_token(void **state) {
    struct setting t;
    char token[SANDBOX_TOKEN_SIZE], fields[128];
    (void)state;
    begin(&t, NULL);
    domain_token(t.w.domain, "execd", t.id, token);
    (void)snprintf(fields, sizeof fields, "X-EXECD-ACCESS-TOKEN: %s\r\n", token);
    ask(&t, "GET", "44772/files", "");
    refused(&t, "HTTP/1.1 401 ", "MISSING_OR_INVALID_EXECD_TOKEN");
    ask(&t, "POST", "44772/ping", "Content-Length: 0\r\n");
    refused(&t, "HTTP/1.1 401 ", "MISSING_OR_INVALID_EXECD_TOKEN");
    ask(&t, "GET", "44772/files", "X-EXECD-ACCESS-TOKEN: wrong\r\n");
    refused(&t, "HTTP/1.1 401 ", "MISSING_OR_INVALID_EXECD_TOKEN");
    assert_int_equal(atomic_load(&services.count), 0);
    ask(&t, "GET", "44772/ping", "");
    has(head(&t, service(&t, 0)), "GET /ping HTTP/1.1\r\n");
    answer(services.fd[0], "");
    (void)head(&t, t.client);
    ask(&t, "GET", "44772/files", fields);
    has(head(&t, services.fd[0]), fields);
    end(&t);
}

// Where dials reach execd alone, it is asked for the rest, with its token and not the client's.
static void test_other_ports_go_through_execd(void **state) {
    struct setting t;
    char token[SANDBOX_TOKEN_SIZE], fields[128], text[128];
    (void)state;
    begin(&t, NULL);
    fake_relay(t.w.runtime, true);
    domain_token(t.w.domain, "execd", t.id, token);
    (void)snprintf(fields, sizeof fields, "X-EXECD-ACCESS-TOKEN: %s\r\n", token);
    ask(&t, "GET", "80/a%20b?c=%2F", "X-EXECD-ACCESS-TOKEN: wrong\r\n");
    const char *h = head(&t, service(&t, 0));
    assert_int_equal(services.port[0], EXECD_PORT);
    has(h, "GET /proxy/80/a%20b?c=%2F HTTP/1.1\r\n");
    has(h, fields);
    has_not(h, "wrong");
    answer(services.fd[0], "Location: /y\r\n");
    (void)snprintf(text, sizeof text, "Location: /v1/sandboxes/%s/proxy/80/y\r\n", t.id);
    h = head(&t, t.client);
    has(h, text);
    has_not(h, token);
    ask(&t, "GET", "81", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    h = head(&t, services.fd[0]); // the same connection
    has(h, "GET /proxy/81/ HTTP/1.1\r\n");
    has(h, "Upgrade: websocket\r\n");
    has(h, fields);
    answer(services.fd[0], "");
    (void)head(&t, t.client);
    ask(&t, "GET", "44772/ping", ""); // its own port is as ever
    has(head(&t, services.fd[0]), "GET /ping HTTP/1.1\r\n");
    assert_int_equal(atomic_load(&services.count), 1);
    end(&t);
}

// What a runtime does not do as asked is told while the sandbox runs, after a resume too.
static void test_a_notice_is_told(void **state) {
    static const char look[] = "GET /v1/sandboxes/%s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
                               "OPEN-SANDBOX-API-KEY: " KEY "\r\n\r\n";
    struct setting t;
    struct answer a = {0};
    char text[512], body[2048];
    (void)state;
    begin(&t, NULL);
    fake_notice(t.w.runtime, "no limits here");
    create_running(&t.w, 3600, t.id);
    for (int i = 0; i < 3; i++) {
        int fd = client(&t);
        int n = snprintf(text, sizeof text, look, t.id);
        assert_int_equal(write(fd, text, (size_t)n), n);
        (void)head(&t, fd);
        UNTIL(&t.w, readable(fd));
        ssize_t got = read(fd, body, sizeof body - 1);
        assert_true(got > 0);
        body[got] = '\0';
        assert_true((strstr(body, "\"message\":\"no limits here\"") != NULL) == (i != 1));
        close(fd);
        a = (struct answer){0};
        if (i == 0)
            lifecycle_pause(t.w.domain, t.id, answered, &a);
        else
            lifecycle_resume(t.w.domain, t.id, answered, &a);
        UNTIL(&t.w, a.times);
    }
    end(&t);
}

static void test_what_is_refused_at_once(void **state) {
    static const char *const asked[][3] = {
        {"0/", "HTTP/1.1 400 ", "FAKE::INVALID_PORT"},
        {"65536/", "HTTP/1.1 400 ", "FAKE::INVALID_PORT"},
        {"80/a/../b", "HTTP/1.1 400 ", "SANDBOX::INVALID_PARAMETER"},
        {"80/%2e%2E%2fb", "HTTP/1.1 400 ", "SANDBOX::INVALID_PARAMETER"},
        {"18080/policy", "HTTP/1.1 502 ", "BACKEND_CONNECTION_FAILED"},
    };
    struct setting t;
    (void)state;
    begin(&t, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(asked); i++) {
        ask(&t, "GET", asked[i][0], "OPEN-SANDBOX-API-KEY: " KEY "\r\n");
        refused(&t, asked[i][1], asked[i][2]);
    }
    (void)snprintf(t.id, sizeof t.id, "nobody");
    ask(&t, "GET", "80/", "");
    refused(&t, "HTTP/1.1 404 ", "FAKE::SANDBOX_NOT_FOUND");
    assert_int_equal(atomic_load(&services.count), 0);
    end(&t);
}

static void test_a_paused_sandbox_is_told(void **state) {
    struct setting t;
    struct answer a = {0};
    (void)state;
    begin(&t, NULL);
    lifecycle_pause(t.w.domain, t.id, answered, &a);
    UNTIL(&t.w, a.times);
    ask(&t, "GET", "80/", "");
    refused(&t, "HTTP/1.1 409 ", "SANDBOX::PAUSED");
    end(&t);
}

static void test_a_pending_sandbox_is_waited_for(void **state) {
    struct setting t;
    struct answer a = {0};
    (void)state;
    begin(&t, NULL);
    fake_hold(t.w.runtime, FAKE_PROVISION, true);
    (void)test_create(&t.w, &a, 3600, 0);
    UNTIL(&t.w, a.times);
    (void)snprintf(t.id, sizeof t.id, "%s", a.id);
    ask(&t, "GET", "80/held", "");
    int gone = t.client; // a second one leaves while it waits
    t.client = client(&t);
    ask(&t, "GET", "80/gone", "");
    for (int i = 0; i < 20; i++)
        world_turn(&t.w);
    close(t.client);
    t.client = gone;
    for (int i = 0; i < 20; i++)
        world_turn(&t.w);
    assert_int_equal(atomic_load(&services.count), 0);
    fake_hold(t.w.runtime, FAKE_PROVISION, false);
    has(head(&t, service(&t, 0)), "GET /held HTTP/1.1\r\n");
    answer(services.fd[0], "");
    has(head(&t, t.client), "HTTP/1.1 200 ");
    end(&t);
}

static void test_a_failed_dial(void **state) {
    struct setting t;
    (void)state;
    begin(&t, NULL);
    fake_fail(t.w.runtime, FAKE_DIAL, 1);
    ask(&t, "GET", "80/", "");
    refused(&t, "HTTP/1.1 502 ", "BACKEND_CONNECTION_FAILED");
    ask(&t, "GET", "80/", "");
    (void)head(&t, service(&t, 0));
    close(services.fd[0]);
    services.fd[0] = -1;
    refused(&t, "HTTP/1.1 502 ", "BACKEND_RESPONSE_FAILED");
    end(&t);
}

static void test_ports_give_way_when_nobody_uses_them(void **state) {
    struct setting t;
    (void)state;
    begin(&t, NULL);
    for (unsigned i = 0; i < 70; i++) { // 64 at a time
        char rest[16];
        (void)snprintf(rest, sizeof rest, "%u/", 1000 + i);
        ask(&t, "GET", rest, "");
        (void)head(&t, service(&t, i));
        assert_int_equal(services.port[i], 1000 + i);
        answer(services.fd[i], "");
        has(head(&t, t.client), "HTTP/1.1 200 ");
    }
    UNTIL(&t.w, readable(services.fd[0])); // closed with its port
    UNTIL(&t.w, readable(services.fd[5]));
    assert_false(readable(services.fd[6]));
    end(&t);
}

static void test_ports_in_use_do_not_give_way(void **state) {
    struct setting t;
    int clients[64];
    (void)state;
    begin(&t, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
        char rest[16];
        clients[i] = t.client;
        (void)snprintf(rest, sizeof rest, "%u/", 1000 + i);
        ask(&t, "GET", rest, "");
        (void)head(&t, service(&t, i));
        t.client = client(&t);
    }
    ask(&t, "GET", "2000/", "");
    refused(&t, "HTTP/1.1 503 ", "OVERLOADED");
    answer(services.fd[7], ""); // one is free again
    has(head(&t, clients[7]), "HTTP/1.1 200 ");
    ask(&t, "GET", "2000/", "");
    has(head(&t, service(&t, ARRAY_SIZE(clients))), "GET / HTTP/1.1\r\n");
    for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
    end(&t);
}

static void test_a_deleted_sandbox_cuts_its_tunnels(void **state) {
    struct setting t;
    struct answer a = {0};
    char byte;
    (void)state;
    begin(&t, NULL);
    ask(&t, "GET", "80/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    has(head(&t, service(&t, 0)), "Upgrade: websocket\r\nX-Forwarded-For");
    static const char yes[] =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_int_equal(write(services.fd[0], yes, sizeof yes - 1), sizeof yes - 1);
    has(head(&t, t.client), "HTTP/1.1 101 ");
    lifecycle_delete(t.w.domain, t.id, answered, &a);
    UNTIL(&t.w, readable(t.client) && readable(services.fd[0]));
    assert_int_equal(read(t.client, &byte, 1), 0);
    assert_int_equal(read(services.fd[0], &byte, 1), 0);
    UNTIL(&t.w, a.times);
    end(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths_and_queries_pass_as_they_came),
        cmocka_unit_test(test_keys_and_tokens_stay_here),
        cmocka_unit_test(test_strangers_cannot_name_their_address),
        cmocka_unit_test(test_trusted_proxies_are_believed),
        cmocka_unit_test(test_answers_stay_below_their_path),
        cmocka_unit_test(test_execd_demands_its_token),
        cmocka_unit_test(test_other_ports_go_through_execd),
        cmocka_unit_test(test_a_notice_is_told),
        cmocka_unit_test(test_what_is_refused_at_once),
        cmocka_unit_test(test_a_paused_sandbox_is_told),
        cmocka_unit_test(test_a_pending_sandbox_is_waited_for),
        cmocka_unit_test(test_a_failed_dial),
        cmocka_unit_test(test_ports_give_way_when_nobody_uses_them),
        cmocka_unit_test(test_ports_in_use_do_not_give_way),
        cmocka_unit_test(test_a_deleted_sandbox_cuts_its_tunnels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
