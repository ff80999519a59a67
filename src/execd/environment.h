// The EXECD_ENVS file (execd.md 3.4, compat-1.1.1.md E8). What children are given is in
// execd/process.h; this is the pure part, for tests. Any thread.
#ifndef EXECD_ENVIRONMENT_H
#define EXECD_ENVIRONMENT_H

#include <stddef.h>

// One variable, value NUL-terminated; negative stops.
typedef int environment_variable_fn(void *arg, const char *name, size_t name_len,
                                    const char *value);
int environment_parse(const char *text, size_t len, environment_variable_fn *found, void *arg);

#endif
