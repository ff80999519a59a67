#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/path.h"
#include "server/store/internal.h"
#include "server/store/reference.h"

enum { BATCH_MAX = 512 }; // changes in one transaction

struct store {
    struct loop *loop;
    sqlite3 *db;
    struct record_statements statements;
    int lock_fd;
    uint8_t key[STORE_KEY_SIZE];
    char instance[STORE_INSTANCE_SIZE];
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t work;
    struct list queue;
    size_t waiting;
    bool ending;
    // loop thread
    size_t queue_max;
    size_t undelivered; // changes whose done() was not called yet
    uint64_t commits;   // atomic
};

// ---- the moments at which crash-check kills the server ----
// OPENSANDBOX_CRASH_AT_COMMIT=N kills the process when its N-th commit is durable and nobody was
// told; "N-" just before that commit. Compiled in with -Dfailpoints=true only.
#if FAILPOINTS
static void failpoint(uint64_t commit, bool before) {
    const char *text = getenv("OPENSANDBOX_CRASH_AT_COMMIT");
    size_t len = text ? strlen(text) : 0;
    bool wants_before = len && text[len - 1] == '-';
    uint64_t wanted;
    if (!len || wants_before != before ||
        parse_u64n(text, len - wants_before, 1, UINT64_MAX, &wanted) < 0 || wanted != commit)
        return;
    (void)raise(SIGKILL);
    _exit(137);
}
#else
static void failpoint(uint64_t commit, bool before) {
    (void)commit, (void)before;
}
#endif

// ---- the store thread ----

static int commit_all(struct store *s, const struct list *batch, struct error *err) {
    uint64_t number = __atomic_load_n(&s->commits, __ATOMIC_RELAXED) + 1;
    if (sql_run(s->db, "BEGIN IMMEDIATE", err) < 0)
        return -1;
    LIST_EACH(batch, node) {
        if (records_write(s->db, &s->statements, LIST_ENTRY(node, struct change, node), err) < 0)
            goto undo;
    }
    failpoint(number, true);
    if (sql_run(s->db, "COMMIT", err) < 0)
        goto undo;
    __atomic_store_n(&s->commits, number, __ATOMIC_RELAXED);
    failpoint(number, false);
    return 0;
undo:
    if (!sqlite3_get_autocommit(s->db)) // some failures have rolled back already
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL); // the first error counts
    return -1;
}

static void deliver(struct loop_task *task) {
    struct change *c = CONTAINER_OF(task, struct change, task);
    c->store->undelivered--;
    c->done(c, c->failed ? &c->error : NULL);
}

static void answer(struct store *s, struct list *batch, int failed, const struct error *err) {
    struct list *node;
    while ((node = list_pop(batch))) {
        struct change *c = LIST_ENTRY(node, struct change, node);
        c->failed = failed;
        if (failed)
            c->error = *err;
        loop_post(s->loop, &c->task);
    }
}

// All in one transaction; when that fails each on its own, so that a bad one does not hurt others.
static void commit_batch(struct store *s, struct list *batch) {
    struct error err = {0};
    struct list one, *node;
    if (commit_all(s, batch, &err) == 0) {
        answer(s, batch, 0, NULL);
        return;
    }
    if (batch->next == batch->prev) {
        answer(s, batch, -1, &err);
        return;
    }
    while ((node = list_pop(batch))) {
        list_init(&one);
        list_push_back(&one, node);
        int failed = commit_all(s, &one, &err);
        answer(s, &one, failed, &err);
    }
}

static void *work(void *arg) {
    struct store *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (list_empty(&s->queue) && !s->ending)
            pthread_cond_wait(&s->work, &s->lock);
        if (list_empty(&s->queue))
            break;
        struct list batch;
        list_init(&batch);
        for (int i = 0; i < BATCH_MAX && !list_empty(&s->queue); i++) {
            list_push_back(&batch, list_pop(&s->queue));
            s->waiting--;
        }
        pthread_mutex_unlock(&s->lock);
        commit_batch(s, &batch);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

// ---- start and end ----

static int make_directory(const char *path, struct error *err) {
    char *dir cleanup_free = strdup(path);
    char *slash = dir ? strrchr(dir, '/') : NULL;
    if (!dir)
        return error_errno(err, ENOMEM, "store");
    if (path[0] != '/' || slash == dir)
        return error_set(err, EINVAL,
                         "store.path \"%s\": an absolute path in a directory of its own", path);
    *slash = '\0';
    int root cleanup_close = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd cleanup_close = root < 0 ? -1 : path_make_dirs(root, dir + 1, 0700);
    if (fd < 0)
        return error_errno(err, errno, "store directory %s", dir);
    int real cleanup_close = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (real < 0 || fchmod(real, 0700) < 0)
        return error_errno(err, errno, "store directory %s", dir);
    return 0;
}

// Made by us rather than SQLite, so that the mode does not depend on the umask; -wal and -shm take
// over the mode of the database.
static int make_file(const char *path, struct error *err) {
    int fd cleanup_close = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fchmod(fd, 0600) < 0)
        return error_errno(err, errno, "store %s", path);
    return TAKE_FD(fd);
}

// Empty: SQLite fills it.
static int make_database(const char *path, struct error *err) {
    int fd cleanup_close = make_file(path, err);
    return fd < 0 ? -1 : 0;
}

static int take_lock(struct store *s, const char *path, struct error *err) {
    char *name cleanup_free = NULL;
    if (asprintf(&name, "%s.lock", path) < 0)
        return error_errno(err, ENOMEM, "store");
    s->lock_fd = make_file(name, err);
    if (s->lock_fd < 0)
        return -1;
    if (fd_lock(s->lock_fd) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return error_set(err, EBUSY, "store %s is in use by another opensandbox-server", path);
    return error_errno(err, errno, "lock %s", name);
}

static int start_thread(struct store *s, struct error *err) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old); // signals are the loop thread's business
    int r = pthread_create(&s->thread, NULL, work, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r)
        return error_errno(err, r, "start the store thread");
    s->has_thread = true;
    return 0;
}

// A reference server's file stays its own: ours lies beside it, so that either can be started
// again.
static char *own_path(const char *path) {
    char *name = NULL;
    if (!reference_is(path))
        return strdup(path);
    return asprintf(&name, "%s.server", path) < 0 ? NULL : name;
}

struct store *store_open(struct loop *l, const struct store_settings *settings, struct error *err) {
    struct store *s = calloc(1, sizeof *s);
    char *path cleanup_free = own_path(settings->path);
    if (!s || !path) {
        free(s);
        (void)error_errno(err, ENOMEM, "store");
        return NULL;
    }
    s->loop = l;
    s->lock_fd = -1;
    s->queue_max = settings->queue_max;
    list_init(&s->queue);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    if (make_directory(path, err) < 0 || take_lock(s, path, err) < 0 ||
        make_database(path, err) < 0 || !(s->db = schema_open(path, settings->full_sync, err)) ||
        schema_identity(s->db, s->key, s->instance, err) < 0 ||
        records_prepare(s->db, &s->statements, err) < 0 || start_thread(s, err) < 0) {
        store_close(s);
        return NULL;
    }
    return s;
}

void store_close(struct store *s) {
    if (!s)
        return;
    if (s->has_thread) {
        pthread_mutex_lock(&s->lock);
        s->ending = true;
        pthread_cond_signal(&s->work);
        pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
        while (s->undelivered) // they are posted: this never sleeps for long
            (void)uv_run(&s->loop->uv, UV_RUN_ONCE);
    }
    records_finish(&s->statements);
    if (sqlite3_close(s->db) != SQLITE_OK)
        log_warning("store: %s", sqlite3_errmsg(s->db));
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    explicit_bzero(s->key, sizeof s->key);
    free(s);
}

// ---- what others see ----

const uint8_t *store_key(const struct store *s) {
    return s->key;
}
const char *store_instance(const struct store *s) {
    return s->instance;
}
uint64_t store_commits(const struct store *s) {
    return __atomic_load_n(&s->commits, __ATOMIC_RELAXED);
}

int store_load(struct store *s, enum store_table table, store_each_fn *each, void *arg,
               struct error *err) {
    return records_load(s->db, table, each, arg, err);
}

static union store_record *change_row(struct change *c, enum store_table table, bool remove) {
    assert(c->count < CHANGE_ROWS_MAX);
    struct store_row *row = &c->rows[c->count++];
    *row = (struct store_row){.table = table, .remove = remove};
    return &row->record;
}

union store_record *change_put(struct change *c, enum store_table table) {
    return change_row(c, table, false);
}

union store_record *change_remove(struct change *c, enum store_table table) {
    return change_row(c, table, true);
}

void change_clear(struct change *c) {
    for (unsigned i = 0; i < c->count; i++)
        store_record_clear(c->rows[i].table, &c->rows[i].record);
    c->count = 0;
}

int store_commit(struct store *s, struct change *c) {
    c->store = s;
    c->failed = 0;
    c->task = (struct loop_task){.run = deliver};
    pthread_mutex_lock(&s->lock);
    bool full = s->ending || s->waiting >= s->queue_max;
    if (!full) {
        list_push_back(&s->queue, &c->node);
        s->waiting++;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    if (full) {
        errno = EAGAIN;
        return -1;
    }
    s->undelivered++;
    return 0;
}
