#include "execd/hooks/plan.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/handoff.h"
#include "fmt/json.h"

// Every member has one of the names (to NULL); null is as good as absent.
static int only(const json_t *object, const char *what, const char *const *names,
                struct error *err) {
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        return error_set(err, EINVAL, "%s is no object", what);
    json_object_foreach((json_t *)object, name, value) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], name) != 0)
            i++;
        if (!names[i])
            return error_set(err, EINVAL, "%s has an unknown member \"%.80s\"", what, name);
    }
    return 0;
}

static const char *text_of(const json_t *value) {
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

static bool is_blank(const char *text) {
    return !text || !text[strspn(text, " \t\r\n\v\f")];
}

static int read_command(struct hook *h, struct arena *a, const json_t *list, struct error *err) {
    size_t i, count = json_array_size(list);
    const json_t *word;
    char **argv = arena_alloc(a, (count + 1) * sizeof *argv);
    if (!argv)
        return error_set(err, ENOMEM, "out of memory");
    json_array_foreach(list, i, word) {
        const char *text = text_of(word);
        if (!text || (i == 0 && is_blank(text)))
            return error_set(err, EINVAL, "%s: word %zu of the command is no text", h->name, i);
        if (!(argv[i] = arena_strdup(a, text)))
            return error_set(err, ENOMEM, "out of memory");
    }
    if (!count)
        return error_set(err, EINVAL, "%s has no command", h->name);
    argv[count] = NULL;
    h->argv = argv;
    return 0;
}

static int read_hook(struct hook *h, struct arena *a, const json_t *j, int64_t seconds_max,
                     struct error *err) {
    const json_t *seconds = json_object_get(j, "timeoutSeconds");
    h->time_out_s = LIFECYCLE_SECONDS;
    if (seconds && !json_is_null(seconds)) {
        h->time_out_s = json_integer_value(seconds);
        if (!json_is_integer(seconds) || h->time_out_s < 1 || h->time_out_s > seconds_max)
            return error_set(err, EINVAL, "%s: timeoutSeconds is no number from 1 to %lld", h->name,
                             (long long)seconds_max);
    }
    return read_command(h, a, json_object_get(j, "command"), err);
}

static int read_periodic(struct hook *h, struct arena *a, const json_t *j, struct error *err) {
    static const char *const members[] = {"name", "schedule", "command", "timeoutSeconds", NULL};
    const char *name = text_of(json_object_get(j, "name")),
               *schedule = text_of(json_object_get(j, "schedule"));
    if (only(j, "a periodic hook", members, err) < 0)
        return -1;
    if (is_blank(name) || !schedule)
        return error_set(err, EINVAL, "a periodic hook has no name or no schedule");
    if (!(h->name = arena_strdup(a, name)))
        return error_set(err, ENOMEM, "out of memory");
    if (schedule_parse(&h->when, schedule, err) < 0)
        return error_wrap(err, "%.80s: schedule", h->name);
    return read_hook(h, a, j, LIFECYCLE_PERIODIC_SECONDS_MAX, err);
}

static int read_list(struct hooks_plan *plan, struct arena *a, const json_t *list,
                     struct error *err) {
    size_t i;
    const json_t *one;
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) > LIFECYCLE_HOOKS_MAX)
        return error_set(err, EINVAL, "periodic is no list of at most %d hooks",
                         (int)LIFECYCLE_HOOKS_MAX);
    plan->periodic = arena_alloc(a, (json_array_size(list) + 1) * sizeof *plan->periodic);
    if (!plan->periodic)
        return error_set(err, ENOMEM, "out of memory");
    json_array_foreach(list, i, one) {
        if (read_periodic(&plan->periodic[i], a, one, err) < 0)
            return -1;
        for (size_t k = 0; k < i; k++)
            if (!strcmp(plan->periodic[k].name, plan->periodic[i].name))
                return error_set(err, EINVAL, "two periodic hooks have the name \"%.80s\"",
                                 plan->periodic[i].name);
        plan->count++;
    }
    return 0;
}

int hooks_plan_read(struct hooks_plan *plan, struct arena *a, const char *text, struct error *err) {
    static const char *const members[] = {"preStart", "periodic", NULL};
    static const char *const start_members[] = {"command", "timeoutSeconds", NULL};
    *plan = (struct hooks_plan){.start = {.name = "preStart"}};
    if (strlen(text) > LIFECYCLE_MAX)
        return error_set(err, EINVAL, "more than %d bytes", (int)LIFECYCLE_MAX);
    cleanup_json json_t *j = json_parse(text, strlen(text), NULL, err);
    if (!j || only(j, "lifecycle", members, err) < 0)
        return -1;
    const json_t *start = json_object_get(j, "preStart");
    if (start && !json_is_null(start) &&
        (only(start, "preStart", start_members, err) < 0 ||
         read_hook(&plan->start, a, start, LIFECYCLE_START_SECONDS_MAX, err) < 0))
        return -1;
    return read_list(plan, a, json_object_get(j, "periodic"), err);
}
