// multipart/form-data, streamed (RFC 7578, RFC 2046 5.1). Push parser; no part is ever held whole
// here.
#ifndef HTTP_MULTIPART_H
#define HTTP_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct multipart;
struct multipart_part {
    const char *name;     // "" when absent
    const char *filename; // NULL when absent
    const char *content_type;
};
struct multipart_callbacks { // return 0 to go on, -1 to stop (multipart_feed then returns -1
                             // without err)
    int (*begin)(void *arg, const struct multipart_part *part);
    int (*data)(void *arg, const char *data, size_t len);
    int (*end)(void *arg);
};
// content_type: field value with its boundary. NULL and err when it is not multipart/form-data with
// a boundary of 1..70.
struct multipart *multipart_new(const char *content_type, const struct multipart_callbacks *c,
                                void *arg, struct error *err);
int multipart_feed(struct multipart *m, const char *data, size_t len,
                   struct error *err); // part heads at most 16 KiB
int multipart_finish(struct multipart *m,
                     struct error *err);  // -1 when the closing boundary never came
void multipart_free(struct multipart *m); // NULL is fine

#endif
