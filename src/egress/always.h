// Files of the operator that come before every policy (egress.md 2.5): a target a line, blanks
// around it are cut, '#' begins a comment line. Any thread; reading blocks.
#ifndef EGRESS_ALWAYS_H
#define EGRESS_ALWAYS_H

#include <sys/stat.h>

#include "fmt/policy.h"

enum { ALWAYS_LINE_MAX = 64 * 1024, ALWAYS_FILE_MAX = 4 << 20 };

// Appends the lines as rules. `path` is for messages ("path:line: why").
int always_parse(struct policy *p, bool allow, const char *path, const char *text, size_t len,
                 struct error *err);

struct always_file {
    char path[256];
    bool allow;
    struct policy rules;
    bool present;
    struct timespec changed;
    off_t size;
};
// Reads the file when it is new, changed or gone since the last call. 1: changed, 0: the same,
// -1: what was read before stays in force and is asked about again next time.
int always_reload(struct always_file *f, struct error *err);

#endif
