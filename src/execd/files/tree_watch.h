// A tree under inotify(7): one watch for each directory (the kernel knows none for trees), names
// kept up to date while directories come, go and move. Blocking; worker, one at a time.
#ifndef EXECD_FILES_TREE_WATCH_H
#define EXECD_FILES_TREE_WATCH_H

#include <stdbool.h>

#include "base/error.h"

enum {
    TREE_WATCHES_MAX = 8192, // directories under one watch
    TREE_NEW_MAX = 10000     // entries told of at once because they came with a directory
};

enum tree_change {
    TREE_CREATED,
    TREE_MODIFIED,
    TREE_CLOSED, // by one who could write
    TREE_ATTRIBUTES,
    TREE_DELETED,
    TREE_MOVED,    // from one name to another, both below the root
    TREE_OVERFLOW, // events were lost: look again. path is NULL
    TREE_GONE      // the root itself; nothing more will come
};
typedef void tree_change_fn(void *arg, enum tree_change change, const char *path, const char *from,
                            bool directory);

struct tree_watch;
// fd: of the root, borrowed; path: how it is called in what is told. err 500 with the limit to
// raise.
struct tree_watch *tree_watch_new(int fd, const char *path, bool recursive, struct error *err);
int tree_watch_fd(const struct tree_watch *t); // readable when there is something
// Reads one buffer of events and tells what they mean; more while the other half of a rename is
// awaited, up to 100 ms. False: the root is gone.
bool tree_watch_read(struct tree_watch *t, tree_change_fn *tell, void *arg);
void tree_watch_free(struct tree_watch *t); // NULL is fine

#endif
