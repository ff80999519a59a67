#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/runtime/spec.h"

static struct sandbox_spec *full(void) {
    struct sandbox_spec *s = spec_new();
    s->image = strdup("python:3.12");
    s->entrypoint = calloc(3, sizeof(char *));
    s->entrypoint[0] = strdup("sh");
    s->entrypoint[1] = strdup("");
    s->entrypoint_count = 2;
    assert_int_equal(pairs_add(&s->env, "A", "1"), 0);
    assert_int_equal(pairs_add(&s->env, "B", "\xc3\xa9"), 0);
    assert_int_equal(pairs_add(&s->metadata, "team", "red"), 0);
    assert_int_equal(pairs_add(&s->extensions, "e", ""), 0);
    s->has_metadata = s->secure_access = true;
    s->timeout_s = 60;
    s->cpu_millis = 1500;
    s->memory_bytes = 1ULL << 40;
    s->pids = 7;
    s->platform_os = strdup("linux");
    s->platform_arch = strdup("arm64");
    s->volumes = calloc(2, sizeof *s->volumes);
    s->volumes[0] = (struct volume_spec){.name = strdup("v"),
                                         .mount_path = strdup("/v"),
                                         .source = strdup("/srv"),
                                         .sub_path = strdup("x"),
                                         .kind = VOLUME_HOST,
                                         .read_only = true};
    s->volumes[1] = (struct volume_spec){.name = strdup("n"),
                                         .mount_path = strdup("/n"),
                                         .source = strdup("claim"),
                                         .kind = VOLUME_NAMED};
    s->volume_count = 2;
    return s;
}

static void test_round_trip(void **state) {
    (void)state;
    struct error err = {0};
    struct sandbox_spec *s = full(), *empty = spec_new();
    char *text = spec_to_text(s), *none = spec_to_text(empty);
    struct sandbox_spec *again = spec_from_text(text, &err), *nothing = spec_from_text(none, &err);
    assert_non_null(again);
    assert_non_null(nothing);
    char *text2 = spec_to_text(again), *none2 = spec_to_text(nothing);
    assert_string_equal(text, text2);
    assert_string_equal(none, none2);
    assert_string_equal(again->volumes[1].source, "claim");
    assert_int_equal(again->volumes[1].kind, VOLUME_NAMED);
    assert_true(again->volumes[0].read_only && !again->volumes[1].read_only);
    assert_int_equal(again->memory_bytes, 1ULL << 40);
    assert_null(nothing->image);
    assert_null(again->entrypoint[2]);
    char *texts[] = {text, text2, none, none2};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        free(texts[i]);
    struct sandbox_spec *specs[] = {s, again, empty, nothing};
    for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
        spec_unref(specs[i]);
    spec_unref(NULL);
}

static void test_refuses_what_it_did_not_write(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "[]",
        "{}",
        "{\"entrypoint\":1}",
        "{\"entrypoint\":[1]}",
        "{\"entrypoint\":[],\"image\":1}",
        "{\"entrypoint\":[],\"other\":1}",
        "{\"entrypoint\":[],\"timeout_s\":-1}",
        "{\"entrypoint\":[],\"timeout_s\":\"1\"}",
        "{\"entrypoint\":[],\"secure_access\":false}",
        "{\"entrypoint\":[],\"env\":{\"a\":1}}",
        "{\"entrypoint\":[],\"volumes\":[]}",
        "{\"entrypoint\":[],\"volumes\":[{\"kind\":\"tape\"}]}",
        "{\"entrypoint\":[],\"volumes\":[{\"kind\":\"host\",\"name\":\"v\"}]}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct error err = {0};
        assert_null(spec_from_text(texts[i], &err));
        assert_true(err.kind > 0);
    }
}

static void test_hash(void **state) {
    (void)state;
    uint8_t a[SHA256_SIZE], b[SHA256_SIZE];
    struct sandbox_spec *one = full(), *two = full();
    pairs_clear(&two->env); // another order is the same map
    assert_int_equal(pairs_add(&two->env, "B", "\xc3\xa9"), 0);
    assert_int_equal(pairs_add(&two->env, "A", "1"), 0);
    assert_int_equal(spec_hash(one, a) | spec_hash(two, b), 0);
    assert_memory_equal(a, b, sizeof a);
    two->pids++;
    assert_int_equal(spec_hash(two, b), 0);
    assert_memory_not_equal(a, b, sizeof a);
    spec_unref(one);
    spec_unref(two);
}

static void test_idle_entrypoint(void **state) {
    (void)state;
    struct error err = {0};
    struct sandbox_spec *idle =
        spec_from_text("{\"entrypoint\":[\"tail\",\"-f\",\"/dev/null\"]}", &err);
    struct sandbox_spec *busy =
        spec_from_text("{\"entrypoint\":[\"tail\",\"-F\",\"/dev/null\"]}", &err);
    assert_true(spec_entrypoint_idles(idle));
    assert_false(spec_entrypoint_idles(busy));
    assert_ptr_equal(spec_ref(idle), idle);
    spec_unref(idle);
    spec_unref(idle);
    spec_unref(busy);
}

static void test_pairs(void **state) {
    (void)state;
    struct error err = {0};
    struct pairs p = {0}, patch = {0};
    assert_int_equal(pairs_add(&p, "a", "1"), 0);
    assert_int_equal(pairs_add(&p, "b", "2"), 0);
    assert_int_equal(pairs_add(&p, "a", "3"), 0);
    assert_int_equal(p.count, 2);
    assert_string_equal(pairs_get(&p, "a"), "3");
    assert_null(pairs_get(&p, "c"));
    assert_int_equal(pairs_add(&patch, "a", NULL), 0);
    assert_int_equal(pairs_add(&patch, "x", NULL), 0);
    assert_int_equal(pairs_add(&patch, "b", "4"), 0);
    assert_int_equal(pairs_add(&patch, "c", "5"), 0);
    assert_int_equal(pairs_patch(&p, &patch), 0);
    char *text = pairs_to_text(&p);
    assert_string_equal(text, "{\"b\":\"4\",\"c\":\"5\"}");
    assert_int_equal(pairs_from_text(&patch, text, &err), 0);
    assert_int_equal(patch.count, 2);
    assert_int_equal(pairs_from_text(&patch, "{\"a\":null}", &err), -1);
    assert_int_equal(patch.count, 2);
    free(text);
    pairs_clear(&p);
    pairs_clear(&patch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses_what_it_did_not_write),
        cmocka_unit_test(test_hash),       cmocka_unit_test(test_idle_entrypoint),
        cmocka_unit_test(test_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
