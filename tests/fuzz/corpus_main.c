// Runs the target that is linked in over every file of a directory: corpus_NAME DIRECTORY. Exits
// with the number of files on its output, 1 when there is none.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "fuzz.h"

enum { FILE_MAX = 1 << 20 };

static int run(int dir, const char *name) {
    cleanup_strbuf struct strbuf sb;
    struct error err;
    strbuf_init(&sb, FILE_MAX);
    if (fd_read_file(dir, name, &sb, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    // its own block of just that size, so that a sanitizer sees every step too far
    cleanup_free uint8_t *copy = malloc(sb.len ? sb.len : 1);
    CHECK(copy);
    memcpy(copy, sb.data, sb.len);
    (void)LLVMFuzzerTestOneInput(copy, sb.len);
    return 0;
}

int main(int argc, char **argv) {
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    int count = 0, failed = 0;
    if (!dir) {
        fprintf(stderr, "usage: %s DIRECTORY (one that exists)\n", argv[0]);
        return 2;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        failed |= run(dirfd(dir), e->d_name);
        count++;
    }
    (void)closedir(dir); // nothing was written
    printf("%d files\n", count);
    return failed || !count;
}
