// The store on a real file: what is durable, what is refused, who may read it.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/cleanup.h"
#include "fake_runtime.h"

struct put {
    struct change change;
    unsigned times;
    struct error error;
};

static void done(struct change *c, const struct error *err) {
    struct put *p = CONTAINER_OF(c, struct put, change);
    p->times++;
    p->error = err ? *err : (struct error){0};
    change_clear(c);
}

static void put(struct world *w, struct put *p, const char *id, const char *state) {
    *p = (struct put){.change = {.done = done}};
    struct sandbox_record *r = &change_put(&p->change, STORE_SANDBOXES)->sandbox;
    *r = (struct sandbox_record){.state = strdup(state),
                                 .spec = strdup("{}"),
                                 .metadata = strdup("{}"),
                                 .runtime = strdup("fake"),
                                 .created_us = 1,
                                 .expires_us = INT64_MAX};
    (void)snprintf(r->id, sizeof r->id, "%s", id);
    assert_int_equal(store_commit(w->store, &p->change), 0);
}

static void test_round_trip(void **state) {
    (void)state;
    struct world w;
    struct put a, b, gone;
    uint8_t key[STORE_KEY_SIZE];
    char instance[16];
    world_begin(&w);
    memcpy(key, store_key(w.store), sizeof key);
    (void)snprintf(instance, sizeof instance, "%s", store_instance(w.store));
    assert_int_equal(strlen(instance), 8);
    put(&w, &a, "a", "Pending");
    put(&w, &b, "b", "Pending");
    UNTIL(&w, a.times && b.times);
    put(&w, &a, "a", "Running");
    gone = (struct put){.change = {.done = done}};
    (void)snprintf(change_remove(&gone.change, STORE_SANDBOXES)->sandbox.id, UUID_TEXT_SIZE, "b");
    assert_int_equal(store_commit(w.store, &gone.change), 0);
    store_close(w.store); // commits what is queued and tells
    assert_int_equal(a.times + gone.times, 2);
    assert_int_equal(a.error.kind + gone.error.kind, 0);
    world_reopen(&w);
    assert_int_equal(stored_rows(&w), 1);
    assert_string_equal(stored_state(&w, "a"), "Running");
    assert_memory_equal(store_key(w.store), key, sizeof key);
    assert_string_equal(store_instance(w.store), instance);
    world_close(&w);
}

// A row of every table, two in one change; an old store (version 1) has been migrated on the way.
static int keep(const union store_record *r, void *arg) {
    union store_record *to = arg;
    to->snapshot = r->snapshot;
    to->snapshot.name = strdup(r->snapshot.name);
    return 0;
}

static int one(const union store_record *r, void *arg) {
    (void)r;
    ++*(int *)arg;
    return 0;
}

static void test_other_tables(void **state) {
    (void)state;
    struct world w;
    struct put p = {.change = {.done = done}}, q = {.change = {.done = done}};
    struct error err = {0};
    union store_record kept = {0};
    int keys = 0, pools = 0;
    world_begin(&w);
    struct snapshot_record *s = &change_put(&p.change, STORE_SNAPSHOTS)->snapshot;
    *s = (struct snapshot_record){.id = "s",
                                  .source_id = strdup("a"),
                                  .name = strdup("first"),
                                  .state = strdup("Ready"),
                                  .spec = strdup("{}")};
    change_put(&p.change, STORE_POOLS)->pool =
        (struct pool_record){.name = strdup("p"), .spec = strdup("{}"), .capacity = strdup("{}")};
    change_put(&q.change, STORE_KEYS)->key =
        (struct key_record){.key = strdup("k"), .body = strdup("b"), .sandbox_id = strdup("a")};
    change_remove(&q.change, STORE_POOLS)->pool.name = strdup("none");
    assert_int_equal(store_commit(w.store, &p.change), 0);
    assert_int_equal(store_commit(w.store, &q.change), 0);
    UNTIL(&w, p.times && q.times);
    assert_int_equal(p.error.kind + q.error.kind, 0);
    assert_int_equal(store_load(w.store, STORE_SNAPSHOTS, keep, &kept, &err), 0);
    assert_string_equal(kept.snapshot.name, "first");
    free(kept.snapshot.name);
    assert_int_equal(store_load(w.store, STORE_KEYS, one, &keys, &err), 0);
    assert_int_equal(store_load(w.store, STORE_POOLS, one, &pools, &err), 0);
    assert_int_equal(keys, 1);
    assert_int_equal(pools, 1);
    world_close(&w);
}

static void test_modes_whatever_the_umask(void **state) {
    (void)state;
    static const char *const names[] = {"", "-wal", "-shm", ".lock"};
    struct world w;
    struct stat st;
    struct put a;
    mode_t old = umask(0);
    world_begin(&w);
    put(&w, &a, "a", "Pending");
    UNTIL(&w, a.times);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s%s", w.path, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
    }
    *strrchr(w.path, '/') = '\0';
    assert_int_equal(stat(w.path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    (void)umask(old);
    world_close(&w);
}

static void test_one_server_per_store(void **state) {
    (void)state;
    struct world w;
    struct error err = {0};
    world_begin(&w);
    const struct store_settings s = {.path = w.path, .queue_max = 1};
    assert_null(store_open(&w.loop, &s, &err));
    assert_non_null(strstr(err.message, "in use by another"));
    world_close(&w);
}

static void test_newer_schema_is_refused(void **state) {
    (void)state;
    struct world w;
    sqlite3 *db;
    struct error err = {0};
    world_begin(&w);
    store_close(w.store);
    w.store = NULL;
    assert_int_equal(sqlite3_open(w.path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=77", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    const struct store_settings s = {.path = w.path, .queue_max = 1};
    assert_null(store_open(&w.loop, &s, &err));
    assert_non_null(strstr(err.message, "version 77"));
    assert_non_null(strstr(err.message, "knows 2"));
    world_close(&w);
}

static void test_bad_paths(void **state) {
    (void)state;
    struct world w;
    struct error err = {0};
    world_begin(&w);
    struct store_settings s = {.path = "relative.db", .queue_max = 1};
    assert_null(store_open(&w.loop, &s, &err));
    s.path = "/proc/none/x.db";
    assert_null(store_open(&w.loop, &s, &err));
    assert_true(err.kind > 0);
    world_close(&w);
}

static void test_full_disk_and_bad_row(void **state) {
    (void)state;
    struct world w;
    struct put a, bad, good;
    world_begin(&w);
    disk_full(true);
    put(&w, &a, "a", "Pending");
    UNTIL(&w, a.times);
    disk_full(false);
    assert_true(a.error.kind > 0);
    assert_int_equal(stored_rows(&w), 0);
    put(&w, &a, "a", "Pending"); // it recovers
    put(&w, &bad, "bad", "Pending");
    UNTIL(&w, a.times && bad.times);
    assert_int_equal(a.error.kind, 0);
    bad = (struct put){.change = {.done = done}};
    (void)change_put(&bad.change, STORE_SANDBOXES); // state is NULL
    assert_int_equal(store_commit(w.store, &bad.change), 0);
    put(&w, &good, "good", "Running"); // likely in the same transaction: not hurt by it
    UNTIL(&w, bad.times && good.times);
    assert_true(bad.error.kind > 0);
    assert_int_equal(good.error.kind, 0);
    assert_string_equal(stored_state(&w, "good"), "Running");
    world_close(&w);
}

static void test_full_queue(void **state) {
    (void)state;
    struct world w;
    struct error err = {0};
    struct put refused = {.change = {.done = done}};
    world_begin(&w);
    store_close(w.store);
    const struct store_settings s = {.path = w.path, .queue_max = 0};
    w.store = store_open(&w.loop, &s, &err);
    assert_non_null(w.store);
    assert_int_equal(store_commit(w.store, &refused.change), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(refused.times, 0);
    world_close(&w);
}

// Commits until it dies; says after each what was acknowledged.
static void child(const char *path, const char *when, int fd) {
    struct loop l;
    struct error err = {0};
    const struct store_settings s = {.path = path, .queue_max = 10};
    struct world w = {0};
    (void)setenv("OPENSANDBOX_CRASH_AT_COMMIT", when, 1);
    if (loop_init(&l, &err) < 0 || !(w.store = store_open(&l, &s, &err)))
        _exit(1);
    for (int i = 0; i < 10; i++) {
        struct put p;
        char id[16];
        (void)snprintf(id, sizeof id, "%d", i);
        put(&w, &p, id, "Pending");
        while (!p.times)
            (void)uv_run(&l.uv, UV_RUN_ONCE);
        if (write(fd, "x", 1) != 1)
            _exit(1);
    }
    _exit(0);
}

static void test_killed_at_a_commit(void **state) {
    (void)state;
    static const struct {
        const char *when;
        int acknowledged, rows;
    } cases[] = {{"3", 2, 3}, {"3-", 2, 2}, {"1-", 0, 0}, {"99", 10, 10}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world w;
        int pipes[2], status;
        char told[32];
        world_begin(&w);
        store_close(w.store);
        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0)
            child(w.path, cases[i].when, pipes[1]);
        (void)close(pipes[1]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(WIFSIGNALED(status), cases[i].rows < 10);
        assert_int_equal(read(pipes[0], told, sizeof told), cases[i].acknowledged);
        (void)close(pipes[0]);
        world_reopen(&w);
        assert_int_equal(stored_rows(&w), cases[i].rows);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_other_tables),
        cmocka_unit_test(test_modes_whatever_the_umask),
        cmocka_unit_test(test_one_server_per_store),
        cmocka_unit_test(test_newer_schema_is_refused),
        cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_full_disk_and_bad_row),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_killed_at_a_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
