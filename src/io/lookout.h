// A thread that sleeps on descriptors, for what must be seen also while the loop is busy or not
// there yet: it wakes when one of them is ready (epoll(7), level-triggered), when somebody calls
// lookout_wake(), and when its time is up.
#ifndef IO_LOOKOUT_H
#define IO_LOOKOUT_H

#include <stdbool.h>

#include "base/error.h"

// Called on the thread. Which descriptor is ready is not told: by then its number may be another
// one's, so the owner asks its own. late: nothing came within the time asked for. Returns in how
// many milliseconds it is called again at the latest; -1: whenever.
typedef int lookout_fn(bool late, void *arg);

struct lookout;
// `what` stands in errors; `first_ms` is like a result of look().
struct lookout *lookout_new(const char *what, int first_ms, lookout_fn *look, void *arg,
                            struct error *err);
void lookout_free(struct lookout *l); // look() has returned and is not called again. NULL is fine

// Any thread, also look(). A descriptor is borrowed until lookout_remove(). -1 with errno.
int lookout_add(struct lookout *l, int fd);
void lookout_remove(struct lookout *l, int fd);
void lookout_wake(struct lookout *l);

#endif
