// The engine's client against a fake engine: addresses, versions, errors, and every way a peer can
// misbehave.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fake_engine.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/address.h"
#include "server/runtime/docker/engine.h"

struct world {
    struct fake_engine *fake;
    struct engine *engine;
};

static int set_up(void **state) {
    static struct world w;
    struct error err;
    error_set_prefix("DOCKER");
    w.fake = fake_engine_new();
    const struct engine_settings s = {.host = fake_engine_host(w.fake), .stall_ms = 1000};
    w.engine = engine_new(&s, &err);
    *state = &w;
    return w.engine ? 0 : -1;
}

static int tear_down(void **state) {
    struct world *w = *state;
    engine_free(w->engine);
    fake_engine_free(w->fake);
    return 0;
}

static void addresses(void **state) {
    static const struct {
        const char *text;
        enum engine_address_kind kind;
        const char *host;
        unsigned port;
        const char *user;
    } good[] = {{NULL, ENGINE_ADDRESS_UNIX, "", 0, ""},
                {"", ENGINE_ADDRESS_UNIX, "", 0, ""},
                {"unix:///run/x.sock", ENGINE_ADDRESS_UNIX, "", 0, ""},
                {"tcp://10.0.0.1:2375", ENGINE_ADDRESS_TCP, "10.0.0.1", 2375, ""},
                {"tcp://host/", ENGINE_ADDRESS_TCP, "host", 0, ""},
                {"tcp://[::1]:99", ENGINE_ADDRESS_TCP, "::1", 99, ""},
                {"ssh://me@host:22", ENGINE_ADDRESS_SSH, "host", 22, "me"},
                {"ssh://host", ENGINE_ADDRESS_SSH, "host", 0, ""}};
    static const char *const bad[] = {
        "unix://relative", "ftp://x",         "tcp://",       "tcp://h:0",
        "tcp://h:70000",   "tcp://h:x",       "tcp://h/path", "ssh://-oProxyCommand=x",
        "ssh://-l@h",      "ssh://me:pw@h",   "tcp://[::1",   "ssh://h%20x",
        "ssh://me@-h",     "/var/run/x.sock", "tcp://a b:1"};
    struct error err;
    struct engine_address a;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(engine_address_parse(good[i].text, &a, &err), 0);
        assert_int_equal(a.kind, good[i].kind);
        assert_string_equal(a.host, good[i].host);
        assert_string_equal(a.user, good[i].user);
        assert_int_equal(a.port, good[i].port);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (engine_address_parse(bad[i], &a, &err) == 0)
            fail_msg("%s was taken", bad[i]);
        assert_non_null(strstr(err.message, "DOCKER_HOST"));
    }
}

static void version(struct world *w, const char *most, const char *least) {
    char text[200];
    (void)snprintf(text, sizeof text,
                   "{\"Version\":\"x\",\"ApiVersion\":\"%s\",\"MinAPIVersion\":\"%s\"}", most,
                   least);
    fake_engine_rule(w->fake, "GET", "/version", 0, 200, text);
}

static void versions_are_settled_both_ways(void **state) {
    struct world *w = *state;
    struct error err;
    fake_engine_rule(w->fake, "GET", "/info", 0, 200, "{}");
    assert_int_equal(engine_negotiate(w->engine, &err), 0);
    assert_int_equal(engine_api(w->engine), 41);
    assert_int_equal(engine_get(w->engine, NULL, &err, "/info"), 0);
    assert_string_equal(fake_engine_target(w->fake, "GET", "/info"), "/v1.41/info");
    assert_string_equal(fake_engine_target(w->fake, "GET", "/version"), "/version");
    version(w, "1.52", "1.44"); // Engine 29
    assert_int_equal(engine_negotiate(w->engine, &err), 0);
    assert_int_equal(engine_api(w->engine), ENGINE_API_MAX);
    version(w, "1.60", "1.50"); // one that has forgotten all that we know
    assert_int_equal(engine_negotiate(w->engine, &err), -1);
    assert_non_null(strstr(err.message, "update this server"));
    version(w, "1.30", "1.12");
    assert_int_equal(engine_negotiate(w->engine, &err), -1);
    assert_non_null(strstr(err.message, "update the engine"));
    version(w, "2.0", "2.0");
    assert_int_equal(engine_negotiate(w->engine, &err), -1);
    assert_int_equal(engine_api(w->engine), ENGINE_API_MAX); // what was settled stays
}

static void podman_is_known(void **state) {
    struct world *w = *state;
    struct error err;
    assert_int_equal(engine_negotiate(w->engine, &err), 0);
    assert_false(engine_is_podman(w->engine));
    fake_engine_rule(w->fake, "GET", "/version", 0, 200,
                     "{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.24\",\"Components\":[{"
                     "\"Name\":\"Podman Engine\"}]}");
    assert_int_equal(engine_negotiate(w->engine, &err), 0);
    assert_true(engine_is_podman(w->engine));
}

static void statuses_become_kinds(void **state) {
    static const struct {
        unsigned status;
        int kind;
    } rows[] = {{400, EINVAL}, {401, EACCES}, {403, EACCES},  {404, ENOENT},
                {409, EBUSY},  {500, EIO},    {501, ENOTSUP}, {302, EIO}};
    struct world *w = *state;
    struct error err;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        fake_engine_rule(w->fake, "GET", "/x", 1, rows[i].status,
                         "{\"message\":\"its own words\"}");
        assert_int_equal(engine_get(w->engine, NULL, &err, "/x"), -1);
        assert_int_equal(err.kind, rows[i].kind);
        assert_string_equal(err.message, "its own words");
        assert_string_equal(err.code, "");
    }
    fake_engine_rule(w->fake, "GET", "/x", 1, 500, "<html>");
    assert_int_equal(engine_get(w->engine, NULL, &err, "/x"), -1);
    assert_string_equal(err.message, "<html>");
    fake_engine_rule(w->fake, "POST", "/x", 1, 304, "");
    const struct engine_call c = {.method = "POST", .path = "/x"};
    assert_int_equal(engine_do(w->engine, &c, NULL, &err), 0);
}

static void bodies_go_and_come(void **state) {
    struct world *w = *state;
    struct error err;
    json_t *reply cleanup_json = NULL;
    json_t *body cleanup_json = json_pack("{s:s}", "Image", "x");
    fake_engine_rule(w->fake, "POST", "/containers/create", 0, 201, "{\"Id\":\"abc\"}");
    struct engine_call c = {.method = "POST",
                            .path = "/containers/create?name=n",
                            .body = body,
                            .registry_auth = "e30="};
    assert_int_equal(engine_do(w->engine, &c, &reply, &err), 0);
    assert_string_equal(json_string_value(json_object_get(reply, "Id")), "abc");
    assert_string_equal(fake_engine_body(w->fake, "POST", "/containers/create"),
                        "{\"Image\":\"x\"}");
    assert_non_null(
        strstr(fake_engine_head(w->fake, "POST", "/containers/create"), "X-Registry-Auth: e30="));
    assert_null(strcasestr(fake_engine_head(w->fake, "POST", "/containers/create"), "Expect"));
    json_t *none = (json_t *)1;
    fake_engine_rule(w->fake, "DELETE", "/containers/abc", 0, 204, "");
    c = (struct engine_call){.method = "DELETE", .path = "/containers/abc"};
    assert_int_equal(engine_do(w->engine, &c, &none, &err), 0);
    assert_null(none);
}

static void broken(struct world *w, const char *raw) {
    struct error err;
    json_t *reply = NULL;
    fake_engine_raw(w->fake, "GET", "/x", 1, raw);
    if (engine_get(w->engine, &reply, &err, "/x") == 0)
        fail_msg("%s was taken", raw);
    assert_null(reply);
}

static void a_peer_that_breaks_off(void **state) {
    struct world *w = *state;
    struct error err;
    broken(w, "");
    broken(w, "HTTP/1.1 200 O");
    broken(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":");
    broken(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":");
    broken(w, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"a\":");
    broken(w, "SSH-2.0-OpenSSH\r\n");
    fake_engine_rule(w->fake, "GET", "/x", 1, 200, "{}"); // and then all is well again
    assert_int_equal(engine_get(w->engine, NULL, &err, "/x"), 0);
}

static void an_engine_that_is_away(void **state) {
    struct error err;
    const struct engine_settings s = {.host = "unix:///tmp/there-is-no-engine-here.sock"};
    struct engine *e = engine_new(&s, &err);
    (void)state;
    assert_non_null(e);
    assert_int_equal(engine_negotiate(e, &err), -1);
    assert_int_equal(err.kind, EHOSTDOWN); // nothing was sent
    assert_true(engine_is_away(&err));
    assert_string_equal(err.code, "DOCKER::UNAVAILABLE");
    assert_int_equal(err.status, 503);
    assert_non_null(strstr(err.message, "there-is-no-engine-here"));
    engine_free(e);
}

// Takes one connection: answers its first request, and goes away with the second.
static void *answer_once(void *arg) {
    static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    int listener = *(int *)arg;
    char request[4096];
    cleanup_close int fd = accept(listener, NULL, NULL);
    bool asked = fd >= 0 && read(fd, request, sizeof request) > 0 &&
                 write(fd, reply, strlen(reply)) > 0 && read(fd, request, sizeof request) > 0;
    (void)close(listener);
    return asked ? arg : NULL;
}

// libcurl tries a broken kept connection anew, and is refused: yet the request was sent.
static void an_engine_that_goes_away_with_a_request(void **state) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct error err;
    char host[128];
    pthread_t thread;
    void *asked;
    (void)state;
    (void)snprintf(a.sun_path, sizeof a.sun_path, "/tmp/engine-that-goes-%d.sock", getpid());
    (void)snprintf(host, sizeof host, "unix://%s", a.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, answer_once, &listener), 0);
    struct engine *e = engine_new(&(struct engine_settings){.host = host}, &err);
    assert_int_equal(engine_get(e, NULL, &err, "/first"), 0);
    const struct engine_call c = {.method = "POST", .path = "/containers/create"};
    assert_int_equal(engine_do(e, &c, NULL, &err), -1);
    assert_int_equal(err.kind, ENOTCONN);
    assert_int_equal(pthread_join(thread, &asked), 0);
    assert_non_null(asked);
    engine_free(e);
    (void)unlink(a.sun_path);
}

static void an_engine_that_is_silent(void **state) {
    struct world *w = *state;
    struct error err;
    // an /events stream says nothing: an impatient call gives up
    assert_int_equal(engine_get(w->engine, NULL, &err, "/events"), -1);
    assert_int_equal(err.kind, ENOTCONN);
}

struct listener {
    struct world *w;
    struct engine_stop *stop;
    struct strbuf got;
    struct error err;
    int result;
};

static int on_piece(void *arg, const char *data, size_t len) {
    struct listener *l = arg;
    (void)strbuf_add(&l->got, data, len);
    return strstr(l->got.data, "enough") ? -1 : 0;
}

static void *listen_events(void *arg) {
    struct listener *l = arg;
    const struct engine_call c = {.method = "GET",
                                  .path = "/events",
                                  .patient = true,
                                  .piece = on_piece,
                                  .arg = l,
                                  .stop = l->stop};
    l->result = engine_do(l->w->engine, &c, NULL, &l->err);
    return NULL;
}

static void wait_for_listener(struct world *w) {
    while (!fake_engine_listeners(w->fake))
        (void)sched_yield();
}

static void streams_come_in_pieces_and_can_be_ended(void **state) {
    struct listener l = {.w = *state, .stop = engine_stop_new()};
    pthread_t thread;
    strbuf_init(&l.got, 65536);
    assert_int_equal(pthread_create(&thread, NULL, listen_events, &l), 0);
    wait_for_listener(l.w);
    fake_engine_push(l.w->fake, "{\"a\":1}");
    fake_engine_push(l.w->fake, "{\"enough\":1}");
    (void)pthread_join(thread, NULL);
    assert_int_equal(l.result, -1);
    assert_int_equal(l.err.kind, ECANCELED);
    assert_string_equal(l.got.data, "{\"a\":1}\n{\"enough\":1}\n");
    strbuf_clear(&l.got);
    fake_engine_cut(l.w->fake);
    assert_int_equal(pthread_create(&thread, NULL, listen_events, &l), 0);
    while (fake_engine_count(l.w->fake, "GET", "/events") < 2)
        (void)sched_yield();
    engine_stop_now(l.stop);
    (void)pthread_join(thread, NULL);
    assert_int_equal(l.result, -1);
    assert_null(listen_events(&l)); // and what comes later ends at once
    assert_int_equal(l.result, -1);
    strbuf_free(&l.got);
    engine_stop_free(l.stop);
}

// ssh is a program of ours in PATH: it shows its arguments, and then is the tunnel.
static void ssh_is_a_tunnel(void **state) {
    struct world *w = *state;
    char dir[] = "/tmp/fake-ssh-XXXXXX", script[64], args[64], old[4096], text[600];
    struct error err;
    struct strbuf sb cleanup_strbuf;
    strbuf_init(&sb, 4096);
    assert_non_null(mkdtemp(dir));
    (void)snprintf(script, sizeof script, "%s/ssh", dir);
    (void)snprintf(args, sizeof args, "%s/args", dir);
    FILE *f = fopen(script, "w");
    (void)fprintf(f,
                  "#!/usr/bin/python3\nimport socket, sys, threading, os\nopen('%s', 'w').write(' "
                  "'.join(sys.argv[1:]))\n"
                  "s = socket.socket(socket.AF_UNIX)\ns.connect('%s')\n"
                  "def pump():\n    while True:\n        d = s.recv(65536)\n        if not d: "
                  "os._exit(0)\n        os.write(1, d)\n"
                  "threading.Thread(target=pump, daemon=True).start()\n"
                  "while True:\n    d = os.read(0, 65536)\n    if not d: break\n    s.sendall(d)\n",
                  args, fake_engine_host(w->fake) + strlen("unix://"));
    (void)fclose(f);
    (void)chmod(script, 0755);
    (void)snprintf(old, sizeof old, "%s", getenv("PATH"));
    (void)snprintf(text, sizeof text, "%s:/usr/bin:/bin", dir);
    (void)setenv("PATH", text, 1);
    const struct engine_settings s = {.host = "ssh://me@far.example:2222"};
    struct engine *e = engine_new(&s, &err);
    assert_non_null(e);
    int r = engine_negotiate(e, &err);
    if (!r)
        r = engine_negotiate(e, &err); // the same tunnel again
    (void)setenv("PATH", old, 1);
    if (r)
        fail_msg("%s", err.message);
    assert_int_equal(engine_api(e), 41);
    f = fopen(args, "r");
    assert_non_null(fgets(text, sizeof text, f));
    (void)fclose(f);
    assert_string_equal(text, "-oBatchMode=yes -oConnectTimeout=10 -T -p 2222 -- me@far.example "
                              "docker system dial-stdio");
    engine_free(e);
    (void)unlink(args);
    (void)unlink(script);
    (void)rmdir(dir);
}

static void tls_wants_its_files(void **state) {
    struct error err;
    const struct engine_settings s = {
        .host = "tcp://127.0.0.1:1", .tls = true, .cert_path = "/nonexistent"};
    (void)state;
    assert_null(engine_new(&s, &err));
    assert_non_null(strstr(err.message, "DOCKER_CERT_PATH"));
}

static void escapes(void **state) {
    struct strbuf sb cleanup_strbuf;
    (void)state;
    strbuf_init(&sb, 1000);
    engine_escape(&sb, "a/b:c@sha256:d&e=f?\xc3\xa4 %");
    assert_string_equal(sb.data, "a/b:c%40sha256:d%26e%3Df%3F%C3%A4%20%25");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),    TEST(versions_are_settled_both_ways),
        TEST(podman_is_known),          TEST(statuses_become_kinds),
        TEST(bodies_go_and_come),       TEST(a_peer_that_breaks_off),
        TEST(an_engine_that_is_away),   TEST(an_engine_that_goes_away_with_a_request),
        TEST(an_engine_that_is_silent), TEST(streams_come_in_pieces_and_can_be_ended),
        TEST(ssh_is_a_tunnel),          cmocka_unit_test(tls_wants_its_files),
        cmocka_unit_test(escapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
