// execd as the first process of a sandbox (docs/architecture.md section 9): it starts the
// entrypoint, keeps the last of its output, forwards signals to it, and when it ends writes the
// exit record and says so; execd's own exit code is then the entrypoint's. Without an entrypoint it
// idles. Reaping is the reaper's (execd/process.h). Loop thread.
#ifndef EXECD_INIT_H
#define EXECD_INIT_H

#include "execd/execd.h"

struct init;
struct init_settings {
    char *const *entrypoint;       // NULL-terminated; empty: idle
    const char *cwd;               // of the entrypoint
    int record_fd;                 // exit record of base/handoff.h; -1: none
    void (*over)(struct execd *e); // the entrypoint has ended, once: execd is to end, too
};

// tail -f /dev/null, which every client sends by default, needs no tail.
bool init_idles(char *const *argv);
// Words of bootstrap.sh: BOOTSTRAP_CMD, a leading -c, BOOTSTRAP_SHELL (execd.md 1.9). Returns what
// is to run, from the arena; NULL with err.
char *const *init_program(struct arena *a, char *const *argv, struct error *err);
// Sources EXECD_BOOTSTRAP_PRE_SCRIPT, if any, in our directory, and takes its exports into our
// environment. Blocks; before the loop runs. self: path of this program; log_fd: -1 for our own
// output. -1 with err when the script ended by itself.
int init_pre_script(const char *self, int log_fd, struct error *err);
// Makes sure that EXECD_ENVS names a file that can be written (compat-1.1.1.md E8).
void init_envs_file(void);

// Forwards signals from now on. s is copied, what it points to stays valid.
int init_start(struct execd *e, const struct init_settings *s, struct error *err);
int init_enter(struct init *i, struct error *err); // starts the entrypoint, once
void init_give_up(struct init *i);        // it cannot be started: ends the loop, with code 1
int init_exit_code(const struct init *i); // once the loop has ended
void init_free(struct init *i);           // NULL is fine
// What a start that failed says last, where the server looks for it.
void init_last_words(int log_fd, const char *text);

#endif
