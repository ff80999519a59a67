#include "execd/telemetry/histogram.h"

#include <string.h>

const double histogram_bounds[HISTOGRAM_BOUNDS] = {0,   5,   10,   25,   50,   75,   100,  250,
                                                   500, 750, 1000, 2500, 5000, 7500, 10000};

static struct series *series_of(struct histogram *h, struct series_key key) {
    for (unsigned i = 0; i < h->count; i++) {
        const struct series_key *k = &h->series[i].key;
        if (k->text[0] == key.text[0] && k->text[1] == key.text[1] && k->number == key.number)
            return &h->series[i];
    }
    if (h->count > HISTOGRAM_SERIES_MAX)
        return &h->series[HISTOGRAM_SERIES_MAX];
    struct series *s = &h->series[h->count++];
    *s = (struct series){0};
    if (h->count <= HISTOGRAM_SERIES_MAX)
        s->key = key;
    return s;
}

void histogram_record(struct histogram *h, struct series_key key, double ms) {
    struct series *s = series_of(h, key);
    unsigned bucket = 0;
    while (bucket < HISTOGRAM_BOUNDS && ms > histogram_bounds[bucket])
        bucket++;
    s->buckets[bucket]++;
    s->min = s->count && s->min < ms ? s->min : ms;
    s->max = s->count && s->max > ms ? s->max : ms;
    s->sum += ms;
    s->count++;
}

void histogram_copy(struct histogram *to, const struct histogram *from) {
    to->count = from->count;
    memcpy(to->series, from->series, from->count * sizeof *from->series);
}
