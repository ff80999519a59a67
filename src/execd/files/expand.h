// Paths as clients write them (execd.md 6.1, A.7), and modes as they write them. Any thread.
#ifndef EXECD_FILES_EXPAND_H
#define EXECD_FILES_EXPAND_H

#include <sys/types.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/strbuf.h"

struct files_base {
    const char *(*lookup)(const void *arg, const char *name); // NULL when undefined
    const void *arg;
    const char *home; // of a leading "~"
    const char *cwd;  // of relative paths, absolute
};
// $NAME and ${NAME} expanded, a leading "~" or "~/" replaced, made absolute and cleaned ("." ".."
// "//" taken out of the text). An undefined NAME is an error that names all of them; other forms
// ($1, $$, ${}) stand for nothing; there is no escape. kind ENOMEM or EINVAL.
int files_expand(struct arena *a, const char *path, const struct files_base *base, char **ret,
                 struct error *err);
// The first step alone: $NAME and ${NAME} of any text, undefined ones are empty.
void files_expand_text(struct strbuf *sb, const char *text, const struct files_base *base);
// The environment of this process; arg is not used.
const char *files_environ(const void *arg, const char *name);

// The integer 755 means 0755 (fact 3 of execd.md). Permission bits only: 4755 is 0755. -1 with
// errno EINVAL for a negative number or a digit that is not octal.
int files_mode_parse(long long digits, mode_t *ret);
long long files_mode_show(mode_t mode);

#endif
