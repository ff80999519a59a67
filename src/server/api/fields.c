#include "server/api/fields.h"

#include <ctype.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "base/utf8.h"
#include "fmt/json.h"
#include "http/server.h"
#include "server/api/api.h"

enum { PROBLEMS_MAX = 100, MAP_MAX = 4096 };

const struct place place_body = {.name = "body"};

static json_t *place_json(const struct place *at) {
    json_t *list = at->in ? place_json(at->in) : json_array();
    (void)json_array_append_new(list, at->name ? json_string(at->name)
                                               : json_integer((json_int_t)at->index));
    return list;
}

void problem_add(struct problems *p, const struct place *at, const char *type, const char *format,
                 ...) {
    char text[300];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    p->any = true;
    if (!p->items)
        p->items = json_array();
    if (json_array_size(p->items) < PROBLEMS_MAX)
        (void)json_array_append_new(p->items, json_pack("{s:s, s:o, s:s}", "type", type, "loc",
                                                        place_json(at), "msg", text));
}

void problems_clear(struct problems *p) {
    json_decref(p->items);
    *p = (struct problems){0};
}

// "body.timeout: Input should be ..." of the first problem, for those who read only `message`.
static void first_message(const struct problems *p, char *text, size_t size) {
    const json_t *first = json_array_get(p->items, 0), *part;
    size_t i, used = 0;
    text[0] = 0;
    json_array_foreach(json_object_get(first, "loc"), i, part) {
        const char *dot = i ? "." : "";
        int n = json_is_string(part)
                    ? snprintf(text + used, size - used, "%s%s", dot, json_string_value(part))
                    : snprintf(text + used, size - used, "%s%lld", dot,
                               (long long)json_integer_value(part));
        used += n > 0 ? (size_t)n : 0;
        if (used >= size)
            return;
    }
    (void)snprintf(text + used, size - used, ": %s",
                   json_string_value(json_object_get(first, "msg")));
}

void problems_reply(struct http_exchange *x, struct problems *p) {
    char message[500];
    first_message(p, message, sizeof message);
    http_reply_json(x, error_status(ERR_INVALID_REQUEST),
                    json_pack("{s:s, s:s, s:o}", "code", error_code(ERR_INVALID_REQUEST), "message",
                              message, "detail", TAKE_PTR(p->items)));
    p->any = false;
}

static void refuse_body(struct http_exchange *x, const struct place *at, const char *type,
                        const char *message) {
    struct problems p = {0};
    problem_add(&p, at, type, "%s", message);
    problems_reply(x, &p);
}

// application/json or application/*+json
static bool is_json(const char *type) {
    if (!type || strncasecmp(type, "application/", 12) != 0)
        return false;
    size_t len = strcspn(type, "; \t");
    return (len == 16 && strncasecmp(type + 12, "json", 4) == 0) ||
           (len > 17 && strncasecmp(type + len - 5, "+json", 5) == 0);
}

static json_t *read_body(struct http_exchange *x, json_type wanted, const char *type,
                         const char *object) {
    struct error err = {0};
    size_t offset = 0;
    if (!x->body_len) {
        refuse_body(x, &place_body, "missing", "Field required");
        return NULL;
    }
    if (!utf8_valid(x->body, x->body_len)) {
        api_refuse(x, ERR_INVALID_PARAMETER,
                   "there was an error parsing the body: it is not UTF-8");
        return NULL;
    }
    if (!is_json(http_header(x, "Content-Type"))) {
        refuse_body(x, &place_body, type, object);
        return NULL;
    }
    json_t *body = json_parse(x->body, x->body_len, &offset, &err);
    if (!body) {
        const struct place at = {.in = &place_body, .index = offset};
        refuse_body(x, &at, "json_invalid", "JSON decode error");
    } else if (json_typeof(body) != wanted) {
        bool null = json_is_null(body);
        json_decref(body);
        body = NULL;
        refuse_body(x, &place_body, null ? "missing" : type, null ? "Field required" : object);
    }
    return body;
}

json_t *body_object(struct http_exchange *x) {
    return read_body(x, JSON_OBJECT, "model_attributes_type",
                     "Input should be a valid dictionary or object to extract fields from");
}

json_t *body_map(struct http_exchange *x) {
    return read_body(x, JSON_OBJECT, "dict_type", "Input should be a valid dictionary");
}

json_t *body_list(struct http_exchange *x) {
    return read_body(x, JSON_ARRAY, "list_type", "Input should be a valid list");
}

// The snake_case name of a camelCase one.
static void snake(const char *name, char *out, size_t size) {
    size_t n = 0;
    for (; *name && n + 2 < size; name++) {
        if (isupper((unsigned char)*name))
            out[n++] = '_';
        out[n++] = (char)tolower((unsigned char)*name);
    }
    out[n] = 0;
}

struct field field_get(const struct place *in, const json_t *object, const char *name) {
    char other[64];
    const json_t *v = json_object_get(object, name);
    if (!v) {
        snake(name, other, sizeof other);
        v = json_object_get(object, other);
    }
    return (struct field){.at = {.in = in, .name = name}, .value = json_is_null(v) ? NULL : v};
}

static bool absent(struct problems *p, const struct field *f, bool required) {
    if (!f->value && required)
        problem_add(p, &f->at, "missing", "Field required");
    return !f->value;
}

const char *field_text(struct problems *p, const struct field *f, bool required) {
    if (absent(p, f, required))
        return NULL;
    if (!json_is_string(f->value))
        problem_add(p, &f->at, "string_type", "Input should be a valid string");
    return json_string_value(f->value);
}

const json_t *field_object(struct problems *p, const struct field *f, bool required) {
    if (absent(p, f, required))
        return NULL;
    if (json_is_object(f->value))
        return f->value;
    problem_add(p, &f->at, "model_attributes_type",
                "Input should be a valid dictionary or object to extract fields from");
    return NULL;
}

void field_only(struct problems *p, const struct field *f, const char *const *names) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)f->value, name, value) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], name) != 0)
            i++;
        const struct place at = {.in = &f->at, .name = name};
        if (!names[i])
            problem_add(p, &at, "extra_forbidden", "Extra inputs are not permitted");
    }
}

const json_t *field_list(struct problems *p, const struct field *f, size_t least, bool required) {
    if (absent(p, f, required))
        return NULL;
    if (!json_is_array(f->value)) {
        problem_add(p, &f->at, "list_type", "Input should be a valid list");
        return NULL;
    }
    if (json_array_size(f->value) < least) {
        problem_add(p, &f->at, "too_short",
                    "List should have at least %zu item after validation, not %zu", least,
                    json_array_size(f->value));
        return NULL;
    }
    return f->value;
}

bool text_bool(const char *text, bool *ret) {
    static const char *const yes[] = {"true", "1", "yes", "on", "y", "t"}, *const no[] = {
                                                                               "false", "0", "no",
                                                                               "off",   "n", "f"};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *ret = strcasecmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

bool field_bool(struct problems *p, const struct field *f, bool standard) {
    bool value = standard;
    if (!f->value)
        return standard;
    if (json_is_boolean(f->value))
        return json_is_true(f->value);
    if (json_is_integer(f->value) &&
        (json_integer_value(f->value) == 0 || json_integer_value(f->value) == 1))
        return json_integer_value(f->value) == 1;
    if (!json_is_string(f->value))
        problem_add(p, &f->at, "bool_type", "Input should be a valid boolean");
    else if (!text_bool(json_string_value(f->value), &value))
        problem_add(p, &f->at, "bool_parsing",
                    "Input should be a valid boolean, unable to interpret input");
    return value;
}

bool text_int(const char *text, int64_t *ret) {
    char digits[40];
    size_t len = strlen(text);
    while (len && isspace((unsigned char)*text)) {
        text++;
        len--;
    }
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    const char *point = memchr(text, '.', len);
    if (point) {
        const char *zero = point + 1;
        while (zero < text + len && *zero == '0')
            zero++;
        if (zero != text + len || zero == point + 1)
            return false;
        len = (size_t)(point - text);
    }
    if (len && *text == '+') {
        text++;
        len--;
    }
    bool minus = len && *text == '-';
    if (minus) {
        text++;
        len--;
    }
    while (len > 1 && *text == '0') {
        text++;
        len--;
    }
    if (!len || len >= sizeof digits - 1)
        return false;
    (void)snprintf(digits, sizeof digits, "%s%.*s", minus ? "-" : "", (int)len, text);
    return isdigit((unsigned char)*text) && parse_i64(digits, INT64_MIN, INT64_MAX, ret) == 0;
}

int field_int(struct problems *p, const struct field *f, int64_t least, int64_t *ret) {
    int64_t value = 0;
    const json_t *v = f->value;
    if (!v)
        return 0;
    if (json_is_integer(v) || json_is_boolean(v)) {
        value = json_is_integer(v) ? json_integer_value(v) : json_is_true(v);
    } else if (json_is_real(v)) {
        double real = json_real_value(v);
        if (real < -9e15 || real > 9e15 || (double)(int64_t)real != real) {
            problem_add(p, &f->at, "int_from_float",
                        "Input should be a valid integer, got a number with a fractional part");
            return -1;
        }
        value = (int64_t)real;
    } else if (!json_is_string(v)) {
        problem_add(p, &f->at, "int_type", "Input should be a valid integer");
        return -1;
    } else if (!text_int(json_string_value(v), &value)) {
        problem_add(p, &f->at, "int_parsing",
                    "Input should be a valid integer, unable to parse string as an integer");
        return -1;
    }
    if (value < least) {
        problem_add(p, &f->at, "greater_than_equal",
                    "Input should be greater than or equal to %lld", (long long)least);
        return -1;
    }
    *ret = value;
    return 1;
}

int field_map(struct problems *p, const struct field *f, bool nulls, struct pairs *ret) {
    const char *name;
    json_t *value;
    if (!f->value)
        return 0;
    if (!json_is_object(f->value)) {
        problem_add(p, &f->at, "dict_type", "Input should be a valid dictionary");
        return 0;
    }
    if (json_object_size(f->value) > MAP_MAX) {
        problem_add(p, &f->at, "too_long", "Dictionary should have at most %d items", MAP_MAX);
        return 0;
    }
    json_object_foreach((json_t *)f->value, name, value) {
        const struct place at = {.in = &f->at, .name = name};
        if (json_is_null(value) && nulls)
            continue;
        if (!json_is_string(value))
            problem_add(p, &at, "string_type", "Input should be a valid string");
        else if (pairs_add(ret, name, json_string_value(value)) < 0)
            return -1;
    }
    return 0;
}

bool text_length(struct problems *p, const struct field *f, const char *text, size_t least,
                 size_t most) {
    size_t len = text ? strlen(text) : 0;
    if (!text)
        return false;
    if (len < least)
        problem_add(p, &f->at, "string_too_short", "String should have at least %zu character%s",
                    least, least == 1 ? "" : "s");
    if (most && len > most)
        problem_add(p, &f->at, "string_too_long", "String should have at most %zu characters",
                    most);
    return len >= least && (!most || len <= most);
}
