#include "execd/options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/handoff.h"
#include "base/parse.h"
#include "execd/execd.h"
#include "fmt/json.h"

// ---- one setter for each flag ----

typedef int flag_fn(struct options *o, const char *value, struct error *err);

static int set_port(struct options *o, const char *value, struct error *err) {
    uint64_t n;
    if (parse_u64(value, 0, 65535, &n) < 0)
        return error_set(err, EINVAL, "invalid value \"%s\" for --port: 0 to 65535", value);
    o->port = (unsigned)n;
    return 0;
}

static int set_level(struct options *o, const char *value, struct error *err) {
    uint64_t n;
    if (parse_u64(value, 0, 100, &n) < 0)
        return error_set(err, EINVAL, "invalid value \"%s\" for --log-level: a number", value);
    o->log_level = (int)n;
    return 0;
}

static int set_token(struct options *o, const char *value, struct error *err) {
    (void)err;
    o->guarded = *value != '\0';
    sha256(value, strlen(value), o->token);
    explicit_bzero((char *)value, strlen(value)); // of our own argument or environment block
    return 0;
}

static int set_token_hash(struct options *o, const char *value, struct error *err) {
    if (!*value)
        return 0;
    if (strlen(value) != 2 * SHA256_SIZE || decode_hex(value, o->token, SHA256_SIZE) < 0)
        return error_set(err, EINVAL, "EXECD_ACCESS_TOKEN_SHA256 must be 64 hexadecimal digits");
    o->guarded = true;
    explicit_bzero((char *)value, strlen(value));
    return 0;
}

// Nothing here waits for anything, so a grace has nothing to end.
static int check_duration(struct options *o, const char *value, struct error *err) {
    int64_t ns;
    (void)o;
    return parse_duration(value, &ns) < 0
               ? error_set(err, EINVAL, "invalid duration \"%s\": like 200ms or 1s", value)
               : 0;
}

static int set_lifecycle(struct options *o, const char *value, struct error *err) {
    o->lifecycle = strdup(value); // lives as long as we do; the variable goes
    return o->lifecycle ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int set_status_file(struct options *o, const char *value, struct error *err) {
    (void)err;
    o->status_file = value;
    return 0;
}

static int ignore(struct options *o, const char *value, struct error *err) {
    (void)o;
    (void)value;
    (void)err;
    return 0;
}

// A truth as Go's strconv.ParseBool reads it.
static int take_truth(const char *value, bool *ret, struct error *err) {
    static const char *const words[2][6] = {{"0", "f", "F", "false", "False", "FALSE"},
                                            {"1", "t", "T", "true", "True", "TRUE"}};
    for (size_t i = 0; i < 2 * ARRAY_SIZE(words[0]); i++)
        if (!strcmp(value, words[i / ARRAY_SIZE(words[0])][i % ARRAY_SIZE(words[0])])) {
            *ret = i >= ARRAY_SIZE(words[0]);
            return 0;
        }
    return error_set(err, EINVAL, "invalid boolean value \"%s\"", value);
}

static int set_init(struct options *o, const char *value, struct error *err) {
    return take_truth(value, &o->init, err);
}

// A gate that is asked for must not be left open.
static int refuse_gate(struct options *o, const char *value, struct error *err) {
    bool wanted;
    (void)o;
    if (take_truth(value, &wanted, err) < 0)
        return -1;
    return wanted ? error_set(err, ENOTSUP, "the gate of micro-VMs is not built: no --runtime-init")
                  : 0;
}

static const struct flag {
    const char *name, *variable; // the variable is read first
    flag_fn *set;
    const char *help;
} flags[] = {
    {"port", NULL, set_port, "TCP port of the API (44772; 0: any)"},
    {"log-level", NULL, set_level, "0-2 fatal, 3 error, 4 warning, 5-6 info, 7 debug (6)"},
    {"access-token", "EXECD_ACCESS_TOKEN", set_token, "demanded as X-EXECD-ACCESS-TOKEN"},
    {NULL, "EXECD_ACCESS_TOKEN_SHA256", set_token_hash, NULL},
    {NULL, LIFECYCLE_VARIABLE, set_lifecycle, NULL},
    {"lifecycle-startup-status-file", NULL, set_status_file,
     "told as JSON how preStart and the start of the entrypoint went"},
    {"graceful-shutdown-timeout", "EXECD_API_GRACE_SHUTDOWN", check_duration,
     "accepted; nothing waits"},
    {"jupyter-host", "JUPYTER_HOST", ignore, "accepted; code contexts are not built yet"},
    {"jupyter-token", "JUPYTER_TOKEN", ignore, "accepted; code contexts are not built yet"},
    {"jupyter-idle-poll-interval", "EXECD_JUPYTER_IDLE_POLL_INTERVAL", check_duration, "accepted"},
    {"isolation-config", "EXECD_ISOLATION_CONFIG", ignore,
     "accepted; isolated sessions are not built yet"},
    {"init", NULL, set_init, "the same as the word init"},
    {"runtime-init", "EXECD_RUNTIME_INIT", refuse_gate, "refused unless false"},
};

// A truth needs no value: "--name" alone is true.
static bool is_truth(const struct flag *f) {
    return f->set == set_init || f->set == refuse_gate;
}

void options_usage(int fd) {
    dprintf(fd, "Usage: execd [flags]\n       execd [flags] init [-- ENTRYPOINT...]\n");
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        if (flags[i].name)
            dprintf(fd, "  --%s%s\n        %s\n", flags[i].name,
                    is_truth(&flags[i]) ? "" : " value", flags[i].help);
}

// No child is to have them.
static void forget_ours(void) {
    static const char *const ours[] = {"EXECD_ACCESS_TOKEN", "EXECD_ACCESS_TOKEN_SHA256",
                                       LIFECYCLE_VARIABLE};
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        (void)unsetenv(ours[i]);
}

static int read_environment(struct options *o, struct error *err) {
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        char *value = flags[i].variable ? getenv(flags[i].variable) : NULL;
        if (value && *value && flags[i].set(o, value, err) < 0)
            return error_wrap(err, "%s", flags[i].variable);
    }
    forget_ours();
    return 0;
}

static const struct flag *find_flag(const char *name, size_t len) {
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        if (flags[i].name && strlen(flags[i].name) == len && !strncmp(flags[i].name, name, len))
            return &flags[i];
    return NULL;
}

// One flag at argv[*i], as Go's flag package takes it: "-name value" or "--name=value".
static int take_flag(struct options *o, int argc, char **argv, int *i, struct error *err) {
    const char *name = argv[*i] + 1 + (argv[*i][1] == '-');
    size_t len = strcspn(name, "=");
    const struct flag *f = find_flag(name, len);
    if (!strcmp(name, "h") || !strcmp(name, "help")) {
        o->help = true;
        return 0;
    }
    if (!f)
        return error_set(err, EINVAL, "flag provided but not defined: -%.*s", (int)len, name);
    if (!name[len] && is_truth(f))
        return f->set(o, "true", err);
    if (!name[len] && *i + 1 >= argc)
        return error_set(err, EINVAL, "flag needs an argument: -%s", name);
    return f->set(o, name[len] ? name + len + 1 : argv[++*i], err);
}

int options_parse(struct options *o, int argc, char **argv, struct error *err) {
    int i = 1;
    *o = (struct options){.port = EXECD_PORT, .log_level = 6, .handoff = -1};
    if (read_environment(o, err) < 0)
        return -1;
    for (; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0 && !o->help; i++)
        if (take_flag(o, argc, argv, &i, err) < 0)
            return -1;
    if (i < argc && !strcmp(argv[i], "init")) { // other words are ignored, as by the reference
        o->init = true;
        i++;
    }
    if (i < argc && !strcmp(argv[i], "--"))
        i++;
    o->entrypoint = argv + (o->init ? i : argc);
    return 0;
}

// ---- the start object ----

static int take_object(struct options *o, struct arena *a, const json_t *j, struct error *err) {
    const char *hash = json_string_value(json_object_get(j, "token_sha256"));
    const json_t *list = json_object_get(j, "entrypoint"), *env = json_object_get(j, "env");
    const json_t *value;
    const char *name;
    size_t count = json_array_size(list);
    if (!hash || strlen(hash) != 2 * SHA256_SIZE || decode_hex(hash, o->token, SHA256_SIZE) < 0)
        return error_set(err, EINVAL, "token_sha256 is missing");
    o->guarded = true;
    o->entrypoint = arena_alloc(a, (count + 1) * sizeof *o->entrypoint);
    for (size_t i = 0; o->entrypoint && i < count && !json_is_true(json_object_get(j, "idle")); i++)
        if (!(o->entrypoint[i] = arena_strdup(a, json_string_value(json_array_get(list, i))
                                                     ? json_string_value(json_array_get(list, i))
                                                     : "")))
            return error_set(err, ENOMEM, "out of memory");
    const char *cwd = json_string_value(json_object_get(j, "cwd"));
    o->cwd = arena_strdup(a, cwd ? cwd : "/");
    if (!o->entrypoint || !o->cwd)
        return error_set(err, ENOMEM, "out of memory");
    (void)clearenv(); // what the runtime gave us is not the sandbox's
    json_object_foreach((json_t *)env, name, value) {
        if (json_is_string(value) && *name && !strchr(name, '='))
            (void)setenv(name, json_string_value(value), 1);
    }
    const char *lifecycle = getenv(LIFECYCLE_VARIABLE);
    if (lifecycle && *lifecycle && set_lifecycle(o, lifecycle, err) < 0)
        return -1;
    forget_ours(); // a request may not set the tokens
    return 0;
}

int options_handoff(struct options *o, struct arena *a, struct error *err) {
    const char *text = getenv(HANDOFF_VARIABLE);
    uint64_t first;
    if (!text)
        return 0;
    if (parse_u64(text, 3, 1024, &first) < 0)
        return error_set(err, EINVAL, HANDOFF_VARIABLE " is no descriptor");
    o->handoff = (int)first;
    (void)unsetenv(HANDOFF_VARIABLE);
    for (int i = 0; i < HANDOFF_FDS; i++)
        if (fcntl(o->handoff + i, F_SETFD, FD_CLOEXEC) < 0)
            return error_errno(err, errno, "descriptor %d", o->handoff + i);
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, HANDOFF_START_MAX);
    if (lseek(o->handoff + 1, 0, SEEK_SET) < 0 || fd_read_all(o->handoff + 1, &sb, err) < 0 ||
        ftruncate(o->handoff + 1, 0) < 0)
        return error_errno(err, errno, "start object");
    cleanup_json json_t *j = json_parse(sb.data, sb.len, NULL, err);
    explicit_bzero(sb.data, sb.len);
    return !j || take_object(o, a, j, err) < 0 ? error_wrap(err, "start object") : 0;
}
