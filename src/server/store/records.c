#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "server/store/internal.h"

// Columns of `sandboxes` in the order of every statement below.
struct column {
    const char *name;
    size_t offset;
    enum { COLUMN_ID, COLUMN_TEXT, COLUMN_INT } type;
};
#define COLUMN(name, type)                                                                         \
    { #name, offsetof(struct sandbox_record, name), type }
static const struct column columns[] = {
    COLUMN(id, COLUMN_ID),          COLUMN(state, COLUMN_TEXT),
    COLUMN(reason, COLUMN_TEXT),    COLUMN(message, COLUMN_TEXT),
    COLUMN(spec, COLUMN_TEXT),      COLUMN(metadata, COLUMN_TEXT),
    COLUMN(runtime, COLUMN_TEXT),   COLUMN(runtime_state, COLUMN_TEXT),
    COLUMN(image_id, COLUMN_TEXT),  COLUMN(created_us, COLUMN_INT),
    COLUMN(changed_us, COLUMN_INT), COLUMN(expires_us, COLUMN_INT),
    COLUMN(forget_us, COLUMN_INT),
};
#define COLUMN_NAMES                                                                               \
    "id, state, reason, message, spec, metadata, runtime, runtime_state, image_id, created_us, "   \
    "changed_us, expires_us, forget_us"

void sandbox_record_clear(struct sandbox_record *r) {
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
        if (columns[i].type == COLUMN_TEXT)
            free(*(char **)(void *)((char *)r + columns[i].offset));
    *r = (struct sandbox_record){0};
}

int records_prepare(sqlite3 *db, struct record_statements *st, struct error *err) {
    static const char put[] = "INSERT OR REPLACE INTO sandboxes(" COLUMN_NAMES
                              ") VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    if (sqlite3_prepare_v3(db, put, -1, SQLITE_PREPARE_PERSISTENT, &st->put, NULL) != SQLITE_OK ||
        sqlite3_prepare_v3(db, "DELETE FROM sandboxes WHERE id=?", -1, SQLITE_PREPARE_PERSISTENT,
                           &st->remove, NULL) != SQLITE_OK)
        return sql_error(db, "prepare", err);
    return 0;
}

void records_finish(struct record_statements *st) {
    sqlite3_finalize(st->put);
    sqlite3_finalize(st->remove);
}

static int bind_column(sqlite3_stmt *st, int at, const struct column *c,
                       const struct sandbox_record *r) {
    const char *base = (const char *)r + c->offset;
    switch (c->type) {
    case COLUMN_ID: return sqlite3_bind_text(st, at, base, -1, SQLITE_STATIC);
    case COLUMN_TEXT:
        return sqlite3_bind_text(st, at, *(char *const *)(const void *)base, -1, SQLITE_STATIC);
    case COLUMN_INT: return sqlite3_bind_int64(st, at, *(const int64_t *)(const void *)base);
    }
    return SQLITE_MISUSE;
}

int records_write(sqlite3 *db, const struct record_statements *statements, const struct change *c,
                  struct error *err) {
    bool put = c->kind == CHANGE_SANDBOX_PUT;
    sqlite3_stmt *st = put ? statements->put : statements->remove;
    size_t count = put ? ARRAY_SIZE(columns) : 1;
    int r = SQLITE_OK;
    for (size_t i = 0; r == SQLITE_OK && i < count; i++)
        r = bind_column(st, (int)i + 1, &columns[i], &c->record);
    if (r == SQLITE_OK)
        r = sqlite3_step(st);
    if (r != SQLITE_DONE)
        (void)sql_error(db, put ? "write a sandbox" : "delete a sandbox", err);
    (void)sqlite3_reset(st); // repeats the step's error
    (void)sqlite3_clear_bindings(st);
    return r == SQLITE_DONE ? 0 : -1;
}

static int read_row(sqlite3_stmt *st, struct sandbox_record *r) {
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
        char *base = (char *)r + columns[i].offset;
        const char *text = (const char *)sqlite3_column_text(st, (int)i);
        switch (columns[i].type) {
        case COLUMN_ID: (void)snprintf(r->id, sizeof r->id, "%s", text ? text : ""); break;
        case COLUMN_TEXT:
            *(char **)(void *)base = text ? strdup(text) : NULL;
            if (text && !*(char **)(void *)base)
                return -1;
            break;
        case COLUMN_INT: *(int64_t *)(void *)base = sqlite3_column_int64(st, (int)i); break;
        }
    }
    return 0;
}

int records_load(sqlite3 *db, int (*each)(const struct sandbox_record *r, void *arg), void *arg,
                 struct error *err) {
    sqlite3_stmt *st = NULL;
    int r = sqlite3_prepare_v2(db, "SELECT " COLUMN_NAMES " FROM sandboxes ORDER BY created_us, id",
                               -1, &st, NULL);
    int rc = 0;
    while (rc == 0 && r != SQLITE_DONE) {
        if (r != SQLITE_OK && r != SQLITE_ROW) {
            rc = sql_error(db, "read sandboxes", err);
            break;
        }
        if (r == SQLITE_ROW) {
            struct sandbox_record record = {0};
            if (read_row(st, &record) < 0)
                rc = error_errno(err, ENOMEM, "store: read sandboxes");
            else if (each(&record, arg) < 0)
                rc = error_set(err, ECANCELED, "store: reading was stopped");
            sandbox_record_clear(&record);
        }
        r = sqlite3_step(st);
    }
    sqlite3_finalize(st);
    return rc;
}
