// What a host needs to run sandboxes with the built-in runtime: each check with its remedy.
// Blocking; main thread.
#ifndef SERVER_DOCTOR_H
#define SERVER_DOCTOR_H

#include <stdio.h>

#include "server/config.h"

// Prints a line for every check. Returns how many failed.
unsigned doctor_run(const struct config *c, FILE *out);
// The checks without which no sandbox can start, silently. -1: err names the first that fails, with
// its remedy.
int doctor_start_check(const struct config *c, struct error *err);

#endif
