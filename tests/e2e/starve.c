// Preloaded into a server by tests/faults.py, which shares a file of three numbers with it: which
// allocation of the loop's thread fails, counted from now (0: none), whether the disk of the store
// is full, and whether a look at the control groups of a process waits. While the test holds that
// file's lock, no thread takes up work it has waited for.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct control {
    int64_t starve, full, late;
};
static struct control *control;
static int control_fd = -1;
static int reading; // the loop's thread reads JSON
static int (*cond_wait)(pthread_cond_t *, pthread_mutex_t *);
static json_t *(*load)(const char *, size_t, size_t, json_error_t *);

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("OPENSANDBOX_TEST_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    // without a version the oldest would come, which knows another form of conditions
    *(void **)&cond_wait = dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
    if (!cond_wait)
        *(void **)&cond_wait = dlsym(RTLD_NEXT, "pthread_cond_wait");
    *(void **)&load = dlsym(RTLD_NEXT, "json_loadb");
    (void)unsetenv("LD_PRELOAD"); // what it starts is left alone
    if (at == MAP_FAILED)
        return;
    control = at;
    control_fd = fd;
}

static int starves(void) {
    if (!control || reading || __atomic_load_n(&control->starve, __ATOMIC_RELAXED) <= 0 ||
        gettid() != getpid())
        return 0;
    if (__atomic_fetch_sub(&control->starve, 1, __ATOMIC_RELAXED) != 1)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) {
    return starves() ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    return starves() ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
    return starves() ? NULL : __libc_realloc(old, size);
}

// jansson goes on with text that lacks a letter when memory ends while it reads, and writes where
// it may not: nothing of ours can help that.
json_t *json_loadb(const char *text, size_t len, size_t flags, json_error_t *error) {
    reading += gettid() == getpid();
    json_t *value = load(text, len, flags, error);
    reading -= gettid() == getpid();
    return value;
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    if (control && __atomic_load_n(&control->full, __ATOMIC_RELAXED)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, data, len, at);
}

int openat64(int dir, const char *path, int flags, ...) {
    const char *name = strrchr(path, '/');
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    while (control && name && !strcmp(name, "/cgroup") &&
           __atomic_load_n(&control->late, __ATOMIC_RELAXED))
        (void)usleep(1000);
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *lock) {
    int r = cond_wait(condition, lock);
    if (control && flock(control_fd, LOCK_SH | LOCK_NB) < 0) {
        (void)pthread_mutex_unlock(lock);
        (void)flock(control_fd, LOCK_SH); // until the test lets go of it
        (void)pthread_mutex_lock(lock);
    }
    if (control)
        (void)flock(control_fd, LOCK_UN);
    return r;
}
