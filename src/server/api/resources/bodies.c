#include "server/api/resources/bodies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/sandbox/snapshot/snapshot.h"

// ---- renewal ----

// A text of any form of 3.3, or Unix seconds or milliseconds as a number.
static void read_instant(struct problems *p, const struct field *f, int64_t *ret) {
    char number[40];
    const char *text = json_string_value(f->value);
    if (!f->value) {
        problem_add(p, &f->at, "datetime_type", "Input should be a valid datetime");
        return;
    }
    if (json_is_number(f->value) && json_number_value(f->value) < 0) {
        *ret = 0; // whichever, it is past
        return;
    }
    if (json_is_integer(f->value))
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(f->value));
    else if (json_is_real(f->value))
        (void)snprintf(number, sizeof number, "%.6f", json_real_value(f->value));
    else if (!text) {
        problem_add(p, &f->at, "datetime_type", "Input should be a valid datetime");
        return;
    }
    if (clock_parse(text ? text : number, ret) < 0)
        problem_add(p, &f->at, "datetime_from_date_parsing",
                    "Input should be a valid datetime or date, such as 2030-01-31T12:00:00Z");
}

void renewal_read(const json_t *body, struct problems *p, int64_t *ret_expires_us) {
    struct field f = field_get(&place_body, body, "expiresAt");
    if (!json_object_get(body, "expiresAt") && !json_object_get(body, "expires_at"))
        problem_add(p, &f.at, "missing", "Field required");
    else
        read_instant(p, &f, ret_expires_us);
}

// ---- metadata ----

// A removal is an entry without a value; pairs_add() makes only the others.
int patch_read(const json_t *body, struct problems *p, struct pairs *ret) {
    const char *name;
    json_t *value;
    struct field f = {.at = place_body, .value = body};
    if (field_map(p, &f, true, ret) < 0)
        return -1;
    json_object_foreach((json_t *)body, name, value) {
        if (!json_is_null(value))
            continue;
        if (pairs_add(ret, name, "") < 0)
            return -1;
        for (size_t i = ret->count; i-- > 0;) {
            if (strcmp(ret->items[i].name, name) == 0) {
                free(ret->items[i].value);
                ret->items[i].value = NULL;
                break;
            }
        }
    }
    return 0;
}

// ---- snapshots ----

const char *snapshot_name_read(const json_t *body, struct problems *p) {
    struct field f = field_get(&place_body, body, "name");
    const char *name = field_text(p, &f, false);
    if (name)
        (void)text_length(p, &f, name, 1, SNAPSHOT_NAME_MAX);
    return name;
}

// ---- pools ----

static void read_capacity(struct problems *p, const json_t *body, struct pool_capacity *ret) {
    struct field spec = field_get(&place_body, body, "capacitySpec");
    const json_t *o = field_object(p, &spec, true);
    const struct {
        const char *name;
        int64_t *ret;
    } numbers[] = {{"bufferMax", &ret->buffer_max},
                   {"bufferMin", &ret->buffer_min},
                   {"poolMax", &ret->pool_max},
                   {"poolMin", &ret->pool_min}};
    for (size_t i = 0; o && i < sizeof numbers / sizeof *numbers; i++) {
        struct field f = field_get(&spec.at, o, numbers[i].name);
        if (field_int(p, &f, 0, numbers[i].ret) == 0)
            problem_add(p, &f.at, "missing", "Field required");
    }
    if (!problems_any(p) && ret->buffer_min > ret->buffer_max)
        problem_add(p, &spec.at, "value_error", "Value error, bufferMin is larger than bufferMax");
    if (!problems_any(p) && ret->pool_min > ret->pool_max)
        problem_add(p, &spec.at, "value_error", "Value error, poolMin is larger than poolMax");
}

static const char *read_name(struct problems *p, const json_t *body) {
    struct field f = field_get(&place_body, body, "name");
    const char *name = field_text(p, &f, true);
    if (!name || !text_length(p, &f, name, 0, POOL_NAME_MAX))
        return NULL;
    if (!is_dns_label(name, POOL_NAME_MAX))
        problem_add(p, &f.at, "string_pattern_mismatch",
                    "String should match pattern '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'");
    return name;
}

void pool_read(const struct api *a, const json_t *body, bool create, struct pool_form *f,
               struct problems *p, struct error *err) {
    struct field t = field_get(&place_body, body, "template");
    if (create)
        f->name = read_name(p, body);
    const json_t *template = field_object(p, &t, create);
    read_capacity(p, body, &f->capacity);
    if (template && !problems_any(p))
        f->spec = template_read(a, &t.at, template, p, err);
}
