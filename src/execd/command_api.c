// The routes of commands: requests to specs, records to JSON.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "execd/command.h"
#include "execd/handlers.h"
#include "fmt/json.h"

enum { ARGV_MAX = 4096, ARGV_BYTES_MAX = 2 << 20 }; // bytes: what the kernel takes of all

// ---- POST /command ----

static int take_integer(const json_t *body, const char *name, int64_t min, int64_t max,
                        int64_t *ret, struct error *err) {
    const json_t *v = execd_member(body, name);
    if (!v)
        return 0;
    if (!json_is_integer(v))
        return error_set(err, EINVAL, "%s must be an integer", name);
    if (json_integer_value(v) < min || json_integer_value(v) > max)
        return error_set(err, EINVAL, "%s must be between %lld and %lld", name, (long long)min,
                         (long long)max);
    *ret = json_integer_value(v);
    return 0;
}

static const char *take_text(const json_t *body, const char *name, const char *absent,
                             struct error *err) {
    const json_t *v = execd_member(body, name);
    if (!v)
        return absent;
    if (!json_is_string(v)) {
        (void)error_set(err, EINVAL, "%s must be a string", name);
        return NULL;
    }
    return json_string_value(v);
}

// NULL with err when the item is none.
static const char *argument(const json_t *item, size_t index, struct error *err) {
    const char *text = json_is_null(item) ? "" : json_string_value(item);
    if (text && (*text || index))
        return text;
    (void)error_set(err, EINVAL, "argv[%zu] must be a%s string", index, index ? "" : " non-empty");
    return NULL;
}

static int take_argv(struct arena *a, const json_t *list, struct command_spec *spec,
                     struct error *err) {
    size_t count = json_array_size(list), length = 1;
    if (!json_is_array(list) || !count || count > ARGV_MAX)
        return error_set(err, EINVAL, "argv must be an array of 1 to %d strings", ARGV_MAX);
    char **argv = arena_alloc(a, (count + 1) * sizeof *argv);
    for (size_t i = 0; argv && i < count; i++) {
        if (!(argv[i] = (char *)argument(json_array_get(list, i), i, err)))
            return -1;
        length += strlen(argv[i]) + 1;
    }
    if (length > ARGV_BYTES_MAX)
        return error_set(err, EINVAL, "argv is longer than %d KiB", ARGV_BYTES_MAX / 1024);
    char *content = argv ? arena_alloc(a, length) : NULL;
    if (!content)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0, at = 0; i < count; i++)
        at += (size_t)snprintf(content + at, length - at, "%s%s", i ? " " : "", argv[i]);
    spec->argv = argv;
    spec->content = content;
    return 0;
}

// What is to run: exactly one of command and argv (compat-1.1.1.md E3).
static int take_program(struct arena *a, const json_t *body, struct command_spec *spec,
                        struct error *err) {
    const json_t *argv = execd_member(body, "argv");
    const char *script = take_text(body, "command", "", err);
    if (!script)
        return -1;
    if (argv && *script)
        return error_set(err, EINVAL, "command and argv exclude each other");
    if (argv)
        return take_argv(a, argv, spec, err);
    if (!*script)
        return error_set(err, EINVAL, "command is required");
    spec->script = spec->content = script;
    return 0;
}

static int take_cwd(const struct execd *e, struct arena *a, const json_t *body,
                    struct command_spec *spec, struct error *err) {
    struct stat st;
    const char *given = take_text(body, "cwd", "", err);
    if (!given)
        return -1;
    spec->cwd = *given ? process_absolute(a, e, spec->envp, given, err) : e->cwd;
    if (!spec->cwd)
        return error_wrap(err, "invalid request, validation error working directory");
    if (*given && (stat(spec->cwd, &st) < 0 || !S_ISDIR(st.st_mode)))
        return error_set(err, EINVAL,
                         "invalid request, validation error working directory %s does not exist or "
                         "is not a directory",
                         spec->cwd);
    return 0;
}

int command_spec_read(struct command_spec *spec, const struct execd *e, struct arena *a,
                      const json_t *body, struct error *err) {
    const json_t *background = execd_member(body, "background");
    *spec = (struct command_spec){.uid = -1, .gid = -1, .background = json_is_true(background)};
    if (background && !json_is_boolean(background))
        return error_set(err, EINVAL, "background must be a boolean");
    if (take_program(a, body, spec, err) < 0 ||
        take_integer(body, "timeout", 0, INT64_MAX / 1000000, &spec->time_out_ms, err) < 0 ||
        take_integer(body, "uid", 0, UINT32_MAX - 1, &spec->uid, err) < 0 ||
        take_integer(body, "gid", 0, UINT32_MAX - 1, &spec->gid, err) < 0)
        return -1;
    if (spec->gid >= 0 && spec->uid < 0)
        return error_set(err, EINVAL, "uid is required when gid is provided");
    spec->envp = process_environment(a, execd_member(body, "envs"), err);
    return spec->envp ? take_cwd(e, a, body, spec, err) : -1;
}

void handle_command(struct http_exchange *x) {
    struct command_spec spec;
    struct error err = {0};
    cleanup_json json_t *body = execd_body(x, false);
    if (!body)
        return;
    if (command_spec_read(&spec, execd_of(x), x->arena, body, &err) == 0)
        command_start(x, &spec);
    else if (err.kind != ENOMEM)
        execd_fail(x, 400, CODE_BODY, "%s", err.message);
    else if (x->arena->used > x->arena->max / 2) // no program could be given them, either
        execd_fail(x, 400, CODE_BODY, "argv and envs are too large: %zu KiB in all",
                   x->arena->max / 1024);
    else
        execd_fail(x, 503, CODE_RUNTIME, "%s", err.message);
}

// ---- DELETE /command and DELETE /code ----

void handle_interrupt(struct http_exchange *x) {
    const char *id = execd_query(x, "id");
    struct error err = {0};
    if (!id || !*id) {
        execd_fail(x, 400, CODE_QUERY, "missing query parameter 'id'");
        return;
    }
    int r = 0;
    for (const struct execd_room *room = execd_rooms; room->name && r == 0; room++)
        if (room->interrupt)
            r = room->interrupt(execd_of(x), id, &err);
    if (r > 0)
        http_reply_empty(x, 200);
    else
        execd_fail(x, 500, CODE_RUNTIME, "error interruptting code context. %s",
                   r < 0 ? err.message : "no such session");
}

// ---- GET /command/status/{id} ----

static json_t *time_text(int64_t wall_us) {
    char text[CLOCK_TEXT_MAX];
    clock_format_ns(wall_us / 1000000, wall_us % 1000000 * 1000, text);
    return json_string(text);
}

void handle_command_status(struct http_exchange *x) {
    const char *id = http_param(x, "id");
    const struct command *c = command_find(execd_of(x), id);
    char text[64];
    if (!c) {
        execd_fail(x, 404, CODE_BODY, "command not found: %s", id);
        return;
    }
    json_t *j = json_pack("{s:s}", "id", c->id);
    if (*c->content)
        json_object_set_new(j, "content", json_string(c->content));
    json_object_set_new(j, "running", json_boolean(c->running));
    if (!c->running) {
        json_object_set_new(j, "exit_code", json_integer(command_exit_code(c)));
        if (c->failure)
            json_object_set_new(j, "error", json_string(c->failure));
        else if (command_exit_code(c))
            json_object_set_new(j, "error",
                                json_string(process_describe(c->status, text, sizeof text)));
    }
    json_object_set_new(j, "started_at", time_text(c->started_us));
    if (!c->running)
        json_object_set_new(j, "finished_at", time_text(c->finished_us));
    http_reply_json(x, 200, j);
}

// ---- GET /command/{id}/logs ----

// A long log leaves piece by piece, as the client takes it. The reader holds what it still needs.
struct log_reply {
    struct http_exchange *x;
    struct output_reader reader;
    uint64_t end;
};

static void ignore_more(struct output_reader *r) {
    (void)r; // the reply ends where the log ended when it began
}

static void end_log(struct log_reply *l) {
    output_detach(&l->reader);
    http_stream_end(l->x);
    free(l);
}

static void send_log(struct http_exchange *x) {
    struct log_reply *l = x->user;
    char *piece = execd_of(x)->scratch;
    enum output_stream from;
    while (l->reader.cursor < l->end) {
        size_t size = http_stream_room(x), left = (size_t)(l->end - l->reader.cursor);
        size = size < left ? size : left;
        size = output_next(&l->reader, &from, piece, size < EXECD_SCRATCH ? size : EXECD_SCRATCH);
        if (!size || http_stream_write(x, piece, size) < 0)
            return; // on_room
    }
    end_log(l);
}

static void lose_log(struct http_exchange *x) {
    end_log(x->user);
}

static void number_header(struct http_exchange *x, const char *name, uint64_t value) {
    char text[24];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    (void)http_reply_header(x, name, text);
}

void handle_command_logs(struct http_exchange *x) {
    static const char type[] = "text/plain; charset=utf-8";
    const char *id = http_param(x, "id"), *text = execd_query(x, "cursor");
    struct execd *e = execd_of(x);
    struct command *c = command_find(e, id);
    int64_t cursor = 0;
    if (!c) {
        execd_fail(x, 400, CODE_BODY, "command not found: %s", id);
        return;
    }
    if (text && !parse_i64(text, INT64_MIN, INT64_MAX, &cursor) && cursor < 0) {
        execd_fail(x, 400, CODE_BODY, "cursor must not be negative");
        return;
    }
    const struct output *o = &c->output;
    uint64_t from = (uint64_t)cursor < o->total ? (uint64_t)cursor : o->total;
    number_header(x, "EXECD-COMMANDS-TAIL-CURSOR", o->total);
    if (from < o->begin) {
        number_header(x, "EXECD-COMMANDS-DROPPED", o->begin - from);
        from = o->begin;
    }
    if (o->total - from <= EXECD_SCRATCH) {
        size_t n = output_copy(o, from, e->scratch, EXECD_SCRATCH);
        http_reply(x, 200, type, e->scratch, n);
        return;
    }
    struct log_reply *l = calloc(1, sizeof *l);
    if (!l) {
        execd_fail(x, 503, CODE_RUNTIME, "out of memory");
        return;
    }
    l->x = x;
    l->end = o->total;
    output_attach(&c->output, &l->reader, from, OUTPUT_HOLD, ignore_more);
    x->user = l;
    x->on_room = send_log;
    x->on_gone = lose_log;
    http_stream_begin(x, 200, type, (int64_t)(l->end - from));
    send_log(x);
}
