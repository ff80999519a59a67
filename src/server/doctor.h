// What a host, and the engine of the docker runtime, need to run sandboxes: each check with its
// remedy.
// Blocking; main thread.
#ifndef SERVER_DOCTOR_H
#define SERVER_DOCTOR_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "server/config.h"

struct doctor_engine {
    char name[120]; // with its version
    bool limits;    // it can limit sandboxes
    size_t foreign; // sandboxes on it that are another server's
};
// Asks the engine; -1: err says why that is not possible.
typedef int doctor_ask_fn(const struct config *c, struct doctor_engine *ret, struct error *err);

// Prints a line for every check. Returns how many failed. ask: for runtime.type = "docker".
unsigned doctor_run(const struct config *c, doctor_ask_fn *ask, FILE *out);
// The checks without which no sandbox can start, silently. -1: err names the first that fails, with
// its remedy.
int doctor_start_check(const struct config *c, struct error *err);

#endif
