// Terminals (execd.md 4.6 and 4.7): a shell on a pseudo-terminal or on three pipes, its output as
// one output of 1 MiB with absolute offsets, and the clients that follow it. pty.c holds the shell
// and the REST side, pty_client.c the WebSocket side. Loop thread only.
//
// One client holds the terminal (types, signals, resizes, and stops the shell when it does not
// read); any number view it and may lose what they do not read in time. The shell outlives its
// clients; a new holder after its end starts another in the same session.
#ifndef EXECD_SHELL_PTY_H
#define EXECD_SHELL_PTY_H

#include "execd/capture.h"

enum {
    PTY_RING = 1 << 20,         // output that can be replayed
    PTY_INPUT_SOFT = 64 * 1024, // typed bytes the shell has not read: the holder is paused
    PTY_MESSAGE_MAX = 1 << 20,  // from a client
    PTY_QUEUE = 256 * 1024,     // to a client
    PTY_FRAME_MAX = 32 * 1024,  // live output in one frame
    PTY_VIEWERS_MAX = 64,       // of one session
    PTY_PING_MS = 30 * 1000,
    PTY_SILENCE_MS = 60 * 1000,
    PTY_WRITE_MS = 10 * 1000,
    PTY_CLOSE_MS = 1000
};

struct pty_client;

struct pty {
    char id[EXECD_ID_SIZE];
    struct execd *e;
    char *cwd, *command; // command NULL: an interactive shell
    struct capture capture;
    struct process process;
    struct exit_status status;
    bool terminal;        // else pipes
    bool running;         // started, and its end was not told yet
    bool deleted;         // not found any more; goes when the shell and the clients are gone
    struct stream *input; // to the shell, NULL when it cannot be written to
    struct strbuf typed;  // waits for the shell to read
    struct list clients;  // struct pty_client
    unsigned viewers;
    struct pty_client *holder;
};

// pty.c
struct pty *pty_find(struct http_exchange *x); // by its path parameter; NULL: answered
int pty_start(struct pty *p, bool terminal, struct error *err);
void pty_type(struct pty *p, const char *data, size_t len); // input; a failure goes to the holder
void pty_signal(struct pty *p, int number);                 // to the foreground job
void pty_size(struct pty *p, unsigned columns, unsigned rows);
void pty_release(struct pty *p); // frees a deleted one that nobody uses any more

// pty_client.c
void pty_clients_paused(struct pty *p, bool paused);                           // the holder's input
void pty_clients_failed(struct pty *p, const char *code, const char *message); // then it is closed
void pty_clients_ended(struct pty *p);  // p->status is told behind the last output
void pty_clients_abort(struct pty *p);  // execd stops
int pty_exit_code(const struct pty *p); // -1: a signal

#endif
