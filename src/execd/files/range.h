// Which part of a file a download gives: byte ranges (RFC 9110 14, execd.md 6.10, A.9), conditions
// and the Content-Disposition field (RFC 6266, A.10). Any thread.
#ifndef EXECD_FILES_RANGE_H
#define EXECD_FILES_RANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"

enum files_range {
    FILES_RANGE_WHOLE,     // no range, or an empty list of them: 200
    FILES_RANGE_PART,      // 206
    FILES_RANGE_MALFORMED, // 416
    FILES_RANGE_OUTSIDE    // 416: none overlaps the file
};
// `value`: field value of Range, NULL when absent. The first satisfiable range of the list is
// taken; an end past the file is the file's end. "-0" gives a part of no bytes. Outputs only for
// PART.
enum files_range files_range_parse(const char *value, uint64_t size, uint64_t *ret_start,
                                   uint64_t *ret_len);
// IMF-fixdate (the other two forms of RFC 9110 5.6.7 are obsolete and count as absent).
bool files_date_parse(const char *text, int64_t *ret_sec);
// The field value for the base name of `path`: attachment; filename="...", and for a name with
// bytes outside of printable ASCII percent-coded, twice. Quotes and backslashes are escaped.
int files_disposition(struct strbuf *sb, const char *path);

// A window of lines out of a text that comes in pieces (compat-1.1.1.md E11): the first line and
// how many. Every line loses its trailing CR and LF bytes, lines are joined by LF, nothing stands
// at the end. No line is ever held whole.
struct files_lines {
    uint64_t skip;    // lines still to pass over
    uint64_t left;    // lines still to give, the current one included
    uint64_t returns; // CRs read, not known yet whether they end the line
    bool started;     // something of the current line was read
    bool joined;      // a line was given before: the next one begins with LF
};
void files_lines_init(struct files_lines *w, uint64_t offset, uint64_t limit); // offset from 1
// Appends what this piece gives. At most len + the CRs held back + 1 bytes.
int files_lines_feed(struct files_lines *w, const char *data, size_t len, struct strbuf *out);
static inline bool files_lines_over(const struct files_lines *w) {
    return w->left == 0;
}

#endif
