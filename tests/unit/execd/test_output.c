// The spool: what is kept, what is dropped, who is held.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "execd/output.h"

enum { KIB = 1024, MIB = 1024 * KIB };

struct bench {
    struct output_space space;
    struct output output;
    struct output_reader reader;
    unsigned more, room;
    char dir[64];
};

static struct bench *bench_of(struct output *o) {
    return CONTAINER_OF(o, struct bench, output);
}

static void count_room(struct output *o) {
    bench_of(o)->room++;
}

static void count_more(struct output_reader *r) {
    CONTAINER_OF(r, struct bench, reader)->more++;
}

static int begin(void **state) {
    struct bench *b = calloc(1, sizeof *b);
    output_space_init(&b->space);
    (void)snprintf(b->dir, sizeof b->dir, "/tmp/osb-output-test-%d", getpid());
    b->space.dir = b->dir;
    output_init(&b->output, &b->space, 0);
    b->output.on_room = count_room;
    *state = b;
    return 0;
}

static int end(void **state) {
    struct bench *b = *state;
    output_detach(&b->reader);
    output_clear(&b->output);
    assert_int_equal(b->space.files, 0);
    assert_int_equal(b->space.file_bytes, 0);
    assert_int_equal(b->space.ended_memory, 0);
    output_space_clear(&b->space);
    (void)rmdir(b->dir);
    free(b);
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

// Bytes that tell their offset.
static void fill(char *data, size_t len, uint64_t offset) {
    for (size_t i = 0; i < len; i++)
        data[i] = (char)((offset + i) * 2654435761u >> 13);
}

static void append(struct output *o, size_t len) {
    char *data = malloc(len);
    fill(data, len, o->total);
    output_append(o, OUTPUT_STDOUT, data, len);
    free(data);
}

static void check(const struct output *o, uint64_t offset, size_t len) {
    char *want = malloc(len), *got = malloc(len);
    fill(want, len, offset);
    assert_int_equal(output_copy(o, offset, got, len), len);
    assert_memory_equal(want, got, len);
    free(want);
    free(got);
}

static void little_output_stays_in_memory(void **state) {
    struct bench *b = *state;
    append(&b->output, 10);
    append(&b->output, 60 * KIB);
    assert_int_equal(b->output.fd, -1);
    check(&b->output, 0, 60 * KIB + 10);
    check(&b->output, 7, 100);
    assert_int_equal(output_copy(&b->output, b->output.total, (char[1]){0}, 1), 0);
}

static void more_goes_to_an_unnamed_file(void **state) {
    struct bench *b = *state;
    for (int i = 0; i < 50; i++)
        append(&b->output, 50 * KIB);
    assert_true(b->output.fd >= 0);
    struct stat st;
    assert_int_equal(fstat(b->output.fd, &st), 0);
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(b->output.begin, 0);
    check(&b->output, 0, 50 * 50 * KIB);
}

static void a_directory_of_others_is_not_used(void **state) {
    struct bench *b = *state;
    assert_int_equal(mkdir(b->dir, 0777), 0);
    assert_int_equal(chmod(b->dir, 0777), 0);
    append(&b->output, 100 * KIB);
    char link[64] = "", path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", b->output.fd);
    assert_true(readlink(path, link, sizeof link - 1) > 0);
    assert_non_null(strstr(link, "memfd:"));
    check(&b->output, 0, 100 * KIB);
}

static void without_a_reader_the_oldest_is_dropped(void **state) {
    struct bench *b = *state;
    for (int i = 0; i < 20; i++)
        append(&b->output, MIB);
    assert_int_equal(b->output.total, 20 * MIB);
    assert_int_equal(b->output.begin, 4 * MIB);
    check(&b->output, 4 * MIB, 16 * MIB);
    assert_true(output_room(&b->output) > 0);
}

static void one_append_larger_than_all_keeps_its_tail(void **state) {
    struct bench *b = *state;
    append(&b->output, 40 * MIB);
    assert_int_equal(b->output.total, 40 * MIB);
    assert_int_equal(b->output.begin, 24 * MIB);
    check(&b->output, 24 * MIB, 16 * MIB);
}

static void a_holding_reader_stops_the_producer(void **state) {
    struct bench *b = *state;
    enum output_stream from;
    char data[1024];
    output_attach(&b->output, &b->reader, 0, OUTPUT_HOLD, count_more);
    size_t room;
    while ((room = output_room(&b->output)))
        append(&b->output, room < 64 * KIB ? room : 64 * KIB);
    assert_int_equal(b->output.total, 16 * MIB);
    assert_int_equal(b->output.begin, 0);
    assert_true(b->more > 0);
    assert_int_equal(output_next(&b->reader, &from, data, sizeof data), sizeof data);
    assert_int_equal(b->room, 0); // not for a crumb
    for (int i = 0; i < 100; i++)
        (void)output_next(&b->reader, &from, data, sizeof data);
    assert_int_equal(b->room, 1);
    assert_int_equal(b->reader.lost, 0);
    while (output_room(&b->output))
        append(&b->output, 1024);
    output_detach(&b->reader);
    assert_int_equal(b->room, 2);
    append(&b->output, MIB);
    assert_true(b->output.begin > 0);
}

static void a_late_reader_learns_what_it_lost(void **state) {
    struct bench *b = *state;
    enum output_stream from;
    char data[16];
    append(&b->output, 18 * MIB);
    output_attach(&b->output, &b->reader, 5, 0, count_more);
    assert_int_equal(output_next(&b->reader, &from, data, sizeof data), sizeof data);
    assert_int_equal(b->reader.lost, 2 * MIB - 5);
    check(&b->output, b->reader.cursor, 100);
}

static void streams_keep_their_order(void **state) {
    struct bench *b = *state;
    enum output_stream from;
    char data[64];
    output_attach(&b->output, &b->reader, 0, OUTPUT_HOLD | OUTPUT_TAGGED, count_more);
    output_append(&b->output, OUTPUT_STDOUT, "ab", 2);
    output_append(&b->output, OUTPUT_STDOUT, "c", 1);
    output_append(&b->output, OUTPUT_STDERR, "E", 1);
    output_append(&b->output, OUTPUT_STDOUT, "d", 1);
    output_end(&b->output);
    assert_int_equal(output_next(&b->reader, &from, data, 2), 2);
    assert_int_equal(from, OUTPUT_STDOUT);
    assert_int_equal(output_next(&b->reader, &from, data, 64), 1);
    assert_int_equal(data[0], 'c');
    assert_int_equal(output_next(&b->reader, &from, data, 64), 1);
    assert_int_equal(from, OUTPUT_STDERR);
    assert_false(output_at_end(&b->reader));
    assert_int_equal(output_next(&b->reader, &from, data, 64), 1);
    assert_int_equal(from, OUTPUT_STDOUT);
    assert_true(output_at_end(&b->reader));
    assert_int_equal(output_copy(&b->output, 0, data, 64), 5);
    assert_memory_equal(data, "abcEd", 5);
}

static void too_many_switches_stop_the_producer(void **state) {
    struct bench *b = *state;
    enum output_stream from;
    char data[64];
    unsigned n = 0;
    output_attach(&b->output, &b->reader, 0, OUTPUT_HOLD | OUTPUT_TAGGED, count_more);
    for (; output_room(&b->output); n++)
        output_append(&b->output, n % 2 ? OUTPUT_STDERR : OUTPUT_STDOUT, "x", 1);
    assert_int_equal(n, OUTPUT_PARTS_MAX);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(output_next(&b->reader, &from, data, sizeof data), 1);
        assert_int_equal(from, i % 2 ? OUTPUT_STDERR : OUTPUT_STDOUT);
    }
    assert_int_equal(b->room, 1);
}

static void the_oldest_ended_output_goes_first(void **state) {
    struct bench *b = *state;
    enum { COUNT = 20 };
    struct output many[COUNT];
    for (int i = 0; i < COUNT; i++) { // 20 x 16 MiB into 256 MiB
        output_init(&many[i], &b->space, 0);
        for (int k = 0; k < 16; k++)
            append(&many[i], MIB);
        output_end(&many[i]);
    }
    assert_int_equal(many[0].begin, many[0].total);
    assert_int_equal(many[COUNT - 1].begin, 0);
    check(&many[COUNT - 1], 0, 16 * MIB);
    assert_true(b->space.file_bytes <= OUTPUT_SPACE_MAX);
    for (int i = 0; i < COUNT; i++)
        output_clear(&many[i]);
}

static void end_one(struct bench *b, struct output *o, size_t len) {
    output_init(o, &b->space, 0);
    append(o, len);
    output_end(o);
    assert_true(b->space.ended_memory <= OUTPUT_ENDED_MEMORY);
}

static void memory_of_ended_outputs_is_bounded(void **state) {
    struct bench *b = *state;
    enum { COUNT = 100, LITTLE = 20 };
    struct output many[COUNT], little[LITTLE], big;
    end_one(b, &big, MIB);
    for (int i = 0; i < LITTLE; i++)
        end_one(b, &little[i], 100);
    for (int i = 0; i < COUNT; i++)
        end_one(b, &many[i], 60 * KIB + (size_t)i);
    check(&big, 0, MIB); // to give it up would free no memory
    for (int i = 0; i < COUNT; i++)
        check(&many[i], 0, 60 * KIB + (size_t)i);
    assert_int_equal(many[COUNT - 1].fd, -1);
    assert_int_equal(b->space.files,
                     1 + COUNT - (OUTPUT_ENDED_MEMORY - LITTLE * 100) / (60 * KIB + COUNT));
    assert_true(b->space.file_bytes < (uint64_t)(MIB + COUNT * 61 * KIB));
    for (int i = 0; i < COUNT; i++)
        output_clear(&many[i]);
    for (int i = 0; i < LITTLE; i++) {
        check(&little[i], 0, 100);
        assert_int_equal(little[i].fd, -1);
        output_clear(&little[i]);
    }
    output_clear(&big);
}

// A wrapped ring keeps its bytes at their places.
static void a_full_ring_in_memory_goes_into_a_file(void **state) {
    struct bench *b = *state;
    enum { COUNT = 70 };
    struct output many[COUNT];
    for (int i = 0; i < COUNT; i++) {
        output_init(&many[i], &b->space, 0);
        many[i].fixed = true;
        append(&many[i], 60 * KIB);
        append(&many[i], 60 * KIB + 7);
        output_end(&many[i]);
    }
    assert_true(many[0].fd >= 0);
    check(&many[0], 56 * KIB + 7, 64 * KIB);
    for (int i = 0; i < COUNT; i++)
        output_clear(&many[i]);
}

static void the_oldest_goes_where_there_are_no_more_files(void **state) {
    struct bench *b = *state;
    enum { COUNT = 400 };
    struct output many[COUNT];
    int dropped = 0;
    for (int i = 0; i < COUNT; i++)
        end_one(b, &many[i], 60 * KIB);
    for (; many[dropped].begin; dropped++)
        assert_int_equal(many[dropped].begin, many[dropped].total);
    assert_int_equal(dropped, COUNT - OUTPUT_FILES_MAX - OUTPUT_ENDED_MEMORY / (60 * KIB));
    for (int i = dropped; i < COUNT; i++)
        check(&many[i], 0, 60 * KIB);
    for (int i = 0; i < COUNT; i++)
        output_clear(&many[i]);
}

static void no_file_for_an_older_one_than_all_in_files(void **state) {
    struct bench *b = *state;
    struct output in_memory[68], in_files[OUTPUT_FILES_MAX], last;
    for (size_t i = 0; i < ARRAY_SIZE(in_memory); i++)
        end_one(b, &in_memory[i], 60 * KIB);
    for (size_t i = 0; i < ARRAY_SIZE(in_files); i++)
        end_one(b, &in_files[i], 65 * KIB);
    end_one(b, &last, 60 * KIB);
    assert_int_equal(in_memory[0].begin, 60 * KIB);
    check(&in_memory[1], 0, 60 * KIB);
    check(&in_files[0], 0, 65 * KIB);
    check(&last, 0, 60 * KIB);
    for (size_t i = 0; i < ARRAY_SIZE(in_memory); i++)
        output_clear(&in_memory[i]);
    for (size_t i = 0; i < ARRAY_SIZE(in_files); i++)
        output_clear(&in_files[i]);
    output_clear(&last);
}

static void a_full_disk_is_a_smaller_ring(void **state) {
    struct bench *b = *state;
    b->output.fixed = true; // as reserve() leaves it: nothing could be had
    for (int i = 0; i < 10; i++)
        append(&b->output, 20 * KIB);
    assert_int_equal(b->output.fd, -1);
    assert_int_equal(b->output.total - b->output.begin, 64 * KIB);
    check(&b->output, b->output.begin, 64 * KIB);
}

static void free_all(struct output_reader *r) {
    struct output *o = r->output;
    output_detach(r);
    output_clear(o);
    free(o);
}

static void the_last_reader_may_free_an_ended_output(void **state) {
    struct bench *b = *state;
    struct output *o = malloc(sizeof *o);
    struct output_reader first, second;
    output_init(o, &b->space, 0);
    output_attach(o, &first, 0, 0, output_detach);
    output_attach(o, &second, 0, 0, free_all);
    output_end(o);
}

static void a_small_ring_for_replay(void **state) {
    struct bench *b = *state;
    struct output o;
    char data[16];
    output_init(&o, &b->space, 8);
    output_append(&o, OUTPUT_STDOUT, "abcdef", 6);
    output_append(&o, OUTPUT_STDOUT, "ghij", 4);
    assert_int_equal(o.total, 10);
    assert_int_equal(o.begin, 2);
    assert_int_equal(output_copy(&o, 2, data, 16), 8);
    assert_memory_equal(data, "cdefghij", 8);
    assert_int_equal(output_copy(&o, 5, data, 16), 5);
    output_append(&o, OUTPUT_STDOUT, "0123456789abc", 13);
    assert_int_equal(output_copy(&o, o.begin, data, 16), 8);
    assert_memory_equal(data, "56789abc", 8);
    output_clear(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(little_output_stays_in_memory),
        TEST(more_goes_to_an_unnamed_file),
        TEST(a_directory_of_others_is_not_used),
        TEST(without_a_reader_the_oldest_is_dropped),
        TEST(one_append_larger_than_all_keeps_its_tail),
        TEST(a_holding_reader_stops_the_producer),
        TEST(a_late_reader_learns_what_it_lost),
        TEST(streams_keep_their_order),
        TEST(too_many_switches_stop_the_producer),
        TEST(the_oldest_ended_output_goes_first),
        TEST(memory_of_ended_outputs_is_bounded),
        TEST(a_full_ring_in_memory_goes_into_a_file),
        TEST(the_oldest_goes_where_there_are_no_more_files),
        TEST(no_file_for_an_older_one_than_all_in_files),
        TEST(a_full_disk_is_a_smaller_ring),
        TEST(the_last_reader_may_free_an_ended_output),
        TEST(a_small_ring_for_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
