// What sessions and terminals start: bash, else sh, with execd's environment. Loop thread.
#ifndef EXECD_SHELL_SHELL_H
#define EXECD_SHELL_SHELL_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/error.h"

struct shell {
    const char *file; // absolute path
    bool bash;        // else a POSIX sh, which knows no --norc
    char **envp;      // execd's, the EXECD_ENVS file over it, PWD
};
// All memory from the arena. `otherwise`: an entry for a variable that nobody chose, or NULL;
// Podman's TERM=xterm, which every container has, is no choice. ENOENT when the image has no shell.
int shell_prepare(struct shell *s, struct arena *a, const char *cwd, const char *otherwise,
                  struct error *err);

#endif
