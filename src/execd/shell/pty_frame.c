#include "execd/shell/pty_frame.h"

#include <signal.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "io/pty.h"

static const struct {
    const char *name;
    int number;
} signals[] = {{"SIGINT", SIGINT},
               {"SIGTERM", SIGTERM},
               {"SIGKILL", SIGKILL},
               {"SIGQUIT", SIGQUIT},
               {"SIGHUP", SIGHUP}};

static void read_stdin(struct pty_frame *f) {
    const json_t *data = json_object_get(f->owned, "data");
    if (json_is_string(data)) {
        f->type = PTY_FRAME_STDIN;
        f->data = json_string_value(data);
        f->len = json_string_length(data);
    }
}

static void read_signal(struct pty_frame *f) {
    const char *name = json_string_value(json_object_get(f->owned, "signal"));
    for (size_t i = 0; name && i < ARRAY_SIZE(signals); i++)
        if (!strcmp(name, signals[i].name)) {
            f->type = PTY_FRAME_SIGNAL;
            f->signal = signals[i].number;
        }
}

static void read_resize(struct pty_frame *f) {
    json_int_t columns = json_integer_value(json_object_get(f->owned, "cols"));
    json_int_t rows = json_integer_value(json_object_get(f->owned, "rows"));
    if (columns < 1 || columns > PTY_SIDE_MAX || rows < 1 || rows > PTY_SIDE_MAX)
        return;
    f->type = PTY_FRAME_RESIZE;
    f->columns = (unsigned)columns;
    f->rows = (unsigned)rows;
}

static void read_ping(struct pty_frame *f) {
    f->type = PTY_FRAME_PING;
}

static const struct {
    const char *name;
    void (*read)(struct pty_frame *f);
    bool acts;
} types[] = {{"stdin", read_stdin, true},
             {"signal", read_signal, true},
             {"resize", read_resize, true},
             {"ping", read_ping, false}};

void pty_frame_read(struct pty_frame *f, bool text, const char *data, size_t len) {
    *f = (struct pty_frame){.type = PTY_FRAME_IGNORED};
    if (!text) {
        if (len && data[0] == PTY_STDIN) {
            f->type = PTY_FRAME_STDIN;
            f->acts = true;
            f->data = data + 1;
            f->len = len - 1;
        }
        return;
    }
    f->owned = json_loadb(data, len, JSON_ALLOW_NUL, NULL); // ^@ is a key, too
    if (!json_is_object(f->owned))
        return;
    const char *type = json_string_value(json_object_get(f->owned, "type"));
    f->data = type ? type : "";
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (!strcmp(f->data, types[i].name)) {
            types[i].read(f);
            f->acts = types[i].acts;
            return;
        }
    f->type = PTY_FRAME_UNKNOWN;
}

void pty_frame_clear(struct pty_frame *f) {
    json_decref(f->owned);
    *f = (struct pty_frame){0};
}

void pty_replay_header(uint64_t offset, char out[PTY_REPLAY_HEADER]) {
    out[0] = PTY_REPLAY;
    for (int i = 8; i > 0; i--, offset >>= 8)
        out[i] = (char)(offset & 0xff);
}

int pty_frame_write(struct strbuf *sb, json_t *owned) {
    int r = owned && json_write(owned, sb) == 0 ? strbuf_addc(sb, '\n') : -1;
    json_decref(owned);
    return r;
}
