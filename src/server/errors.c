#include "server/errors.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *code;
    unsigned status;
    const char *text;
} table[ERROR_ID_COUNT] = {
#define ERROR_CODE(symbol, code, status, text) [ERR_##symbol] = {code, status, text},
#include "server/errors.def"
#undef ERROR_CODE
};

static char completed[ERROR_ID_COUNT][ERROR_CODE_MAX]; // codes of the runtime, with its prefix;
                                                       // written once at start-up

void error_set_prefix(const char *prefix) {
    for (size_t i = 0; i < ERROR_ID_COUNT; i++)
        if (table[i].code[0] == '%')
            (void)snprintf(completed[i], sizeof completed[i], "%s%s", prefix, table[i].code + 1);
}

const char *error_code(enum error_id id) {
    return completed[id][0] ? completed[id] : table[id].code;
}
unsigned error_status(enum error_id id) {
    return table[id].status;
}
const char *error_text(enum error_id id) {
    return table[id].text;
}

bool error_is(const struct error *err, enum error_id id) {
    return strcmp(err->code, error_code(id)) == 0;
}

int error_server(struct error *err, enum error_id id, const char *format, ...) {
    char text[ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_api(err, (int)table[id].status, error_code(id), "%s", text);
}
