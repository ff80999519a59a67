// "text NUL passwd NUL group": whoever is found has ids below 2^31, a clean home and few groups.
#include "base/path.h"
#include "fuzz.h"
#include "server/runtime/oci/image/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    size_t at = strlen(text) < size ? strlen(text) + 1 : size;
    const char *passwd = (const char *)data + at,
               *nul = at < size ? memchr(passwd, 0, size - at) : NULL;
    size_t len = nul ? (size_t)(nul - passwd) : size - at;
    struct user_files f = {passwd, nul ? nul + 1 : NULL, len, nul ? size - at - len - 1 : 0};
    struct user u;
    struct error err;
    if (!user_find(&f, text, &u, &err)) {
        CHECK(u.uid <= INT32_MAX && u.gid <= INT32_MAX && u.group_count <= USER_GROUPS_MAX);
        CHECK(path_is_clean(u.home) && strlen(u.name) < USER_NAME_SIZE);
        for (unsigned i = 0; i < u.group_count; i++)
            CHECK(u.groups[i] <= INT32_MAX && u.groups[i] != u.gid);
    } else {
        CHECK(err.status == 400);
    }
    free(text);
    return 0;
}
