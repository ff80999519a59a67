// Lifecycle hooks as they came (base/handoff.h), read strictly: whoever wrote them has checked
// them, so what is unknown or out of bounds is an error and never skipped. Any thread.
#ifndef EXECD_HOOKS_PLAN_H
#define EXECD_HOOKS_PLAN_H

#include "base/arena.h"
#include "fmt/schedule.h"

struct hook {
    const char *name;  // "preStart" for that one
    char *const *argv; // NULL-terminated, at least one word
    int64_t time_out_s;
    struct schedule when; // of a periodic one
};

struct hooks_plan {
    struct hook start; // argv NULL: there is none
    struct hook *periodic;
    size_t count;
};

// All memory from the arena. EINVAL with a message that names the member.
int hooks_plan_read(struct hooks_plan *plan, struct arena *a, const char *text, struct error *err);

#endif
