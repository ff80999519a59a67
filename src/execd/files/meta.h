// Owner, group and mode as clients give them, and how they come onto a file (execd.md 6.6). Worker.
#ifndef EXECD_FILES_META_H
#define EXECD_FILES_META_H

#include "execd/files/who.h"

struct files_meta {
    const char *owner, *group; // borrowed from the JSON; NULL or "": leave
    long long mode;            // digits as sent; 0: leave
};
// Members owner, group, mode of an object, each may be absent or null. 400 `code` for another type.
int files_meta_parse(const json_t *object, const char *code, struct files_meta *ret,
                     struct error *err);
// fd may be O_PATH. An owner or group that nobody has is passed over with a warning in the log;
// what is not named stays. The mode comes last: chown clears bits. 500 CODE_RUNTIME.
int files_meta_apply(struct files_who *w, const struct files_meta *m, int fd, const char *path,
                     struct error *err);
// mkdir -p, links followed. Directories made on the way get owner and group of `meta` (NULL: none).
// Returns the last one, O_PATH, or -1 with err, 500 CODE_RUNTIME.
int files_make_dirs(struct files_who *w, const char *path, mode_t mode,
                    const struct files_meta *meta, struct error *err);

#endif
