#include "fmt/schedule.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/parse.h"

#define BLANKS " \t\r\n"
enum {
    MINUTE = 60,
    DAY = 86400,
    DAY_MINUTES = 1440,
    HOUR_MINUTES = 60,
    DAYS_AHEAD = 9 * 366 // 29 February may be eight years away (2096 to 2104)
};

static const struct field {
    const char *name;
    unsigned min, max;     // as written; 7 is Sunday as well
    const char *words[13]; // of min, min + 1, ...
} fields[] = {
    {"minute", 0, 59, {NULL}},
    {"hour", 0, 23, {NULL}},
    {"day of the month", 1, 31, {NULL}},
    {"month",
     1,
     12,
     {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", NULL}},
    {"day of the week", 0, 7, {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL}},
};

static int wrong(struct error *err, const struct field *f, const char *text, size_t len) {
    return error_set(err, EINVAL, "%s \"%.*s\" is no number from %u to %u, list, range or step",
                     f->name, (int)(len < 40 ? len : 40), text, f->min, f->max);
}

static bool read_value(const struct field *f, const char *text, size_t len, unsigned *ret) {
    uint64_t n;
    for (unsigned i = 0; f->words[i]; i++)
        if (len == strlen(f->words[i]) && strncasecmp(text, f->words[i], len) == 0) {
            *ret = f->min + i;
            return true;
        }
    if (parse_u64n(text, len, f->min, f->max, &n) < 0)
        return false;
    *ret = (unsigned)n;
    return true;
}

// One item of a list: "*", "n", "a-b", each with "/step". *any is set for all values.
static int read_item(const struct field *f, const char *text, size_t len, uint64_t *bits, bool *any,
                     struct error *err) {
    const char *slash = memchr(text, '/', len);
    size_t range = slash ? (size_t)(slash - text) : len;
    const char *dash = memchr(text, '-', range);
    bool star = range == 1 && (*text == '*' || *text == '?');
    unsigned from = f->min, to = f->max;
    uint64_t step = 1;
    if (star) {
        to -= f->max == 7; // Sunday once
    } else if (dash) {
        size_t left = (size_t)(dash - text);
        if (!read_value(f, text, left, &from) || !read_value(f, dash + 1, range - left - 1, &to))
            return wrong(err, f, text, len);
    } else {
        if (!read_value(f, text, range, &from))
            return wrong(err, f, text, len);
        to = slash ? f->max : from;
    }
    if (slash && parse_u64n(slash + 1, len - range - 1, 1, f->max, &step) < 0)
        return wrong(err, f, text, len);
    if (from > to)
        return error_set(err, EINVAL, "%s \"%.*s\" begins behind its end", f->name,
                         (int)(len < 40 ? len : 40), text);
    *any = *any || (star && step == 1);
    for (uint64_t v = from; v <= to; v += step)
        *bits |= UINT64_C(1) << v;
    return 0;
}

static int read_field(const struct field *f, const char *text, size_t len, uint64_t *bits,
                      bool *any, struct error *err) {
    for (const char *end = text + len;;) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        size_t n = (size_t)((comma ? comma : end) - text);
        if (!n || read_item(f, text, n, bits, any, err) < 0)
            return n ? -1 : wrong(err, f, text, 0);
        if (!comma)
            return 0;
        text = comma + 1;
    }
}

static const char *skip_blanks(const char *p) {
    return p + strspn(p, BLANKS);
}

static int read_fields(struct schedule *s, const char *text, struct error *err) {
    uint64_t bits[ARRAY_SIZE(fields)] = {0};
    bool any[ARRAY_SIZE(fields)] = {false};
    size_t i = 0;
    for (text = skip_blanks(text); *text; text = skip_blanks(text), i++) {
        size_t len = strcspn(text, BLANKS);
        if (i < ARRAY_SIZE(fields) && read_field(&fields[i], text, len, &bits[i], &any[i], err) < 0)
            return -1;
        text += len;
    }
    if (i != ARRAY_SIZE(fields))
        return error_set(
            err, EINVAL,
            "%zu fields instead of five: minute, hour, day of the month, month, day of "
            "the week (UTC)",
            i);
    *s = (struct schedule){
        .minutes = bits[0],
        .hours = (uint32_t)bits[1],
        .days = (uint32_t)bits[2],
        .months = (uint32_t)bits[3],
        .weekdays = (uint32_t)((bits[4] | bits[4] >> 7) & 0x7f),
        .any_day = any[2],
        .any_weekday = any[4],
    };
    return 0;
}

static int read_every(struct schedule *s, const char *text, struct error *err) {
    static const int64_t second_ns = 1000000000;
    int64_t ns;
    if (parse_duration(skip_blanks(text), &ns) < 0 || ns <= 0)
        return error_set(err, EINVAL, "@every needs a duration such as 30s or 1h30m");
    *s = (struct schedule){.every_s = ns < second_ns ? 1 : ns / second_ns};
    return 0;
}

static int read_descriptor(struct schedule *s, const char *text, struct error *err) {
    static const struct {
        const char *word, *same;
    } known[] = {{"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
                 {"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},    {"@midnight", "0 0 * * *"},
                 {"@hourly", "0 * * * *"}};
    size_t len = strcspn(text, BLANKS);
    if (len == 6 && strncmp(text, "@every", len) == 0)
        return read_every(s, text + len, err);
    for (size_t i = 0; i < ARRAY_SIZE(known) && !*skip_blanks(text + len); i++)
        if (strlen(known[i].word) == len && strncmp(text, known[i].word, len) == 0)
            return read_fields(s, known[i].same, err);
    return error_set(err, EINVAL,
                     "\"%.40s\" is none of @yearly, @monthly, @weekly, @daily, @hourly "
                     "and @every",
                     text);
}

static bool bit(uint64_t bits, int n) {
    return bits >> n & 1;
}

static bool matches_day(const struct schedule *s, int64_t day) {
    struct tm tm;
    time_t t = (time_t)(day * DAY);
    if (!gmtime_r(&t, &tm) || !bit(s->months, tm.tm_mon + 1))
        return false;
    bool in_month = bit(s->days, tm.tm_mday), in_week = bit(s->weekdays, tm.tm_wday);
    return s->any_day || s->any_weekday ? in_month && in_week : in_month || in_week;
}

// -1: never.
static int64_t find(const struct schedule *s, int64_t after) {
    int64_t minute = after / MINUTE + 1;
    for (int64_t first = minute / DAY_MINUTES, day = first; day < first + DAYS_AHEAD; day++) {
        if (!matches_day(s, day))
            continue;
        for (int m = day == first ? (int)(minute % DAY_MINUTES) : 0; m < DAY_MINUTES; m++)
            if (bit(s->hours, m / HOUR_MINUTES) && bit(s->minutes, m % HOUR_MINUTES))
                return day * DAY + (int64_t)m * MINUTE;
    }
    return -1;
}

int schedule_parse(struct schedule *s, const char *text, struct error *err) {
    struct schedule read = {0};
    text = skip_blanks(text);
    if (strlen(text) > SCHEDULE_TEXT_MAX)
        return error_set(err, EINVAL, "more than %d bytes", (int)SCHEDULE_TEXT_MAX);
    if (*text == '@' ? read_descriptor(&read, text, err) < 0 : read_fields(&read, text, err) < 0)
        return -1;
    if (!read.every_s && find(&read, 0) < 0)
        return error_set(err, EINVAL, "no day is like that");
    *s = read;
    return 0;
}

int64_t schedule_next(const struct schedule *s, int64_t after) {
    return s->every_s ? after + s->every_s : find(s, after);
}
