// Reading the members of a JSON body (and of query strings) with every fault named: what is wrong
// becomes an item of the 422 reply's `detail` list {type, loc, msg}, in the shapes of
// lifecycle-api.md 3.4, without `input`, so that nothing is echoed. Members are found under their
// camelCase and their snake_case name; null counts as absent. Loop thread.
#ifndef SERVER_API_FIELDS_H
#define SERVER_API_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "http/exchange.h"
#include "http/url.h"
#include "server/runtime/spec.h"

struct place { // a path such as body.volumes.0.name; the outermost one has in = NULL
    const struct place *in;
    const char *name; // NULL: index
    size_t index;
};
extern const struct place place_body;

struct problems {
    json_t *items; // NULL while there are none, or without memory
    bool any;
};
void problem_add(struct problems *p, const struct place *at, const char *type, const char *format,
                 ...) __attribute__((format(printf, 4, 5)));
static inline bool problems_any(const struct problems *p) {
    return p->any;
}
void problems_reply(struct http_exchange *x,
                    struct problems *p); // 422, ends the exchange, empties p
void problems_clear(struct problems *p);

// The body as an object, owned by the caller. NULL: the exchange is over (422, or 400 for text that
// is not UTF-8).
json_t *body_object(struct http_exchange *x);
json_t *body_map(struct http_exchange *x); // one whose member names are the client's
json_t *body_list(struct http_exchange *x);

struct field { // one member of one object
    const struct place at;
    const json_t *value; // NULL: absent or null
};
struct field field_get(const struct place *in, const json_t *object, const char *name);
// Each adds a problem and returns NULL, false or -1 for a wrong type; absent is NULL, or a problem
// when `required`.
const char *field_text(struct problems *p, const struct field *f, bool required);
const json_t *field_object(struct problems *p, const struct field *f, bool required);
const json_t *field_list(struct problems *p, const struct field *f, size_t least, bool required);
bool field_bool(struct problems *p, const struct field *f, bool standard);
int field_int(struct problems *p, const struct field *f, int64_t least,
              int64_t *ret); // 1: there, 0: absent, -1
// A map of text to text; null values are left out where `nulls`, else a problem. 0, or -1: no
// memory.
int field_map(struct problems *p, const struct field *f, bool nulls, struct pairs *ret);
// Every member of the object has one of the names (to NULL), or is a problem.
void field_only(struct problems *p, const struct field *f, const char *const *names);
bool text_length(struct problems *p, const struct field *f, const char *text, size_t least,
                 size_t most);

// Texts of paths and queries: sign, leading zeros, surrounding spaces and ".0" are fine (3.3); "_"
// is not.
bool text_int(const char *text, int64_t *ret);
bool text_bool(const char *text, bool *ret);

#endif
