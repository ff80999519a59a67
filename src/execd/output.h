// Output of one command, session run or PTY: a bounded spool with cursors. Who reads it does not
// matter to who writes it. One producer appends; any number of readers follow, each at its own
// offset. Offsets count bytes since the beginning and never move back.
//
// Storage: memory up to OUTPUT_MEMORY bytes, beyond that an unnamed file used as a ring, grown in
// steps up to `max`. All outputs of a sandbox share a struct output_space; when its files are
// exhausted, the contents of the oldest ended output go first. What ended outputs hold in memory
// beyond their share goes into files as well, the oldest first, and is lost only where none can be
// had. Where the file system has no room, the ring
// stays as big as it is: that is a limit like any other, never an error.
//
// When the ring is full: with a reader that holds (OUTPUT_HOLD) nothing is overwritten that it has
// not read: output_room() becomes 0, the producer stops reading its pipe, and on_room is called
// later. Without one the oldest bytes are dropped, and output_begin() says how many. Loop thread
// only.
#ifndef EXECD_OUTPUT_H
#define EXECD_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "base/strbuf.h"

enum {
    OUTPUT_MEMORY = 64 * 1024,
    OUTPUT_STEP = 1 << 20,
    OUTPUT_MAX = 16 << 20,         // of one command
    OUTPUT_SPACE_MAX = 256 << 20,  // of the files of a sandbox
    OUTPUT_FILES_MAX = 256,        // open at once
    OUTPUT_ENDED_MEMORY = 4 << 20, // memory that ended outputs may hold together
    OUTPUT_FILE_MIN = 4096,        // less is not worth a file of an ended one
    OUTPUT_PARTS_MAX = 4096        // switches between streams that a reader may be behind
};

enum output_stream { OUTPUT_STDOUT, OUTPUT_STDERR };

struct output_space {
    const char *dir;   // for unnamed files; NULL: memory files
    struct list ended; // struct output that were ended and hold bytes, oldest first
    uint64_t file_bytes;
    uint64_t ended_memory;
    unsigned files;
};
void output_space_init(struct output_space *s);
void output_space_clear(struct output_space *s); // after all outputs

struct output {
    struct output_space *space;
    struct list node; // in space->ended
    struct list readers;
    char *memory;       // until there is a file
    size_t memory_size; // allocated
    int fd;             // -1: none
    size_t capacity;    // of the ring in fd; OUTPUT_MEMORY while in memory
    size_t max;
    bool fixed;            // cannot grow any more
    uint64_t begin, total; // offsets of what is kept
    bool over;             // output_end() was called
    bool stopped;          // output_room() was 0: on_room is owed
    // The producer's: read the pipe again, but not from inside the call. May be NULL.
    void (*on_room)(struct output *o);
};

// max: 0 for OUTPUT_MAX; more than one step is used only when needed.
void output_init(struct output *o, struct output_space *space, size_t max);
void output_clear(struct output *o); // readers must be detached; frees everything
// Bytes that an append may bring now. 0: stop the pipe until on_room.
size_t output_room(struct output *o);
// Takes all of it (more than output_room() overwrites what a holding reader has not read: do not).
// Readers' more() is called from inside.
void output_append(struct output *o, enum output_stream from, const void *data, size_t len);
// Nothing comes any more; readers are told, and the last of them may free the output.
void output_end(struct output *o);
// Copies up to size bytes from offset, which must be >= begin. Bytes, 0 at total.
size_t output_copy(const struct output *o, uint64_t offset, void *data, size_t size);

enum output_reader_flags {
    OUTPUT_HOLD = 1 << 0, // stops the producer rather than lose bytes
    OUTPUT_TAGGED =
        1 << 1 // with HOLD: learns stdout from stderr, for what comes from the attaching on
};
struct output_part {
    uint64_t end; // offset
    enum output_stream from;
};
// Embedded by its owner. Detach before the memory goes.
struct output_reader {
    struct list node;
    struct output *output;
    uint64_t cursor;
    uint64_t lost; // bytes that were dropped before this reader came to them
    unsigned flags;
    struct output_part *parts; // ring of OUTPUT_PARTS_MAX, allocated as needed
    unsigned part_first, part_count, part_size;
    void (*more)(struct output_reader *r); // bytes came, or the end; may read and may detach itself
};
// since beyond the end is clamped, so is one before begin (that counts as lost).
void output_attach(struct output *o, struct output_reader *r, uint64_t since, unsigned flags,
                   void (*more)(struct output_reader *));
// Next bytes, all of one stream (always OUTPUT_STDOUT when not tagged). 0: nothing now, and
// output_at_end() tells whether ever. May call on_room.
size_t output_next(struct output_reader *r, enum output_stream *ret_from, void *data, size_t size);
bool output_at_end(const struct output_reader *r);
void output_detach(struct output_reader *r); // fine when not attached; may call on_room

#endif
