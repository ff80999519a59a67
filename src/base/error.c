#include "base/error.h"

#include <errno.h>

static void set(struct error *err, int kind, const char *format, va_list ap) {
    char text[ERROR_MESSAGE_MAX]; // the arguments may point into *err
    int n = vsnprintf(text, sizeof text, format, ap);
    if (n >= (int)sizeof text)
        memcpy(text + sizeof text - 4, "...", 4);
    *err = (struct error){.kind = kind > 0 ? kind : EIO};
    memcpy(err->message, text, sizeof text);
}

static void append(struct error *err, const char *text) {
    size_t used = strlen(err->message);
    (void)snprintf(err->message + used, sizeof err->message - used, "%s", text);
}

int error_set(struct error *err, int kind, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    set(err, kind, format, ap);
    va_end(ap);
    return -1;
}

int error_errno(struct error *err, int kind, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    set(err, kind, format, ap);
    va_end(ap);
    const char *why = strerrordesc_np(err->kind); // no locale, any thread
    append(err, ": ");
    append(err, why ? why : "unknown error");
    return -1;
}

int error_api(struct error *err, int status, const char *code, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    set(err, status >= 400 && status < 500 ? EINVAL : EIO, format, ap);
    va_end(ap);
    err->status = status;
    (void)snprintf(err->code, sizeof err->code, "%s", code);
    return -1;
}

int error_wrap(struct error *err, const char *format, ...) {
    char context[ERROR_MESSAGE_MAX / 2], old[ERROR_MESSAGE_MAX];
    va_list ap;
    va_start(ap, format);
    (void)vsnprintf(context, sizeof context, format, ap);
    va_end(ap);
    memcpy(old, err->message, sizeof old);
    int n = snprintf(err->message, sizeof err->message, "%s: %s", context, old);
    if (n >= (int)sizeof err->message)
        memcpy(err->message + sizeof err->message - 4, "...", 4);
    return -1;
}
