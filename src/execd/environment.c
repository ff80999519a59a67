// What a child finds: variables, directory, shell.
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "execd/environment.h"
#include "execd/execd.h"
#include "execd/files/expand.h"
#include "execd/handlers.h"
#include "execd/request.h"

enum { ENVS_FILE_MAX = 4 << 20, VARIABLES_MAX = 8192 };
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

extern char **environ;

// ---- a growing list of NAME=value in an arena ----

struct variables {
    struct arena *arena;
    char **items; // NULL-terminated
    size_t count, size;
};

static int put(struct variables *v, const char *name, size_t name_len, const char *value) {
    char *item = arena_printf(v->arena, "%.*s=%s", (int)name_len, name, value);
    if (!item)
        return -1;
    for (size_t i = 0; i < v->count; i++)
        if (!strncmp(v->items[i], item, name_len + 1)) {
            v->items[i] = item;
            return 0;
        }
    if (v->count + 1 >= v->size) {
        size_t size = v->size ? v->size * 2 : 64;
        char **items = size > VARIABLES_MAX ? NULL : arena_alloc(v->arena, size * sizeof *items);
        if (!items)
            return -1;
        if (v->count)
            memcpy(items, v->items, v->count * sizeof *items);
        v->items = items;
        v->size = size;
    }
    v->items[v->count++] = item;
    v->items[v->count] = NULL;
    return 0;
}

static int no_room(const struct variables *v, struct error *err) {
    return v->count + 1 >= VARIABLES_MAX
               ? error_set(err, EINVAL, "more than %d variables", VARIABLES_MAX)
               : error_set(err, ENOMEM, "out of memory");
}

const char *process_variable(char *const *envp, const char *name) {
    size_t len = strlen(name);
    for (; envp && *envp; envp++)
        if (!strncmp(*envp, name, len) && (*envp)[len] == '=')
            return *envp + len + 1;
    return NULL;
}

static const char *lookup(const void *envp, const char *name) {
    return process_variable(envp, name);
}

char *process_absolute(struct arena *a, const struct execd *e, char *const *envp, const char *path,
                       struct error *err) {
    const char *home = getenv("HOME");
    const struct files_base base = {
        .lookup = lookup, .arg = envp ? envp : environ, .home = home ? home : "/", .cwd = e->cwd};
    char *result;
    return files_expand(a, path, &base, &result, err) < 0 ? NULL : result;
}

// ---- the EXECD_ENVS file ----

// A value in double quotes, after the first: \\ \" \n \r \t are escapes, all else is itself.
static const char *double_quoted(struct strbuf *value, const char *p, const char *end) {
    while (p < end && *p != '"') {
        char c = *p++;
        if (c == '\\' && p < end) {
            c = *p++;
            const char *known = strchr("n\nr\rt\t", c);
            if (known && c)
                c = known[1];
            else if (c != '"' && c != '\\')
                (void)strbuf_addc(value, '\\');
        }
        (void)strbuf_addc(value, c);
    }
    return p < end ? p + 1 : NULL;
}

static const char *single_quoted(struct strbuf *value, const char *p, const char *end) {
    const char *close = memchr(p, '\'', (size_t)(end - p));
    if (close)
        (void)strbuf_add(value, p, (size_t)(close - p));
    return close ? close + 1 : NULL;
}

static const char *trim_end(const char *from, const char *end) {
    while (end > from && isspace((unsigned char)end[-1]))
        end--;
    return end;
}

// A quoted value is lossless and may hold newlines (compat-1.1.1.md E8); anything else goes to the
// end of the line and has execd's own variables expanded (execd.md 3.4). Returns where the rest
// begins.
static const char *read_value(struct strbuf *value, const char *p, const char *end) {
    const char *line_end = memchr(p, '\n', (size_t)(end - p));
    if (!line_end)
        line_end = end;
    if (p < end && (*p == '"' || *p == '\'')) {
        const char *rest =
            *p == '"' ? double_quoted(value, p + 1, end) : single_quoted(value, p + 1, end);
        const char *next = rest ? memchr(rest, '\n', (size_t)(end - rest)) : NULL;
        if (rest && trim_end(rest, next ? next : end) == rest)
            return next ? next : end;
        strbuf_clear(value); // not quoted as a whole: the quotes belong to the value
    }
    cleanup_strbuf struct strbuf raw;
    const char *last = trim_end(p, line_end);
    strbuf_init(&raw, ENVS_FILE_MAX);
    (void)strbuf_add(&raw, p, (size_t)(last - p));
    const struct files_base base = {.lookup = files_environ};
    files_expand_text(value, raw.data, &base);
    return line_end;
}

// Where the next line with something in it begins.
static const char *skip_space(const char *p, const char *end) {
    while (p < end && isspace((unsigned char)*p))
        p++;
    return p;
}

int environment_parse(const char *text, size_t len, environment_variable_fn *found, void *arg) {
    const char *end = text + len;
    cleanup_strbuf struct strbuf value;
    strbuf_init(&value, ENVS_FILE_MAX);
    for (const char *p = skip_space(text, end); p < end; p = skip_space(p, end)) {
        const char *name = p, *line_end = memchr(p, '\n', (size_t)(end - p));
        if (!line_end)
            line_end = end;
        const char *equals = memchr(p, '=', (size_t)(line_end - p));
        if (*p == '#' || !equals || equals == p) {
            if (*p != '#')
                log_warning("a line of the EXECD_ENVS file has no NAME=value; it is skipped");
            p = line_end;
            continue;
        }
        strbuf_clear(&value);
        p = read_value(&value, equals + 1, end);
        bool text_only =
            !memchr(name, 0, (size_t)(equals - name)) && !memchr(value.data, 0, value.len);
        if (!value.failed && text_only && found(arg, name, (size_t)(equals - name), value.data) < 0)
            return -1;
    }
    return 0;
}

static int put_found(void *arg, const char *name, size_t name_len, const char *value) {
    return put(arg, name, name_len, value);
}

char *environment_file(struct arena *a, struct error *err) {
    const char *name = process_variable(environ, "EXECD_ENVS"), *home = getenv("HOME");
    char cwd[EXECD_PATH_SIZE], *path;
    const struct files_base base = {.lookup = files_environ,
                                    .home = home ? home : "/",
                                    .cwd = getcwd(cwd, sizeof cwd) ? cwd : "/"};
    if (!name || !*name) {
        (void)error_set(err, ENOENT, "EXECD_ENVS is not set");
        return NULL;
    }
    return files_expand(a, name, &base, &path, err) < 0 ? NULL : path;
}

void environment_check(void) {
    cleanup(arena_free) struct arena a;
    struct error why;
    arena_init(&a, 256 * 1024);
    const char *path = environment_file(&a, &why);
    if (path && access(path, R_OK) < 0)
        log_warning("EXECD_ENVS: %s: %s", path, strerrordesc_np(errno));
    else if (!path && why.kind != ENOENT)
        log_warning("EXECD_ENVS: %s", why.message);
}

static int add_file(struct variables *v) {
    struct error why;
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, ENVS_FILE_MAX);
    const char *path = environment_file(v->arena, &why);
    if (!path)
        return 0;
    if (fd_read_file(AT_FDCWD, path, &sb, &why) < 0) {
        if (why.kind != ENOENT)
            log_warning("EXECD_ENVS: %s", why.message);
        return 0;
    }
    return environment_parse(sb.data, sb.len, put_found, v);
}

static int add_object(struct variables *v, const json_t *envs, struct error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)envs, name, value) {
        if (!json_is_string(value) && !json_is_null(value))
            return error_set(err, EINVAL, "envs.%s must be a string", name);
        if (!*name || strchr(name, '='))
            return error_set(err, EINVAL, "envs: \"%s\" is no name of a variable", name);
        if (put(v, name, strlen(name), json_is_null(value) ? "" : json_string_value(value)) < 0)
            return no_room(v, err);
    }
    return 0;
}

char **process_environment(struct arena *a, const json_t *envs, struct error *err) {
    struct variables v = {.arena = a};
    for (char **p = environ; p && *p; p++) {
        const char *equals = strchr(*p, '=');
        if (equals && put(&v, *p, (size_t)(equals - *p), equals + 1) < 0)
            break;
    }
    if (add_file(&v) < 0 || (!v.items && !(v.items = arena_alloc(a, sizeof *v.items)))) {
        (void)no_room(&v, err);
        return NULL;
    }
    if (envs && !json_is_object(envs)) {
        (void)error_set(err, EINVAL, "envs must be an object of strings");
        return NULL;
    }
    return add_object(&v, envs, err) < 0 ? NULL : v.items;
}

// ---- PUT /environment ----

// The server's, when a sandbox that was made before anybody asked for it gets its user: what the
// start object would have brought. Every process that is started from now on has it.
void handle_environment(struct http_exchange *x) {
    json_t *body = execd_body(x, false), *value;
    const char *name;
    if (!body)
        return;
    json_object_foreach(body, name, value) {
        if (*name && !strchr(name, '=') && json_is_string(value))
            continue;
        execd_fail(x, 400, CODE_BODY, "\"%.100s\" is no variable with a text", name);
        json_decref(body);
        return;
    }
    bool ok = true;
    json_object_foreach(body, name, value) ok &= setenv(name, json_string_value(value), 1) == 0;
    json_decref(body);
    if (ok)
        http_reply_empty(x, 204);
    else
        execd_fail(x, 503, CODE_RUNTIME, "out of memory");
}

// ---- where temporary files go ----

const char *process_temporary(void) {
    struct error why;
    const char *tmp = getenv("TMPDIR");
    if (!tmp || *tmp != '/')
        return "/tmp";
    if (access(tmp, F_OK) < 0 && request_make_dirs(tmp, &why) < 0)
        log_warning("TMPDIR: %s", why.message); // whoever needs it says so, too
    return tmp;
}

// ---- the shell ----

static char *find_program(struct arena *a, const char *name) {
    const char *path = process_variable(environ, "PATH");
    struct stat st;
    for (path = path ? path : DEFAULT_PATH; *path;) {
        size_t n = strcspn(path, ":");
        char *file = path[0] == '/' ? arena_printf(a, "%.*s/%s", (int)n, path, name) : NULL;
        if (file && !stat(file, &st) && S_ISREG(st.st_mode) && !access(file, X_OK))
            return file;
        path += n + (path[n] == ':');
    }
    return NULL;
}

const char *process_shell(struct arena *a, bool *ret_bash) {
    const char *bash = find_program(a, "bash");
    *ret_bash = bash != NULL;
    return bash ? bash : find_program(a, "sh");
}
