// Strict parsers of small texts: the whole text or nothing, no sign, space or locale unless stated.
// They return 0, or -1 with *ret untouched; the caller knows the name of the field and writes the
// message. Any thread.
#ifndef BASE_PARSE_H
#define BASE_PARSE_H

#include <stddef.h>
#include <stdint.h>

int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret); // decimal digits only
int parse_u64n(const char *text, size_t len, uint64_t min, uint64_t max, uint64_t *ret);
int parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret); // optional '-'
int parse_hex64(const char *text, size_t len, uint64_t *ret);
// Resource limits, grammar of docker-runtime.md 1.6 (memory: digits and unit k ki kb m .. ti, any
// case; cpu: number or number followed by m). Zero, negative and overflow are failures
// (compat-1.1.1.md L12b).
int parse_memory(const char *text, uint64_t *ret_bytes);
int parse_cpu(const char *text, uint64_t *ret_millis); // thousandths of a core, rounded down, >= 1
// Go duration: "300ms", "1.5s", "2h45m", "-1s", "+1s"; a bare number is refused except "0".
// Nanoseconds, negative with a '-'.
int parse_duration(const char *text, int64_t *ret_ns);

#endif
