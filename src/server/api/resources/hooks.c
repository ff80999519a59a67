// `lifecycle` of a create: its form is checked, so that what is malformed is told as everywhere;
// create_check() refuses the rest until hooks are run (compat-1.1.1.md L10).
#include <string.h>

#include "base/cleanup.h"
#include "server/api/create.h"

enum { START_SECONDS_MAX = 10800, PERIODIC_SECONDS_MAX = 300 };

static bool is_blank(const char *text) {
    return !text[strspn(text, " \t\r\n")];
}

// Types and ranges; then, when nothing was wrong, that no text of it is blank.
static void read_hook(struct problems *p, const struct field *hook, const char *const *words,
                      int64_t seconds_max) {
    const size_t before = json_array_size(p->items);
    struct field command = field_get(&hook->at, hook->value, "command"),
                 seconds = field_get(&hook->at, hook->value, "timeoutSeconds");
    const json_t *list = field_list(p, &command, 1, true), *word;
    const char *first = json_string_value(json_array_get(list, 0));
    bool blank = first && is_blank(first);
    int64_t value = 0;
    size_t i;
    json_array_foreach(list, i, word) {
        const struct field item = {.at = {.in = &command.at, .index = i}, .value = word};
        (void)field_text(p, &item, true);
    }
    for (i = 0; words[i]; i++) {
        struct field f = field_get(&hook->at, hook->value, words[i]);
        const char *text = field_text(p, &f, true);
        blank = blank || (text && is_blank(text));
    }
    if (field_int(p, &seconds, 1, &value) > 0 && value > seconds_max)
        problem_add(p, &seconds.at, "less_than_equal", "Input should be less than or equal to %lld",
                    (long long)seconds_max);
    if (blank && json_array_size(p->items) == before)
        problem_add(p, &hook->at, "value_error",
                    "Value error, a name, a schedule or the first word of a command is blank");
}

static bool is_repeated(const json_t *hooks, size_t i) {
    const char *name = json_string_value(json_object_get(json_array_get(hooks, i), "name"));
    for (size_t k = 0; name && k < i; k++) {
        const char *other = json_string_value(json_object_get(json_array_get(hooks, k), "name"));
        if (other && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

static void read_periodic(struct problems *p, const struct field *lifecycle) {
    static const char *const words[] = {"name", "schedule", NULL};
    static const char *const members[] = {"name",           "schedule",        "command",
                                          "timeoutSeconds", "timeout_seconds", NULL};
    const size_t before = json_array_size(p->items);
    struct field list = field_get(&lifecycle->at, lifecycle->value, "periodic");
    const json_t *hooks = field_list(p, &list, 0, false), *o;
    bool repeated = false;
    size_t i;
    json_array_foreach(hooks, i, o) {
        const struct field hook = {.at = {.in = &list.at, .index = i}, .value = o};
        if (!field_object(p, &hook, true))
            continue;
        read_hook(p, &hook, words, PERIODIC_SECONDS_MAX);
        field_only(p, &hook, members);
        repeated = repeated || is_repeated(hooks, i);
    }
    if (repeated && json_array_size(p->items) == before)
        problem_add(p, &lifecycle->at, "value_error", "Value error, two hooks have one name");
}

bool hooks_read(struct problems *p, const struct field *f) {
    static const char *const members[] = {"preStart", "pre_start", "periodic", NULL};
    static const char *const start_members[] = {"command", "timeoutSeconds", "timeout_seconds",
                                                NULL};
    const json_t *o = field_object(p, f, false);
    if (!o)
        return false;
    struct field start = field_get(&f->at, o, "preStart");
    if (field_object(p, &start, false)) {
        read_hook(p, &start, start_members + ARRAY_SIZE(start_members) - 1, START_SECONDS_MAX);
        field_only(p, &start, start_members);
    }
    read_periodic(p, f);
    field_only(p, f, members);
    return true;
}
