// What a bash session remembers between two runs, and the shell text that carries it (execd.md
// 4.4): the exported variables in the shell's own re-readable form (`export -p`, POSIX), so that
// any byte, size and attribute survives, and the working directory. Every run is a fresh shell that
// reads a script from descriptor 3 and reports from an EXIT trap on a descriptor of its own, never
// in the output: `exit N`, `set -e`, syntax errors and traps of the user's all get there.
//
// Not kept: functions, aliases, options, unexported variables; what a run changed before `exec`,
// SIGKILL or, under a shell that is not bash, `exit` with an EXIT trap of its own. Any thread.
#ifndef EXECD_SHELL_SESSION_STATE_H
#define EXECD_SHELL_SESSION_STATE_H

#include <stdbool.h>

#include "base/error.h"
#include "base/strbuf.h"

enum { SESSION_STATE_MAX = 8 << 20, SESSION_SCRIPT_MAX = 80 << 20 };

struct session_state {
    char *cwd;     // absolute
    char *exports; // shell text, NULL before the first report
    char *seen;    // environment given to the last run: entries with NULs, then an empty one
};
void session_state_clear(struct session_state *st);

// Text for `shell -c`. Descriptor 3 of the shell is the script (readable by path), 4 takes the
// report.
const char *session_shell_text(bool bash);
// The script of one run in `cwd`. envp is what the shell is started with; its entries that have
// changed since the last run (the EXECD_ENVS file) win over what the session remembers, as the
// newer of the two. -1 when there is no memory.
int session_script(struct strbuf *sb, struct session_state *st, bool bash, char *const *envp,
                   const char *cwd, const char *command);
// Takes the last complete report of the file. 1: taken; 0: there is none, and st is as it was; -1:
// more than SESSION_STATE_MAX, or unreadable.
int session_state_take(struct session_state *st, int fd, struct error *err);

#endif
