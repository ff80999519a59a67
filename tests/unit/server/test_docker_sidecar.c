// Network policies on a fake engine: what the sidecar and the sandbox behind it are asked for, and
// that neither outlives the other.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "docker_world.h"
#include "server/errors.h"

#define SIDE       "51deca4051deca4051deca4051deca40"
#define SIDE_IMAGE "opensandbox/egress:local"
#define POLICY     "{\"egress\":[],\"defaultAction\":\"deny\"}"
#define SIDE_NAME  "sandbox-egress-" ID

static void sidecar(struct world *w, const char *state) {
    char text[1024];
    (void)snprintf(
        text, sizeof text,
        "{\"Id\":\"" SIDE "\",\"State\":{%s},\"NetworkSettings\":{\"IPAddress\":"
        "\"172.17.0.9\",\"Ports\":{\"44772/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":"
        "\"%u\"}],\"18080/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"%u\"}]}}}",
        state, w->port, w->port);
    fake_engine_rule(w->fake, "GET", "/containers/" SIDE_NAME "/json", 0, 200, text);
}

static int with_policy(void **state) {
    static const char image[] = "{\"Id\":\"sha256:side\",\"Os\":\"linux\",\"Architecture\":"
                                "\"amd64\",\"Size\":7,\"Config\":{\"Labels\":{"
                                "\"opensandbox.io/egress\":\"closed\"}}}";
    static const char *const dns[] = {"192.0.2.53", NULL};
    (void)set_up(state);
    struct world *w = *state;
    w->settings.egress_image = SIDE_IMAGE;
    w->settings.egress_dns = dns;
    w->settings.egress_disable_ipv6 = true;
    w->settings.egress_ready_ms = 2000;
    w->spec->network_policy = strdup(POLICY);
    fake_engine_rule(w->fake, "GET", "/images/" SIDE_IMAGE "/json", 0, 200, image);
    fake_engine_rule(w->fake, "GET", "/images/sha256:side/json", 0, 200, image);
    fake_engine_rule(w->fake, "POST", "/containers/" SIDE "/start", 0, 204, "");
    fake_engine_rule(w->fake, "DELETE", "/containers/" SIDE_NAME, 0, 204, "");
    fake_engine_rule(w->fake, "POST", "/containers/sandbox-" ID "/kill", 0, 204, "");
    sidecar(w, "\"Running\":true,\"Pid\":43");
    return 0;
}

// The next container is the sidecar, the one after it the sandbox.
static void sidecar_next(struct world *w) {
    fake_engine_rule(w->fake, "POST", "/containers/create", 1, 201, "{\"Id\":\"" SIDE "\"}");
}

static unsigned removed(struct world *w, const char *name) {
    char path[100];
    (void)snprintf(path, sizeof path, "/containers/%s", name);
    return fake_engine_count(w->fake, "DELETE", path);
}

static const char *sysctl_of(const json_t *host, const char *name) {
    return json_string_value(json_object_get(json_object_get(host, "Sysctls"), name));
}

static void the_sidecar_is_as_asked(void **state) {
    static const char *const dns[] = {"192.0.2.53", "192.0.2.54:5353", NULL};
    struct world *w = *state;
    struct error err;
    char digest[SHA256_HEX_SIZE], token[128];
    w->settings.egress_dns = dns;
    (void)pairs_add(&w->spec->egress_env, "OPENSANDBOX_EGRESS_LOG_LEVEL", "debug");
    (void)pairs_add(&w->spec->egress_env, "OPENSANDBOX_EGRESS_POLICY_FILE", "/etc/theirs");
    start(w);
    sidecar_next(w); // its start fails: it is the last container that was asked for
    fake_engine_rule(w->fake, "POST", "/containers/" SIDE "/start", 1, 500,
                     "{\"message\":\"no more addresses\"}");
    assert_int_equal(provision(w, &err), -1);
    assert_string_equal(err.code, "DOCKER::SANDBOX_START_FAILED");
    assert_non_null(strstr(err.message, "network policy: no more addresses"));
    assert_true(removed(w, SIDE_NAME) == 1 && removed(w, "sandbox-" ID) == 1);
    assert_string_equal(fake_engine_target(w->fake, "POST", "/containers/create"),
                        "/v1.41/containers/create?name=" SIDE_NAME);
    cleanup_json json_t *j = body(w);
    const json_t *host = json_object_get(j, "HostConfig"), *env = json_object_get(j, "Env");
    assert_string_equal(json_string_value(json_object_get(j, "Image")), "sha256:side");
    assert_string_equal(json_string_value(json_object_get(host, "NetworkMode")), "opensandbox");
    assert_true(json_array_size(json_object_get(host, "CapAdd")) == 1 &&
                lists(json_object_get(host, "CapAdd"), "NET_ADMIN"));
    assert_true(lists(json_object_get(host, "CapDrop"), "ALL"));
    assert_string_equal(sysctl_of(host, "net.ipv6.conf.all.disable_ipv6"), "1");
    assert_string_equal(sysctl_of(host, "net.ipv6.conf.default.disable_ipv6"), "1");
    assert_string_equal(sysctl_of(host, "net.ipv6.conf.lo.disable_ipv6"), "1");
    assert_int_equal(json_object_size(json_object_get(host, "PortBindings")), 2);
    assert_string_equal(label(j, "opensandbox.io/egress-sidecar-for"), ID);
    assert_string_equal(label(j, "opensandbox.io/server"), "0123abcd");
    assert_true(lists(env, "OPENSANDBOX_EGRESS_RULES=" POLICY) &&
                lists(env, "OPENSANDBOX_EGRESS_MODE=dns+nft") &&
                lists(env, "OPENSANDBOX_EGRESS_LOG_LEVEL=debug") &&
                lists(env, "OPENSANDBOX_EGRESS_POLICY_FILE=/var/egress/policy.json") &&
                !lists(env, "OPENSANDBOX_EGRESS_POLICY_FILE=/etc/theirs") &&
                lists(env, "OPENSANDBOX_EGRESS_DNS_UPSTREAM=192.0.2.53,192.0.2.54:5353"));
    // the engine holds nothing that could be used
    sha256_hex("token", 5, digest);
    (void)snprintf(token, sizeof token, "OPENSANDBOX_EGRESS_TOKEN_SHA256=%s", digest);
    assert_true(lists(env, token) && !lists(env, "OPENSANDBOX_EGRESS_TOKEN=token"));
}

static void the_sandbox_joins_it(void **state) {
    struct world *w = *state;
    struct error err;
    int fd = -1;
    char port[8];
    start(w);
    sidecar_next(w);
    assert_int_equal(provision(w, &err), 0);
    cleanup_json json_t *j = body(w);
    const json_t *host = json_object_get(j, "HostConfig"), *drop = json_object_get(host, "CapDrop");
    assert_string_equal(json_string_value(json_object_get(host, "NetworkMode")), "container:" SIDE);
    // also where the configuration drops nothing
    assert_true(lists(drop, "NET_ADMIN") && lists(drop, "NET_RAW"));
    assert_null(json_object_get(host, "PortBindings"));
    assert_null(json_object_get(j, "ExposedPorts"));
    (void)snprintf(port, sizeof port, "%u", w->port);
    assert_string_equal(label(j, "opensandbox.io/embedding-proxy-port"), port);
    const char *text = fake_engine_body(w->fake, "POST", "/containers/create");
    assert_null(strstr(text, "OPENSANDBOX_EGRESS"));
    assert_int_equal(w->runtime->ops->dial(w->runtime, ID, EGRESS_PORT, &fd, &err), 0);
    (void)close(fd);
    assert_int_equal(w->runtime->ops->dial(w->runtime, ID, EXECD_PORT, &fd, &err), 0);
    (void)close(fd);
    // the sandbox first: the policy stands before it to the end
    fake_engine_rule(w->fake, "DELETE", "/containers/sandbox-" ID, 1, 500, "{}");
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), -1);
    assert_int_equal(removed(w, SIDE_NAME), 0);
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), 0);
    assert_int_equal(removed(w, SIDE_NAME), 1);
}

static void a_sandbox_without_a_policy_has_none(void **state) {
    struct world *w = *state;
    struct error err;
    int fd;
    free(TAKE_PTR(w->spec->network_policy));
    start(w);
    assert_int_equal(provision(w, &err), 0);
    assert_int_equal(w->runtime->ops->dial(w->runtime, ID, EGRESS_PORT, &fd, &err), -1);
    assert_int_equal(err.kind, ENOTCONN);
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), 0);
    assert_int_equal(removed(w, SIDE_NAME), 0);
}

static void refused(struct world *w, const char *word) {
    struct error err;
    unsigned made = fake_engine_count(w->fake, "POST", "/containers/create");
    assert_int_equal(provision(w, &err), -1);
    assert_string_equal(err.code, "SANDBOX::INVALID_PARAMETER");
    assert_int_equal(err.status, 400);
    assert_non_null(strstr(err.message, word));
    assert_int_equal(fake_engine_count(w->fake, "POST", "/containers/create"), made);
}

static void settings_that_keep_no_policy(void **state) {
    struct world *w = *state;
    w->settings.egress_image = NULL;
    start(w);
    refused(w, "egress.image");
}

static void networks_that_keep_no_policy(void **state) {
    struct world *w = *state;
    w->settings.network_mode = "mine";
    fake_engine_rule(w->fake, "GET", "/networks/mine", 0, 200, "{}");
    start(w);
    refused(w, "docker.network_mode = \"mine\"");
}

static void a_secure_runtime_keeps_no_policy(void **state) {
    struct world *w = *state;
    w->settings.secure_runtime = "runsc";
    start(w);
    refused(w, "runsc");
}

static void another_egress_is_refused(void **state) {
    struct world *w = *state;
    static const char image[] = "{\"Id\":\"sha256:side\",\"Os\":\"linux\",\"Config\":{}}";
    fake_engine_rule(w->fake, "GET", "/images/" SIDE_IMAGE "/json", 0, 200, image);
    fake_engine_rule(w->fake, "GET", "/images/sha256:side/json", 0, 200, image);
    start(w);
    refused(w, "opensandbox.io/egress");
}

static void a_long_policy_comes_as_a_file(void **state) {
    struct world *w = *state;
    struct error err;
    struct strbuf policy cleanup_strbuf;
    strbuf_init(&policy, 1 << 20);
    (void)strbuf_adds(&policy, "{\"egress\":[");
    for (int i = 0; i < 4000; i++)
        (void)strbuf_addf(&policy, "%s{\"action\":\"allow\",\"target\":\"name-%d.test\"}",
                          i ? "," : "", i);
    (void)strbuf_adds(&policy, "],\"defaultAction\":\"deny\"}");
    free(w->spec->network_policy);
    w->spec->network_policy = strdup(policy.data);
    fake_engine_rule(w->fake, "PUT", "/containers/" SIDE "/archive", 0, 200, "");
    start(w);
    sidecar_next(w);
    assert_int_equal(provision(w, &err), 0);
    assert_non_null(strstr(fake_engine_target(w->fake, "PUT", "/containers/" SIDE "/archive"),
                           "path=/var/egress"));
    assert_non_null(
        strstr(fake_engine_body(w->fake, "PUT", "/containers/" SIDE "/archive"), "policy.json"));
}

static void a_sidecar_that_ends_at_once(void **state) {
    struct world *w = *state;
    struct error err;
    sidecar(w, "\"Running\":false,\"ExitCode\":2");
    fake_engine_bytes(w->fake, "GET", "/containers/" SIDE_NAME "/logs", "\1\0\0\0\0\0\0\5why?\n",
                      13);
    start(w);
    sidecar_next(w);
    assert_int_equal(provision(w, &err), -1);
    assert_non_null(strstr(err.message, "why?"));
    assert_int_equal(removed(w, SIDE_NAME), 1);
}

// The engine goes away between the sidecar and the sandbox: nothing can be removed now, and whoever
// has asked must know that something is there.
static void a_sidecar_alone_is_removed_later(void **state) {
    struct world *w = *state;
    struct error err;
    start(w);
    sidecar_next(w);
    fake_engine_leave(w->fake, "GET", "/containers/" SIDE_NAME "/json");
    assert_int_equal(provision(w, &err), -1);
    assert_int_equal(err.kind, ENOTCONN);
    assert_int_equal(removed(w, SIDE_NAME), 0);
    fake_engine_return(w->fake);
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), 0);
    assert_int_equal(removed(w, SIDE_NAME), 1);
}

static void wait_for_kill(struct world *w) {
    while (!fake_engine_count(w->fake, "POST", "/containers/sandbox-" ID "/kill"))
        (void)sched_yield();
}

static void its_end_ends_the_sandbox(void **state) {
    static const char die[] =
        "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"opensandbox.io/"
        "id\":\"" ID "\",\"opensandbox.io/egress-sidecar-for\":\"" ID "\",\"exitCode\":\"137\"}}}";
    struct world *w = *state;
    struct error err;
    start(w);
    sidecar_next(w);
    assert_int_equal(provision(w, &err), 0);
    sidecar(w, "\"Running\":false,\"ExitCode\":137");
    fake_engine_push(w->fake, die);
    wait_for_kill(w);
}

// It died while nobody listened.
static void its_end_is_found_afterwards(void **state) {
    struct world *w = *state;
    struct error err;
    start(w);
    sidecar_next(w);
    assert_int_equal(provision(w, &err), 0);
    fake_engine_rule(w->fake, "GET", "/containers/" SIDE_NAME "/json", 0, 404, "{}");
    fake_engine_cut(w->fake);
    wait_for_kill(w);
}

static void adoption_wants_both(void **state) {
    struct world *w = *state;
    struct error err;
    struct inspection i;
    int fd;
    start(w);
    assert_int_equal(w->runtime->ops->adopt(w->runtime, ID, w->spec, "{}", &i, &err), 0);
    assert_true(i.alive);
    assert_int_equal(w->runtime->ops->dial(w->runtime, ID, EGRESS_PORT, &fd, &err), 0);
    (void)close(fd);
    assert_int_equal(fake_engine_count(w->fake, "POST", "/containers/sandbox-" ID "/kill"), 0);
    sidecar(w, "\"Running\":false,\"ExitCode\":137");
    assert_int_equal(w->runtime->ops->adopt(w->runtime, ID, w->spec, "{}", &i, &err), 0);
    assert_int_equal(fake_engine_count(w->fake, "POST", "/containers/sandbox-" ID "/kill"), 1);
}

static void an_ended_sandbox_needs_none(void **state) {
    struct world *w = *state;
    struct error err;
    start(w);
    sidecar_next(w);
    assert_int_equal(provision(w, &err), 0);
    fake_engine_rule(w->fake, "POST", "/containers/" SIDE_NAME "/kill", 0, 204, "");
    assert_int_equal(w->runtime->ops->retire(w->runtime, ID, &err), 0);
    assert_int_equal(fake_engine_count(w->fake, "POST", "/containers/" SIDE_NAME "/kill"), 1);
    assert_true(removed(w, SIDE_NAME) == 0 && removed(w, "sandbox-" ID) == 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, with_policy, tear_down)

int main(void) {
    json_init();
    const struct CMUnitTest tests[] = {
        TEST(the_sidecar_is_as_asked),
        TEST(the_sandbox_joins_it),
        TEST(a_sandbox_without_a_policy_has_none),
        TEST(settings_that_keep_no_policy),
        TEST(networks_that_keep_no_policy),
        TEST(a_secure_runtime_keeps_no_policy),
        TEST(another_egress_is_refused),
        TEST(a_long_policy_comes_as_a_file),
        TEST(a_sidecar_that_ends_at_once),
        TEST(a_sidecar_alone_is_removed_later),
        TEST(its_end_ends_the_sandbox),
        TEST(its_end_is_found_afterwards),
        TEST(adoption_wants_both),
        TEST(an_ended_sandbox_needs_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
