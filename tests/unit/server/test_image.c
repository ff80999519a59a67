// The image store: import, index, references, removal, age and size; names of images.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/path.h"
#include "fmt/json.h"
#include "layout_maker.h"
#include "server/errors.h"
#include "server/runtime/oci/image/image.h"
#include "server/runtime/oci/image/reference.h"

enum { BLOCK = 512, TAR_MAX = 64 * 1024 };

// ---- tar, as little as needed ----

struct tar {
    char data[TAR_MAX];
    size_t len;
};

static void tar_add(struct tar *t, const char *name, char type, const char *text) {
    char *h = t->data + t->len;
    unsigned sum = 0;
    size_t size = strlen(text);
    memset(h, 0, BLOCK);
    (void)snprintf(h, 100, "%s", name);
    (void)snprintf(h + 100, 8, "%07o", type == '5' ? 0755U : 0644U);
    (void)snprintf(h + 108, 8, "%07o", 0U);
    (void)snprintf(h + 116, 8, "%07o", 0U);
    (void)snprintf(h + 124, 12, "%011o", (unsigned)size % 01000000U);
    (void)snprintf(h + 136, 12, "%011o", 0U);
    memset(h + 148, ' ', 8);
    h[156] = type;
    memcpy(h + 257, "ustar\00000", 8);
    for (int i = 0; i < BLOCK; i++)
        sum += (unsigned char)h[i];
    (void)snprintf(h + 148, 8, "%06o", sum);
    t->len += BLOCK;
    memset(t->data + t->len, 0, (size + BLOCK - 1) / BLOCK * BLOCK);
    memcpy(t->data + t->len, text, size);
    t->len += (size + BLOCK - 1) / BLOCK * BLOCK;
}

static void tar_end(struct tar *t) {
    memset(t->data + t->len, 0, 2 * BLOCK);
    t->len += 2 * BLOCK;
}

// ---- fixture ----

struct fixture {
    char path[32], file[48];
    int dir;
    struct oci_settings settings;
    struct image_store *store;
    struct error err;
};

static struct image_store *reopen(struct fixture *f, enum image_store_mode mode) {
    struct image_store *s = image_store_open(&f->settings, mode, &f->err);
    if (!s)
        fail_msg("%s", f->err.message);
    return s;
}

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->path, sizeof f->path, "/tmp/test-image-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    (void)snprintf(f->file, sizeof f->file, "%s/root.tar", f->path);
    f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->settings = (struct oci_settings){.state_dir = f->path,
                                        .image_max_bytes = 1 << 30,
                                        .image_max_entries = 100000,
                                        .pull_timeout_ms = 60000};
    f->store = reopen(f, IMAGE_STORE_SERVER);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    image_store_close(f->store);
    (void)close(f->dir);
    int r = path_remove_tree(AT_FDCWD, f->path, &f->err);
    free(f);
    return r;
}

// Imports a root with one file of this text; equal texts make equal images.
static void import(struct fixture *f, struct image_store *s, const char *text, const char *name,
                   struct image_info *ret) {
    static struct tar t;
    t.len = 0;
    tar_add(&t, "./", '5', "");
    tar_add(&t, "./etc/", '5', "");
    tar_add(&t, "./etc/text", '0', text);
    tar_end(&t);
    cleanup_close int fd = open(f->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_int_equal(fd_write_all(fd, t.data, t.len), 0);
    if (image_store_import(s, f->file, name, ret, &f->err))
        fail_msg("%s", f->err.message);
}

static bool ready(struct image_store *s, const char *name) {
    struct image_info info;
    const struct image_request q = {.reference = name};
    return image_store_ready(s, &q, &info);
}

static void make_old(struct fixture *f, const char *id, int days) {
    char path[256];
    time_t then = (time_t)(clock_wall_us() / 1000000) - days * 86400;
    const struct timespec times[2] = {{then, 0}, {then, 0}};
    (void)snprintf(path, sizeof path, "oci/images/%s", id);
    assert_int_equal(utimensat(f->dir, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static bool there(struct fixture *f, const char *what, const char *name) {
    char path[256];
    (void)snprintf(path, sizeof path, "oci/%s/%s", what, name);
    return !faccessat(f->dir, path, F_OK, AT_SYMLINK_NOFOLLOW);
}

// ---- tests ----

static void an_import_is_found(void **state) {
    struct fixture *f = *state;
    struct image_info info, again;
    char text[64];
    assert_false(ready(f->store, "made/x:1"));
    import(f, f->store, "hello", "made/x:1", &info);
    assert_true(ready(f->store, "made/x:1"));
    assert_true(ready(f->store, "docker.io/made/x:1"));
    assert_false(ready(f->store, "made/x:2"));
    const struct image_request q = {.reference = "made/x:1"},
                               other = {.reference = "made/x:1", .arch = "vax"},
                               always = {.reference = "made/x:1", .always_pull = true};
    assert_int_equal(image_store_ensure(f->store, &q, &again, &f->err), 0);
    assert_string_equal(again.id, info.id);
    assert_false(image_store_ready(f->store, &other, &again)); // another platform
    assert_false(image_store_ready(f->store, &always, &again));
    struct image *i = image_store_get(f->store, info.id);
    assert_non_null(i);
    (void)snprintf(text, sizeof text, "%s/oci/images/", f->path);
    assert_int_equal(strncmp(i->root, text, strlen(text)), 0);
    cleanup_close int root = open(i->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    assert_int_equal(fstatat(root, "etc/text", &st, 0), 0);
    assert_int_equal(st.st_size, 5);
    assert_string_equal(i->config.os, "linux");
    image_put(i);
    assert_null(image_store_get(f->store, "sha256-none"));
}

static void a_layout_is_imported(void **state) {
    struct fixture *f = *state;
    static struct tar t;
    struct image_info info;
    char path[48];
    t.len = 0;
    tar_add(&t, "./", '5', "");
    tar_add(&t, "./hello", '0', "text");
    tar_end(&t);
    (void)snprintf(path, sizeof path, "%s/layout", f->path);
    assert_int_equal(mkdir(path, 0755), 0);
    cleanup_close int layout = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    layout_begin(layout);
    cleanup_json json_t *manifest = layout_manifest(layout, t.data, t.len, NULL, NULL);
    layout_index(layout,
                 layout_blob_json(layout, "application/vnd.oci.image.manifest.v1+json", manifest));
    if (image_store_import(f->store, path, "made/layout:1", &info, &f->err))
        fail_msg("%s", f->err.message);
    struct image *i = image_store_get(f->store, info.id);
    assert_string_equal(i->config.user, "7");
    image_put(i);
}

static void a_reference_keeps_it(void **state) {
    struct fixture *f = *state;
    struct image_info info;
    import(f, f->store, "hello", "made/x:1", &info);
    assert_int_equal(image_store_ref(f->store, info.id, "sb-1", &f->err), 0);
    assert_int_equal(image_store_ref(f->store, info.id, "sb-1", &f->err), 0);
    assert_int_equal(image_store_ref(f->store, info.id, "sb-2", &f->err), 0);
    struct image_store *tool = reopen(f, IMAGE_STORE_TOOL);
    assert_int_equal(image_store_remove(tool, "made/x:1", &f->err), -1);
    assert_int_equal(f->err.kind, EBUSY);
    assert_non_null(strstr(f->err.message, "2 sandboxes"));
    image_store_unref(f->store, "sb-1");
    image_store_unref(f->store, "sb-1");
    image_store_unref(f->store, "sb-2");
    if (image_store_remove(tool, "made/x:1", &f->err))
        fail_msg("%s", f->err.message);
    assert_int_equal(image_store_ref(f->store, info.id, "sb-1", &f->err), -1);
    assert_string_equal(f->err.code, "OCI::IMAGE_NOT_FOUND");
    image_store_close(tool);
}

static void the_index_follows_the_command_line(void **state) {
    struct fixture *f = *state;
    struct image_info info, found;
    struct image_store *tool = reopen(f, IMAGE_STORE_TOOL);
    const struct image_request q = {.reference = "localhost:1/x:1"};
    import(f, tool, "hello", "localhost:1/x:1", &info);
    assert_false(image_store_ready(f->store, &q, &found)); // must look first
    assert_int_equal(image_store_ensure(f->store, &q, &found, &f->err), 0);
    assert_string_equal(found.id, info.id);
    assert_true(image_store_ready(f->store, &q, &found));
    struct image *held = image_store_get(f->store, info.id);
    assert_int_equal(image_store_remove(tool, info.id, &f->err), 0);
    assert_false(image_store_ready(f->store, &q, &found));
    assert_int_equal(image_store_ensure(f->store, &q, &found, &f->err), -1); // it would have to ask
    assert_string_equal(f->err.code, "SANDBOX::INVALID_PARAMETER");
    assert_string_equal(held->id, info.id); // whoever holds it may still read it
    image_put(held);
    image_store_close(tool);
}

static void one_server_a_store(void **state) {
    struct fixture *f = *state;
    assert_null(image_store_open(&f->settings, IMAGE_STORE_SERVER, &f->err));
    assert_int_equal(f->err.kind, EBUSY);
    image_store_close(f->store);
    layout_write(f->dir, "oci/version", "2\n");
    f->store = image_store_open(&f->settings, IMAGE_STORE_SERVER, &f->err);
    assert_null(f->store);
    assert_non_null(strstr(f->err.message, "another version"));
}

static void opening_sweeps(void **state) {
    struct fixture *f = *state;
    struct image_info info;
    import(f, f->store, "hello", "made/x:1", &info);
    assert_int_equal(image_store_ref(f->store, info.id, "alive", &f->err), 0);
    assert_int_equal(image_store_ref(f->store, info.id, "dead", &f->err), 0);
    assert_int_equal(image_store_ref(f->store, info.id, "snapshot", &f->err), 0);
    image_store_close(f->store);
    assert_int_equal(mkdirat(f->dir, "oci/sandboxes", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/sandboxes/alive", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/layers", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/layers/snapshot", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/images/.tmp-dead", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/images/.tmp-dead/rootfs", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/images/.tmp-busy", 0700), 0);
    assert_int_equal(mkdirat(f->dir, "oci/images/sha256-half", 0700), 0); // no record in it
    cleanup_close int busy =
        openat(f->dir, "oci/images/.tmp-busy", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(busy, LOCK_EX), 0);
    f->store = reopen(f, IMAGE_STORE_SERVER);
    assert_false(there(f, "images", ".tmp-dead"));
    assert_false(there(f, "images", "sha256-half"));
    assert_true(there(f, "images", ".tmp-busy"));
    assert_true(there(f, "image-refs", "alive"));
    assert_false(there(f, "image-refs", "dead"));
    assert_true(there(f, "image-refs", "snapshot"));
    assert_true(ready(f->store, "made/x:1"));
    assert_null(image_store_get(f->store, "sha256-half"));
}

// As if the machine had been started again since: another boot id in the record.
static void restart_machine(struct fixture *f, const char *id) {
    char path[256];
    struct strbuf sb;
    strbuf_init(&sb, 65536);
    (void)snprintf(path, sizeof path, "oci/images/%s/image.json", id);
    assert_int_equal(fd_read_file(f->dir, path, &sb, &f->err), 0);
    cleanup_json json_t *j = json_parse(sb.data, sb.len, NULL, &f->err);
    assert_non_null(json_object_get(j, "boot"));
    json_object_set_new(j, "boot", json_string("another"));
    layout_write_json(f->dir, path, j);
    strbuf_free(&sb);
}

static void power_loss_is_noticed(void **state) {
    struct fixture *f = *state;
    struct image_info good, bad;
    char path[256];
    import(f, f->store, "good", "made/good:1", &good);
    import(f, f->store, "bad", "made/bad:1", &bad);
    image_store_close(f->store);
    restart_machine(f, good.id);
    restart_machine(f, bad.id);
    (void)snprintf(path, sizeof path, "oci/images/%s/rootfs/etc/text", bad.id);
    layout_write(f->dir, path, ""); // what a lost delayed allocation looks like
    f->store = reopen(f, IMAGE_STORE_SERVER);
    assert_true(ready(f->store, "made/good:1"));
    assert_false(ready(f->store, "made/bad:1"));
    assert_false(there(f, "images", bad.id));
    image_store_close(f->store);
    f->store = reopen(f, IMAGE_STORE_SERVER); // confirmed: not counted again
    assert_true(ready(f->store, "made/good:1"));
}

static void names_go_one_by_one(void **state) {
    struct fixture *f = *state;
    struct image_info info, same;
    struct image_listing *items;
    size_t count;
    import(f, f->store, "hello", "made/x:1", &info);
    import(f, f->store, "hello", "made/y", &same);
    assert_string_equal(same.id, info.id);
    assert_int_equal(image_store_list(f->store, &items, &count, &f->err), 0);
    assert_int_equal(count, 1);
    assert_non_null(strstr(items[0].names, "docker.io/made/x:1"));
    assert_non_null(strstr(items[0].names, "docker.io/made/y:latest"));
    image_listing_free(items, count);
    assert_int_equal(image_store_remove(f->store, "made/x:1", &f->err), 0);
    assert_false(ready(f->store, "made/x:1"));
    assert_true(ready(f->store, "made/y"));
    assert_int_equal(image_store_remove(f->store, "made/x:1", &f->err), -1);
    assert_int_equal(image_store_remove(f->store, "sha256-00000000", &f->err), -1);
    char prefix[16];
    (void)snprintf(prefix, sizeof prefix, "%.8s", info.id + 7);
    assert_int_equal(image_store_remove(f->store, prefix, &f->err), 0);
    assert_false(there(f, "images", info.id));
    assert_int_equal(image_store_list(f->store, &items, &count, &f->err), 0);
    assert_int_equal(count, 0);
    image_listing_free(items, count);
}

static void age_and_size(void **state) {
    struct fixture *f = *state;
    struct image_info used, old, fresh, recent;
    import(f, f->store, "used", "made/used:1", &used);
    import(f, f->store, "old", "made/old:1", &old);
    import(f, f->store, "recent", "made/recent:1", &recent);
    assert_int_equal(image_store_ref(f->store, used.id, "sb", &f->err), 0);
    make_old(f, used.id, 50);
    make_old(f, old.id, 40);
    make_old(f, recent.id, 10);
    assert_int_equal(image_store_prune(f->store, &f->err), 0);
    assert_true(there(f, "images", old.id)); // no limits
    f->settings.image_max_age_days = 30;
    import(f, f->store, "fresh", "made/fresh:1", &fresh);
    assert_true(there(f, "images", used.id));
    assert_false(there(f, "images", old.id));
    assert_true(there(f, "images", recent.id));
    f->settings.image_max_age_days = 0;
    f->settings.image_store_max_bytes = 1;
    assert_int_equal(image_store_prune(f->store, &f->err), 0);
    assert_true(there(f, "images", used.id));
    assert_false(there(f, "images", recent.id));
    assert_true(there(f, "images", fresh.id)); // its sandbox may be on its way
    assert_false(ready(f->store, "made/old:1"));
    assert_true(ready(f->store, "made/fresh:1"));
}

static void failed_imports_leave_nothing(void **state) {
    struct fixture *f = *state;
    struct image_info info;
    layout_write(f->dir, "root.tar", "this is no tarball, whatever its name says");
    assert_int_equal(image_store_import(f->store, f->file, "made/x:1", &info, &f->err), -1);
    assert_string_equal(f->err.code, "OCI::IMAGE_INVALID");
    assert_int_equal(image_store_import(f->store, f->path, "made/x:1", &info, &f->err), -1);
    assert_non_null(strstr(f->err.message, "oci-layout"));
    assert_int_equal(image_store_import(f->store, "/nowhere", "made/x:1", &info, &f->err), -1);
    assert_int_equal(f->err.kind, ENOENT);
    struct stat st;
    assert_int_equal(fstatat(f->dir, "oci/images", &st, 0), 0);
    assert_int_equal(st.st_nlink, 2);
}

// ---- references ----

static void references_are_read(void **state) {
    (void)state;
    static const char hash[] =
        "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static const struct {
        const char *text, *canonical;
    } rows[] = {{"alpine", "docker.io/library/alpine:latest"},
                {"alpine:3.20", "docker.io/library/alpine:3.20"},
                {"opensandbox/base:bookworm", "docker.io/opensandbox/base:bookworm"},
                {"index.docker.io/a/b", "docker.io/a/b:latest"},
                {"ghcr.io/a/b/c:T_1.x-y", "ghcr.io/a/b/c:T_1.x-y"},
                {"localhost/a", "localhost/a:latest"},
                {"localhost:5000/a", "localhost:5000/a:latest"},
                {"127.0.0.1:5000/a__b/c-d--e.f:1", "127.0.0.1:5000/a__b/c-d--e.f:1"},
                {"[::1]:5000/a", "[::1]:5000/a:latest"},
                {"UPPER/a", "UPPER/a:latest"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct reference r;
        struct error err;
        if (reference_parse(rows[i].text, &r, &err))
            fail_msg("%s: %s", rows[i].text, err.message);
        assert_string_equal(r.text, rows[i].canonical);
    }
    char text[256], canonical[256];
    struct reference r;
    struct error err;
    (void)snprintf(text, sizeof text, "a.b/c:tag@%s", hash); // the tag goes: skopeo refuses both
    (void)snprintf(canonical, sizeof canonical, "a.b/c@%s", hash);
    assert_int_equal(reference_parse(text, &r, &err), 0);
    assert_string_equal(r.text, canonical);
}

static void references_that_are_none(void **state) {
    (void)state;
    static const char *const rows[] = {
        "",        "a:",           ":a",     "a b",         "-a",       "a//b", "/a",
        "a/",      "../a",         "a/../b", "a@sha256:12", "a@md5:aa", "A",    "a:-b",
        "a.b:x/c", "a.b:123456/c", "[::1/c", "a;b",         "a$b",      "--x",  "a.b/C",
        "a/b_",    "a...b",        "a___b",  "\xc3\xa4"};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct reference r;
        struct error err = {0};
        if (!reference_parse(rows[i], &r, &err))
            fail_msg("\"%s\" became %s", rows[i], r.text);
        assert_string_equal(err.code, "OCI::IMAGE_NOT_FOUND");
        assert_int_equal(err.status, 400);
    }
    char text[1024];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    struct reference r;
    struct error err;
    assert_int_equal(reference_parse(text, &r, &err), -1);
}

static void who_may_be_asked(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool open;
    } rows[] = {{"8.8.8.8/a", true},
                {"[2606:4700::1]/a", true},
                {"127.0.0.1/a", false},
                {"10.0.0.1/a", false},
                {"172.31.0.1/a", false},
                {"172.32.0.1/a", true},
                {"192.168.0.1/a", false},
                {"169.254.169.254/a", false},
                {"100.64.0.1/a", false},
                {"0.0.0.0/a", false},
                {"224.0.0.1/a", false},
                {"255.255.255.255/a", false},
                {"[::1]:1/a", false},
                {"[::]:1/a", false},
                {"[fe80::1]:1/a", false},
                {"[fc00::1]:1/a", false},
                {"[::ffff:7f00:1]/a", false},
                {"[64:ff9b::a00:1]/a", false},
                {"[64:ff9b::808:808]/a", true},
                {"[2002:7f00:1::]/a", false},
                {"[ff02::1]/a", false}};
    const struct oci_settings none = {.state_dir = "/"};
    static const char *const hosts[] = {"127.0.0.1", "[::1]:1", NULL};
    const struct oci_settings some = {.registries = hosts};
    struct reference r;
    struct error err;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (reference_parse(rows[i].text, &r, &err))
            fail_msg("%s", err.message);
        if (!reference_allowed(&r, &none, &err) != rows[i].open)
            fail_msg("%s", rows[i].text);
    }
    assert_int_equal(reference_parse("127.0.0.1:5000/a", &r, &err), 0); // the host, any port
    assert_int_equal(reference_allowed(&r, &some, &err), 0);
    assert_int_equal(reference_parse("[::1]:2/a", &r, &err), 0);
    assert_int_equal(reference_allowed(&r, &some, &err), -1);
    assert_string_equal(err.code, "SANDBOX::INVALID_PARAMETER");
}

int main(void) {
    json_init();
    error_set_prefix("OCI");
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(an_import_is_found),
        TEST(a_layout_is_imported),
        TEST(a_reference_keeps_it),
        TEST(the_index_follows_the_command_line),
        TEST(one_server_a_store),
        TEST(opening_sweeps),
        TEST(power_loss_is_noticed),
        TEST(names_go_one_by_one),
        TEST(age_and_size),
        TEST(failed_imports_leave_nothing),
        cmocka_unit_test(references_are_read),
        cmocka_unit_test(references_that_are_none),
        cmocka_unit_test(who_may_be_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
