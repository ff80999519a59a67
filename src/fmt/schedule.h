// Schedules of periodic hooks (compat-1.1.1.md L10, E21), in the grammar that users of robfig/cron
// know: five fields (minute, hour, day of the month, month, day of the week) with "*", "?", lists,
// ranges, steps and English names of months and days; or @yearly, @annually, @monthly, @weekly,
// @daily, @midnight, @hourly and "@every 1h30m". All times are UTC: a sandbox has no other clock
// that everybody agrees on, and UTC has no hour that comes twice. Any thread.
//
// As there: when days of the month and of the week are both restricted, either makes a match ("*/2"
// restricts, "*" and "*/1" do not). 7 is Sunday too. What would never come (30 February) is
// refused.
#ifndef FMT_SCHEDULE_H
#define FMT_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { SCHEDULE_TEXT_MAX = 256 };

struct schedule {
    uint64_t minutes; // a bit each
    uint32_t hours, days, months, weekdays;
    bool any_day, any_weekday;
    int64_t every_s; // > 0: "@every", and nothing else counts
};

// EINVAL with a message that names the field.
int schedule_parse(struct schedule *s, const char *text, struct error *err);
// The first time after `after` (seconds since 1970 UTC, not negative).
int64_t schedule_next(const struct schedule *s, int64_t after);

#endif
