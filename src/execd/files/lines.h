// A window of lines out of a text that comes in pieces (compat-1.1.1.md E11): the first line and
// how many. Every line loses its trailing CR and LF bytes, lines are joined by LF, nothing stands
// at the end. No line is ever held whole. Any thread.
#ifndef EXECD_FILES_LINES_H
#define EXECD_FILES_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"

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
