// Sandboxes of a reference server on a fake engine: which are found, what their mark says, what a
// mark takes along.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fake_engine.h"
#include "fmt/json.h"
#include "server/runtime/docker/adopt/adopt.h"

#define ID    "11111111-2222-4333-8444-555555555555"
#define OTHER "21111111-2222-4333-8444-555555555555"
#define LIST                                                                                       \
    "[{\"Id\":\"c1\",\"Labels\":{\"opensandbox.io/id\":\"" ID "\"}},"                              \
    "{\"Id\":\"c2\",\"Labels\":{\"opensandbox.io/id\":\"" OTHER                                    \
    "\",\"opensandbox.io/server\":\"0123abcd\"}},"                                                 \
    "{\"Id\":\"c3\",\"Labels\":{\"opensandbox.io/egress-sidecar-for\":\"" ID "\"}},"               \
    "{\"Id\":\"c4\",\"Labels\":{}}]"
#define INSPECT(name, labels)                                                                      \
    "{\"Id\":\"c1\",\"Name\":\"" name "\",\"Image\":\"sha256:abc\","                               \
    "\"Created\":\"2026-01-01T00:00:00.5Z\",\"State\":{\"Paused\":true},"                          \
    "\"HostConfig\":{\"Memory\":7340032,\"NanoCpus\":500000000,\"NetworkMode\":\"ref\"},"          \
    "\"Mounts\":[{\"Name\":\"mine\"},{\"Name\":\"lent\"}],"                                        \
    "\"Config\":{\"Image\":\"debian:12\",\"Cmd\":[\"sleep\",\"9\"],\"Labels\":{"                   \
    "\"opensandbox.io/id\":\"" ID "\",\"maintainer\":\"x\"," labels "}}}"
#define LABELS                                                                                     \
    "\"opensandbox.io/expires-at\":\"2026-01-01T00:10:00.500000+00:00\","                          \
    "\"opensandbox.io/embedding-proxy-port\":\"45678\","                                           \
    "\"opensandbox.io/access-renew-extend-seconds\":\"300\","                                      \
    "\"opensandbox.io/volume-managed-by\":\"[\\\"mine\\\",\\\"strange\\\"]\""

struct world {
    struct fake_engine *fake;
    struct engine *engine;
};

static int set_up(void **state) {
    static struct world w;
    struct error err = {0};
    w.fake = fake_engine_new();
    const struct engine_settings s = {.host = fake_engine_host(w.fake)};
    w.engine = engine_new(&s, &err);
    assert_int_equal(engine_negotiate(w.engine, &err), 0);
    fake_engine_rule(w.fake, "GET", "/containers/json", 0, 200, LIST);
    *state = &w;
    return 0;
}

static int tear_down(void **state) {
    struct world *w = *state;
    engine_free(w->engine);
    fake_engine_free(w->fake);
    return 0;
}

static int claim(const struct foreign *f, void *arg, struct error *err) {
    struct world *w = arg;
    assert_string_equal(f->id, ID);
    assert_string_equal(f->problem, "");
    assert_string_equal(f->spec->image, "debian:12");
    assert_string_equal(f->spec->entrypoint[1], "9");
    assert_int_equal(f->spec->memory_bytes, 7340032);
    assert_int_equal(f->spec->cpu_millis, 500);
    assert_int_equal(f->spec->timeout_s, 600);
    assert_int_equal(f->expires_us - f->created_us, 600 * 1000000LL);
    assert_int_equal(f->spec->metadata.count, 1);
    assert_string_equal(pairs_get(&f->spec->metadata, "maintainer"), "x");
    assert_string_equal(pairs_get(&f->spec->extensions, "access.renew.extend.seconds"), "300");
    assert_true(f->paused);
    assert_string_equal(f->state, "{\"container\":\"c1\",\"port\":45678}");
    return foreign_claim(w->engine, "0123abcd", f, err);
}

static void one_is_taken_over(void **state) {
    struct world *w = *state;
    struct error err = {0};
    size_t n = 0;
    fake_engine_rule(w->fake, "GET", "/containers/c1/json", 0, 200,
                     INSPECT("/sandbox-" ID, LABELS));
    fake_engine_rule(w->fake, "POST", "/volumes/create", 0, 201,
                     "{\"Labels\":{\"opensandbox.io/server\":\"0123abcd\"}}");
    assert_int_equal(foreign_count(w->engine, &n, &err), 0);
    assert_int_equal(n, 1);
    if (foreign_each(w->engine, "0123abcd", claim, w, &err))
        fail_msg("%s", err.message);
    const char *body = fake_engine_body(w->fake, "POST", "/volumes/create");
    cleanup_json json_t *j = json_parse(body, strlen(body), NULL, &err);
    const json_t *labels = json_object_get(j, "Labels");
    assert_string_equal(json_string_value(json_object_get(j, "Name")), "opensandbox-adopted-" ID);
    assert_string_equal(json_string_value(json_object_get(labels, "opensandbox.io/id")), ID);
    assert_string_equal(
        json_string_value(json_object_get(labels, "opensandbox.io/adopted-sidecar")), "c3");
    // an image may have a label too: what is not mounted is not the sandbox's
    assert_string_equal(
        json_string_value(json_object_get(labels, "opensandbox.io/volume-managed-by")),
        "[\"mine\"]");
    // now it has a mark, and is asked for no more
    fake_engine_rule(w->fake, "GET", "/volumes/opensandbox-adopted-" ID, 0, 200,
                     "{\"Labels\":{\"opensandbox.io/server\":\"0123abcd\"}}");
    assert_int_equal(foreign_each(w->engine, "0123abcd", claim, w, &err), 0);
    assert_int_equal(fake_engine_count(w->fake, "POST", "/volumes/create"), 1);
    assert_int_equal(foreign_count(w->engine, &n, &err), 0);
    assert_int_equal(n, 0);
}

static int lose(const struct foreign *f, void *arg, struct error *err) {
    struct world *w = arg;
    assert_int_equal(foreign_claim(w->engine, "0123abcd", f, err), -1);
    assert_int_equal(err->kind, EEXIST);
    return -1;
}

static void another_server_was_faster(void **state) {
    struct world *w = *state;
    struct error err = {0};
    fake_engine_rule(w->fake, "GET", "/containers/c1/json", 0, 200,
                     INSPECT("/sandbox-" ID, LABELS));
    fake_engine_rule(w->fake, "POST", "/volumes/create", 0, 201,
                     "{\"Labels\":{\"opensandbox.io/server\":\"ffffffff\"}}");
    assert_int_equal(foreign_each(w->engine, "0123abcd", lose, w, &err), -1);
}

static int refused(const struct foreign *f, void *arg, struct error *err) {
    (void)err;
    assert_non_null(strstr(f->problem, (const char *)arg));
    return 0;
}

static void what_is_left_alone(void **state) {
    static const struct {
        const char *inspect, *problem;
    } cases[] = {
        {INSPECT("/by-hand", LABELS), "called \"by-hand\""},
        {INSPECT("/sandbox-" ID, "\"opensandbox.io/ossfs-mounts\":\"[1]\""), "ossfs"},
        {"{\"Id\":\"c1\",\"Name\":\"/sandbox-" ID "\",\"HostConfig\":{\"NetworkMode\":\"host\"},"
         "\"Config\":{\"Labels\":{\"opensandbox.io/id\":\"" ID
         "\",\"opensandbox.io/platform-os\":\"windows\"}}}",
         "Windows"},
        {INSPECT("/sandbox-" ID, "\"opensandbox.io/expires-at\":\"soon\""), "no time"},
    };
    struct world *w = *state;
    struct error err = {0};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        fake_engine_rule(w->fake, "GET", "/containers/c1/json", 0, 200, cases[i].inspect);
        assert_int_equal(
            foreign_each(w->engine, "0123abcd", refused, (void *)cases[i].problem, &err), 0);
    }
    fake_engine_rule(w->fake, "GET", "/volumes/opensandbox-adopted-" ID, 0, 200,
                     "{\"Labels\":{\"opensandbox.io/server\":\"ffffffff\"}}");
    assert_int_equal(
        foreign_each(w->engine, "0123abcd", refused, (void *)"server ffffffff has taken", &err), 0);
}

static void what_goes_with_a_mark(void **state) {
    struct world *w = *state;
    struct error err = {0};
    cleanup_json json_t *mark =
        json_pack("{s:s,s:{s:s,s:s}}", "Name", "opensandbox-adopted-" ID, "Labels",
                  "opensandbox.io/adopted-sidecar", "c3", "opensandbox.io/volume-managed-by",
                  "[\"mine\",\"lent\",\"gone\",\"opensandbox-win-oem-" ID
                  "\",\"opensandbox-win-oem-" OTHER "\"]");
    fake_engine_rule(w->fake, "DELETE", "/volumes/opensandbox-win-oem-" ID, 0, 204, "");
    fake_engine_rule(w->fake, "GET", "/volumes/opensandbox-win-oem-" ID, 0, 200, "{}");
    fake_engine_rule(w->fake, "GET", "/volumes/opensandbox-win-oem-" OTHER, 0, 200, "{}");
    fake_engine_rule(w->fake, "DELETE", "/containers/c3", 0, 204, "");
    fake_engine_rule(w->fake, "DELETE", "/volumes/mine", 0, 204, "");
    fake_engine_rule(w->fake, "GET", "/volumes/mine", 0, 200,
                     "{\"Labels\":{\"opensandbox.io/volume-managed-by\":\"server\"}}");
    fake_engine_rule(w->fake, "GET", "/volumes/lent", 0, 200, "{\"Labels\":null}");
    if (foreign_follow(w->engine, mark, &err))
        fail_msg("%s", err.message);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/containers/c3"), 1);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/volumes/mine"), 1);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/volumes/lent"), 0);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/volumes/opensandbox-win-oem-" ID), 1);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/volumes/opensandbox-win-oem-" OTHER),
                     0);
    json_object_set_new(mark, "Name", json_string("users-own")); // labels like a mark's are no mark
    assert_int_equal(foreign_follow(w->engine, mark, &err), 0);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/containers/c3"), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void) {
    json_init();
    const struct CMUnitTest tests[] = {TEST(one_is_taken_over), TEST(another_server_was_faster),
                                       TEST(what_is_left_alone), TEST(what_goes_with_a_mark)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
