// Names and numbers of users and groups, read from /etc/passwd and /etc/group of the sandbox (a
// static program has no NSS; both files may be missing). One object a request: each file is read at
// most once. Worker.
#ifndef EXECD_FILES_ACCOUNT_H
#define EXECD_FILES_ACCOUNT_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/strbuf.h"

enum { ACCOUNT_NAME_MAX = 64, ACCOUNT_HOME_MAX = 4096, ACCOUNT_GROUPS_MAX = 256 };

struct files_accounts {
    const char *passwd_path, *group_path; // for tests; NULL: those of /etc
    struct strbuf passwd, group;          // whole files, at most 4 MiB
    bool passwd_read, group_read;
    // what was asked last: the entries of a directory mostly have one owner
    bool have_owner, have_group;
    uid_t last_uid;
    gid_t last_gid;
    char owner[ACCOUNT_NAME_MAX], group_name[ACCOUNT_NAME_MAX];
};
void files_accounts_init(struct files_accounts *a);
void files_accounts_free(struct files_accounts *a);
// The name, else the number as text. Valid until the next call.
const char *files_owner_name(struct files_accounts *a, uid_t uid);
const char *files_group_name(struct files_accounts *a, gid_t gid);
// By name, else by a number written in digits. False when it is neither.
bool files_owner_id(struct files_accounts *a, const char *name, uid_t *ret);
bool files_group_id(struct files_accounts *a, const char *name, gid_t *ret);
// Home directory and supplementary groups (its primary one first) of an account; false when the
// uid has none. Groups beyond the maximum are left out.
bool files_account(struct files_accounts *a, uid_t uid, char home[ACCOUNT_HOME_MAX],
                   gid_t groups[ACCOUNT_GROUPS_MAX], size_t *ret_count);

#endif
