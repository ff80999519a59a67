// Lifecycle hooks: their JSON; a text that does not begin like it is a schedule.
#include "base/arena.h"
#include "execd/hooks/plan.h"
#include "fuzz.h"

static void check_schedule(const struct schedule *s) {
    static const int64_t begin = 1764547200; // 2025-12-01
    int64_t first = schedule_next(s, begin), second = schedule_next(s, first);
    CHECK(first > begin && second > first);
    CHECK(schedule_next(s, first - 1) == (s->every_s ? first - 1 + s->every_s : first));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct hooks_plan p;
    struct schedule s;
    struct arena a;
    struct error err = {0};
    char *text = fuzz_text(data, size);
    arena_init(&a, 1 << 20);
    if (*text != '{') {
        if (schedule_parse(&s, text, &err) == 0)
            check_schedule(&s);
        else
            CHECK(err.kind && *err.message);
    } else if (hooks_plan_read(&p, &a, text, &err) < 0) {
        CHECK(err.kind && *err.message);
    } else {
        CHECK(!p.start.argv || (p.start.argv[0] && p.start.time_out_s > 0));
        for (size_t i = 0; i < p.count; i++) {
            CHECK(*p.periodic[i].name && p.periodic[i].argv[0]);
            check_schedule(&p.periodic[i].when);
        }
    }
    arena_free(&a);
    free(text);
    return 0;
}
