// The EXECD_ENVS file (execd.md 3.4, compat-1.1.1.md E8). What children are given is in
// execd/process.h. Any thread.
#ifndef EXECD_ENVIRONMENT_H
#define EXECD_ENVIRONMENT_H

#include <stddef.h>

#include "base/arena.h"
#include "base/error.h"

// Where the file is: EXECD_ENVS with ~ and variables expanded, from the arena. NULL when it is
// unset (err->kind ENOENT), or with err.
char *environment_file(struct arena *a, struct error *err);
// At the start: whoever named a file that cannot be read is told once, not by every command.
void environment_check(void);

// One variable, value NUL-terminated; negative stops.
typedef int environment_variable_fn(void *arg, const char *name, size_t name_len,
                                    const char *value);
int environment_parse(const char *text, size_t len, environment_variable_fn *found, void *arg);

#endif
