// What a download needs of HTTP: byte ranges (RFC 9110 14, execd.md 6.10, A.9), conditions and the
// Content-Disposition field (RFC 6266, A.10). Any thread.
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

#endif
