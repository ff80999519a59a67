// Where metrics go and as whose, from the environment (execd.md 1.6 and the OpenTelemetry names,
// docs/telemetry.md). Start-up only.
#ifndef EXECD_TELEMETRY_SETTINGS_H
#define EXECD_TELEMETRY_SETTINGS_H

#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/strbuf.h"
#include "fmt/address.h"

enum {
    TELEMETRY_PORT = 4318,        // where only an address was given
    TELEMETRY_INTERVAL_MIN = 10,  // ms
    TELEMETRY_ATTRIBUTES_MAX = 64 // of the resource, ours included
};

struct telemetry_attribute {
    const char *key, *value;
};

struct telemetry_settings {
    struct arena arena; // of the texts
    struct net address;
    unsigned port;
    const char *authority; // of the Host field
    const char *target;
    struct strbuf headers; // lines with CRLF
    int64_t interval_ms, time_out_ms;
    struct telemetry_attribute attributes[TELEMETRY_ATTRIBUTES_MAX];
    unsigned attribute_count;
};

// get: getenv(3), or of a test; hostinfo: "/etc/hostinfo". 1: on; 0: nobody asked for it; -1 with
// err: it was asked for and cannot be (ENOTSUP: names, https, gRPC). Single entries of lists and
// numbers that cannot be taken are left out with a line in the log, which never holds a value: it
// may be a secret. Clear in each case.
int telemetry_settings_read(struct telemetry_settings *s, char *(*get)(const char *name),
                            const char *hostinfo, struct error *err);
void telemetry_settings_clear(struct telemetry_settings *s);

#endif
