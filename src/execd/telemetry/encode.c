#include "execd/telemetry/encode.h"

#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"

enum { CUMULATIVE = 2 }; // AggregationTemporality

struct times {
    json_t *start, *now; // decimal strings of nanoseconds
};

// ---- attributes ----

static json_t *text_attribute(const char *key, const char *value) {
    return json_pack("{s:s,s:{s:s}}", "key", key, "value", "stringValue", value);
}

static json_t *resource(const struct telemetry_settings *s) {
    json_t *list = json_array();
    for (unsigned i = 0; i < s->attribute_count; i++)
        (void)json_array_append_new(list,
                                    text_attribute(s->attributes[i].key, s->attributes[i].value));
    return json_pack("{s:o}", "attributes", list);
}

// ---- histograms ----

static const struct {
    const char *name, *description;
    const char *texts[2], *number; // names of the attributes, in the order of the key
} histograms[TELEMETRY_HISTOGRAMS] = {
    [TELEMETRY_HTTP] = {"execd.http.request.duration",
                        "Duration of HTTP requests",
                        {"http_method", "http_route"},
                        "http_status_code"},
    [TELEMETRY_EXECUTION] = {"execd.execution.duration",
                             "Duration of commands and session runs",
                             {"operation", "result"},
                             NULL},
    [TELEMETRY_FILES] = {"execd.filesystem.operations.duration",
                         "Duration of file operations",
                         {"operation", "result"},
                         NULL},
};

static json_t *whole(uint64_t n) {
    return json_sprintf("%llu", (unsigned long long)n);
}

static json_t *series_attributes(enum telemetry_histogram which, const struct series_key *key) {
    json_t *list = json_array();
    if (!key->text[0]) {
        (void)json_array_append_new(list, json_pack("{s:s,s:{s:b}}", "key", "otel.metric.overflow",
                                                    "value", "boolValue", 1));
        return list;
    }
    for (size_t i = 0; i < ARRAY_SIZE(key->text); i++)
        (void)json_array_append_new(list, text_attribute(histograms[which].texts[i], key->text[i]));
    if (histograms[which].number)
        (void)json_array_append_new(list,
                                    json_pack("{s:s,s:{s:o}}", "key", histograms[which].number,
                                              "value", "intValue", whole(key->number)));
    return list;
}

static json_t *series_point(enum telemetry_histogram which, const struct series *s,
                            const struct times *t, json_t *bounds) {
    json_t *buckets = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(s->buckets); i++)
        (void)json_array_append_new(buckets, whole(s->buckets[i]));
    return json_pack("{s:o,s:O,s:O,s:o,s:f,s:f,s:f,s:o,s:O}", "attributes",
                     series_attributes(which, &s->key), "startTimeUnixNano", t->start,
                     "timeUnixNano", t->now, "count", whole(s->count), "sum", s->sum, "min", s->min,
                     "max", s->max, "bucketCounts", buckets, "explicitBounds", bounds);
}

static void add_histograms(json_t *metrics, const struct telemetry_batch *b,
                           const struct times *t) {
    cleanup_json json_t *bounds = json_array();
    for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++)
        (void)json_array_append_new(bounds, json_real(histogram_bounds[i]));
    for (unsigned which = 0; which < TELEMETRY_HISTOGRAMS; which++) {
        const struct histogram *h = &b->histograms[which];
        json_t *points = json_array();
        for (unsigned i = 0; i < h->count; i++)
            (void)json_array_append_new(points, series_point(which, &h->series[i], t, bounds));
        if (h->count)
            (void)json_array_append_new(
                metrics,
                json_pack("{s:s,s:s,s:s,s:{s:i,s:o}}", "name", histograms[which].name,
                          "description", histograms[which].description, "unit", "ms", "histogram",
                          "aggregationTemporality", CUMULATIVE, "dataPoints", points));
        else
            json_decref(points);
    }
}

// ---- observed values: rows of one name stand together ----

enum kind { GAUGE, GAUGE_REAL, SUM };

#define OBSERVED(member) offsetof(struct observation, member)
static const struct observed {
    const char *name, *description, *unit;
    enum kind kind;
    const char *key, *value; // its attribute, NULL: none
    size_t offset;
} observed[] = {
    {"execd.system.process.count", "Processes of the sandbox", "{process}", GAUGE, NULL, NULL,
     OBSERVED(processes)},
    {"execd.system.cpu.usage", "Processor time in use, of what the sandbox may use", "%",
     GAUGE_REAL, NULL, NULL, OBSERVED(cpu_percent)},
    {"execd.system.memory.usage_bytes", "Memory in use", "By", GAUGE, NULL, NULL, OBSERVED(memory)},
    {"execd.system.network.io.bytes", "Bytes over the network", "By", SUM, "direction", "in",
     OBSERVED(received)},
    {"execd.system.network.io.bytes", NULL, NULL, SUM, "direction", "out", OBSERVED(sent)},
    {"execd.system.network.connections.active", "Established TCP connections, UDP sockets",
     "{connection}", GAUGE, "protocol", "tcp", OBSERVED(tcp)},
    {"execd.system.network.connections.active", NULL, NULL, GAUGE, "protocol", "udp",
     OBSERVED(udp)},
};

// NULL: the kernel did not say.
static json_t *observed_point(const struct observed *row, const struct observation *o,
                              const struct times *t) {
    const char *at = (const char *)o + row->offset;
    json_t *attributes, *point;
    double real;
    int64_t n;
    memcpy(&real, at, sizeof real);
    memcpy(&n, at, sizeof n);
    if (row->kind != GAUGE_REAL && n < 0)
        return NULL;
    attributes = json_array();
    if (row->key)
        (void)json_array_append_new(attributes, text_attribute(row->key, row->value));
    point = json_pack("{s:o,s:O}", "attributes", attributes, "timeUnixNano", t->now);
    if (row->kind == SUM)
        (void)json_object_set(point, "startTimeUnixNano", t->start);
    if (row->kind == GAUGE_REAL)
        (void)json_object_set_new(point, "asDouble", json_real(real));
    else
        (void)json_object_set_new(point, "asInt", whole((uint64_t)n));
    return point;
}

static json_t *observed_metric(const struct observed *row, json_t *points) {
    json_t *data = json_pack("{s:o}", "dataPoints", points);
    if (row->kind == SUM) {
        (void)json_object_set_new(data, "aggregationTemporality", json_integer(CUMULATIVE));
        (void)json_object_set_new(data, "isMonotonic", json_true());
    }
    return json_pack("{s:s,s:s,s:s,s:o}", "name", row->name, "description", row->description,
                     "unit", row->unit, row->kind == SUM ? "sum" : "gauge", data);
}

static void add_observed(json_t *metrics, const struct telemetry_batch *b, const struct times *t) {
    for (size_t i = 0; i < ARRAY_SIZE(observed);) {
        const struct observed *first = &observed[i];
        json_t *points = json_array();
        for (; i < ARRAY_SIZE(observed) && !strcmp(observed[i].name, first->name); i++)
            (void)json_array_append_new(points, observed_point(&observed[i], &b->observed, t));
        if (json_array_size(points))
            (void)json_array_append_new(metrics, observed_metric(first, points));
        else
            json_decref(points);
    }
}

// ---- the whole ----

// A value for which there was no memory is missing: an add of NULL adds nothing.
int telemetry_encode(const struct telemetry_settings *s, const struct telemetry_batch *b,
                     struct strbuf *sb) {
    const struct times t = {whole((uint64_t)b->start_us * 1000), whole((uint64_t)b->now_us * 1000)};
    json_t *metrics = json_array();
    add_histograms(metrics, b, &t);
    add_observed(metrics, b, &t);
    cleanup_json json_t *all =
        json_pack("{s:[{s:o,s:[{s:{s:s,s:s},s:o}]}]}", "resourceMetrics", "resource", resource(s),
                  "scopeMetrics", "scope", "name", "opensandbox/execd", "version",
                  OPENSANDBOX_VERSION, "metrics", metrics);
    json_decref(t.start);
    json_decref(t.now);
    return all ? json_write(all, sb) : -1;
}
