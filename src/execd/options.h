// Flags and environment of execd (execd.md 1.2, 1.3). Secrets are taken and wiped. Start-up only.
#ifndef EXECD_OPTIONS_H
#define EXECD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/encode.h"
#include "base/error.h"

struct options {
    bool init; // `execd init [-- ENTRYPOINT...]`
    bool help;
    char **entrypoint; // the words behind `init`, or of the start object; NULL-terminated
    const char *cwd;   // of the entrypoint, NULL: ours
    unsigned port;
    int log_level; // 0..7
    bool guarded;
    uint8_t token[SHA256_SIZE];
    const char *lifecycle;   // hooks (base/handoff.h), NULL: none
    const char *status_file; // of their start, NULL: none
    int handoff;             // first descriptor of base/handoff.h, -1: none
};

// argv stays valid for the life of the process. -1 with err: usage, exit 2.
int options_parse(struct options *o, int argc, char **argv, struct error *err);
// The server's descriptors: makes them private to us, takes the start object (token, entrypoint,
// the whole environment) and empties it.
int options_handoff(struct options *o, struct arena *a, struct error *err);
void options_usage(int fd);

#endif
