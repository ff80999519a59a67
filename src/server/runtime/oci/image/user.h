// The user that an image or request names, resolved in the sandbox's own root without NSS
// (oci-runtime.md 2.4). The files belong to a stranger: bounded reads, regular files only, integers
// checked here because crun runs 4294967295 as root. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_USER_H
#define SERVER_RUNTIME_OCI_USER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { USER_NAME_SIZE = 33, USER_HOME_SIZE = 256, USER_GROUPS_MAX = 64 };

struct user {
    uint32_t uid, gid;                // 0..2147483647
    uint32_t groups[USER_GROUPS_MAX]; // supplementary, without gid
    unsigned group_count;
    char name[USER_NAME_SIZE]; // "" when the uid has no entry
    char home[USER_HOME_SIZE]; // "/" when it has none or an unusable one
};

// `text` is "", "user", "user:group", each digits or a name; "" is root. 400 INVALID_PARAMETER
// naming what is wrong. `root` is a directory descriptor of the merged root (of a fresh sandbox: of
// the image's rootfs).
int user_resolve(int root, const char *text, struct user *ret, struct error *err);

// The same on the bytes of /etc/passwd and /etc/group; NULL: there is no such file. Any thread.
struct user_files {
    const char *passwd, *group;
    size_t passwd_len, group_len;
};
int user_find(const struct user_files *f, const char *text, struct user *ret, struct error *err);

#endif
