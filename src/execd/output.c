#include "execd/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/random.h"

enum { MEMORY_FIRST = 256, ROOM_ENOUGH = 64 * 1024 };

// ---- storage: a ring of `capacity` bytes, in memory or in a file ----

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static void forget_ended(struct output *o) {
    if (!o->node.next)
        return;
    list_remove(&o->node);
    o->space->ended_memory -= o->memory_size;
}

static void release(struct output *o) {
    forget_ended(o);
    if (o->fd >= 0) {
        (void)close(o->fd); // unnamed: nothing to flush for
        o->space->files--;
        o->space->file_bytes -= o->capacity;
    }
    free(o->memory);
    o->memory = NULL;
    o->memory_size = 0;
    o->fd = -1;
    o->capacity = min_size(OUTPUT_MEMORY, o->max);
    o->begin = o->total;
}

enum place { IN_MEMORY, IN_FILE };

// Gives up the contents of the oldest ended output of that place which nobody is reading; false
// when there is none that is older than `than`.
static bool drop_oldest(struct output_space *s, enum place place, const struct output *than) {
    LIST_EACH(&s->ended, node) {
        struct output *o = LIST_ENTRY(node, struct output, node);
        if (o == than)
            return false;
        if (list_empty(&o->readers) && (place == IN_FILE) == (o->fd >= 0)) {
            release(o);
            return true;
        }
    }
    return false;
}

// An unnamed file in our own directory, else one in memory.
static int open_file(const char *dir) {
    char path[512], id[17];
    struct stat st;
    if (dir && (!mkdir(dir, 0700) || errno == EEXIST) && !lstat(dir, &st) && S_ISDIR(st.st_mode) &&
        st.st_uid == geteuid() && !(st.st_mode & 077)) {
        int fd = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0)
            return fd;
        random_hex(id, 16);
        (void)snprintf(path, sizeof path, "%s/%s", dir, id);
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0) {
            (void)unlink(path); // a name that stays is one empty entry in a private directory
            return fd;
        }
    }
    return memfd_create("output", MFD_CLOEXEC);
}

static void write_ring(struct output *o, uint64_t offset, const char *data, size_t len) {
    while (len) {
        size_t at = offset % o->capacity, n = min_size(o->capacity - at, len);
        if (o->fd < 0) {
            memcpy(o->memory + at, data, n);
        } else {
            ssize_t done = pwrite(o->fd, data, n, (off_t)at);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0) { // space was reserved, so this is a failing disk: what it held is lost
                o->begin = o->total;
                return;
            }
            n = (size_t)done;
        }
        offset += n;
        data += n;
        len -= n;
    }
}

// Reserves `size` bytes in all in the file; false: it stays as big as it is.
static bool reserve(struct output *o, int fd, size_t size) {
    struct output_space *s = o->space;
    size_t more = size - (o->fd < 0 ? 0 : o->capacity);
    while (s->file_bytes + more > OUTPUT_SPACE_MAX)
        if (!drop_oldest(s, IN_FILE, o))
            return false;
    if (fallocate(fd, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
        o->fixed = true;
        return false;
    }
    s->file_bytes += more;
    return true;
}

// False: it stays in memory.
static bool move_to_file(struct output *o) {
    struct output_space *s = o->space;
    size_t kept = min_size((size_t)o->total, o->memory_size); // wrapped only at the whole capacity
    size_t size = o->over ? kept : min_size(OUTPUT_STEP, o->max);
    while (s->files >= OUTPUT_FILES_MAX)
        if (!drop_oldest(s, IN_FILE, o))
            return false;
    cleanup_close int fd = open_file(s->dir);
    if (fd < 0) {
        o->fixed = true;
        return false;
    }
    if (!reserve(o, fd, size))
        return false;
    o->fd = TAKE_FD(fd);
    o->capacity = size;
    s->files++;
    write_ring(o, 0, o->memory, kept);
    if (o->over)
        s->ended_memory -= o->memory_size;
    free(o->memory);
    o->memory = NULL;
    o->memory_size = 0;
    return true;
}

static struct output *oldest_for_a_file(const struct output_space *s) {
    LIST_EACH(&s->ended, node) {
        struct output *o = LIST_ENTRY(node, struct output, node);
        if (o->memory_size >= OUTPUT_FILE_MIN)
            return o;
    }
    return NULL;
}

// A file frees memory and loses nothing; only where none can be had something has to go.
static void bound_memory(struct output_space *s) {
    struct output *o;
    while (s->ended_memory > OUTPUT_ENDED_MEMORY && (o = oldest_for_a_file(s)) && move_to_file(o))
        ;
    while (s->ended_memory > OUTPUT_ENDED_MEMORY && drop_oldest(s, IN_MEMORY, NULL))
        ;
}

// Memory for `len` more bytes of a ring that is not full yet.
static bool grow_memory(struct output *o, size_t len) {
    size_t need = min_size((size_t)(o->total + len), o->capacity), size = o->memory_size;
    if (size >= need)
        return true;
    for (size = size ? size : MEMORY_FIRST; size < need;)
        size *= 2;
    char *memory = realloc(o->memory, min_size(size, o->capacity));
    if (!memory)
        return false;
    o->memory = memory;
    o->memory_size = min_size(size, o->capacity);
    return true;
}

// Makes the ring hold `len` more bytes beside all that it has, if it may. Only a ring that never
// wrapped can grow, since the place of a byte is its offset modulo the capacity.
static void grow(struct output *o, size_t len) {
    while (!o->fixed && o->total + len > o->begin + o->capacity) {
        size_t before = o->capacity;
        if (o->total > o->capacity || o->capacity >= o->max) {
            o->fixed = true;
        } else if (o->fd < 0) {
            (void)move_to_file(o);
        } else if (reserve(o, o->fd, min_size(o->capacity + OUTPUT_STEP, o->max))) {
            o->capacity = min_size(o->capacity + OUTPUT_STEP, o->max);
        }
        if (o->capacity == before)
            return;
    }
}

// ---- readers ----

// What must not be overwritten: the first byte that a holding reader has not seen.
static uint64_t floor_of(const struct output *o, bool *ret_held) {
    uint64_t lowest = o->total;
    *ret_held = false;
    LIST_EACH(&o->readers, node) {
        const struct output_reader *r = LIST_ENTRY(node, struct output_reader, node);
        if (r->flags & OUTPUT_HOLD) {
            *ret_held = true;
            lowest = r->cursor < lowest ? r->cursor : lowest;
        }
    }
    return lowest;
}

static bool parts_full(const struct output *o) {
    LIST_EACH(&o->readers, node)
    if (LIST_ENTRY(node, struct output_reader, node)->part_count >= OUTPUT_PARTS_MAX)
        return true;
    return false;
}

static struct output_part *part_at(const struct output_reader *r, unsigned i) {
    return &r->parts[(r->part_first + i) % r->part_size];
}

static void grow_parts(struct output_reader *r) {
    unsigned size = r->part_size ? r->part_size * 4 : 16;
    struct output_part *parts = calloc(size, sizeof *parts);
    if (!parts)
        return;
    for (unsigned i = 0; i < r->part_count; i++)
        parts[i] = *part_at(r, i);
    free(r->parts);
    r->parts = parts;
    r->part_size = size;
    r->part_first = 0;
}

static void note_part(struct output_reader *r, enum output_stream from, uint64_t end) {
    if (r->part_count && part_at(r, r->part_count - 1)->from == from) {
        part_at(r, r->part_count - 1)->end = end;
        return;
    }
    if (r->part_count == r->part_size)
        grow_parts(r);
    if (r->part_count < r->part_size) // else no memory: output_next() takes it for stdout
        *part_at(r, r->part_count++) = (struct output_part){.end = end, .from = from};
}

// ---- the producer ----

void output_space_init(struct output_space *s) {
    *s = (struct output_space){0};
    list_init(&s->ended);
}

void output_space_clear(struct output_space *s) {
    list_init(&s->ended);
}

void output_init(struct output *o, struct output_space *space, size_t max) {
    *o = (struct output){.space = space, .fd = -1, .max = max ? max : OUTPUT_MAX};
    o->capacity = min_size(OUTPUT_MEMORY, o->max);
    list_init(&o->readers);
}

void output_clear(struct output *o) {
    release(o);
}

size_t output_room(struct output *o) {
    bool held;
    uint64_t floor = floor_of(o, &held);
    size_t room = SIZE_MAX;
    if (held) {
        if (o->total - floor > o->capacity / 2)
            grow(o, ROOM_ENOUGH);
        room = o->capacity - (size_t)(o->total - floor);
        if (parts_full(o))
            room = 0;
    }
    o->stopped = room == 0;
    return room;
}

void output_append(struct output *o, enum output_stream from, const void *data, size_t len) {
    const char *bytes = data;
    if (!len || o->over)
        return;
    uint64_t total = o->total;
    grow(o, len);
    size_t skip = len > o->capacity ? len - o->capacity : 0; // only the tail can stay
    if (o->fd < 0 && !grow_memory(o, len - skip)) {
        o->total += len;
        o->begin = o->total; // no memory: lost, and told
    } else {
        o->total = total + len;
        if (o->total - o->begin > o->capacity)
            o->begin = o->total - o->capacity;
        write_ring(o, total + skip, bytes + skip, len - skip);
    }
    LIST_EACH(&o->readers, node) {
        struct output_reader *r = LIST_ENTRY(node, struct output_reader, node);
        if (r->flags & OUTPUT_TAGGED)
            note_part(r, from, o->total);
    }
    LIST_EACH(&o->readers, node) {
        struct output_reader *r = LIST_ENTRY(node, struct output_reader, node);
        r->more(r);
    }
}

void output_end(struct output *o) {
    if (o->over)
        return;
    o->over = true;
    if (o->memory && o->total < o->memory_size) {
        char *memory = realloc(o->memory, o->total ? (size_t)o->total : 1);
        if (memory) {
            o->memory = memory;
            o->memory_size = (size_t)o->total;
        }
    }
    if (o->total > o->begin) {
        list_push_back(&o->space->ended, &o->node);
        o->space->ended_memory += o->memory_size;
        bound_memory(o->space);
    }
    const struct list *head = &o->readers; // not read again: the last reader may free the output
    for (struct list *node = o->readers.next, *next; node != head; node = next) {
        struct output_reader *r = LIST_ENTRY(node, struct output_reader, node);
        next = node->next;
        r->more(r);
    }
}

size_t output_copy(const struct output *o, uint64_t offset, void *data, size_t size) {
    size_t left = min_size((size_t)(o->total - offset), size), copied = 0;
    while (copied < left) {
        size_t at = (offset + copied) % o->capacity, n = min_size(o->capacity - at, left - copied);
        if (o->fd < 0) {
            memcpy((char *)data + copied, o->memory + at, n);
        } else {
            ssize_t done = pread(o->fd, (char *)data + copied, n, (off_t)at);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0) { // a failing disk: its bytes are unknown, their number is not
                memset((char *)data + copied, 0, n);
                done = (ssize_t)n;
            }
            n = (size_t)done;
        }
        copied += n;
    }
    return copied;
}

// ---- reading ----

static void tell_room(struct output *o) {
    if (!o->stopped)
        return;
    size_t room = output_room(o), enough = min_size(ROOM_ENOUGH, o->capacity / 2);
    if (room < enough && room != SIZE_MAX) {
        o->stopped = true;
        return;
    }
    o->stopped = false;
    if (o->on_room)
        o->on_room(o);
}

void output_attach(struct output *o, struct output_reader *r, uint64_t since, unsigned flags,
                   void (*more)(struct output_reader *)) {
    *r = (struct output_reader){.output = o, .cursor = since, .flags = flags, .more = more};
    if (r->cursor > o->total)
        r->cursor = o->total;
    if (flags & OUTPUT_TAGGED && r->cursor < o->total)
        note_part(r, OUTPUT_STDOUT, o->total);
    list_push_back(&o->readers, &r->node);
}

size_t output_next(struct output_reader *r, enum output_stream *ret_from, void *data, size_t size) {
    struct output *o = r->output;
    if (r->cursor < o->begin) {
        r->lost += o->begin - r->cursor;
        r->cursor = o->begin;
    }
    while (r->part_count && part_at(r, 0)->end <= r->cursor) {
        r->part_first = (r->part_first + 1) % r->part_size;
        r->part_count--;
    }
    uint64_t end = r->part_count ? part_at(r, 0)->end : o->total;
    *ret_from = r->part_count ? part_at(r, 0)->from : OUTPUT_STDOUT;
    size_t n = output_copy(o, r->cursor, data, min_size(size, (size_t)(end - r->cursor)));
    r->cursor += n;
    tell_room(o);
    return n;
}

bool output_at_end(const struct output_reader *r) {
    return r->output->over && r->cursor >= r->output->total;
}

void output_detach(struct output_reader *r) {
    if (!r->node.next)
        return;
    list_remove(&r->node);
    free(r->parts);
    r->parts = NULL;
    r->part_count = r->part_size = 0;
    tell_room(r->output);
}
