// Growable byte string with a maximum given at creation. `data` is never NULL and always
// NUL-terminated; bytes may contain NUL. Failure is sticky: after an add that did not fit or found
// no memory, `failed` stays set and further adds do nothing, so a long series is checked once at
// its end. One owner, any thread.
#ifndef BASE_STRBUF_H
#define BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

struct strbuf {
    char *data;
    size_t len, capacity, max;
    bool failed;
};

void strbuf_init(struct strbuf *sb, size_t max); // allocates nothing
void strbuf_free(struct strbuf *sb);  // embedded object: releases the contents, usable again
void strbuf_clear(struct strbuf *sb); // empty, memory kept, failed reset
int strbuf_add(struct strbuf *sb, const void *data, size_t len); // 0, or -1 when failed
int strbuf_adds(struct strbuf *sb, const char *text);
int strbuf_addc(struct strbuf *sb, char c);
int strbuf_addf(struct strbuf *sb, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Room for `len` more bytes at data+len; the caller then adds to len. NULL when failed.
char *strbuf_reserve(struct strbuf *sb, size_t len);
void strbuf_consume(struct strbuf *sb, size_t len); // drops bytes from the front
char *
strbuf_detach(struct strbuf *sb); // malloc'd, NUL-terminated; NULL when failed; sb is empty again

#define cleanup_strbuf __attribute__((__cleanup__(strbuf_free)))

#endif
