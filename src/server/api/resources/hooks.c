// `lifecycle` of a create: checked here (compat-1.1.1.md L10), run by execd, which is given its
// canonical form.
#include <string.h>

#include "base/cleanup.h"
#include "base/handoff.h"
#include "fmt/json.h"
#include "fmt/schedule.h"
#include "server/api/create.h"

#define BLANKS " \t\r\n\v\f"

static bool is_blank(const char *text) {
    return !text[strspn(text, BLANKS)];
}

// Without the blanks around it.
static const char *trimmed(const char *text, size_t *ret_len) {
    size_t len = strlen(text += strspn(text, BLANKS));
    while (len && strchr(BLANKS, text[len - 1]))
        len--;
    *ret_len = len;
    return text;
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

static bool same_name(const json_t *a, const json_t *b) {
    struct field one = field_get(NULL, a, "name"), other = field_get(NULL, b, "name");
    const char *x = json_string_value(one.value), *y = json_string_value(other.value);
    size_t x_len, y_len;
    if (!x || !y)
        return false;
    x = trimmed(x, &x_len);
    y = trimmed(y, &y_len);
    return x_len == y_len && memcmp(x, y, x_len) == 0;
}

static bool is_repeated(const json_t *hooks, size_t i) {
    for (size_t k = 0; k < i; k++)
        if (same_name(json_array_get(hooks, k), json_array_get(hooks, i)))
            return true;
    return false;
}

// When nothing else is wrong: that every schedule means something.
static void check_schedules(struct problems *p, const struct field *list) {
    const json_t *o;
    size_t i;
    json_array_foreach(list->value, i, o) {
        const struct place hook = {.in = &list->at, .index = i};
        struct field schedule = field_get(&hook, o, "schedule");
        struct schedule parsed;
        struct error why;
        if (schedule_parse(&parsed, json_string_value(schedule.value), &why) < 0)
            problem_add(p, &schedule.at, "value_error", "Value error, schedule: %s", why.message);
    }
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
    if (json_array_size(hooks) > LIFECYCLE_HOOKS_MAX) {
        problem_add(p, &list.at, "too_long",
                    "List should have at most %d items after validation, not %zu",
                    (int)LIFECYCLE_HOOKS_MAX, json_array_size(hooks));
        return;
    }
    json_array_foreach(hooks, i, o) {
        const struct field hook = {.at = {.in = &list.at, .index = i}, .value = o};
        if (!field_object(p, &hook, true))
            continue;
        read_hook(p, &hook, words, LIFECYCLE_PERIODIC_SECONDS_MAX);
        field_only(p, &hook, members);
        repeated = repeated || is_repeated(hooks, i);
    }
    if (json_array_size(p->items) != before)
        return;
    if (repeated)
        problem_add(p, &lifecycle->at, "value_error", "Value error, two hooks have one name");
    else
        check_schedules(p, &list);
}

// ---- what execd is given ----

static json_t *text_member(const json_t *hook, const char *name) {
    size_t len;
    const char *text = trimmed(json_string_value(field_get(NULL, hook, name).value), &len);
    return json_stringn(text, len);
}

// Command and time-out; *ret_seconds: the latter, or what stands for none.
static json_t *convert_hook(const json_t *hook, uint64_t *ret_seconds) {
    struct problems none = {0}; // all was checked
    struct field command = field_get(NULL, hook, "command"),
                 seconds = field_get(NULL, hook, "timeoutSeconds");
    int64_t value = LIFECYCLE_SECONDS;
    json_t *o = json_pack("{s:O}", "command", command.value);
    if (o && field_int(&none, &seconds, 1, &value) > 0)
        json_object_set_new(o, "timeoutSeconds", json_integer(value));
    *ret_seconds = (uint64_t)value;
    return o;
}

static json_t *convert_periodic(const json_t *hooks) {
    json_t *list = json_array();
    const json_t *hook;
    uint64_t seconds;
    size_t i;
    json_array_foreach(hooks, i, hook) {
        json_t *o = convert_hook(hook, &seconds);
        json_object_set_new(o, "name", text_member(hook, "name"));
        json_object_set_new(o, "schedule", text_member(hook, "schedule"));
        json_array_append_new(list, o);
    }
    return list;
}

static int convert(struct problems *p, const struct field *f, struct sandbox_spec *spec) {
    struct field start = field_get(&f->at, f->value, "preStart"),
                 periodic = field_get(&f->at, f->value, "periodic");
    cleanup_json json_t *o = json_object();
    if (start.value)
        json_object_set_new(o, "preStart", convert_hook(start.value, &spec->prestart_s));
    if (json_array_size(periodic.value))
        json_object_set_new(o, "periodic", convert_periodic(periodic.value));
    if (!json_object_size(o))
        return 0;
    spec->lifecycle = json_dumps(o, JSON_COMPACT);
    if (!spec->lifecycle)
        return -1;
    if (strlen(spec->lifecycle) > LIFECYCLE_MAX)
        problem_add(p, &f->at, "value_error", "Value error, hooks have at most %d bytes together",
                    (int)LIFECYCLE_MAX);
    return 0;
}

int hooks_read(struct problems *p, const struct field *f, struct sandbox_spec *spec) {
    static const char *const members[] = {"preStart", "pre_start", "periodic", NULL};
    static const char *const start_members[] = {"command", "timeoutSeconds", "timeout_seconds",
                                                NULL};
    const size_t before = json_array_size(p->items);
    const json_t *o = field_object(p, f, false);
    if (!o)
        return 0;
    struct field start = field_get(&f->at, o, "preStart");
    if (field_object(p, &start, false)) {
        read_hook(p, &start, start_members + ARRAY_SIZE(start_members) - 1,
                  LIFECYCLE_START_SECONDS_MAX);
        field_only(p, &start, start_members);
    }
    read_periodic(p, f);
    field_only(p, f, members);
    return json_array_size(p->items) == before && convert(p, f, spec) < 0 ? -1 : 1;
}
