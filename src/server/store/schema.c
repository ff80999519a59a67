#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/random.h"
#include "server/errors.h"
#include "server/store/internal.h"

// migrations[n] takes a store from version n to n + 1; they only ever grow.
static const char *const migrations[] = {
    "CREATE TABLE sandboxes ("
    " id TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT, message TEXT,"
    " spec TEXT NOT NULL, metadata TEXT NOT NULL, runtime TEXT NOT NULL, runtime_state TEXT,"
    " image_id TEXT, created_us INTEGER NOT NULL, changed_us INTEGER NOT NULL,"
    " expires_us INTEGER NOT NULL, forget_us INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;",
    "ALTER TABLE sandboxes ADD COLUMN pool TEXT;"
    "ALTER TABLE sandboxes ADD COLUMN stock INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE idempotency_keys ("
    " key TEXT PRIMARY KEY, body TEXT NOT NULL, sandbox_id TEXT NOT NULL,"
    " created_us INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE snapshots ("
    " id TEXT PRIMARY KEY, source_id TEXT NOT NULL, name TEXT, state TEXT NOT NULL,"
    " reason TEXT, message TEXT, spec TEXT NOT NULL, artifact TEXT,"
    " created_us INTEGER NOT NULL, changed_us INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE pools ("
    " name TEXT PRIMARY KEY, spec TEXT NOT NULL, capacity TEXT NOT NULL,"
    " created_us INTEGER NOT NULL, changed_us INTEGER NOT NULL) WITHOUT ROWID;",
};
_Static_assert(ARRAY_SIZE(migrations) == STORE_SCHEMA_VERSION, "one migration a version");

int sql_error(sqlite3 *db, const char *doing, struct error *err) {
    int code = sqlite3_extended_errcode(db);
    if ((code & 0xff) == SQLITE_FULL)
        return error_server(err, ERR_R_DISK_FULL, "store: %s: %s", doing, sqlite3_errmsg(db));
    return error_set(err, EIO, "store: %s: %s (sqlite %d, errno %d)", doing, sqlite3_errmsg(db),
                     code, sqlite3_system_errno(db));
}

int sql_run(sqlite3 *db, const char *text, struct error *err) {
    return sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_error(db, text, err);
}

static int read_version(sqlite3 *db, int *ret, struct error *err) {
    sqlite3_stmt *st = NULL;
    int r = sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &st, NULL);
    if (r == SQLITE_OK)
        r = sqlite3_step(st);
    if (r == SQLITE_ROW)
        *ret = sqlite3_column_int(st, 0);
    else
        (void)sql_error(db, "read the schema version", err);
    sqlite3_finalize(st);
    return r == SQLITE_ROW ? 0 : -1;
}

static int migrate(sqlite3 *db, const char *path, struct error *err) {
    int version = 0;
    if (read_version(db, &version, err) < 0)
        return -1;
    if (version < 0 || version > STORE_SCHEMA_VERSION)
        return error_set(err, EINVAL,
                         "store %s has schema version %d, this server knows %d at most: run the "
                         "newer opensandbox-server, or set another store.path",
                         path, version, STORE_SCHEMA_VERSION);
    for (; version < STORE_SCHEMA_VERSION; version++) {
        char set[64];
        (void)snprintf(set, sizeof set, "PRAGMA user_version=%d", version + 1);
        if (sql_run(db, "BEGIN IMMEDIATE", err) < 0)
            return -1;
        if (sql_run(db, migrations[version], err) < 0 || sql_run(db, set, err) < 0 ||
            sql_run(db, "COMMIT", err) < 0) {
            (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL); // the first error counts
            return error_wrap(err, "migrate %s to schema version %d", path, version + 1);
        }
    }
    return 0;
}

sqlite3 *schema_open(const char *path, bool full_sync, struct error *err) {
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX | SQLITE_OPEN_NOFOLLOW;
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) {
        (void)error_set(err, EIO, "store %s: %s", path, db ? sqlite3_errmsg(db) : "no memory");
        sqlite3_close(db);
        return NULL;
    }
    sqlite3_extended_result_codes(db, 1);
    if (sql_run(db, "PRAGMA journal_mode=WAL", err) < 0 ||
        sql_run(db, full_sync ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", err) < 0 ||
        migrate(db, path, err) < 0) {
        sqlite3_close(db);
        return NULL;
    }
    return db;
}

static int meta_get(sqlite3 *db, const char *name, char *text, size_t size, struct error *err) {
    sqlite3_stmt *st = NULL;
    int r = sqlite3_prepare_v2(db, "SELECT value FROM meta WHERE name=?", -1, &st, NULL);
    text[0] = '\0';
    if (r == SQLITE_OK)
        r = sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_step(st);
    if (r == SQLITE_ROW)
        (void)snprintf(text, size, "%s", (const char *)sqlite3_column_text(st, 0));
    else if (r != SQLITE_DONE)
        (void)sql_error(db, "read meta", err);
    sqlite3_finalize(st);
    return r == SQLITE_ROW || r == SQLITE_DONE ? 0 : -1;
}

// The value of `name`; a fresh random one of `digits` hex digits is put there first when it has
// none.
static int meta_make(sqlite3 *db, const char *name, char *text, size_t digits, struct error *err) {
    sqlite3_stmt *st = NULL;
    if (meta_get(db, name, text, digits + 1, err) < 0)
        return -1;
    if (text[0])
        return 0;
    random_hex(text, digits);
    int r = sqlite3_prepare_v2(db, "INSERT INTO meta(name, value) VALUES(?, ?)", -1, &st, NULL);
    if (r == SQLITE_OK)
        r = sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_bind_text(st, 2, text, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_step(st);
    if (r != SQLITE_DONE)
        (void)sql_error(db, "write meta", err);
    sqlite3_finalize(st);
    return r == SQLITE_DONE ? 0 : -1;
}

int schema_identity(sqlite3 *db, uint8_t key[STORE_KEY_SIZE], char instance[STORE_INSTANCE_SIZE],
                    struct error *err) {
    char hex[2 * STORE_KEY_SIZE + 1];
    if (meta_make(db, "key", hex, 2 * STORE_KEY_SIZE, err) < 0 ||
        meta_make(db, "instance", instance, STORE_INSTANCE_SIZE - 1, err) < 0)
        return -1;
    int r = decode_hex(hex, key, STORE_KEY_SIZE);
    explicit_bzero(hex, sizeof hex);
    return r < 0 ? error_set(err, EINVAL, "store: the key in table meta is damaged") : 0;
}
