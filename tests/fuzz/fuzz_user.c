// The first line is the wish, then passwd, an empty line, and group: all of a strange image.
#include "fuzz.h"
#include "server/runtime/oci/image/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *all = (const char *)data, *line = size ? memchr(all, '\n', size) : NULL;
    if (!line)
        return 0;
    char *wish = fuzz_text(data, (size_t)(line - all));
    struct user_files f = {.passwd = line + 1, .passwd_len = size - (size_t)(line + 1 - all)};
    f.group = memmem(f.passwd, f.passwd_len, "\n\n", 2);
    if (f.group) {
        f.group += 2;
        f.group_len = f.passwd_len - (size_t)(f.group - f.passwd);
        f.passwd_len -= f.group_len;
    }
    struct user u;
    struct error err;
    if (!user_find(&f, wish, &u, &err)) {
        CHECK(u.uid <= INT32_MAX && u.gid <= INT32_MAX && u.group_count <= USER_GROUPS_MAX);
        CHECK(u.home[0] == '/' && strlen(u.name) < USER_NAME_SIZE);
    }
    free(wish);
    return 0;
}
