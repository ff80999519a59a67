#include "docker_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "io/stream.h"
#include "server/errors.h"

static void *run_execd(void *arg) {
    static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    struct world *w = arg;
    for (int fd; (fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
        char request[4096];
        if (read(fd, request, sizeof request) > 0)
            (void)!write(fd, reply, sizeof reply - 1);
        (void)close(fd);
    }
    return NULL;
}

void container(struct world *w, const char *state) {
    char text[1024];
    (void)snprintf(text, sizeof text,
                   "{\"Id\":\"" CID "\",\"State\":{%s},\"NetworkSettings\":{\"Ports\":{\"44772/"
                   "tcp\":[{\"HostIp\":\"127.0.0.1\","
                   "\"HostPort\":\"%u\"}]}}}",
                   state, w->port);
    fake_engine_rule(w->fake, "GET", "/containers/" CID "/json", 0, 200, text);
    fake_engine_rule(w->fake, "GET", "/containers/sandbox-" ID "/json", 0, 200, text);
}

static void script(struct world *w) {
    char path[200], hex[SHA256_HEX_SIZE];
    sha256_hex("execd", 5, hex);
    fake_engine_rule(w->fake, "GET", "/info", 0, 200,
                     "{\"ServerVersion\":\"fake\",\"Runtimes\":{\"runc\":{},\"runsc\":{}}}");
    fake_engine_rule(w->fake, "GET", "/networks/opensandbox", 0, 200, "{}");
    (void)snprintf(path, sizeof path, "/images/opensandbox/execd:%.16s/json", hex);
    fake_engine_rule(w->fake, "GET", path, 0, 200, "{}");
    fake_engine_rule(w->fake, "POST", "/containers/create", 0, 201, "{\"Id\":\"" CID "\"}");
    fake_engine_rule(
        w->fake, "GET", "/images/" IMAGE "/json", 0, 200,
        "{\"Id\":\"sha256:abc\",\"Os\":\"linux\",\"Architecture\":\"amd64\",\"Size\":7,\"Config\":{"
        "\"Labels\":"
        "{\"maintainer\":\"x\",\"opensandbox.io/expires-at\":\"2020-01-01T00:00:00+00:00\","
        "\"opensandbox.io/snapshot-env\":\"OLD,KEPT\"}}}");
    fake_engine_rule(w->fake, "GET", "/containers/" CID "/archive", 0, 200,
                     "a tar that holds execd");
    fake_engine_rule(w->fake, "DELETE", "/containers/" CID, 0, 204, "");
    fake_engine_rule(w->fake, "POST", "/containers/" CID "/start", 0, 204, "");
    fake_engine_rule(w->fake, "DELETE", "/containers/sandbox-" ID, 0, 204, "");
    fake_engine_rule(w->fake, "GET", "/volumes", 0, 200, "{\"Volumes\":[]}");
    container(w, "\"Running\":true,\"Pid\":42");
}

int set_up(void **state) {
    static struct world w;
    struct error err = {0};
    error_set_prefix("DOCKER");
    w = (struct world){.fake = fake_engine_new()};
    (void)snprintf(w.binary, sizeof w.binary, "/tmp/fake-execd-XXXXXX");
    int fd = mkstemp(w.binary);
    assert_int_equal(write(fd, "execd", 5), 5);
    (void)close(fd);
    w.listener = listen_tcp("127.0.0.1", 0, 16, &err);
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    (void)fcntl(w.listener, F_SETFL, 0);
    (void)getsockname(w.listener, (struct sockaddr *)&a, &len);
    w.port = ntohs(a.sin_port);
    (void)pthread_create(&w.execd, NULL, run_execd, &w);
    w.settings = (struct docker_settings){.engine = {.host = fake_engine_host(w.fake)},
                                          .instance = "0123abcd",
                                          .execd_path = w.binary,
                                          .publish = DOCKER_PUBLISH_ALWAYS,
                                          .start_timeout_ms = 2000};
    script(&w);
    w.spec = spec_new();
    w.spec->image = strdup(IMAGE);
    *state = &w;
    return 0;
}

int tear_down(void **state) {
    struct world *w = *state;
    if (w->runtime) {
        w->runtime->ops->stop(w->runtime);
        w->runtime->ops->free(w->runtime);
    }
    (void)shutdown(w->listener, SHUT_RDWR);
    (void)pthread_join(w->execd, NULL);
    (void)close(w->listener);
    fake_engine_free(w->fake);
    spec_unref(w->spec);
    (void)unlink(w->binary);
    return 0;
}

void start(struct world *w) {
    struct error err = {0};
    w->runtime = docker_new(&w->settings, &err);
    if (!w->runtime || w->runtime->ops->start(w->runtime, &err))
        fail_msg("%s", err.message);
    while (!fake_engine_listeners(
        w->fake)) // what is known of images is forgotten when the stream begins
        (void)sched_yield();
}

int image(struct world *w, struct image_info *ret, struct error *err) {
    const struct image_request q = {
        .reference = w->spec->image, .arch = w->spec->platform_arch, .os = w->spec->platform_os};
    *err = (struct error){0};
    return w->runtime->ops->ensure_image(w->runtime, &q, ret, err);
}

int provision(struct world *w, struct error *err) {
    struct image_info info;
    struct provision_result result;
    const struct provision_request q = {.id = ID,
                                        .spec = w->spec,
                                        .image_id = "sha256:abc",
                                        .token_sha256_hex = HASH,
                                        .egress_token = w->spec->network_policy ? "token" : NULL};
    if (image(w, &info, err))
        return -1;
    int r = w->runtime->ops->provision(w->runtime, &q, &result, err);
    if (r)
        print_message("provision: %s\n", err->message);
    return r;
}

json_t *body(struct world *w) {
    struct error err;
    const char *text = fake_engine_body(w->fake, "POST", "/containers/create");
    json_t *j = json_parse(text, strlen(text), NULL, &err);
    assert_non_null(j);
    return j;
}

bool lists(const json_t *list, const char *text) {
    size_t i;
    const json_t *one;
    json_array_foreach(list, i, one) {
        if (strcmp(json_string_value(one), text) == 0)
            return true;
    }
    return false;
}

const char *label(const json_t *j, const char *name) {
    return json_string_value(json_object_get(json_object_get(j, "Labels"), name));
}
