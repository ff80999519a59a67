#include "base/clock.h"

#include <stdbool.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"

#define YEAR_9999_END 253402300799 // seconds

int64_t clock_boot_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t clock_wall_us(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void split(int64_t sec, struct tm *tm) {
    time_t t = (time_t)sec;
    if (!gmtime_r(&t, tm) || tm->tm_year < -1900 || tm->tm_year > 9999 - 1900)
        *tm = (struct tm){.tm_mday = 1, .tm_year = 70};
}

// printf(3) took a fifth of a page of sandboxes. Returns what is behind.
static char *digits(char *at, int width, int value) {
    for (int i = width; i--; value /= 10)
        at[i] = (char)('0' + value % 10);
    return at + width;
}

static char *seconds(int64_t sec, char *at) {
    struct tm tm;
    split(sec, &tm);
    const struct {
        int width, value;
        char behind;
    } parts[] = {{4, tm.tm_year + 1900, '-'}, {2, tm.tm_mon + 1, '-'}, {2, tm.tm_mday, 'T'},
                 {2, tm.tm_hour, ':'},        {2, tm.tm_min, ':'},     {2, tm.tm_sec, '.'}};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        at = digits(at, parts[i].width, parts[i].value);
        *at++ = parts[i].behind;
    }
    return at;
}

// No point without a fraction.
static void end(char *at) {
    memcpy(at[-1] == '.' ? at - 1 : at, "Z", 2);
}

void clock_format_ns(int64_t sec, int64_t nsec, char text[CLOCK_TEXT_MAX]) {
    char *at = seconds(sec, text);
    if (nsec)
        at = digits(at, 9, (int)nsec);
    while (at[-1] == '0' && nsec)
        at--;
    end(at);
}

void clock_format(int64_t wall_us, char text[CLOCK_TEXT_MAX]) {
    char *at = seconds(wall_us / 1000000, text);
    if (wall_us % 1000000)
        at = digits(at, 6, (int)(wall_us % 1000000));
    end(at);
}

void clock_format_http(int64_t sec, char text[CLOCK_TEXT_MAX]) {
    static const char days[] = "SunMonTueWedThuFriSat",
                      months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm tm;
    split(sec, &tm);
    (void)snprintf(text, CLOCK_TEXT_MAX, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
                   days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon, tm.tm_year + 1900,
                   tm.tm_hour, tm.tm_min, tm.tm_sec);
}

// Two digits at *p in a range, behind an optional separator. Moves *p.
static bool two(const char **p, char separator, int min, int max, int *ret) {
    uint64_t v;
    const char *at = *p;
    if (separator && *at++ != separator)
        return false;
    if (strnlen(at, 2) < 2 || parse_u64n(at, 2, (uint64_t)min, (uint64_t)max, &v) < 0)
        return false;
    *ret = (int)v;
    *p = at + 2;
    return true;
}

static bool fraction(const char **p, int64_t *ret_us) {
    int64_t scale = 100000;
    if (**p != '.' && **p != ',')
        return true;
    const char *begin = ++*p;
    for (; **p >= '0' && **p <= '9'; ++*p, scale /= 10)
        *ret_us += scale * (**p - '0');
    return *p > begin;
}

static bool offset(const char **p, int64_t *ret_seconds) {
    int hours, minutes = 0, sign = **p == '-' ? -1 : 1;
    if (**p == 'Z' || **p == 'z') {
        ++*p;
        return true;
    }
    if (!**p)
        return true;
    if (**p != '+' && **p != '-')
        return false;
    ++*p;
    if (!two(p, 0, 0, 23, &hours) || (**p && !two(p, **p == ':' ? ':' : 0, 0, 59, &minutes)))
        return false;
    *ret_seconds = sign * (hours * 3600 + minutes * 60);
    return true;
}

static int parse_unix(const char *text, int64_t *ret_wall_us) {
    size_t whole = strspn(text, "0123456789");
    uint64_t v;
    int64_t us = 0;
    const char *p = text + whole;
    if (parse_u64n(text, whole, 0, YEAR_9999_END * 1000ULL + 999, &v) < 0 || !fraction(&p, &us) ||
        *p)
        return -1;
    bool millis = v > 20000000000ULL; // lifecycle-api.md 3.3
    if (!millis && v > YEAR_9999_END)
        return -1;
    *ret_wall_us = millis ? (int64_t)v * 1000 + us / 1000 : (int64_t)v * 1000000 + us;
    return 0;
}

int clock_parse(const char *text, int64_t *ret_wall_us) {
    uint64_t year;
    struct tm tm = {0};
    int64_t us = 0, away = 0;
    int month;
    if (strspn(text, "0123456789.") == strlen(text) && *text)
        return parse_unix(text, ret_wall_us);
    if (strnlen(text, 5) < 5 || parse_u64n(text, 4, 1, 9999, &year) < 0)
        return -1;
    const char *p = text + 4;
    if (!two(&p, '-', 1, 12, &month) || !two(&p, '-', 1, 31, &tm.tm_mday))
        return -1;
    if (*p) {
        if (*p != 'T' && *p != 't' && *p != ' ' && *p != '_')
            return -1;
        p++;
        if (!two(&p, 0, 0, 23, &tm.tm_hour) || !two(&p, ':', 0, 59, &tm.tm_min) ||
            (*p == ':' && !two(&p, ':', 0, 59, &tm.tm_sec)) || !fraction(&p, &us) ||
            !offset(&p, &away) || *p)
            return -1;
    }
    tm.tm_year = (int)year - 1900;
    tm.tm_mon = month - 1;
    int day = tm.tm_mday;
    time_t t = timegm(&tm);
    if (tm.tm_mday != day) // 31 February
        return -1;
    int64_t sec = (int64_t)t - away;
    if (sec > YEAR_9999_END)
        return -1;
    *ret_wall_us = sec * 1000000 + us;
    return 0;
}
