// Metrics of this sandbox for an OTLP collector (execd.md 1.6, docs/telemetry.md): three histograms
// that requests and commands are recorded in, and what is observed at each export. Off, as nearly
// always, e->telemetry is NULL, and there is neither timer nor memory. A room of routes.c. Loop
// thread.
#ifndef EXECD_TELEMETRY_TELEMETRY_H
#define EXECD_TELEMETRY_TELEMETRY_H

#include "execd/execd.h"

int telemetry_room_start(struct execd *e, struct error *err); // never fails: it is no reason to
void telemetry_room_stop(struct execd *e);

// The finished() hook of the HTTP server: requests, and with them file operations.
void telemetry_request(struct http_exchange *x);
// The end of a command or a session's run; operation: a constant text of execd.md 1.6.
void telemetry_execution(struct execd *e, const char *operation, bool success, int64_t ns);

// Instead of loop_stop(): execd is at its end. What was recorded since the last export leaves
// first, where that takes less than TELEMETRY_LAST_MS and the last one was not in vain.
enum { TELEMETRY_LAST_MS = 1000 };
void telemetry_last(struct execd *e);

#endif
