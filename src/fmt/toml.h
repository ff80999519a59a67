// TOML 1.0 through toml++, turned into a JSON value, so that everything above knows one kind of
// tree. Tables become objects, dates become strings. Start-up and workers.
#ifndef FMT_TOML_H
#define FMT_TOML_H

#include <jansson.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// err: "file:line:column: reason". ret_lines (may be NULL): object of dotted key -> line, for
// messages about a key.
json_t *toml_parse_file(const char *path, json_t **ret_lines, struct error *err);
json_t *toml_parse_text(const char *text, const char *name, json_t **ret_lines, struct error *err);

#ifdef __cplusplus
}
#endif

#endif
