// Writes small ustar archives (POSIX.1-2001 pax, without extended headers) into a buffer. Owner
// root, time 0. Any thread.
#ifndef FMT_TAR_H
#define FMT_TAR_H

#include <stddef.h>
#include <sys/types.h>

#include "base/strbuf.h"

// name: relative, at most 99 bytes. All return 0, or -1 (too long a name, buffer full).
int tar_add_dir(struct strbuf *sb, const char *name, mode_t mode);
int tar_add_file(struct strbuf *sb, const char *name, mode_t mode, const void *data, size_t len);
int tar_end(struct strbuf *sb); // the two empty blocks

#endif
