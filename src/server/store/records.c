// The tables, one column table each: from them come the SQL, the binding and the reading.
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/strbuf.h"
#include "server/store/internal.h"

enum column_type { COLUMN_ID, COLUMN_TEXT, COLUMN_INT };
struct column { // the first one of a table is its key
    const char *name;
    size_t offset;
    enum column_type type;
};
#define COLUMN(record, name, type)                                                                 \
    { #name, offsetof(struct record, name), type }
enum { SQL_MAX = 1024 };

static const struct column sandbox_columns[] = {
    COLUMN(sandbox_record, id, COLUMN_ID),
    COLUMN(sandbox_record, state, COLUMN_TEXT),
    COLUMN(sandbox_record, reason, COLUMN_TEXT),
    COLUMN(sandbox_record, message, COLUMN_TEXT),
    COLUMN(sandbox_record, spec, COLUMN_TEXT),
    COLUMN(sandbox_record, metadata, COLUMN_TEXT),
    COLUMN(sandbox_record, runtime, COLUMN_TEXT),
    COLUMN(sandbox_record, runtime_state, COLUMN_TEXT),
    COLUMN(sandbox_record, image_id, COLUMN_TEXT),
    COLUMN(sandbox_record, pool, COLUMN_TEXT),
    COLUMN(sandbox_record, stock, COLUMN_INT),
    COLUMN(sandbox_record, created_us, COLUMN_INT),
    COLUMN(sandbox_record, changed_us, COLUMN_INT),
    COLUMN(sandbox_record, expires_us, COLUMN_INT),
    COLUMN(sandbox_record, forget_us, COLUMN_INT),
};
static const struct column key_columns[] = {
    COLUMN(key_record, key, COLUMN_TEXT),
    COLUMN(key_record, body, COLUMN_TEXT),
    COLUMN(key_record, sandbox_id, COLUMN_TEXT),
    COLUMN(key_record, created_us, COLUMN_INT),
};
static const struct column snapshot_columns[] = {
    COLUMN(snapshot_record, id, COLUMN_ID),
    COLUMN(snapshot_record, source_id, COLUMN_TEXT),
    COLUMN(snapshot_record, name, COLUMN_TEXT),
    COLUMN(snapshot_record, state, COLUMN_TEXT),
    COLUMN(snapshot_record, reason, COLUMN_TEXT),
    COLUMN(snapshot_record, message, COLUMN_TEXT),
    COLUMN(snapshot_record, spec, COLUMN_TEXT),
    COLUMN(snapshot_record, artifact, COLUMN_TEXT),
    COLUMN(snapshot_record, created_us, COLUMN_INT),
    COLUMN(snapshot_record, changed_us, COLUMN_INT),
};
static const struct column pool_columns[] = {
    COLUMN(pool_record, name, COLUMN_TEXT),      COLUMN(pool_record, spec, COLUMN_TEXT),
    COLUMN(pool_record, capacity, COLUMN_TEXT),  COLUMN(pool_record, created_us, COLUMN_INT),
    COLUMN(pool_record, changed_us, COLUMN_INT),
};

static const struct table {
    const char *name, *order;
    const struct column *columns;
    size_t count;
} tables[STORE_TABLE_COUNT] = {
#define TABLE(name, order, columns)                                                                \
    { name, order, columns, ARRAY_SIZE(columns) }
    [STORE_SANDBOXES] = TABLE("sandboxes", "created_us, id", sandbox_columns),
    [STORE_KEYS] = TABLE("idempotency_keys", "created_us", key_columns),
    [STORE_SNAPSHOTS] = TABLE("snapshots", "created_us, id", snapshot_columns),
    [STORE_POOLS] = TABLE("pools", "created_us, name", pool_columns),
};

void store_record_clear(enum store_table table, union store_record *r) {
    const struct table *t = &tables[table];
    for (size_t i = 0; i < t->count; i++)
        if (t->columns[i].type == COLUMN_TEXT)
            free(*(char **)(void *)((char *)r + t->columns[i].offset));
    *r = (union store_record){0};
}

// ---- statements ----

static int prepare_table(sqlite3 *db, const struct table *t, struct table_statements *st,
                         struct error *err) {
    struct strbuf put cleanup_strbuf = {0}, drop cleanup_strbuf = {0};
    strbuf_init(&put, SQL_MAX);
    strbuf_init(&drop, SQL_MAX);
    strbuf_addf(&put, "INSERT OR REPLACE INTO %s(", t->name);
    for (size_t i = 0; i < t->count; i++)
        strbuf_addf(&put, "%s%s", i ? ", " : "", t->columns[i].name);
    strbuf_adds(&put, ") VALUES(");
    for (size_t i = 0; i < t->count; i++)
        strbuf_adds(&put, i ? ", ?" : "?");
    strbuf_adds(&put, ")");
    strbuf_addf(&drop, "DELETE FROM %s WHERE %s=?", t->name, t->columns[0].name);
    if (put.failed || drop.failed)
        return error_errno(err, ENOMEM, "store: prepare");
    const unsigned flags = SQLITE_PREPARE_PERSISTENT;
    if (sqlite3_prepare_v3(db, put.data, -1, flags, &st->put, NULL) != SQLITE_OK ||
        sqlite3_prepare_v3(db, drop.data, -1, flags, &st->remove, NULL) != SQLITE_OK)
        return sql_error(db, "prepare", err);
    return 0;
}

int records_prepare(sqlite3 *db, struct record_statements *st, struct error *err) {
    for (int i = 0; i < STORE_TABLE_COUNT; i++)
        if (prepare_table(db, &tables[i], &st->tables[i], err) < 0)
            return -1;
    return 0;
}

void records_finish(struct record_statements *st) {
    for (int i = 0; i < STORE_TABLE_COUNT; i++) {
        sqlite3_finalize(st->tables[i].put);
        sqlite3_finalize(st->tables[i].remove);
    }
}

// ---- writing ----

static int bind_column(sqlite3_stmt *st, int at, const struct column *c,
                       const union store_record *r) {
    const char *base = (const char *)r + c->offset;
    switch (c->type) {
    case COLUMN_ID: return sqlite3_bind_text(st, at, base, -1, SQLITE_STATIC);
    case COLUMN_TEXT:
        return sqlite3_bind_text(st, at, *(char *const *)(const void *)base, -1, SQLITE_STATIC);
    case COLUMN_INT: return sqlite3_bind_int64(st, at, *(const int64_t *)(const void *)base);
    }
    return SQLITE_MISUSE;
}

static int write_row(sqlite3 *db, const struct record_statements *statements,
                     const struct store_row *row, struct error *err) {
    const struct table *t = &tables[row->table];
    const struct table_statements *both = &statements->tables[row->table];
    sqlite3_stmt *st = row->remove ? both->remove : both->put;
    size_t count = row->remove ? 1 : t->count;
    int r = SQLITE_OK;
    for (size_t i = 0; r == SQLITE_OK && i < count; i++)
        r = bind_column(st, (int)i + 1, &t->columns[i], &row->record);
    if (r == SQLITE_OK)
        r = sqlite3_step(st);
    if (r != SQLITE_DONE) {
        (void)sql_error(db, row->remove ? "delete" : "write", err);
        (void)error_wrap(err, "table %s", t->name);
    }
    (void)sqlite3_reset(st); // repeats the step's error
    (void)sqlite3_clear_bindings(st);
    return r == SQLITE_DONE ? 0 : -1;
}

int records_write(sqlite3 *db, const struct record_statements *statements, const struct change *c,
                  struct error *err) {
    for (unsigned i = 0; i < c->count; i++)
        if (write_row(db, statements, &c->rows[i], err) < 0)
            return -1;
    return 0;
}

// ---- reading ----

static int read_row(sqlite3_stmt *st, const struct table *t, union store_record *r) {
    for (size_t i = 0; i < t->count; i++) {
        char *base = (char *)r + t->columns[i].offset;
        const char *text = (const char *)sqlite3_column_text(st, (int)i);
        switch (t->columns[i].type) {
        case COLUMN_ID: (void)snprintf(base, UUID_TEXT_SIZE, "%s", text ? text : ""); break;
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

static sqlite3_stmt *select_all(sqlite3 *db, const struct table *t, struct error *err) {
    struct strbuf text cleanup_strbuf = {0};
    sqlite3_stmt *st = NULL;
    strbuf_init(&text, SQL_MAX);
    for (size_t i = 0; i < t->count; i++)
        strbuf_addf(&text, "%s%s", i ? ", " : "SELECT ", t->columns[i].name);
    strbuf_addf(&text, " FROM %s ORDER BY %s", t->name, t->order);
    if (text.failed)
        (void)error_errno(err, ENOMEM, "store: read %s", t->name);
    else if (sqlite3_prepare_v2(db, text.data, -1, &st, NULL) != SQLITE_OK)
        (void)sql_error(db, "prepare", err);
    return st;
}

int records_load(sqlite3 *db, enum store_table table, store_each_fn *each, void *arg,
                 struct error *err) {
    const struct table *t = &tables[table];
    sqlite3_stmt *st = select_all(db, t, err);
    if (!st)
        return -1;
    int r, rc = 0;
    while (rc == 0 && (r = sqlite3_step(st)) == SQLITE_ROW) {
        union store_record record = {0};
        if (read_row(st, t, &record) < 0)
            rc = error_errno(err, ENOMEM, "store: read %s", t->name);
        else if (each(&record, arg) < 0)
            rc = error_set(err, ECANCELED, "store: reading was stopped");
        store_record_clear(table, &record);
    }
    if (rc == 0 && r != SQLITE_DONE)
        rc = sql_error(db, "read", err);
    sqlite3_finalize(st);
    return rc;
}
