// The docker runtime against a fake engine: what it asks for, and what it makes of the answers.
// execd is a thread of the test that answers on the port that the fake engine "published".
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "docker_world.h"
#include "fmt/json.h"
#include "fmt/tar.h"
#include "io/stream.h"
#include "server/errors.h"
#include "server/runtime/docker/docker.h"
#include "server/runtime/docker/inspect/examine.h"

// ---- create ----

static void a_warm_create_is_three_calls(void **state) {
    struct world *w = *state;
    struct error err;
    char *words[] = {strdup("sh"), NULL};
    w->spec->entrypoint = calloc(2, sizeof(char *));
    w->spec->entrypoint[0] = words[0];
    w->spec->entrypoint_count = 1;
    w->spec->cpu_millis = 1500;
    w->spec->memory_bytes = 256 << 20;
    (void)pairs_add(&w->spec->env, "KEPT", "");
    start(w);
    unsigned before = fake_engine_total(w->fake);
    assert_int_equal(provision(w, &err), 0);
    assert_int_equal(fake_engine_total(w->fake) - before, 4); // the image is looked at once
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), 0);
    before = fake_engine_total(w->fake);
    struct image_info info;
    const struct image_request q = {.reference = IMAGE};
    assert_true(w->runtime->ops->image_ready(w->runtime, &q, &info));
    assert_string_equal(info.id, "sha256:abc");
    struct provision_result result;
    const struct provision_request p = {
        .id = ID, .spec = w->spec, .image_id = info.id, .token_sha256_hex = HASH};
    assert_int_equal(w->runtime->ops->provision(w->runtime, &p, &result, &err), 0);
    assert_int_equal(fake_engine_total(w->fake) - before, 3);
    cleanup_json json_t *j = body(w);
    const json_t *host = json_object_get(j, "HostConfig");
    assert_int_equal(json_integer_value(json_object_get(host, "Memory")), 256 << 20);
    assert_int_equal(json_integer_value(json_object_get(host, "NanoCpus")), 1500000000);
    assert_int_equal(json_integer_value(json_object_get(host, "PidsLimit")), 4096);
    assert_null(json_object_get(host, "DeviceRequests"));
    assert_null(json_object_get(host, "Runtime"));
    assert_string_equal(json_string_value(json_object_get(host, "NetworkMode")), "opensandbox");
    assert_string_equal(label(j, "opensandbox.io/server"), "0123abcd");
    assert_string_equal(label(j, "opensandbox.io/id"), ID);
    // what the image would hand down is taken away (B14)
    assert_string_equal(label(j, "opensandbox.io/expires-at"), "");
    assert_string_equal(label(j, "opensandbox.io/manual-cleanup"), "true");
    const json_t *env = json_object_get(j, "Env");
    assert_true(lists(env, "OLD") && lists(env, "KEPT=") && !lists(env, "KEPT"));
    assert_true(lists(env, "OPENSANDBOX_ID=" ID) && lists(env, "EXECD_ACCESS_TOKEN_SHA256=" HASH));
    assert_true(lists(json_object_get(j, "Cmd"), "sh"));
    assert_string_equal(fake_engine_target(w->fake, "POST", "/containers/create"),
                        "/v1.41/containers/create?name=sandbox-" ID);
    // the port is the engine's to choose, on the loopback (B19, B26)
    const json_t *binding =
        json_array_get(json_object_get(json_object_get(host, "PortBindings"), "44772/tcp"), 0);
    assert_string_equal(json_string_value(json_object_get(binding, "HostIp")), "127.0.0.1");
    assert_string_equal(json_string_value(json_object_get(binding, "HostPort")), "");
}

static void gpu_platform_and_secure_runtime(void **state) {
    struct world *w = *state;
    struct error err;
    w->settings.secure_runtime = "runsc";
    w->spec->gpus = 2;
    w->spec->platform_os = strdup("linux");
    w->spec->platform_arch = strdup("amd64");
    start(w);
    assert_int_equal(provision(w, &err), 0);
    cleanup_json json_t *j = body(w);
    const json_t *host = json_object_get(j, "HostConfig");
    const json_t *device = json_array_get(json_object_get(host, "DeviceRequests"), 0);
    assert_int_equal(json_integer_value(json_object_get(device, "Count")), 2);
    assert_string_equal(json_string_value(json_array_get(
                            json_array_get(json_object_get(device, "Capabilities"), 0), 0)),
                        "gpu");
    assert_string_equal(json_string_value(json_object_get(host, "Runtime")), "runsc");
    assert_string_equal(label(j, "opensandbox.io/platform-arch"), "amd64");
    assert_string_equal(fake_engine_target(w->fake, "POST", "/containers/create"),
                        "/v1.41/containers/create?name=sandbox-" ID "&platform=linux/amd64");
}

static void a_runtime_that_the_engine_lacks(void **state) {
    struct world *w = *state;
    struct error err = {0};
    w->settings.secure_runtime = "kata-runtime";
    w->runtime = docker_new(&w->settings, &err);
    assert_int_equal(w->runtime->ops->start(w->runtime, &err), -1);
    assert_non_null(strstr(err.message, "kata-runtime"));
}

static void failed(struct world *w, const char *path, unsigned status, const char *text,
                   unsigned expected, const char *code) {
    struct error err;
    char reply[300];
    unsigned removed = fake_engine_count(w->fake, "DELETE", "/containers/sandbox-" ID);
    (void)snprintf(reply, sizeof reply, "{\"message\":\"%s\"}", text);
    fake_engine_rule(w->fake, "POST", path, 1, status, reply);
    assert_int_equal(provision(w, &err), -1);
    assert_string_equal(err.code, code);
    assert_int_equal(err.status, expected);
    assert_non_null(strstr(err.message, text));
    // nothing is left behind, whatever failed
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/containers/sandbox-" ID), removed + 1);
}

static void failures_have_codes_and_leave_nothing(void **state) {
    struct world *w = *state;
    struct error err;
    start(w);
    failed(w, "/containers/create", 400, "Range of CPUs is from 0.01 to 2.00", 400,
           "SANDBOX::INVALID_PARAMETER");
    failed(w, "/containers/create", 404, "No such image: debian:12", 400,
           "DOCKER::IMAGE_NOT_FOUND");
    failed(w, "/containers/create", 500, "no space left on device", 500,
           "DOCKER::SANDBOX_START_FAILED");
    failed(w, "/containers/" CID "/start", 500, "OCI runtime create failed", 500,
           "DOCKER::SANDBOX_START_FAILED");
    fake_engine_raw(w->fake, "POST", "/containers/create", 2,
                    ""); // a kept connection, and a new one
    assert_int_equal(provision(w, &err), -1);
    assert_string_equal(err.code, "DOCKER::UNAVAILABLE"); // and 500, as clients of create expect
    assert_int_equal(err.status, 500);
    container(w, "\"Running\":false,\"ExitCode\":137,\"OOMKilled\":true,\"FinishedAt\":\"2024-01-"
                 "01T00:00:00Z\"");
    assert_int_equal(provision(w, &err), -1);
    assert_non_null(strstr(err.message, "137 (out of memory)"));
}

static void an_engine_without_limits(void **state) {
    struct world *w = *state;
    struct error err;
    w->spec->memory_bytes = 64 << 20;
    fake_engine_rule(w->fake, "GET", "/info", 0, 200, "{\"MemoryLimit\":false}");
    start(w);
    assert_int_equal(provision(w, &err), -1); // never in silence
    assert_string_equal(err.code, "SANDBOX::INVALID_PARAMETER");
    assert_non_null(strstr(err.message, "docker.limits"));
    w->runtime->ops->stop(w->runtime);
    w->runtime->ops->free(w->runtime);
    w->settings.limits = DOCKER_LIMITS_BEST_EFFORT;
    fake_engine_cut(w->fake);
    start(w);
    assert_int_equal(provision(w, &err), 0);
    cleanup_json json_t *j = body(w);
    assert_null(json_object_get(json_object_get(j, "HostConfig"), "Memory"));
    assert_non_null(strstr(w->runtime->ops->notice(w->runtime, w->spec), "best_effort"));
    w->spec->memory_bytes = 0; // nothing was asked for
    assert_null(w->runtime->ops->notice(w->runtime, w->spec));
}

static void engines_that_drop_limits(void **state) {
    static const struct {
        const char *info;
        bool can;
    } rows[] = {{"{}", true},
                {"{\"MemoryLimit\":true,\"CgroupVersion\":\"1\"}", true},
                {"{\"CpuCfsQuota\":false}", false},
                {"{\"PidsLimit\":false}", false},
                {"{\"MemoryLimit\":true,\"Rootless\":true,\"CgroupVersion\":\"2\"}", true},
                {"{\"MemoryLimit\":true,\"Rootless\":true,\"CgroupVersion\":\"1\"}", false}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        cleanup_json json_t *info = json_loads(rows[i].info, 0, NULL);
        assert_int_equal(engine_can_limit(info), rows[i].can);
    }
}

// ---- images ----

static void pulls_tell_what_is_wrong(void **state) {
    static const struct {
        const char *stream, *code;
    } rows[] = {
        {"{\"status\":\"Pulling\"}\n{\"errorDetail\":{\"message\":\"manifest unknown\"}}\n",
         "DOCKER::IMAGE_NOT_FOUND"},
        {"{\"error\":\"unauthorized: authentication required\"}", "DOCKER::IMAGE_UNAUTHORIZED"},
        {"{\"error\":\"no matching manifest for linux/arm64\"}\n", "DOCKER::IMAGE_INVALID"},
        {"{\"error\":\"dial tcp: i/o timeout\"}\n", "DOCKER::SANDBOX_IMAGE_PULL_FAILED"},
        {"{\"error\":\"json: cannot unmarshal number into Go struct field\"}\n",
         "DOCKER::IMAGE_INVALID"},
        {"{\"error\":\"failed to register layer: archive/tar: invalid tar header\"}\n",
         "DOCKER::IMAGE_INVALID"},
        {"{\"error\":\"failed to register layer: write /x: no space left on device\"}\n",
         "DOCKER::DISK_FULL"},
        {"{\"error\":\"error parsing HTTP 502 response body: invalid character '<'\"}\n",
         "DOCKER::SANDBOX_IMAGE_PULL_FAILED"},
        {"{\"status\":\"done\"}\n", "DOCKER::SANDBOX_IMAGE_PULL_FAILED"}};
    struct world *w = *state;
    struct error err;
    struct image_info info;
    start(w);
    fake_engine_rule(w->fake, "GET", "/images/" IMAGE "/json", 0, 404,
                     "{\"message\":\"No such image\"}");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        fake_engine_rule(w->fake, "POST", "/images/create", 1, 200, rows[i].stream);
        assert_int_equal(image(w, &info, &err), -1); // an error in the stream is one (B20)
        assert_string_equal(err.code, rows[i].code);
    }
    fake_engine_rule(w->fake, "POST", "/images/create", 1, 200, "{\"status\":\"done\"}\n");
    fake_engine_rule(w->fake, "GET", "/images/" IMAGE "/json", 1, 200, "{\"Id\":\"sha256:new\"}");
    fake_engine_rule(w->fake, "GET", "/images/" IMAGE "/json", 1, 404, "{}");
    assert_int_equal(image(w, &info, &err), 0);
    assert_string_equal(info.id, "sha256:new");
    assert_string_equal(fake_engine_target(w->fake, "POST", "/images/create"),
                        "/v1.41/images/create?fromImage=debian&tag=12");
}

static void an_image_of_another_platform_is_pulled_again(void **state) {
    struct world *w = *state;
    struct error err;
    struct image_info info;
    start(w);
    assert_int_equal(image(w, &info, &err),
                     0); // no platform was asked for: what lies there is taken (B25)
    assert_int_equal(fake_engine_count(w->fake, "POST", "/images/create"), 0);
    w->spec->platform_os = strdup("linux");
    w->spec->platform_arch = strdup("arm64");
    fake_engine_rule(w->fake, "POST", "/images/create", 0, 200, "{\"status\":\"done\"}\n");
    assert_int_equal(image(w, &info, &err),
                     -1); // still of the other one: never used in silence (B20)
    assert_string_equal(err.code, "DOCKER::IMAGE_INVALID");
    assert_non_null(
        strstr(fake_engine_target(w->fake, "POST", "/images/create"), "platform=linux/arm64"));
}

static void credentials_go_in_the_header(void **state) {
    struct world *w = *state;
    struct error err = {0};
    struct image_info info;
    char plain[200];
    start(w);
    fake_engine_rule(w->fake, "GET", "/images/reg.example:5000/a/b/json", 0, 404, "{}");
    fake_engine_rule(w->fake, "POST", "/images/create", 0, 200, "{\"error\":\"denied\"}");
    const struct image_request q = {
        .reference = "reg.example:5000/a/b", .username = "me", .password = "s3cret"};
    assert_int_equal(w->runtime->ops->ensure_image(w->runtime, &q, &info, &err), -1);
    assert_null(strstr(err.message, "s3cret"));
    assert_non_null(strstr(fake_engine_target(w->fake, "POST", "/images/create"),
                           "fromImage=reg.example:5000/a/b&tag=latest"));
    const char *field =
        strstr(fake_engine_head(w->fake, "POST", "/images/create"), "X-Registry-Auth: ");
    assert_non_null(field);
    field += strlen("X-Registry-Auth: ");
    long n = decode_base64(field, strcspn(field, "\r"), plain, sizeof plain - 1);
    assert_true(n > 0);
    plain[n] = '\0';
    assert_string_equal(plain, "{\"username\":\"me\",\"password\":\"s3cret\"}");
}

// A helper that hangs is ended after its 10 s; one that answers is used. Both are scripts in PATH.
static void helpers_of_dockers_configuration(void **state) {
    struct world *w = *state;
    char dir[] = "/tmp/fake-helper-XXXXXX", path[100], old[4096], both[5000], plain[300];
    struct error err = {0};
    struct image_info info;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    (void)fprintf(f, "{\"credHelpers\":{\"reg.example\":\"test\"},\"auths\":{\"other.example\":{"
                     "\"auth\":\"dTpw\"}}}");
    (void)fclose(f);
    (void)snprintf(path, sizeof path, "%s/docker-credential-test", dir);
    f = fopen(path, "w");
    (void)fprintf(
        f,
        "#!/bin/sh\nread server\necho '{\"Username\":\"from '$1 $server'\",\"Secret\":\"pw\"}'\n");
    (void)fclose(f);
    (void)chmod(path, 0755);
    (void)snprintf(old, sizeof old, "%s", getenv("PATH"));
    (void)snprintf(both, sizeof both, "%s:%s", dir, old);
    (void)setenv("PATH", both, 1);
    (void)setenv("DOCKER_CONFIG", dir, 1);
    start(w);
    fake_engine_rule(w->fake, "POST", "/images/create", 0, 200, "{\"error\":\"denied\"}");
    static const char *const rows[][2] = {
        {"reg.example/a:1", "{\"username\":\"from get reg.example\",\"password\":\"pw\"}"},
        {"other.example/a:1", "{\"username\":\"u\",\"password\":\"p\"}"},
        {"a:1", NULL}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct image_request q = {.reference = rows[i][0]};
        assert_int_equal(w->runtime->ops->ensure_image(w->runtime, &q, &info, &err), -1);
        const char *field =
            strstr(fake_engine_head(w->fake, "POST", "/images/create"), "X-Registry-Auth: ");
        if (!rows[i][1]) {
            assert_null(field);
            continue;
        }
        assert_non_null(field);
        field += strlen("X-Registry-Auth: ");
        long n = decode_base64(field, strcspn(field, "\r"), plain, sizeof plain - 1);
        assert_true(n > 0);
        plain[n] = '\0';
        assert_string_equal(plain, rows[i][1]);
    }
    (void)setenv("PATH", old, 1);
    (void)unsetenv("DOCKER_CONFIG");
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    (void)unlink(path);
    (void)rmdir(dir);
}

// ---- events ----

struct heard {
    struct loop *loop;
    unsigned count;
    char id[SANDBOX_ID_SIZE];
};

static void on_end(const struct runtime_event *e, void *arg) {
    struct heard *h = arg;
    h->count++;
    memcpy(h->id, e->id, sizeof h->id);
    loop_stop(h->loop);
}

static void ends_are_told_once(void **state) {
    static const char die[] =
        "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"opensandbox.io/"
        "id\":\"" ID "\",\"exitCode\":\"3\"}}}";
    struct world *w = *state;
    struct error err;
    struct inspection i;
    struct loop l;
    struct heard h = {.loop = &l};
    assert_int_equal(loop_init(&l, &err), 0);
    start(w);
    w->runtime->ops->watch(w->runtime, &l, on_end, &h);
    assert_int_equal(provision(w, &err), 0);
    unsigned before = fake_engine_total(w->fake);
    assert_int_equal(w->runtime->ops->inspect(w->runtime, ID, &i, &err), 0);
    assert_true(i.alive);
    assert_int_equal(fake_engine_total(w->fake), before); // nobody was asked (B22)
    container(w, "\"Running\":false,\"ExitCode\":3,\"FinishedAt\":\"2024-01-01T00:00:00.5Z\"");
    fake_engine_push(w->fake, "not json");
    fake_engine_push(
        w->fake,
        "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"Attributes\":{}}}"); // a stranger
    fake_engine_push(w->fake, die);
    loop_run(&l);
    assert_int_equal(h.count, 1);
    assert_string_equal(h.id, ID);
    assert_int_equal(w->runtime->ops->inspect(w->runtime, ID, &i, &err), 0);
    assert_true(!i.alive && i.exit_code == 3 && i.ended_us == 1704067200500000);
    w->runtime->ops->stop(w->runtime);
    w->runtime->ops->free(w->runtime);
    w->runtime = NULL;
    assert_int_equal(loop_close(&l), 0);
}

// What happens while the stream is broken is found afterwards.
static void a_broken_stream_misses_nothing(void **state) {
    struct world *w = *state;
    struct error err;
    struct inspection i;
    struct loop l;
    struct heard h = {.loop = &l};
    assert_int_equal(loop_init(&l, &err), 0);
    start(w);
    w->runtime->ops->watch(w->runtime, &l, on_end, &h);
    assert_int_equal(provision(w, &err), 0);
    fake_engine_rule(w->fake, "GET", "/containers/sandbox-" ID "/json", 0, 404,
                     "{\"message\":\"No such container\"}");
    fake_engine_rule(w->fake, "GET", "/version", 2, 500,
                     "{}"); // and the engine takes its time to come back
    fake_engine_cut(w->fake);
    loop_run(&l);
    assert_string_equal(h.id, ID);
    assert_int_equal(w->runtime->ops->inspect(w->runtime, ID, &i, &err), 0);
    assert_true(!i.alive && i.exit_code == -1);
    w->runtime->ops->stop(w->runtime);
    w->runtime->ops->free(w->runtime);
    w->runtime = NULL;
    assert_int_equal(loop_close(&l), 0);
}

// ---- the rest ----

static void removals(void **state) {
    struct world *w = *state;
    struct error err = {0};
    start(w);
    fake_engine_rule(w->fake, "GET", "/volumes", 0, 200, "{\"Volumes\":[{\"Name\":\"own\"}]}");
    fake_engine_rule(w->fake, "DELETE", "/volumes/own", 0, 204, "");
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), 0);
    // anonymous volumes go with it, and its own named ones (B4, B6)
    assert_non_null(
        strstr(fake_engine_target(w->fake, "DELETE", "/containers/sandbox-" ID), "?force=1&v=1"));
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/volumes/own"), 1);
    fake_engine_rule(w->fake, "DELETE", "/containers/sandbox-" ID, 1, 404, "{}");
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err),
                     0); // a second one is one too (B17)
    assert_int_equal(err.kind, 0);
    fake_engine_rule(w->fake, "GET", "/containers/sandbox-" ID "/json", 0, 404, "{}");
    fake_engine_rule(w->fake, "DELETE", "/containers/sandbox-" ID, 1, 409,
                     "{\"message\":\"removal is already in progress\"}");
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err), 0);
    fake_engine_rule(w->fake, "DELETE", "/containers/sandbox-" ID, 1, 500,
                     "{\"message\":\"driver failed\"}");
    assert_int_equal(w->runtime->ops->destroy(w->runtime, ID, &err),
                     -1); // the domain tries again (B3)
    assert_string_equal(err.code, "DOCKER::SANDBOX_DELETE_FAILED");
}

// Of another make: by its own script, told where execd is; never shown to the network.
static void a_foreign_execd_starts_by_its_own_script(void **state) {
    struct world *w = *state;
    struct error err = {0};
    struct strbuf tar cleanup_strbuf;
    strbuf_init(&tar, 65536);
    assert_int_equal(tar_add_dir(&tar, "described", 0755), 0);
    assert_int_equal(tar_add_file(&tar, "execd", 0755, "#!/bin/sh\n", 10), 0);
    assert_int_equal(tar_end(&tar), 0);
    fake_engine_rule(w->fake, "GET", "/images/foreign:1/json", 0, 200,
                     "{\"Id\":\"sha256:feed\",\"Config\":{\"Labels\":null}}");
    fake_engine_rule(w->fake, "GET", "/images/sha256:feed/json", 0, 200,
                     "{\"Id\":\"sha256:feed\",\"Config\":{\"Labels\":null}}");
    fake_engine_bytes(w->fake, "GET", "/containers/" CID "/archive", tar.data, tar.len);
    w->settings.execd_image = "foreign:1";
    w->settings.publish_host = "0.0.0.0";
    struct runtime *shown = docker_new(&w->settings, &err);
    assert_int_equal(shown->ops->start(shown, &err), -1);
    assert_non_null(strstr(err.message, "knows no token"));
    shown->ops->free(shown);
    w->settings.publish_host = "127.0.0.1";
    err = (struct error){0};
    start(w);
    assert_int_equal(provision(w, &err), 0);
    const char *body = fake_engine_body(w->fake, "POST", "/containers/create");
    cleanup_json json_t *j = json_parse(body, strlen(body), NULL, &err);
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "Entrypoint"), 0)),
                        "/opt/opensandbox/bin/bootstrap.sh");
    assert_int_equal(json_array_size(json_object_get(j, "Entrypoint")), 1);
    assert_non_null(strstr(body, "\"EXECD=/opt/opensandbox/bin/execd\""));
}

static void facts_are_the_engines(void **state) {
    struct world *w = *state;
    struct error err = {0};
    struct pairs f = {0};
    start(w);
    fake_engine_rule(
        w->fake, "GET", "/containers/sandbox-" ID "/json", 0, 200,
        "{\"Id\":\"" CID
        "\",\"State\":{\"Running\":false,\"OOMKilled\":true,\"ExitCode\":137,\"Pid\":0,"
        "\"StartedAt\":\"2026-01-01T00:00:00Z\",\"FinishedAt\":\"0001-01-01T00:00:00Z\","
        "\"Error\":\"two\\nlines\"},\"NetworkSettings\":{\"Networks\":{\"a\":{\"IPAddress\":"
        "\"10.0.0.2\"},\"b\":{\"IPAddress\":\"\"}},\"Ports\":{\"44772/tcp\":[{\"HostIp\":"
        "\"127.0.0.1\",\"HostPort\":\"5\"}],\"80/tcp\":null}},"
        "\"Config\":{\"Env\":[\"SECRET=x\"]}}");
    assert_int_equal(w->runtime->ops->facts(w->runtime, ID, &f, &err), 0);
    assert_string_equal(pairs_get(&f, "Container ID"), "c0ffee00c0ff");
    assert_string_equal(pairs_get(&f, "OOMKilled"), "True");
    assert_string_equal(pairs_get(&f, "Exit Code"), "137");
    assert_string_equal(pairs_get(&f, "Started At"), "2026-01-01T00:00:00Z");
    assert_string_equal(pairs_get(&f, "Error"), "two");
    assert_string_equal(pairs_get(&f, "Network"), "a 10.0.0.2, b");
    assert_string_equal(pairs_get(&f, "Ports"), "44772/tcp -> 127.0.0.1:5");
    assert_int_equal(f.count, 7);
    for (size_t i = 0; i < f.count; i++) // as runtime.h promises
        assert_true(strlen(f.items[i].name) <= 15 && !strstr(f.items[i].value, "SECRET"));
    pairs_clear(&f);
    fake_engine_rule(w->fake, "GET", "/containers/sandbox-" ID "/json", 0, 404, "{}");
    assert_int_equal(w->runtime->ops->facts(w->runtime, ID, &f, &err), -1);
    assert_int_equal(err.status, 404);
}

static void only_what_is_ours_is_listed(void **state) {
    struct world *w = *state;
    struct error err = {0};
    struct runtime_found *found = NULL;
    size_t count = 0;
    start(w);
    fake_engine_rule(w->fake, "GET", "/containers/json", 0, 200,
                     "[{\"Labels\":{\"opensandbox.io/id\":\"" ID
                     "\"}},{\"Labels\":{}},{\"Labels\":{\"opensandbox.io/id\":\"short\"}}]");
    assert_int_equal(w->runtime->ops->list(w->runtime, &found, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(found[0].id, ID);
    free(found);
    // the engine is asked for this server's alone (B2, B24)
    assert_non_null(strstr(fake_engine_target(w->fake, "GET", "/containers/json"),
                           "opensandbox.io/server%3D0123abcd"));
}

static void the_sweep_takes_what_nobody_knows(void **state) {
    struct world *w = *state;
    struct error err = {0};
    start(w);
    fake_engine_rule(w->fake, "GET", "/containers/json", 0, 200,
                     "[{\"Id\":\"h\",\"Labels\":{\"opensandbox.io/server\":\"0123abcd\"}},"
                     "{\"Id\":\"s\",\"Labels\":{\"opensandbox.io/id\":\"" ID "\"}}]");
    fake_engine_rule(w->fake, "DELETE", "/containers/h", 0, 204, "");
    assert_int_equal(w->runtime->ops->sweep(w->runtime, &err), 0);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/containers/h"), 1);
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/containers/sandbox-" ID), 1);
    assert_int_equal(provision(w, &err), 0);
    assert_int_equal(w->runtime->ops->sweep(w->runtime, &err), 0); // one that is known stays
    assert_int_equal(fake_engine_count(w->fake, "DELETE", "/containers/sandbox-" ID), 1);
}

static void logs_lose_their_frames(void **state) {
    struct world *w = *state;
    struct error err = {0};
    struct strbuf sb cleanup_strbuf;
    strbuf_init(&sb, 1000);
    start(w);
    fake_engine_bytes(w->fake, "GET", "/containers/sandbox-" ID "/logs",
                      "\1\0\0\0\0\0\0\3abc\2\0\0\0\0\0\0\2\nd", 21);
    assert_int_equal(w->runtime->ops->logs(w->runtime, ID, &sb, &err), 0);
    assert_string_equal(sb.data, "abc\nd");
}

static void a_profile_goes_inline(void **state) {
    struct world *w = *state;
    struct error err;
    char path[] = "/tmp/seccomp-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }\n", 38), 38);
    (void)close(fd);
    w->settings.seccomp_profile = path;
    w->settings.no_new_privileges = true;
    start(w);
    assert_int_equal(provision(w, &err), 0);
    cleanup_json json_t *j = body(w);
    const json_t *opts = json_object_get(json_object_get(j, "HostConfig"), "SecurityOpt");
    assert_true(lists(opts, "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}")); // B18
    assert_true(lists(opts, "no-new-privileges:true"));
    (void)unlink(path);
    w->settings.seccomp_profile = "/nonexistent";
    assert_null(docker_new(&w->settings, &err));
    assert_non_null(strstr(err.message, "docker.seccomp_profile"));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TEST(a_warm_create_is_three_calls),
                                       TEST(gpu_platform_and_secure_runtime),
                                       TEST(a_runtime_that_the_engine_lacks),
                                       TEST(failures_have_codes_and_leave_nothing),
                                       TEST(an_engine_without_limits),
                                       TEST(engines_that_drop_limits),
                                       TEST(pulls_tell_what_is_wrong),
                                       TEST(an_image_of_another_platform_is_pulled_again),
                                       TEST(credentials_go_in_the_header),
                                       TEST(helpers_of_dockers_configuration),
                                       TEST(ends_are_told_once),
                                       TEST(a_broken_stream_misses_nothing),
                                       TEST(removals),
                                       TEST(a_foreign_execd_starts_by_its_own_script),
                                       TEST(facts_are_the_engines),
                                       TEST(only_what_is_ours_is_listed),
                                       TEST(the_sweep_takes_what_nobody_knows),
                                       TEST(logs_lose_their_frames),
                                       TEST(a_profile_goes_inline)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
