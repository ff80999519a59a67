// Where telemetry goes: which variable wins, what an endpoint may be, lists with bad entries.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "execd/telemetry/settings.h"

#define GENERAL "OTEL_EXPORTER_OTLP_ENDPOINT"
#define METRICS "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
#define EXTRA   "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS"

static char hostinfo[] = "/tmp/test-hostinfo-XXXXXX";
static const char *const *env; // name, value, ..., NULL

static char *get(const char *name) {
    for (const char *const *p = env; *p; p += 2)
        if (!strcmp(*p, name))
            return (char *)p[1];
    return NULL;
}

static int read_from(struct telemetry_settings *s, const char *const *given, struct error *err) {
    env = given;
    return telemetry_settings_read(s, get, hostinfo, err);
}

static void put_hostinfo(const char *text) {
    cleanup_close int fd = open(hostinfo, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0 && !fd_write_all(fd, text, strlen(text)));
}

#define ENV(...) ((const char *const[]){__VA_ARGS__, NULL})

// target NULL: off.
static void check(const char *const *given, const char *address, unsigned port, const char *target,
                  const char *authority) {
    struct telemetry_settings s;
    struct error err = {0};
    char text[NET_TEXT_MAX];
    int r = read_from(&s, given, &err);
    if (r < 0)
        fail_msg("%s: %s", given[1], err.message);
    assert_int_equal(r, target != NULL);
    if (r) {
        net_format(&s.address, text);
        assert_string_equal(text, address);
        assert_int_equal(s.port, port);
        assert_string_equal(s.target, target);
        assert_string_equal(s.authority, authority);
    }
    telemetry_settings_clear(&s);
}

static void test_which_endpoint(void **state) {
    (void)state;
    put_hostinfo("");
    check(ENV("PATH", "/bin"), NULL, 0, NULL, NULL);
    check(ENV(GENERAL, "", "HOST_IP", ""), NULL, 0, NULL, NULL);
    check(ENV(GENERAL, "http://10.0.0.1:4318"), "10.0.0.1", 4318, "/v1/metrics", "10.0.0.1:4318");
    check(ENV(GENERAL, "http://10.0.0.1:4318/"), "10.0.0.1", 4318, "/v1/metrics", "10.0.0.1:4318");
    check(ENV(GENERAL, "HTTP://10.0.0.1/a/b?t=1"), "10.0.0.1", 80, "/a/b/v1/metrics?t=1",
          "10.0.0.1");
    check(ENV(GENERAL, "http://10.0.0.1:4318", METRICS, "http://10.0.0.2:99/x"), "10.0.0.2", 99,
          "/x", "10.0.0.2:99");
    check(ENV(METRICS, "http://10.0.0.2"), "10.0.0.2", 80, "/", "10.0.0.2");
    check(ENV(METRICS, "http://10.0.0.2/x/"), "10.0.0.2", 80, "/x/", "10.0.0.2");
    check(ENV(METRICS, "http://[fd00::1]:4318/v"), "fd00::1", 4318, "/v", "[fd00::1]:4318");
    check(ENV(METRICS, "http://[::1]"), "::1", 80, "/", "[::1]");
    check(ENV(METRICS, "http://localhost:4318"), "127.0.0.1", 4318, "/", "localhost:4318");
    check(ENV("HOST_IP", "192.0.2.7"), "192.0.2.7", 4318, "/v1/metrics", "192.0.2.7:4318");
    check(ENV("HOST_IP", "fd00::7"), "fd00::7", 4318, "/v1/metrics", "[fd00::7]:4318");
    check(ENV("HOST_IP", "node-7"), NULL, 0, NULL, NULL);
    check(ENV("HOST_IP", "192.0.2.0/24"), NULL, 0, NULL, NULL);
    check(ENV("HOST_IP", "192.0.2.7", GENERAL, "http://10.0.0.1:1"), "10.0.0.1", 1, "/v1/metrics",
          "10.0.0.1:1");
}

static void test_hostinfo(void **state) {
    (void)state;
    put_hostinfo("node-7\n  192.0.2.9 \r\n192.0.2.10\n");
    check(ENV("HOST_IP", "node"), "192.0.2.9", 4318, "/v1/metrics", "192.0.2.9:4318");
    check(ENV("HOST_IP", "192.0.2.7"), "192.0.2.7", 4318, "/v1/metrics", "192.0.2.7:4318");
    check(ENV("OTEL_SDK_DISABLED", "True"), NULL, 0, NULL, NULL);
    check(ENV("OTEL_METRICS_EXPORTER", "none"), NULL, 0, NULL, NULL);
    check(ENV("OTEL_SDK_DISABLED", "false"), "192.0.2.9", 4318, "/v1/metrics", "192.0.2.9:4318");
    put_hostinfo("one two\n192.0.2.9/24\n\n");
    check(ENV("A", "b"), NULL, 0, NULL, NULL);
}

static void refuse(const char *const *given, int kind, const char *word) {
    struct telemetry_settings s;
    struct error err = {0};
    assert_int_equal(read_from(&s, given, &err), -1);
    if (err.kind != kind || !strstr(err.message, word) || strstr(err.message, "secret"))
        fail_msg("%d %s", err.kind, err.message);
    telemetry_settings_clear(&s);
}

static void test_refused_endpoints(void **state) {
    (void)state;
    refuse(ENV(GENERAL, "http://collector:4318"), ENOTSUP, "not supported: name in endpoint");
    refuse(ENV(METRICS, "https://10.0.0.1:4318"), ENOTSUP, "not supported: https://");
    refuse(ENV(METRICS, "https://10.0.0.1"), ENOTSUP, METRICS);
    refuse(ENV(GENERAL, "10.0.0.1:4318"), EINVAL, "must begin with http://");
    refuse(ENV(GENERAL, "http://"), EINVAL, "ADDRESS");
    refuse(ENV(GENERAL, "http://:80"), EINVAL, "ADDRESS");
    refuse(ENV(GENERAL, "http://me:secret@10.0.0.1"), EINVAL, "ADDRESS");
    refuse(ENV(GENERAL, "http://10.0.0.1:0"), EINVAL, "port");
    refuse(ENV(GENERAL, "http://10.0.0.1:"), EINVAL, "port");
    refuse(ENV(GENERAL, "http://10.0.0.1:65536"), EINVAL, "port");
    refuse(ENV(GENERAL, "http://[::1"), EINVAL, "ADDRESS");
    refuse(ENV(GENERAL, "http://[::1]x"), EINVAL, "port");
    refuse(ENV(GENERAL, "http://10.0.0.1/a\r\nsecret: b"), EINVAL, "character");
    refuse(ENV(GENERAL, "http://10.0.0.1/#secret"), EINVAL, "character");
    refuse(ENV(GENERAL, "http://10.0.0.1", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ENOTSUP, "grpc");
}

static void test_numbers(void **state) {
    struct telemetry_settings s;
    struct error err;
    (void)state;
    assert_int_equal(read_from(&s, ENV(GENERAL, "http://10.0.0.1"), &err), 1);
    assert_int_equal(s.interval_ms, 60000);
    assert_int_equal(s.time_out_ms, 30000);
    telemetry_settings_clear(&s);
    assert_int_equal(read_from(&s,
                               ENV(GENERAL, "http://10.0.0.1", "OTEL_METRIC_EXPORT_INTERVAL",
                                   "5000", "OTEL_METRIC_EXPORT_TIMEOUT", "250"),
                               &err),
                     1);
    assert_int_equal(s.interval_ms, 5000);
    assert_int_equal(s.time_out_ms, 250);
    telemetry_settings_clear(&s);
    assert_int_equal(read_from(&s,
                               ENV(GENERAL, "http://10.0.0.1", "OTEL_METRIC_EXPORT_INTERVAL", "9",
                                   "OTEL_METRIC_EXPORT_TIMEOUT", "1s"),
                               &err),
                     1);
    assert_int_equal(s.interval_ms, 60000);
    assert_int_equal(s.time_out_ms, 30000);
    telemetry_settings_clear(&s);
}

static const char *attribute(const struct telemetry_settings *s, const char *key) {
    const char *found = NULL;
    for (unsigned i = 0; i < s->attribute_count; i++)
        if (!strcmp(s->attributes[i].key, key)) {
            assert_null(found);
            found = s->attributes[i].value;
        }
    return found;
}

static void test_attributes(void **state) {
    struct telemetry_settings s;
    struct error err;
    char long_value[1030];
    (void)state;
    memset(long_value, 'x', sizeof long_value - 1);
    long_value[sizeof long_value - 1] = '\0';
    cleanup_strbuf struct strbuf list;
    strbuf_init(&list, 8192);
    strbuf_addf(&list,
                " team = red ,,novalue,=x,k v=1,team=blue,sandbox_id=other,service.name=x,empty=,"
                "eq=a=b,bad=\xff,control=a\tb,long=%s,z=\xc3\xa4",
                long_value);
    assert_int_equal(
        read_from(&s, ENV(GENERAL, "http://10.0.0.1", "OPENSANDBOX_ID", "sb-1", EXTRA, list.data),
                  &err),
        1);
    assert_string_equal(attribute(&s, "sandbox_id"), "sb-1");
    assert_string_equal(attribute(&s, "service.name"), "opensandbox-execd-" OPENSANDBOX_VERSION);
    assert_string_equal(attribute(&s, "service.version"), OPENSANDBOX_VERSION);
    assert_string_equal(attribute(&s, "team"), "red");
    assert_string_equal(attribute(&s, "empty"), "");
    assert_string_equal(attribute(&s, "eq"), "a=b");
    assert_string_equal(attribute(&s, "z"), "\xc3\xa4");
    assert_int_equal(s.attribute_count, 7);
    telemetry_settings_clear(&s);

    strbuf_clear(&list);
    for (int i = 0; i < 100; i++)
        strbuf_addf(&list, "k%d=%d,", i, i);
    assert_int_equal(read_from(&s, ENV(GENERAL, "http://10.0.0.1", EXTRA, list.data), &err), 1);
    assert_int_equal(s.attribute_count, TELEMETRY_ATTRIBUTES_MAX);
    assert_null(attribute(&s, "sandbox_id"));
    assert_string_equal(attribute(&s, "k61"), "61");
    assert_null(attribute(&s, "k62"));
    telemetry_settings_clear(&s);
}

static void test_headers(void **state) {
    struct telemetry_settings s;
    struct error err;
    (void)state;
    assert_int_equal(
        read_from(&s,
                  ENV(GENERAL, "http://10.0.0.1", "OTEL_EXPORTER_OTLP_HEADERS",
                      "Authorization=Basic%20abc, X-A = 1 ,bad name=1,x=a%0d%0ab,host=h,"
                      "Content-Length=9,nul=%00,plain"),
                  &err),
        1);
    assert_string_equal(s.headers.data, "Authorization: Basic abc\r\nX-A: 1\r\n");
    telemetry_settings_clear(&s);

    cleanup_strbuf struct strbuf list;
    strbuf_init(&list, 32768);
    for (int i = 0; i < 1000; i++)
        strbuf_addf(&list, "h%d=0123456789,", i);
    assert_int_equal(read_from(&s,
                               ENV(GENERAL, "http://10.0.0.1", "OTEL_EXPORTER_OTLP_HEADERS", "a=b",
                                   "OTEL_EXPORTER_OTLP_METRICS_HEADERS", list.data),
                               &err),
                     1);
    assert_true(s.headers.len <= 8192 && s.headers.len > 8100);
    assert_null(strstr(s.headers.data, "a: b"));
    assert_string_equal(s.headers.data + s.headers.len - 4, "89\r\n");
    telemetry_settings_clear(&s);
}

static int setup(void **state) {
    (void)state;
    int fd = mkostemp(hostinfo, O_CLOEXEC);
    log_set_level(LOG_LEVEL_ERROR);
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state) {
    (void)state;
    return unlink(hostinfo);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which_endpoint),    cmocka_unit_test(test_hostinfo),
        cmocka_unit_test(test_refused_endpoints), cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_attributes),        cmocka_unit_test(test_headers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
