// Messages of the terminal protocol (execd.md 4.7): what clients send, read strictly, and what is
// sent to them. Pure; any thread.
#ifndef EXECD_SHELL_PTY_FRAME_H
#define EXECD_SHELL_PTY_FRAME_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

enum pty_frame_type {
    PTY_FRAME_IGNORED, // not JSON, an unknown signal, a size of nothing, another first byte
    PTY_FRAME_STDIN,
    PTY_FRAME_SIGNAL,
    PTY_FRAME_RESIZE,
    PTY_FRAME_PING,
    PTY_FRAME_UNKNOWN // JSON of another type
};
enum pty_channel { PTY_STDIN = 0, PTY_STDOUT = 1, PTY_STDERR = 2, PTY_REPLAY = 3 };
enum { PTY_REPLAY_HEADER = 9 }; // channel byte and offset, big-endian

struct pty_frame {
    enum pty_frame_type type;
    bool acts;        // of a kind that only the holder may send, also when it is ignored
    const char *data; // stdin; NUL-terminated name of an unknown type
    size_t len;
    int signal;
    unsigned columns, rows;
    json_t *owned; // data lives in it, or in the message
};
// `text`: whether the message came as text. Clear afterwards.
void pty_frame_read(struct pty_frame *f, bool text, const char *data, size_t len);
void pty_frame_clear(struct pty_frame *f);

void pty_replay_header(uint64_t offset, char out[PTY_REPLAY_HEADER]);
// One JSON object and a newline into sb; takes the reference.
int pty_frame_write(struct strbuf *sb, json_t *owned);

#endif
