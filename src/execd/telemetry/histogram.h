// Durations by attributes, as OTLP wants them: explicit bounds, cumulative. Recording is a look
// through the series that exist (a handful; three words each) and two additions: no allocation, no
// lock. Series are bounded; what comes when all are taken goes into one more, the overflow. One
// owner, any thread.
#ifndef EXECD_TELEMETRY_HISTOGRAM_H
#define EXECD_TELEMETRY_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BOUNDS = 15, HISTOGRAM_SERIES_MAX = 256 };

// Values of the attributes. Texts are constants of the program, compared by their place: nothing of
// a request's own can get here. number: 0 where the instrument has none.
struct series_key {
    const char *text[2];
    unsigned number;
};
struct series {
    struct series_key key; // of the overflow: all zero
    uint64_t count;
    double sum, min, max;
    uint64_t buckets[HISTOGRAM_BOUNDS + 1];
};
struct histogram {
    unsigned count;
    struct series series[HISTOGRAM_SERIES_MAX + 1];
};
// Upper ends of all buckets but the last, ms: the default of OpenTelemetry, so that our figures and
// the reference's can be added up.
extern const double histogram_bounds[HISTOGRAM_BOUNDS];

void histogram_record(struct histogram *h, struct series_key key, double ms);
void histogram_copy(struct histogram *to, const struct histogram *from); // what is in use only

#endif
