// Members of a JSON request body, checked, and working directories that requests name. Every
// failure is answered here (400 CODE_BODY naming the member), so that a handler only returns. Loop
// thread.
#ifndef EXECD_REQUEST_H
#define EXECD_REQUEST_H

#include "execd/execd.h"

// A text, or `absent` when it is missing or null. NULL: answered. Lives as long as the body.
const char *request_text(struct http_exchange *x, const json_t *body, const char *name,
                         const char *absent);
// A whole number within the limits; *ret is left alone when it is missing. False: answered.
bool request_whole(struct http_exchange *x, const json_t *body, const char *name, int64_t min,
                   int64_t max, int64_t *ret);
// Absolute and clean, expanded by execd's environment and the EXECD_ENVS file; in the arena of x.
char *request_path(struct http_exchange *x, const char *path, struct error *err);
// mkdir -p of an absolute path, 0777 less the umask.
int request_make_dirs(const char *path, struct error *err);

#endif
