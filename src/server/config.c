#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/strbuf.h"
#include "fmt/json.h"
#include "fmt/toml.h"

struct reading {
    struct config *config;
    const char *name;    // of the file
    const json_t *lines; // dotted key -> line; may be NULL
};

static void *member(struct config *c, const struct config_key *k) {
    return (char *)c + k->offset;
}

static void list_free(char **list) {
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
}

// Grows a NULL-terminated list by a copy of `text`. -1: no memory.
static int list_add(char ***list, size_t count, const char *text, size_t len) {
    char **bigger = realloc(*list, (count + 2) * sizeof(char *));
    if (!bigger)
        return -1;
    *list = bigger;
    bigger[count] = strndup(text, len);
    bigger[count + 1] = NULL;
    return bigger[count] ? 0 : -1;
}

static int out_of_memory(struct error *err) {
    return error_set(err, ENOMEM, "out of memory");
}

// "~/x" is below HOME; anything else is taken as it is.
static char *expand(const char *text) {
    const char *home = getenv("HOME");
    char *path;
    if (strncmp(text, "~/", 2) != 0)
        return strdup(text);
    return asprintf(&path, "%s%s", home && *home ? home : "/root", text + 1) < 0 ? NULL : path;
}

static int set_text(struct config *c, const struct config_key *k, const char *text) {
    char **at = member(c, k);
    char *copy = k->flags & CONFIG_PATH ? expand(text) : strdup(text);
    if (!copy)
        return -1;
    free(*at);
    *at = copy;
    return 0;
}

static int set_standard(struct config *c, const struct config_key *k) {
    const char *text = k->standard;
    if (k->flags & CONFIG_UNUSED)
        return 0;
    if (k->type == CONFIG_LIST) {
        char ***at = member(c, k);
        size_t count = 0;
        *at = calloc(1, sizeof(char *));
        for (const char *p = text; *at && *p;) {
            size_t n = strcspn(p, ",");
            if (list_add(at, count++, p, n) < 0)
                return -1;
            p += n + (p[n] == ',');
        }
        return *at ? 0 : -1;
    }
    if (!text)
        return 0;
    if (k->type == CONFIG_INT)
        return parse_i64(text, k->min, k->max, member(c, k));
    if (k->type == CONFIG_BOOL) {
        *(bool *)member(c, k) = strcmp(text, "true") == 0;
        return 0;
    }
    return set_text(c, k, text);
}

// "file:line: " as far as they are known.
static void place(const struct reading *r, const char *section, const char *name, char *text,
                  size_t size) {
    char dotted[160];
    (void)snprintf(dotted, sizeof dotted, "%s%s%s", section, *section ? "." : "", name);
    json_int_t line = json_integer_value(json_object_get(r->lines, dotted));
    if (line > 0)
        (void)snprintf(text, size, "%s:%lld: %s", r->name, (long long)line, dotted);
    else
        (void)snprintf(text, size, "%s: %s", r->name, dotted);
}

static int warn(const struct reading *r, const char *section, const char *name, const char *what) {
    char where[600];
    char *text = NULL;
    place(r, section, name, where, sizeof where);
    if (asprintf(&text, "%s %s", where, what) < 0)
        return -1;
    int rc = list_add(&r->config->warnings, r->config->warning_count, text, strlen(text));
    r->config->warning_count += rc == 0;
    free(text);
    return rc;
}

static int refuse(const struct reading *r, const struct config_key *k, struct error *err,
                  const char *what) {
    char where[600];
    place(r, k->section, k->name, where, sizeof where);
    return error_set(err, EINVAL, "%s %s (%s)", where, what,
                     k->help ? k->help : "see docs/configuration.md");
}

static int set_int(const struct reading *r, const struct config_key *k, const json_t *v,
                   struct error *err) {
    char range[120];
    int64_t value = 0;
    bool ok = json_is_integer(v);
    if (ok)
        value = json_integer_value(v);
    else if (json_is_string(v)) // the reference takes numbers in quotes
        ok = parse_i64(json_string_value(v), INT64_MIN, INT64_MAX, &value) == 0;
    else if (json_is_real(v) && json_real_value(v) >= -1e15 && json_real_value(v) <= 1e15) {
        value = (int64_t)json_real_value(v);
        ok = (double)value == json_real_value(v);
    }
    if (!ok)
        return refuse(r, k, err, "must be a whole number");
    if (value < k->min || value > k->max) {
        if (k->max == INT64_MAX)
            (void)snprintf(range, sizeof range, "must be at least %lld", (long long)k->min);
        else
            (void)snprintf(range, sizeof range, "must be %lld to %lld", (long long)k->min,
                           (long long)k->max);
        return refuse(r, k, err, range);
    }
    *(int64_t *)member(r->config, k) = value;
    return 0;
}

static int set_bool(const struct reading *r, const struct config_key *k, const json_t *v,
                    struct error *err) {
    static const char *const words[][2] = {{"true", "1"}, {"yes", "1"}, {"on", "1"},    {"1", "1"},
                                           {"y", "1"},    {"t", "1"},   {"false", "0"}, {"no", "0"},
                                           {"off", "0"},  {"0", "0"},   {"n", "0"},     {"f", "0"}};
    if (json_is_boolean(v)) {
        *(bool *)member(r->config, k) = json_is_true(v);
        return 0;
    }
    for (size_t i = 0; json_is_string(v) && i < ARRAY_SIZE(words); i++) {
        if (strcasecmp(words[i][0], json_string_value(v)) == 0) {
            *(bool *)member(r->config, k) = words[i][1][0] == '1';
            return 0;
        }
    }
    return refuse(r, k, err, "must be true or false");
}

// { NAME = "value" } as "NAME=value".
static int set_pairs(const struct reading *r, const struct config_key *k, json_t *v,
                     struct error *err) {
    size_t count = 0;
    const char *name;
    json_t *value;
    json_object_foreach(v, name, value) {
        char *text cleanup_free = NULL;
        if (!json_is_string(value))
            return refuse(r, k, err, "must be a table of texts, { NAME = \"value\" }");
        if (asprintf(&text, "%s=%s", name, json_string_value(value)) < 0 ||
            list_add(member(r->config, k), count++, text, strlen(text)) < 0)
            return out_of_memory(err);
    }
    return 0;
}

static int set_list(const struct reading *r, const struct config_key *k, json_t *v,
                    struct error *err) {
    char ***at = member(r->config, k);
    size_t i;
    const json_t *item;
    list_free(*at); // the default
    *at = calloc(1, sizeof(char *));
    if (!*at)
        return out_of_memory(err);
    if (k->flags & CONFIG_PAIRS && json_is_object(v))
        return set_pairs(r, k, v, err);
    if (!json_is_array(v))
        return refuse(r, k, err, "must be a list of texts, [\"a\", \"b\"]");
    json_array_foreach(v, i, item) {
        if (!json_is_string(item) || !*json_string_value(item))
            return refuse(r, k, err, "must be a list of texts that are not empty");
        if (list_add(at, i, json_string_value(item), json_string_length(item)) < 0)
            return out_of_memory(err);
    }
    return 0;
}

static bool is_choice(const char *choices, const char *text) {
    size_t len = strlen(text);
    for (const char *p = choices;; p++) {
        size_t n = strcspn(p, "|");
        if (n == len && strncasecmp(p, text, n) == 0)
            return true;
        p += n;
        if (!*p)
            return false;
    }
}

static int set_word(const struct reading *r, const struct config_key *k, const json_t *v,
                    struct error *err) {
    char what[200];
    const char *text = json_string_value(v);
    if (!text)
        return refuse(r, k, err, "must be a text in quotes");
    if (!*text && k->flags & CONFIG_REQUIRED)
        return refuse(r, k, err, "must not be empty");
    if (k->choices && !is_choice(k->choices, text)) {
        (void)snprintf(what, sizeof what, "must be one of %s", k->choices);
        return refuse(r, k, err, what);
    }
    if (!*text && !k->choices) { // an empty text says "unset", as in the reference's examples
        char **at = member(r->config, k);
        free(*at);
        *at = NULL;
        return 0;
    }
    return set_text(r->config, k, text) < 0 ? out_of_memory(err) : 0;
}

static int set_value(const struct reading *r, const struct config_key *k, json_t *v,
                     struct error *err) {
    if (k->flags & CONFIG_UNUSED) {
        char what[200];
        (void)snprintf(what, sizeof what, "has no effect here%s%s", k->help ? ": " : "",
                       k->help ? k->help : "");
        return warn(r, k->section, k->name, what) < 0 ? out_of_memory(err) : 0;
    }
    switch (k->type) {
    case CONFIG_INT: return set_int(r, k, v, err);
    case CONFIG_BOOL: return set_bool(r, k, v, err);
    case CONFIG_LIST: return set_list(r, k, v, err);
    case CONFIG_TEXT: return set_word(r, k, v, err);
    case CONFIG_ANY: break;
    }
    return 0;
}

static const struct config_key *find(const char *section, const char *name) {
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}

static bool is_section(const char *section) {
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0)
            return true;
    return false;
}

static int read_section(const struct reading *r, const char *section, json_t *table,
                        struct error *err) {
    const char *name;
    json_t *value;
    json_object_foreach(table, name, value) {
        char deeper[100];
        const struct config_key *k = find(section, name);
        (void)snprintf(deeper, sizeof deeper, "%s%s%s", section, *section ? "." : "", name);
        if (k) {
            if (set_value(r, k, value, err) < 0)
                return -1;
        } else if (json_is_object(value) && is_section(deeper)) {
            if (read_section(r, deeper, value, err) < 0)
                return -1;
        } else {
            r->config->unknown_count++;
            if (warn(r, section, name,
                     "is not a key of this server: check its spelling in docs/configuration.md") <
                0)
                return out_of_memory(err);
        }
    }
    return 0;
}

static bool is_blank(const char *text) {
    while (isspace((unsigned char)*text))
        text++;
    return !*text;
}

enum { KEYS_FILE_MAX = 1024 * 1024 };

static int add_key(struct config *c, const char *text, size_t len) {
    int rc = list_add(&c->keys, c->key_count, text, len);
    c->key_count += rc == 0;
    return rc;
}

// One key a line, without the blanks around it.
static int read_keys_file(struct config *c, struct error *err) {
    struct strbuf text cleanup_strbuf;
    strbuf_init(&text, KEYS_FILE_MAX);
    int fd = open(c->api_keys_file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "server.api_keys_file \"%s\": make it, or unset the key",
                           c->api_keys_file);
    int rc = fd_read_all(fd, &text, err);
    (void)close(fd);
    if (rc < 0)
        return error_wrap(err, "server.api_keys_file \"%s\"", c->api_keys_file);
    for (const char *p = text.data; *p;) {
        size_t line = strcspn(p, "\n"), before = strspn(p, " \t\r");
        size_t len = before < line ? line - before : 0;
        while (len && strchr(" \t\r", p[before + len - 1]))
            len--;
        if (len && p[before] != '#' && add_key(c, p + before, len) < 0)
            return out_of_memory(err);
        p += line + (p[line] == '\n');
    }
    return 0;
}

// The keys that requests may carry. The variable wins; an empty one is a slip, not a wish to have
// no key.
static int collect_keys(struct config *c, struct error *err) {
    const char *given = getenv("OPENSANDBOX_SERVER_API_KEY");
    const struct reading r = {.config = c, .name = "environment"};
    if (given && is_blank(given)) {
        if (warn(&r, "", "OPENSANDBOX_SERVER_API_KEY",
                 "is empty and ignored: unset it, or put a key into it") < 0)
            return out_of_memory(err);
        given = NULL;
    }
    c->keys = calloc(1, sizeof(char *));
    if (!c->keys)
        return out_of_memory(err);
    char *none[] = {NULL};
    const char *first = given ? given : c->api_key;
    if (first && !is_blank(first) && add_key(c, first, strlen(first)) < 0)
        return out_of_memory(err);
    for (char **k = given ? none : c->api_keys; *k; k++)
        if (!is_blank(*k) && add_key(c, *k, strlen(*k)) < 0)
            return out_of_memory(err);
    return given || !c->api_keys_file ? 0 : read_keys_file(c, err);
}

static int complete(struct config *c, struct error *err) {
    if (!c->store_path && asprintf(&c->store_path, "%s/store/opensandbox.db", c->state_dir) < 0) {
        c->store_path = NULL;
        return out_of_memory(err);
    }
    return collect_keys(c, err);
}

static struct config *config_read(json_t *tree, const json_t *lines, const char *name,
                                  struct error *err) {
    struct config *c = calloc(1, sizeof *c);
    struct reading r = {.config = c, .name = name, .lines = lines};
    int rc = 0;
    if (!c) {
        (void)out_of_memory(err);
        return NULL;
    }
    for (size_t i = 0; rc == 0 && i < config_key_count; i++)
        rc = set_standard(c, &config_keys[i]);
    if (rc < 0)
        (void)out_of_memory(err);
    if (rc == 0 && tree)
        rc = read_section(&r, "", tree, err);
    if (rc == 0)
        rc = complete(c, err);
    if (rc < 0) {
        config_free(c);
        return NULL;
    }
    return c;
}

struct config *config_parse(const char *text, const char *name, struct error *err) {
    json_t *lines cleanup_json = NULL;
    json_t *tree cleanup_json = toml_parse_text(text, name, &lines, err);
    return tree ? config_read(tree, lines, name, err) : NULL;
}

struct config *config_load(const char *path, struct error *err) {
    char *standard cleanup_free = NULL;
    json_t *lines cleanup_json = NULL;
    json_t *tree cleanup_json = NULL;
    const char *variable = getenv("SANDBOX_CONFIG_PATH");
    if (!path && variable && *variable)
        path = variable;
    if (!path) {
        standard = expand("~/.sandbox.toml");
        if (!standard) {
            (void)out_of_memory(err);
            return NULL;
        }
        if (access(standard, F_OK) < 0 && errno == ENOENT)
            return config_read(NULL, NULL, "defaults", err);
    }
    char *file = expand(path ? path : standard);
    tree = file ? toml_parse_file(file, &lines, err) : NULL;
    struct config *c = tree ? config_read(tree, lines, file, err) : NULL;
    if (!file)
        (void)out_of_memory(err);
    if (c)
        c->path = TAKE_PTR(file);
    free(file);
    return c;
}

void config_free(struct config *c) {
    if (!c)
        return;
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        if (k->flags & CONFIG_UNUSED)
            continue;
        if (k->type == CONFIG_TEXT)
            free(*(char **)member(c, k));
        if (k->type == CONFIG_LIST)
            list_free(*(char ***)member(c, k));
    }
    list_free(c->warnings);
    list_free(c->keys);
    free(c->path);
    free(c);
}

int config_check(const struct config *c, struct error *err) {
    bool docker = strcasecmp(c->runtime, "docker") == 0;
    if (!docker && strcasecmp(c->runtime, "oci") != 0)
        return error_set(err, ENOTSUP,
                         "runtime.type = \"%s\" is not built yet; set it to \"oci\" or \"docker\"",
                         c->runtime);
    if (strcasecmp(c->store_type, "sqlite") != 0)
        return error_set(err, ENOTSUP, "store.type = \"%s\" is not built; set it to \"sqlite\"",
                         c->store_type);
    if (*c->secure_runtime && (!docker || strcasecmp(c->secure_runtime, "firecracker") == 0))
        return error_set(err, ENOTSUP,
                         "secure_runtime.type = \"%s\" is not built for runtime.type \"%s\"; "
                         "remove it",
                         c->secure_runtime, c->runtime);
    if (c->sandbox_domain && *c->sandbox_domain &&
        (c->sandbox_domain[0] == '.' ||
         c->sandbox_domain[strspn(c->sandbox_domain, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                     "abcdefghijklmnopqrstuvwxyz0123456789.-")]))
        return error_set(err, EINVAL,
                         "server.sandbox_domain = \"%s\" is no domain name such as "
                         "sbx.example.com",
                         c->sandbox_domain);
    if (c->redis_enabled && !(c->redis_dsn && *c->redis_dsn))
        return error_set(err, EINVAL, "renew_intent.redis.enabled needs renew_intent.redis.dsn");
    if (c->state_dir[0] != '/' || c->run_dir[0] != '/')
        return error_set(err, EINVAL, "oci.state_dir and oci.run_dir must be absolute paths");
    for (char **p = c->allowed_host_paths; *p; p++)
        if ((*p)[0] != '/')
            return error_set(err, EINVAL,
                             "storage.allowed_host_paths: \"%s\" is not an absolute path", *p);
    return 0;
}

static void write_list(FILE *out, const char *text) {
    (void)fprintf(out, "[");
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ",");
        (void)fprintf(out, "%s\"%.*s\"", p == text ? "" : ", ", (int)n, p);
        p += n + (p[n] == ',');
    }
    (void)fprintf(out, "]\n");
}

static void write_default(FILE *out, const struct config_key *k) {
    (void)fprintf(out, "\n# %s\n# %s = ", k->help, k->name);
    if (k->type == CONFIG_LIST)
        write_list(out, k->standard);
    else if (k->type == CONFIG_INT)
        (void)fprintf(out, "%s\n", k->standard ? k->standard : "86400");
    else if (k->type == CONFIG_BOOL)
        (void)fprintf(out, "%s\n", k->standard);
    else
        (void)fprintf(out, "\"%s\"\n", k->standard ? k->standard : "");
}

void config_write_example(FILE *out, const char *api_key) {
    const char *section = "";
    (void)fprintf(out, "# Configuration of opensandbox-server: every key with its default. "
                       "docs/configuration.md explains them.\n");
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        if (k->flags & CONFIG_UNUSED)
            continue;
        if (strcmp(section, k->section) != 0)
            (void)fprintf(out, "\n[%s]\n", section = k->section);
        if (k->offset == offsetof(struct config, api_key))
            (void)fprintf(out, "\n# %s\n%s = \"%s\"\n", k->help, k->name, api_key);
        else
            write_default(out, k);
    }
}
