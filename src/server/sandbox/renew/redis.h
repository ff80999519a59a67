// One connection to Redis: hiredis speaks its language, libcurl carries it, over TCP, TLS or a unix
// socket. Blocking; one owner, any thread.
#ifndef SERVER_SANDBOX_RENEW_REDIS_H
#define SERVER_SANDBOX_RENEW_REDIS_H

#include <hiredis/hiredis.h>
#include <stdbool.h>

#include "base/error.h"

struct redis_address {
    char host[256], path[108], user[128], password[256];
    int port, database;
    bool tls;
};
// redis://[[user]:password@]host[:port][/database], the same with rediss:// for TLS, or
// unix:///path. The message of an error never shows the password.
int redis_address_read(const char *dsn, struct redis_address *ret, struct error *err);

struct redis;
// ca_file: PEM of the authorities that are believed; NULL: the system's. Each wait takes limit_ms
// at most. NULL with err.
struct redis *redis_open(const struct redis_address *a, const char *ca_file, int limit_ms,
                         struct error *err);
void redis_close(struct redis *r); // NULL is fine
// One command and its reply, which may be an error of Redis; freed by freeReplyObject(). NULL with
// err: the connection is of no use any more.
redisReply *redis_ask(struct redis *r, const char *const *words, int count, struct error *err);

#endif
