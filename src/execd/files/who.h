// On whose behalf a file request works: execd itself, or another user for the routes below
// /v1/filesystem/{uid}/{gid} (compat-1.1.1.md E13). A switch changes the credentials of one worker
// thread (they belong to threads in Linux; the C library's wrappers would change all), and only its
// effective ones, so that it can be undone: between enter and leave the kernel decides as for that
// user, capabilities and groups included.
//
// init and clear: loop. All else: worker, between enter and leave.
#ifndef EXECD_FILES_WHO_H
#define EXECD_FILES_WHO_H

#include "execd/execd.h"
#include "execd/files/account.h"
#include "execd/files/expand.h"

struct files_who {
    bool other; // another user than execd
    uid_t uid, own_uid;
    gid_t gid, own_gid;
    gid_t *own_groups;
    int own_count;
    int root; // "/", O_PATH
    struct arena arena;
    struct files_accounts accounts;
    struct files_base base;
    char home[ACCOUNT_HOME_MAX];
};
// False: the ids of the route were wrong, and that is answered.
bool files_who_init(struct files_who *w, struct http_exchange *x);
void files_who_clear(struct files_who *w);
int files_who_enter(struct files_who *w, struct error *err); // 503 CODE_IDENTITY when it cannot
void files_who_leave(struct files_who *w);

// What the client wrote as an absolute clean path, in w->arena. 500 CODE_RUNTIME.
char *files_resolve(struct files_who *w, const char *given, struct error *err);
// Opens below "/", links followed as the kernel does, but no magic links (/proc/PID/fd and the
// like). -1 with errno.
int files_open(const struct files_who *w, const char *path, int flags);
// The directory that holds the last component, O_PATH; *ret_name points into path ("." for "/").
int files_open_parent(const struct files_who *w, const char *path, const char **ret_name);
// 404 CODE_NOT_FOUND for ENOENT, else 500 CODE_RUNTIME "WHAT PATH: REASON". Denials hold the word
// "permission" (E13). Returns -1.
int files_error(struct error *err, int why, const char *what, const char *path);

#endif
