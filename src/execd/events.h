// The event stream of a reply, and the one place that knows its framing (execd.md 2.3,
// compat-1.1.1.md E1): each event a bare JSON object followed by "\n\n". Frames gather and leave as
// one chunk for each burst. Text keeps its terminators; one event for each line. Loop thread only.
//
// An event stream belongs to an exchange and ends it: events_end() once, always, also when the
// client is gone (events then go nowhere). It uses x->on_room, x->on_gone and x->user.
#ifndef EXECD_EVENTS_H
#define EXECD_EVENTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "execd/output.h"
#include "http/exchange.h"

enum {
    EVENTS_LINE_MAX = 16 << 20, // longer lines are cut into several events
    EVENTS_PIECE = 64 * 1024,   // longer lines leave in pieces, while they come; still as one event
    EVENTS_HELD = 1 << 20,      // of the other stream meanwhile; beyond it the line is cut
    EVENTS_BURST = 64 * 1024,   // frames gathered before they go to the connection
    EVENTS_PING_MS = 3000
};

struct events;
struct events_owner {
    void (*room)(void *arg); // there is room again after events_blocked() was true
    void (*gone)(void *arg); // the client went away, at most once; the owner still ends
    void *arg;
};
enum events_flags { EVENTS_PINGS = 1 << 0 }; // a ping after init, then one every 3 s

// Begins the reply: head, and `init` with `id` as its text when id is not NULL. NULL: no memory,
// an error was answered, the exchange is over. The owner is copied; never called from inside a
// call.
struct events *events_begin(struct http_exchange *x, const char *id, unsigned flags,
                            const struct events_owner *owner);
// Splits into lines and frames them. Everything is taken; ask events_blocked() before each call,
// and bring no more than EVENTS_BURST bytes.
void events_output(struct events *s, enum output_stream from, const char *data, size_t len);
// The connection has enough for now: stop reading output until room().
bool events_blocked(const struct events *s);
// {"type":type, members..., "timestamp"}: the members follow the type in their order; takes the
// reference, may be NULL. Incomplete lines leave first.
void events_emit(struct events *s, const char *type, json_t *members);
// Terminal events, exactly one of them. execution_time is left out when it is 0.
void events_complete(struct events *s, int64_t execution_ms);
void events_error(struct events *s, const char *ename, const char *evalue, json_t *traceback);
// What is gathered leaves at the end of the loop's turn, as one chunk; to be called after each
// burst.
void events_flush(struct events *s);
// What is left leaves as fast as it goes, then the final chunk. The pointer is dead, NULL is fine.
void events_end(struct events *s);

// Pure part, for tests: splits the bytes of one stream into event texts. A text comes in one call,
// or in several when it is long; a piece never ends inside a character.
enum events_place { EVENTS_FIRST = 1 << 0, EVENTS_LAST = 1 << 1 };
struct events_splitter {
    struct strbuf line; // incomplete, at most two pieces
    size_t given;       // bytes of this line that were emitted
};
typedef void events_text_fn(void *arg, const char *text, size_t len, unsigned place);
void events_split(struct events_splitter *sp, const char *data, size_t len, events_text_fn *emit,
                  void *arg);
void events_split_end(struct events_splitter *sp, events_text_fn *emit, void *arg);

#endif
