// Constants of errors.def: ERR_<symbol> for error_server(). Any thread.
#ifndef SERVER_ERRORS_H
#define SERVER_ERRORS_H

#include <stdbool.h>

#include "base/error.h"

#define ERROR_CODE(symbol, code, status, text) ERR_##symbol,
enum error_id {
#include "server/errors.def"
    ERROR_ID_COUNT
};
#undef ERROR_CODE

// The code text of an error; "%::" is replaced by the prefix set with error_set_prefix() (start-up,
// before threads).
const char *error_code(enum error_id id);
unsigned error_status(enum error_id id);
const char *error_text(enum error_id id);
void error_set_prefix(const char *prefix);                // "OCI"
bool error_is(const struct error *err, enum error_id id); // whether it has that code
// Sets code and status from the table, the message from the format. Returns -1.
int error_server(struct error *err, enum error_id id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
