#include "base/handoff.h"

#include <errno.h>
#include <sys/stat.h>

enum { HEADER = 16 };
static const char magic[8] = "OSBLOG1\n";

static uint64_t get_le64(const unsigned char *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static int write_header(const struct handoff_log *log) {
    unsigned char h[HEADER];
    memcpy(h, magic, sizeof magic);
    for (int i = 0; i < 8; i++)
        h[8 + i] = (unsigned char)(log->total >> (8 * i));
    return pwrite(log->fd, h, sizeof h, 0) == HEADER ? 0 : -1;
}

int handoff_log_open(struct handoff_log *log, int fd) {
    unsigned char h[HEADER];
    *log = (struct handoff_log){.fd = fd};
    ssize_t n = pread(fd, h, sizeof h, 0);
    if (n == HEADER && !memcmp(h, magic, sizeof magic)) {
        log->total = get_le64(h + 8);
        return 0;
    }
    return n < 0 ? -1 : write_header(log);
}

int handoff_log_append(struct handoff_log *log, const void *data, size_t len) {
    const char *p = data;
    if (len > HANDOFF_LOG_BYTES) { // only the tail can stay
        log->total += len - HANDOFF_LOG_BYTES;
        p += len - HANDOFF_LOG_BYTES;
        len = HANDOFF_LOG_BYTES;
    }
    while (len) {
        size_t at = log->total % HANDOFF_LOG_BYTES,
               n = HANDOFF_LOG_BYTES - at < len ? HANDOFF_LOG_BYTES - at : len;
        ssize_t done = pwrite(log->fd, p, n, (off_t)(HEADER + at));
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        log->total += (uint64_t)done;
        p += done;
        len -= (size_t)done;
    }
    return write_header(log);
}

static int read_part(int fd, struct strbuf *sb, size_t at, size_t len) {
    while (len) {
        char *to = strbuf_reserve(sb, len);
        ssize_t n = to ? pread(fd, to, len, (off_t)(HEADER + at)) : -1;
        if (n <= 0)
            return -1;
        sb->len += (size_t)n;
        sb->data[sb->len] = 0;
        at += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int handoff_log_read(int fd, struct strbuf *sb) {
    unsigned char h[HEADER];
    struct stat st;
    if (pread(fd, h, sizeof h, 0) != HEADER || memcmp(h, magic, sizeof magic) != 0 ||
        fstat(fd, &st))
        return -1;
    uint64_t total = get_le64(h + 8);
    size_t at = total % HANDOFF_LOG_BYTES;
    if (total <= HANDOFF_LOG_BYTES)
        return read_part(fd, sb, 0, (size_t)total);
    return read_part(fd, sb, at, HANDOFF_LOG_BYTES - at) < 0 ? -1 : read_part(fd, sb, 0, at);
}
