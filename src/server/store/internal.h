// Inside the store only: what schema.c and records.c offer to store.c. Store thread, or start-up.
#ifndef SERVER_STORE_INTERNAL_H
#define SERVER_STORE_INTERNAL_H

#include <sqlite3.h>

#include "server/store/store.h"

enum { STORE_INSTANCE_SIZE = 9 };

// Sets err from the connection's last failure. A full disk has its own API code. Returns -1.
int sql_error(sqlite3 *db, const char *doing, struct error *err);
int sql_run(sqlite3 *db, const char *text, struct error *err);

// Opens, sets the pragmas, migrates. A newer schema is refused, naming both versions.
sqlite3 *schema_open(const char *path, bool full_sync, struct error *err);
// Reads the key and the instance id, or makes them.
int schema_identity(sqlite3 *db, uint8_t key[STORE_KEY_SIZE], char instance[STORE_INSTANCE_SIZE],
                    struct error *err);

struct table_statements {
    sqlite3_stmt *put, *remove;
};
struct record_statements {
    struct table_statements tables[STORE_TABLE_COUNT];
};
int records_prepare(sqlite3 *db, struct record_statements *st, struct error *err);
void records_finish(struct record_statements *st);
int records_write(sqlite3 *db, const struct record_statements *st, const struct change *c,
                  struct error *err);

int records_load(sqlite3 *db, enum store_table table, store_each_fn *each, void *arg,
                 struct error *err);

#endif
