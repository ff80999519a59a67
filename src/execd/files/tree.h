// Entries of directories as FileInfo objects (execd.md 6.2) and walks over trees. Worker.
#ifndef EXECD_FILES_TREE_H
#define EXECD_FILES_TREE_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "execd/files/who.h"

enum { FILES_WALK_DEPTH_MAX = 256, FILES_REPLY_MAX = 64 << 20 };

// NULL: no memory. Bytes of the path that are no UTF-8 become U+FFFD.
json_t *files_info(struct files_who *w, const char *path, const struct stat *st);
json_t *files_text(const char *text);

struct files_walk {
    struct files_who *who;
    uint64_t depth;          // levels below the root that are visited: 1 for its entries alone
    const atomic_bool *gone; // nobody waits any more: ECANCELED
    // 0, or -1 with err
    int (*visit)(void *arg, const char *path, const struct stat *st, struct error *err);
    void *arg;
};
// Everything below the directory `fd` (taken), whose path is `path`: in order of bytes, a directory
// before what is in it, links not followed. Entries that vanish meanwhile are passed over; one that
// cannot be read ends it, 500 CODE_RUNTIME "WHAT".
int files_walk(const struct files_walk *walk, int fd, const char *path, const char *what,
               struct error *err);

#endif
