#include "fmt/tar.h"

#include <stdio.h>
#include <string.h>

enum { BLOCK = 512 };

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[8], user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};

static int add(struct strbuf *sb, const char *name, mode_t mode, char type, size_t size) {
    struct header h;
    unsigned sum = 0;
    unsigned char bytes[BLOCK];
    _Static_assert(sizeof h == BLOCK, "a header is a block");
    memset(&h, 0, sizeof h);
    if (snprintf(h.name, sizeof h.name, "%s", name) >= (int)sizeof h.name || size > 077777777777)
        return -1;
    (void)snprintf(h.mode, sizeof h.mode, "%07o", (unsigned)mode & 07777);
    (void)snprintf(h.uid, sizeof h.uid, "%07o", 0U);
    (void)snprintf(h.gid, sizeof h.gid, "%07o", 0U);
    (void)snprintf(h.size, sizeof h.size, "%011zo", size);
    (void)snprintf(h.mtime, sizeof h.mtime, "%011o", 0U);
    memset(h.checksum, ' ', sizeof h.checksum);
    memcpy(h.magic, "ustar\00000", sizeof h.magic);
    h.type = type;
    memcpy(bytes, &h, sizeof h);
    for (size_t i = 0; i < BLOCK; i++)
        sum += bytes[i];
    (void)snprintf(h.checksum, sizeof h.checksum, "%06o", sum);
    return strbuf_add(sb, &h, sizeof h);
}

static int fill(struct strbuf *sb, size_t len) {
    static const char zeros[2 * BLOCK];
    return len ? strbuf_add(sb, zeros, len) : 0;
}

int tar_add_dir(struct strbuf *sb, const char *name, mode_t mode) {
    char text[100];
    if (snprintf(text, sizeof text, "%s/", name) >= (int)sizeof text)
        return -1;
    return add(sb, text, mode, '5', 0);
}

int tar_add_file(struct strbuf *sb, const char *name, mode_t mode, const void *data, size_t len) {
    if (add(sb, name, mode, '0', len) || strbuf_add(sb, data, len))
        return -1;
    return fill(sb, (BLOCK - len % BLOCK) % BLOCK);
}

int tar_end(struct strbuf *sb) {
    return fill(sb, 2 * (size_t)BLOCK);
}
