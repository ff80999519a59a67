// Output, split into events, a line each, nothing lost; the first byte says in which pieces.
#include "execd/events.h"
#include "fuzz.h"

struct seen {
    const uint8_t *next;
    bool open;
};

static void check(void *arg, const char *text, size_t len, unsigned place) {
    struct seen *s = arg;
    CHECK(!len || !memcmp(s->next, text, len));
    CHECK(s->open != !!(place & EVENTS_FIRST));
    for (size_t i = 0; i + 1 < len; i++)
        CHECK(text[i] != '\n' && (text[i] != '\r' || (text[i + 1] == '\n' && i + 2 == len)));
    s->open = !(place & EVENTS_LAST);
    s->next += len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct events_splitter sp = {0};
    struct seen s = {.next = data + 1};
    size_t step = size ? data[0] + 1u : 1;
    for (size_t at = 1; at < size; at += step)
        events_split(&sp, (const char *)data + at, step < size - at ? step : size - at, check, &s);
    events_split_end(&sp, check, &s);
    CHECK(!s.open && (!size || s.next == data + size));
    strbuf_free(&sp.line);
    return 0;
}
