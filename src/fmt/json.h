// JSON through jansson: strict UTF-8, last duplicate member wins, integers of 64 bits.
// json_object_seed() is called once by json_init() before threads. Values may be read, not changed,
// by several threads. jansson's own functions are used freely beside these; the layer only adds
// limits, errors in our shape and compact output.
#ifndef FMT_JSON_H
#define FMT_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "base/strbuf.h"

#define cleanup_json __attribute__((__cleanup__(json_cleanup_p)))
static inline void json_cleanup_p(json_t **j) {
    json_decref(*j);
}

void json_init(void);
// The whole text is one value of any type. On failure err holds "line L column C: reason";
// ret_offset (may be NULL) the byte.
json_t *json_parse(const char *text, size_t len, size_t *ret_offset, struct error *err);
int json_write(const json_t *value, struct strbuf *sb); // compact; 0 or -1 (strbuf failed)
// Appends `text` as a JSON string with quotes; escapes control characters, U+2028, U+2029 and
// U+0085 too, so that line-based readers of event streams never split it (compat-1.1.1.md 7.1).
// Invalid UTF-8 becomes U+FFFD.
int json_write_text(struct strbuf *sb, const char *text, size_t len);
// The same without the quotes, for a string that is written in several pieces. A piece must not end
// inside a character.
int json_write_escaped(struct strbuf *sb, const char *text, size_t len);

// Piece by piece and without a tree, for what is written often; strbuf_addc() opens and closes
// objects and lists. A comma comes where one is due. Failure is the buffer's.
void json_write_comma(struct strbuf *sb);                  // before an item of a list
void json_write_name(struct strbuf *sb, const char *name); // and the colon: its value is next
void json_write_member(struct strbuf *sb, const char *name, const char *text);

#endif
