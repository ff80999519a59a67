// One logger: a line per call, one write(2), any thread. Library code (base, io, http, fmt) logs at
// debug only; the program that decides what a failure means writes the one line about it. Secrets
// never go in here.
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARNING, LOG_LEVEL_ERROR };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

// Text: "2026-11-22T23:50:23.590Z INFO  [request-id] message"; JSON:
// {"ts","level","request_id","msg"}.
void log_configure(enum log_level level, enum log_format format,
                   int fd); // default: info, text, 2; fd is borrowed
void log_set_level(enum log_level level);
// Lines go to `path` (appended to, made 0640) from now on; once a line would make it larger than
// max_bytes, "path" becomes "path.1", that one "path.2" and so on up to `backups`; 0: never. -1
// with errno. Once, before other threads run.
int log_to_file(const char *path, int64_t max_bytes, unsigned backups);
bool log_enabled(enum log_level level);
int log_level_parse(const char *name,
                    enum log_level *ret_level); // DEBUG INFO WARNING WARN ERROR CRITICAL, any case
// Request id for the lines of this thread until the next call; NULL = none. The text must outlive
// that.
void log_context(const char *request_id);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_debug(...)                                                                             \
    (log_enabled(LOG_LEVEL_DEBUG) ? log_write(LOG_LEVEL_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
