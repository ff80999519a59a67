#include "server/store/reference.h"

#include <errno.h>

#include "base/clock.h"
#include "server/store/internal.h"

enum { BUSY_MS = 5000 };

static const char snapshots_query[] =
    "SELECT id, source_sandbox_id, name, restore_config, state, reason, message, created_at,"
    " coalesce(last_transition_at, updated_at) FROM snapshots ORDER BY created_at, id";

static sqlite3 *open_file(const char *path, sqlite3_stmt **ret) {
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_FULLMUTEX;
    int r = sqlite3_open_v2(path, &db, flags, NULL);
    if (r == SQLITE_OK)
        (void)sqlite3_busy_timeout(db, BUSY_MS);
    if (r == SQLITE_OK && sqlite3_prepare_v2(db, snapshots_query, -1, ret, NULL) == SQLITE_OK)
        return db;
    sqlite3_close(db);
    return NULL;
}

bool reference_is(const char *path) {
    sqlite3_stmt *st = NULL;
    sqlite3 *db = open_file(path, &st);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return db != NULL;
}

static const char *text_at(sqlite3_stmt *st, int column) {
    return (const char *)sqlite3_column_text(st, column);
}

static int64_t time_at(sqlite3_stmt *st, int column) {
    const char *text = text_at(st, column);
    int64_t us;
    return text && clock_parse(text, &us) == 0 ? us : clock_wall_us();
}

int reference_each(const char *path, reference_each_fn *each, void *arg, struct error *err) {
    sqlite3_stmt *st = NULL;
    sqlite3 *db = open_file(path, &st);
    int r = 0, step = SQLITE_DONE;
    if (!db)
        return error_set(err, EINVAL, "%s is no file of the reference server", path);
    while (!r && (step = sqlite3_step(st)) == SQLITE_ROW) {
        const struct reference_snapshot s = {.id = text_at(st, 0),
                                             .source_id = text_at(st, 1),
                                             .name = text_at(st, 2),
                                             .restore_config = text_at(st, 3),
                                             .state = text_at(st, 4),
                                             .reason = text_at(st, 5),
                                             .message = text_at(st, 6),
                                             .created_us = time_at(st, 7),
                                             .changed_us = time_at(st, 8)};
        r = each(&s, arg, err);
    }
    if (!r && step != SQLITE_DONE)
        r = sql_error(db, "read the snapshots of the reference server", err);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return r;
}
