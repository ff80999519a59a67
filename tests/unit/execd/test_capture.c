// What a child writes on its way into an output, over pipes that the test writes to.
#include "../io/io_test.h"

#include "execd/capture.h"
#include "execd/handlers.h"

struct scene {
    struct execd e;
    struct capture c;
    struct output_reader reader;
    int out, errors; // the child's ends
    unsigned drained;
    char text[64 * 1024];
    size_t len;
};

static struct scene *of(struct capture *c) {
    return CONTAINER_OF(c, struct scene, c);
}

static void on_drained(struct capture *c) {
    of(c)->drained++;
    output_end(&c->output);
}

static void read_all(struct output_reader *r) {
    struct scene *s = CONTAINER_OF(r, struct scene, reader);
    enum output_stream from;
    s->len += output_next(r, &from, s->text + s->len, sizeof s->text - s->len);
}

static void read_nothing(struct output_reader *r) {
    (void)r;
}

static int begin(void **state) {
    struct error err;
    struct scene *s = calloc(1, sizeof *s);
    int out[2], errors[2];
    (void)signal(SIGPIPE, SIG_IGN);
    (void)alarm(60);
    if (!s || loop_init(&s->e.loop, &err) < 0 || pipe(out) || pipe(errors))
        return -1;
    (void)capture_room_start(&s->e, &err);
    output_space_init(&s->e.outputs);
    s->e.scratch = malloc(EXECD_SCRATCH);
    s->out = out[1];
    s->errors = errors[1];
    capture_init(&s->c, &s->e, 1000);
    *state = s;
    return capture_start(&s->c, out[0], errors[0], 0, on_drained);
}

static int end(void **state) {
    struct scene *s = *state;
    output_detach(&s->reader);
    capture_clear(&s->c);
    capture_room_stop(&s->e);
    output_space_clear(&s->e.outputs);
    if (s->out >= 0)
        (void)close(s->out);
    if (s->errors >= 0)
        (void)close(s->errors);
    int r = loop_close(&s->e.loop);
    free(s->e.scratch);
    free(s);
    (void)alarm(0);
    return r;
}

static void say(int fd, const char *text) {
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void to_the_end(void **state) {
    struct scene *s = *state;
    output_attach(&s->c.output, &s->reader, 0, OUTPUT_HOLD, read_all);
    say(s->out, "one ");
    UNTIL(&s->e.loop, s->len == 4);
    say(s->out, "two");
    (void)close(s->out);
    (void)close(s->errors);
    s->out = s->errors = -1;
    UNTIL(&s->e.loop, s->len == 7);
    assert_int_equal(s->drained, 0); // it may still live
    capture_exited(&s->c);
    UNTIL(&s->e.loop, s->drained == 1);
    assert_memory_equal(s->text, "one two", 7);
}

// Who else holds the pipe, and goes on writing, is neither waited for nor killed by its pipe; what
// it writes is nobody's.
static void left_behind(void **state) {
    struct scene *s = *state;
    output_attach(&s->c.output, &s->reader, 0, OUTPUT_HOLD, read_all);
    say(s->out, "last words");
    say(s->errors, "!");
    capture_exited(&s->c);
    say(s->out, "too late");
    UNTIL(&s->e.loop, s->drained == 1);
    assert_int_equal(s->len, 11);
    say(s->out, "x");
    assert_false(list_empty(&s->e.leftovers));
    (void)close(s->out);
    (void)close(s->errors);
    s->out = s->errors = -1;
    UNTIL(&s->e.loop, list_empty(&s->e.leftovers));
    assert_int_equal(s->len, 11);
}

// A reader that holds stops the pipe; nothing is lost when it goes on, also after the exit.
static void slow_reader(void **state) {
    struct scene *s = *state;
    char block[5000];
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)('a' + i % 26);
    output_attach(&s->c.output, &s->reader, 0, OUTPUT_HOLD, read_nothing);
    assert_int_equal(write(s->out, block, sizeof block), sizeof block);
    UNTIL(&s->e.loop, s->c.output.total == 1000);
    capture_exited(&s->c);
    for (int i = 0; i < 10; i++)
        loop_step(&s->e.loop);
    assert_int_equal(s->drained, 0);
    s->reader.more = read_all;
    read_all(&s->reader);
    UNTIL(&s->e.loop, s->drained == 1 && output_at_end(&s->reader));
    assert_int_equal(s->len, sizeof block);
    assert_memory_equal(s->text, block, sizeof block);
}

static void nobody_reads(void **state) {
    struct scene *s = *state;
    char block[5000] = "";
    assert_int_equal(write(s->out, block, sizeof block), sizeof block);
    UNTIL(&s->e.loop, s->c.output.total == sizeof block);
    assert_int_equal(s->c.output.total - s->c.output.begin, 1000); // the newest
    capture_discard(&s->c);
    loop_step(&s->e.loop);
    say(s->out, "nobody wants it");
    capture_exited(&s->c);
    UNTIL(&s->e.loop, s->drained == 1);
    assert_int_equal(s->c.output.total, sizeof block);
}

// A terminal is over when, after the exit, nothing is there; then another start is fine.
static void terminal_and_again(void **state) {
    struct scene *s = *state;
    for (int i = 0; i < 2; i++) {
        int ends[2];
        capture_stop(&s->c);
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(capture_start(&s->c, ends[0], -1, CAPTURE_TERMINAL, on_drained), 0);
        say(ends[1], "after");
        capture_exited(&s->c);
        say(ends[1], "!"); // was on its way
        s->c.output.over = false;
        UNTIL(&s->e.loop, s->drained == (unsigned)i + 1);
        assert_int_equal(s->c.output.total, 6 * (i + 1));
        (void)close(ends[1]);
    }
}

#define CAPTURE_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {CAPTURE_TEST(to_the_end), CAPTURE_TEST(left_behind),
                                       CAPTURE_TEST(slow_reader), CAPTURE_TEST(nobody_reads),
                                       CAPTURE_TEST(terminal_and_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
