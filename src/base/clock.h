// Time. Deadlines inside the process use the boot-time clock (runs during suspend, never steps);
// what clients and the store see is wall time in microseconds since 1970 UTC. Any thread.
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

enum { CLOCK_TEXT_MAX = 40 };

int64_t clock_boot_ns(void); // CLOCK_BOOTTIME
int64_t clock_wall_us(void); // CLOCK_REALTIME
static inline int64_t clock_boot_ms(void) {
    return clock_boot_ns() / 1000000;
}

// RFC 3339 in UTC with 'Z': 6 fraction digits, none when they are zero (lifecycle-api.md 3.1).
// Years 1970..9999.
void clock_format(int64_t wall_us, char text[CLOCK_TEXT_MAX]);
// Nanosecond form of execd (execd.md 6.2): fraction trimmed of trailing zeros, 'Z'.
void clock_format_ns(int64_t sec, int64_t nsec, char text[CLOCK_TEXT_MAX]);
// IMF-fixdate for HTTP (RFC 9110 5.6.7).
void clock_format_http(int64_t sec, char text[CLOCK_TEXT_MAX]);
// All input forms of lifecycle-api.md 3.3: 'T' or space, optional seconds, fraction and offset,
// date only, Unix seconds or milliseconds. -1 when it is none of them.
int clock_parse(const char *text, int64_t *ret_wall_us);

#endif
