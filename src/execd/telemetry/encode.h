// One export as OTLP/HTTP JSON: ExportMetricsServiceRequest by the proto3 JSON mapping (names in
// lowerCamelCase, 64-bit integers as decimal strings, enums as numbers). Any thread.
#ifndef EXECD_TELEMETRY_ENCODE_H
#define EXECD_TELEMETRY_ENCODE_H

#include "base/strbuf.h"
#include "execd/telemetry/histogram.h"
#include "execd/telemetry/observe.h"
#include "execd/telemetry/settings.h"

enum telemetry_histogram {
    TELEMETRY_HTTP,      // method, route; status
    TELEMETRY_EXECUTION, // operation, result
    TELEMETRY_FILES,     // likewise
    TELEMETRY_HISTOGRAMS
};
enum { TELEMETRY_BODY_MAX = 1 << 20 };

struct telemetry_batch {
    int64_t start_us, now_us; // wall clock: since when is counted, and now
    struct histogram histograms[TELEMETRY_HISTOGRAMS];
    struct observation observed;
};
// Appends. -1: no memory, or more than sb may hold.
int telemetry_encode(const struct telemetry_settings *s, const struct telemetry_batch *b,
                     struct strbuf *sb);

#endif
