// Paths below a root that somebody else may be changing meanwhile: openat2(2) with RESOLVE_* and,
// where the kernel lacks it, a component-by-component walk with O_NOFOLLOW. Never check by name and
// open later. Blocking: workers or start-up.
#ifndef BASE_PATH_H
#define BASE_PATH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

enum path_scope {
    PATH_IN_ROOT,    // RESOLVE_IN_ROOT: absolute links and ".." stay inside (image roots)
    PATH_BENEATH,    // RESOLVE_BENEATH: leaving is EXDEV (volumes)
    PATH_NO_SYMLINKS // RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS: any link is ELOOP
};

// O_CLOEXEC and RESOLVE_NO_MAGICLINKS always. Returns a descriptor, or -1 with errno (no message:
// hot path).
int path_open(int root, const char *path, enum path_scope scope, int flags, mode_t mode);
// Forces the fallback walk, for tests ("openat2 answers ENOSYS").
void path_force_fallback(bool on);
// mkdir -p below root without following links; existing directories are fine. Returns the last one
// opened O_PATH or -1.
int path_make_dirs(int root, const char *path, mode_t mode);
// rm -rf of `name` below `at` without following links or crossing to parents; a missing one is
// fine.
int path_remove_tree(int at, const char *name, struct error *err);
// Bytes and entries of a tree; stops with EFBIG / EOVERFLOW past the limits (256 levels is one,
// too).
int path_measure_tree(int at, const char *name, uint64_t max_bytes, uint64_t max_entries,
                      uint64_t *ret_bytes);
// Absolute, no NUL, no "." or ".." component, no "//", no trailing '/' (but "/" itself).
bool path_is_clean(const char *path);
// Whether `path` equals `prefix` or lies below it ("/a" covers "/a/b", not "/ab"). Both clean.
bool path_covers(const char *prefix, const char *path);

#endif
