// Aggregation, observation from a tree made by hand, and the JSON of one export.
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
#include "base/path.h"
#include "execd/telemetry/encode.h"
#include "fmt/json.h"

static const char get[] = "GET", post[] = "POST", ping[] = "/ping", other[] = "/other";

static void test_buckets(void **state) {
    struct histogram *h = calloc(1, sizeof *h);
    const struct series_key key = {{get, ping}, 200};
    (void)state;
    assert_non_null(h);
    // an upper end belongs to its bucket
    static const double given[] = {0, 0.1, 5, 5.1, 10000, 10000.5, 1e9};
    static const uint64_t wanted[HISTOGRAM_BOUNDS + 1] = {
        [0] = 1, [1] = 2, [2] = 1, [14] = 1, [15] = 2};
    double sum = 0;
    for (size_t i = 0; i < ARRAY_SIZE(given); i++) {
        histogram_record(h, key, given[i]);
        sum += given[i];
    }
    assert_int_equal(h->count, 1);
    const struct series *s = &h->series[0];
    assert_int_equal(s->count, 7);
    assert_memory_equal(s->buckets, wanted, sizeof wanted);
    assert_true(s->sum == sum && s->min == 0 && s->max == 1e9);
    histogram_record(h, (struct series_key){{get, ping}, 404}, 1);
    histogram_record(h, (struct series_key){{post, ping}, 200}, 1);
    histogram_record(h, (struct series_key){{get, other}, 200}, 1);
    histogram_record(h, key, 1);
    assert_int_equal(h->count, 4);
    assert_int_equal(h->series[0].count, 8);
    assert_true(h->series[1].min == 1 && h->series[1].max == 1);
    free(h);
}

static void test_overflow(void **state) {
    struct histogram *h = calloc(1, sizeof *h), *copy = calloc(1, sizeof *copy);
    uint64_t total = 0;
    (void)state;
    assert_true(h && copy);
    for (unsigned i = 0; i < 1000; i++)
        histogram_record(h, (struct series_key){{get, ping}, 1 + i}, 1);
    histogram_record(h, (struct series_key){{get, ping}, 1}, 1);
    histogram_copy(copy, h);
    assert_int_equal(copy->count, HISTOGRAM_SERIES_MAX + 1);
    for (unsigned i = 0; i < copy->count; i++)
        total += copy->series[i].count;
    assert_int_equal(total, 1001);
    assert_int_equal(copy->series[0].count, 2);
    assert_int_equal(copy->series[HISTOGRAM_SERIES_MAX].count, 1000 - HISTOGRAM_SERIES_MAX);
    assert_null(copy->series[HISTOGRAM_SERIES_MAX].key.text[0]);
    free(h);
    free(copy);
}

// ---- observation ----

static char root[] = "/tmp/test-telemetry-XXXXXX";

static void put(const char *name, const char *text) {
    struct error err;
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    cleanup_close int top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int dir = path_make_dirs(top, path + 1, 0755);
    assert_true(dir >= 0 && !fd_replace_file(dir, slash + 1, text, strlen(text), 0644, &err));
}

static void test_observe(void **state) {
    struct observation o;
    struct usage before = {.at_ns = 1};
    (void)state;
    put("proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n");
    put("proc/1/stat", "");
    put("proc/217/stat", "");
    observe(root, &before, &o);
    assert_int_equal(o.processes, 2);
    assert_int_equal(o.memory, 1 << 29);
    assert_true(o.received == -1 && o.sent == -1 && o.tcp == -1 && o.udp == -1);

    put("proc/net/dev", "Inter-|   Receive                |  Transmit\n"
                        " face |bytes    packets errs drop fifo frame compressed multicast|bytes\n"
                        "    lo: 9999 1 0 0 0 0 0 0 9999 1 0 0 0 0 0 0\n"
                        "  eth0:    1000 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n"
                        "  lo1:3 1 0 0 0 0 0 0 4 1 0 0 0 0 0 0\n"
                        "  broken: 12\n");
    put("proc/net/snmp", "Ip: Forwarding CurrEstab\nIp: 1 77\n"
                         "Tcp: RtoMin CurrEstab InSegs\nTcp: 200 2 5\nUdp: CurrEstab\nUdp: 9\n");
    put("proc/net/sockstat",
        "sockets: used 9\nTCP: inuse 4\nUDP: inuse 3 mem 41\nUDPLITE: inuse 7\n");
    observe(root, &before, &o);
    assert_int_equal(o.received, 1003);
    assert_int_equal(o.sent, 24);
    assert_int_equal(o.tcp, 2);
    assert_int_equal(o.udp, 3);
    put("proc/net/sockstat6", "TCP6: inuse 8\nUDP6: inuse 1\n");
    put("proc/net/snmp", "Tcp: RtoMin InSegs\nTcp: 200 5\n");
    observe(root, &before, &o);
    assert_int_equal(o.udp, 4);
    assert_int_equal(o.tcp, -1);
}

// ---- JSON ----

// The value at a path of member names and indices; fails the test when it is not there.
static const json_t *at(const json_t *j, const char *path) {
    char word[64];
    while (*path) {
        size_t len = strcspn(path, "/");
        (void)snprintf(word, sizeof word, "%.*s", (int)len, path);
        j = *word >= '0' && *word <= '9' ? json_array_get(j, (size_t)(*word - '0'))
                                         : json_object_get(j, word);
        if (!j)
            fail_msg("no %s", word);
        path += len + (path[len] == '/');
    }
    return j;
}

static void text_at(const json_t *j, const char *path, const char *wanted) {
    const json_t *v = at(j, path);
    assert_true(json_is_string(v));
    assert_string_equal(json_string_value(v), wanted);
}

static json_t *encode(const struct telemetry_batch *b) {
    struct telemetry_settings s = {.attributes = {{"service.name", "x"}, {"sandbox_id", "\"1\""}},
                                   .attribute_count = 2};
    struct error err;
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, TELEMETRY_BODY_MAX);
    assert_int_equal(telemetry_encode(&s, b, &sb), 0);
    json_t *j = json_parse(sb.data, sb.len, NULL, &err);
    assert_non_null(j);
    text_at(j, "resourceMetrics/0/resource/attributes/0/key", "service.name");
    text_at(j, "resourceMetrics/0/resource/attributes/1/value/stringValue", "\"1\"");
    text_at(j, "resourceMetrics/0/scopeMetrics/0/scope/name", "opensandbox/execd");
    return j;
}

static void test_json(void **state) {
    struct telemetry_batch *b = calloc(1, sizeof *b);
    (void)state;
    assert_non_null(b);
    b->start_us = 1700000000000000;
    b->now_us = 1700000060000001;
    b->observed = (struct observation){.processes = 3,
                                       .received = INT64_MAX,
                                       .sent = 0,
                                       .tcp = -1,
                                       .udp = -1,
                                       .cpu_percent = 12.5,
                                       .memory = 4096};
    struct histogram *h = &b->histograms[TELEMETRY_HTTP];
    histogram_record(h, (struct series_key){{get, ping}, 200}, 2.5);
    histogram_record(h, (struct series_key){{get, ping}, 200}, 30);
    for (unsigned i = 0; i < 300; i++)
        histogram_record(h, (struct series_key){{post, other}, i}, 1);
    cleanup_json json_t *j = encode(b);
    const json_t *m = at(j, "resourceMetrics/0/scopeMetrics/0/metrics");
    assert_int_equal(json_array_size(m), 5); // connections are not known; two histograms empty
    text_at(m, "0/name", "execd.http.request.duration");
    text_at(m, "0/unit", "ms");
    assert_int_equal(json_integer_value(at(m, "0/histogram/aggregationTemporality")), 2);
    const json_t *p = at(m, "0/histogram/dataPoints/0");
    text_at(p, "startTimeUnixNano", "1700000000000000000");
    text_at(p, "timeUnixNano", "1700000060000001000");
    text_at(p, "count", "2");
    assert_true(json_real_value(at(p, "sum")) == 32.5);
    assert_int_equal(json_array_size(at(p, "explicitBounds")), HISTOGRAM_BOUNDS);
    assert_int_equal(json_array_size(at(p, "bucketCounts")), HISTOGRAM_BOUNDS + 1);
    text_at(p, "bucketCounts/1", "1");
    text_at(p, "bucketCounts/4", "1");
    text_at(p, "attributes/0/key", "http_method");
    text_at(p, "attributes/1/value/stringValue", "/ping");
    text_at(p, "attributes/2/key", "http_status_code");
    text_at(p, "attributes/2/value/intValue", "200");
    const json_t *all = at(m, "0/histogram/dataPoints");
    const json_t *last = json_array_get(all, json_array_size(all) - 1);
    assert_int_equal(json_array_size(all), HISTOGRAM_SERIES_MAX + 1);
    text_at(last, "attributes/0/key", "otel.metric.overflow");
    assert_true(json_is_true(at(last, "attributes/0/value/boolValue")));
    text_at(last, "count", "45");
    text_at(m, "1/name", "execd.system.process.count");
    text_at(m, "1/gauge/dataPoints/0/asInt", "3");
    text_at(m, "2/name", "execd.system.cpu.usage");
    assert_true(json_real_value(at(m, "2/gauge/dataPoints/0/asDouble")) == 12.5);
    text_at(m, "3/gauge/dataPoints/0/asInt", "4096");
    text_at(m, "4/name", "execd.system.network.io.bytes");
    assert_true(json_is_true(at(m, "4/sum/isMonotonic")));
    text_at(m, "4/sum/dataPoints/0/asInt", "9223372036854775807");
    text_at(m, "4/sum/dataPoints/0/attributes/0/value/stringValue", "in");
    text_at(m, "4/sum/dataPoints/1/asInt", "0");
    text_at(m, "4/sum/dataPoints/1/startTimeUnixNano", "1700000000000000000");
    free(b);
}

static void test_json_at_its_largest(void **state) {
    struct telemetry_batch *b = calloc(1, sizeof *b);
    (void)state;
    assert_non_null(b);
    b->start_us = b->now_us = 1700000000000000;
    for (unsigned which = 0; which < TELEMETRY_HISTOGRAMS; which++)
        for (unsigned i = 0; i < 300; i++)
            histogram_record(&b->histograms[which], (struct series_key){{post, other}, i + 1}, 1.1);
    cleanup_json json_t *j = encode(b);
    assert_int_equal(json_array_size(at(j, "resourceMetrics/0/scopeMetrics/0/metrics")), 8);
    free(b);
}

static int setup(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    struct error err;
    (void)state;
    return path_remove_tree(AT_FDCWD, root, &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_observe),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_at_its_largest),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
