#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/strbuf.h"
#include "base/utf8.h"

// A message is cut at MESSAGE_MAX_BYTES; a byte of it may become three, then six each.
enum { MESSAGE_MAX_BYTES = 2048, LINE_MAX_BYTES = 128 * 1024 };

static struct {
    enum log_level level;
    enum log_format format;
    int fd;
} config = {LOG_LEVEL_INFO, LOG_FORMAT_TEXT, 2};

static struct {
    pthread_mutex_t lock;
    char path[PATH_MAX - 16];
    int64_t size, max;
    unsigned backups; // 0: the file is not rotated
} rotation = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local const char *context;

static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};

void log_configure(enum log_level level, enum log_format format, int fd) {
    config.level = level;
    config.format = format;
    config.fd = fd;
}

static int open_file(void) {
    return open(rotation.path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

int log_to_file(const char *path, int64_t max_bytes, unsigned backups) {
    struct stat st;
    int n = snprintf(rotation.path, sizeof rotation.path, "%s", path);
    if (n < 0 || (size_t)n >= sizeof rotation.path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open_file();
    if (fd < 0)
        return -1;
    rotation.size = fstat(fd, &st) == 0 ? st.st_size : 0;
    rotation.max = max_bytes;
    rotation.backups = backups;
    config.fd = fd;
    return 0;
}

// The descriptor keeps its number, so that lines of other threads go to the old file or the new
// one. What fails leaves the log as it is.
static void rotate(void) {
    char from[PATH_MAX], to[PATH_MAX];
    for (unsigned i = rotation.backups; i > 0; i--) {
        (void)snprintf(to, sizeof to, "%s.%u", rotation.path, i);
        if (i > 1)
            (void)snprintf(from, sizeof from, "%s.%u", rotation.path, i - 1);
        if (rename(i > 1 ? from : rotation.path, to) < 0 && i == 1)
            return;
    }
    int fd = open_file();
    if (fd < 0)
        return;
    (void)dup3(fd, config.fd, O_CLOEXEC);
    (void)close(fd);
    rotation.size = 0;
}

static void make_room(size_t len) {
    if (!rotation.backups)
        return;
    (void)pthread_mutex_lock(&rotation.lock);
    if (rotation.size && rotation.size + (int64_t)len > rotation.max)
        rotate();
    rotation.size += (int64_t)len;
    (void)pthread_mutex_unlock(&rotation.lock);
}

void log_set_level(enum log_level level) {
    __atomic_store_n(&config.level, level, __ATOMIC_RELAXED);
}

bool log_enabled(enum log_level level) {
    return level >= __atomic_load_n(&config.level, __ATOMIC_RELAXED);
}

int log_level_parse(const char *name, enum log_level *ret_level) {
    static const struct {
        const char *name;
        enum log_level level;
    } known[] = {{"DEBUG", LOG_LEVEL_DEBUG},     {"INFO", LOG_LEVEL_INFO},
                 {"WARNING", LOG_LEVEL_WARNING}, {"WARN", LOG_LEVEL_WARNING},
                 {"ERROR", LOG_LEVEL_ERROR},     {"CRITICAL", LOG_LEVEL_ERROR}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcasecmp(name, known[i].name)) {
            *ret_level = known[i].level;
            return 0;
        }
    return -1;
}

void log_context(const char *request_id) {
    context = request_id;
}

// A JSON string with its quotes; control characters escaped, the rest made valid UTF-8.
static void add_json(struct strbuf *sb, const char *text) {
    (void)strbuf_addc(sb, '"');
    for (const char *p = text; *p; p++)
        if (*p == '"' || *p == '\\')
            (void)strbuf_addf(sb, "\\%c", *p);
        else if ((unsigned char)*p < 0x20)
            (void)strbuf_addf(sb, "\\u%04x", (unsigned)*p);
        else
            (void)strbuf_addc(sb, *p);
    (void)strbuf_addc(sb, '"');
}

// Text lines stay one line each: control characters become spaces.
static void add_text(struct strbuf *sb, const char *text) {
    for (const char *p = text; *p; p++)
        (void)strbuf_addc(sb, (unsigned char)*p < 0x20 ? ' ' : *p);
}

void log_write(enum log_level level, const char *format, ...) {
    if (!log_enabled(level))
        return;
    char message[MESSAGE_MAX_BYTES], when[CLOCK_TEXT_MAX];
    va_list ap;
    va_start(ap, format);
    (void)vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    int64_t us = clock_wall_us();
    clock_format_ns(us / 1000000, us / 1000 % 1000 * 1000000, when);
    cleanup_strbuf struct strbuf line = {0};
    cleanup_strbuf struct strbuf clean = {0};
    strbuf_init(&line, LINE_MAX_BYTES);
    strbuf_init(&clean, LINE_MAX_BYTES);
    if (utf8_add_lossy(&clean, message, strlen(message)) < 0)
        strbuf_clear(&clean);
    if (config.format == LOG_FORMAT_JSON) {
        (void)strbuf_addf(&line, "{\"ts\":\"%s\",\"level\":\"%s\"", when, names[level]);
        if (context) {
            (void)strbuf_adds(&line, ",\"request_id\":");
            add_json(&line, context);
        }
        (void)strbuf_adds(&line, ",\"msg\":");
        add_json(&line, clean.data);
        (void)strbuf_adds(&line, "}\n");
    } else {
        (void)strbuf_addf(&line, "%s %-7s [%s] ", when, names[level], context ? context : "-");
        add_text(&line, clean.data);
        (void)strbuf_addc(&line, '\n');
    }
    make_room(line.len);
    ssize_t n;
    do
        n = write(config.fd, line.data, line.len);
    while (n < 0 && errno == EINTR); // a log that cannot be written is not worth failing for
}
