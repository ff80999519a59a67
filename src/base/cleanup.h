// Scope-bound cleanup and visible transfer of ownership. Any thread.
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#define cleanup(f) __attribute__((__cleanup__(f)))

static inline void cleanup_free_p(void *p) {
    free(*(void **)p);
}
static inline void cleanup_close_p(const int *fd) {
    if (*fd >= 0)
        (void)close(
            *fd); // nothing useful can be done about a failed close of a descriptor we give up
}

#define cleanup_free  cleanup(cleanup_free_p)
#define cleanup_close cleanup(cleanup_close_p)

// Defines cleanup_<type>_p for a destructor that takes NULL: DEFINE_CLEANUP(struct map *, map_free)
#define DEFINE_CLEANUP(type, function)                                                             \
    static inline void function##_p(type *p) {                                                     \
        function(*p);                                                                              \
    }

#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __auto_type taken_ = (p);                                                                  \
        (p) = NULL;                                                                                \
        taken_;                                                                                    \
    })
#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int taken_ = (fd);                                                                         \
        (fd) = -1;                                                                                 \
        taken_;                                                                                    \
    })

#define ARRAY_SIZE(a)            (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, type, m) ((type *)(void *)((char *)(p)-offsetof(type, m)))

#endif
