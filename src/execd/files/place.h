// A file that is written beside its place and put there when it is whole (execd.md, decision 4):
// synced, then renamed. An existing regular file keeps mode, owner and hard links; a final link is
// followed. Where a rename cannot do that (several hard links, a mount point, a foreign owner, a
// directory we may not write) the contents are copied into the existing file. Worker, as one
// files_who.
#ifndef EXECD_FILES_PLACE_H
#define EXECD_FILES_PLACE_H

#include <limits.h>
#include <sys/stat.h>

#include "execd/files/meta.h"

enum { PLACE_TEMP_SIZE = 48 };

struct files_place {
    int fd;       // what is being written; -1: not open
    int dir;      // parent of the place, O_PATH
    int existing; // what is there, open for writing; -1: nothing
    struct stat st;
    char name[NAME_MAX + 1];
    char temp[PLACE_TEMP_SIZE]; // name of fd in dir; "" when it has none
    uint64_t size, flushed;
};
void files_place_init(struct files_place *p);
void files_place_clear(struct files_place *p); // and removes what was not put in place
// An unnamed file in $TMPDIR, of execd itself, for contents whose place is not known yet.
int files_place_spool(struct files_who *w, struct files_place *p, struct error *err);
// `path`: absolute. `parents`: directories that are missing are made, with owner and group of
// `meta`.
int files_place_open(struct files_who *w, struct files_place *p, const char *path, bool parents,
                     const struct files_meta *meta, struct error *err);
int files_place_write(struct files_place *p, const void *data, size_t len); // 0, or -1 with errno
// Everything of `from` (a descriptor that can be read) is written.
int files_place_copy(struct files_place *p, int from);
// Puts it there. meta (NULL: none) is applied before it shows; when that fails the contents stay.
int files_place_commit(struct files_who *w, struct files_place *p, const char *path,
                       const struct files_meta *meta, struct error *err);

#endif
