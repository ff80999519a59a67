// A container engine for tests: real HTTP bytes on a unix socket, answers by a table of rules,
// remembers what it was asked. Threads of its own; everything here may be called from the test's
// thread at any time.
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

#include <stddef.h>

struct fake_engine;
struct fake_engine *
fake_engine_new(void); // knows GET /version (API 1.41, least 1.12) and nothing else: 404
void fake_engine_free(struct fake_engine *f);
const char *fake_engine_host(const struct fake_engine *f); // "unix:///tmp/..."

// A rule for a method and a path without version and query. A later rule goes before an earlier
// one; `times` 0 is for ever. raw NULL: a JSON reply of status and body; else these very bytes, and
// then the connection is closed.
void fake_engine_rule(struct fake_engine *f, const char *method, const char *path, unsigned times,
                      unsigned status, const char *body);
void fake_engine_raw(struct fake_engine *f, const char *method, const char *path, unsigned times,
                     const char *raw);
// A good reply of these bytes.
void fake_engine_bytes(struct fake_engine *f, const char *method, const char *path,
                       const void *data, size_t len);
// GET /events stays open; push() writes one object to all that listen, cut() closes them.
void fake_engine_push(struct fake_engine *f, const char *json);
void fake_engine_cut(struct fake_engine *f);
unsigned fake_engine_listeners(struct fake_engine *f);
// The next answer to this is the last one: every connection is closed with it, and there are no new
// ones before return().
void fake_engine_leave(struct fake_engine *f, const char *method, const char *path);
void fake_engine_return(struct fake_engine *f);

// What was asked: how often, and of the last one the target as it stood in the request, its head,
// its body ("" when never asked). Valid until the next call of the same function.
unsigned fake_engine_total(
    struct fake_engine *f); // requests but those for events, which come when they like
unsigned fake_engine_count(struct fake_engine *f, const char *method, const char *path);
const char *fake_engine_target(struct fake_engine *f, const char *method, const char *path);
const char *fake_engine_head(struct fake_engine *f, const char *method, const char *path);
const char *fake_engine_body(struct fake_engine *f, const char *method, const char *path);

#endif
