// Why something was refused: a bounded list of events for the API and one JSON line each in the log
// (decision 6, egress.md section 7). The same refusal again within a minute counts up the event
// that is there. Loop thread.
#ifndef EGRESS_EVENTS_H
#define EGRESS_EVENTS_H

#include <jansson.h>

#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "egress/index.h"

enum { EVENTS_MAX = 512, EVENTS_FOLD_MS = 60000, EVENTS_LINES_PER_SECOND = 100 };
enum event_kind { EVENT_NAME, EVENT_CNAME, EVENT_ADDRESS, EVENT_REBINDING, EVENT_BUDGET };

struct events {
    const json_t *attributes; // added to every line; borrowed
    int fd;                   // of the log
    struct map fresh;         // by kind and target
    struct list order;        // oldest change first
    size_t count;
    uint64_t next, lost; // numbers given; events that gave way
    int64_t second;
    unsigned lines;   // written in this second
    uint64_t dropped; // not written
};
void events_init(struct events *e, const json_t *attributes, int fd);
void events_clear(struct events *e);
// `by` NULL: `reason` says it all. True when it is a new event, not one more of the same.
bool events_denied(struct events *e, enum event_kind kind, const char *target,
                   const struct verdict *by, const char *reason);
// {"events": [..], "next": N, "lost": N}: those that changed at or after number `since`.
json_t *events_json(const struct events *e, uint64_t since);
// One JSON line with fields; steals `fields`. Sampled ones may be left out when there are many.
void events_log(struct events *e, enum log_level level, const char *message, json_t *fields);
void events_log_sampled(struct events *e, const char *message, json_t *fields);
bool events_would_log(struct events *e); // whether the sampled line would be written now

#endif
