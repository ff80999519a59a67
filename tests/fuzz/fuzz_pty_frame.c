// Messages of terminal clients: the first byte says text or binary.
#include "execd/shell/pty_frame.h"
#include "fuzz.h"
#include "io/pty.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct pty_frame f;
    if (!size)
        return 0;
    pty_frame_read(&f, data[0] & 1, (const char *)data + 1, size - 1);
    if (f.type == PTY_FRAME_RESIZE)
        CHECK(f.columns - 1 < PTY_SIDE_MAX && f.rows - 1 < PTY_SIDE_MAX);
    if (f.type == PTY_FRAME_SIGNAL)
        CHECK(f.signal > 0);
    if (f.type == PTY_FRAME_STDIN)
        CHECK(f.data && f.len < size && (!f.len || f.data[f.len - 1] | 1));
    if (f.type == PTY_FRAME_UNKNOWN)
        CHECK(strlen(f.data) < size);
    pty_frame_clear(&f);
    return 0;
}
