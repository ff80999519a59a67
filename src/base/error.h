// One failure on its way up: what kind, what the API calls it, and a sentence that tells the user
// what to do.
//
// Convention (docs/c-style.md, "Errors"): `int f(..., struct error *err)` returns negative if and
// only if *err was set. An error is a plain value without resources: keep it on the stack, copy it
// by assignment. Any thread.
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>

enum { ERROR_CODE_MAX = 64, ERROR_MESSAGE_MAX = 1024 };

struct error {
    int kind;                  // errno value, > 0 once set
    int status;                // HTTP status where one was decided, else 0 (the API answers 500)
    char code[ERROR_CODE_MAX]; // API code such as "SANDBOX::INVALID_PARAMETER", else ""
    char message[ERROR_MESSAGE_MAX]; // always NUL-terminated, cut with "..." when too long
};

// All return -1, so that a failure is one statement: return error_set(err, EINVAL, "port %d ...",
// port);
int error_set(struct error *err, int kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Appends ": strerror(kind)" to the message.
int error_errno(struct error *err, int kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// An error with its API code and HTTP status. kind becomes EINVAL for 4xx, EIO otherwise.
int error_api(struct error *err, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// Puts "context: " before the message; keeps kind, code and status.
int error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
