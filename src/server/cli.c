#include "server/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/random.h"
#include "server/doctor.h"

static const char usage_text[] =
    "opensandbox-server " OPENSANDBOX_VERSION "\n"
    "\n"
    "usage: opensandbox-server [--config FILE] [COMMAND]\n"
    "\n"
    "  (no command)                    serve\n"
    "  init-config [PATH] [--force]    write a configuration with a fresh API key "
    "(~/.sandbox.toml)\n"
    "  check-config                    say what is wrong with the configuration\n"
    "  doctor                          say what this host lacks to run sandboxes, and the remedy\n"
    "  image pull|import|list|rm ...   the images of the built-in runtime\n"
    "  adopt [--dry-run] ...           take over what a Python server left on the engine\n"
    "\n"
    "  --config FILE   else SANDBOX_CONFIG_PATH, else ~/.sandbox.toml, else defaults\n"
    "  --version       print the version\n"
    "  -h, --help      print this\n";

static int usage(const char *problem, const char *what) {
    (void)fprintf(stderr, "opensandbox-server: %s%s%s\n\n%s", problem, what ? ": " : "",
                  what ? what : "", usage_text);
    return EXIT_USAGE;
}

static int fail(enum exit_code code, const struct error *err) {
    (void)fprintf(stderr, "opensandbox-server: %s\n", err->message);
    return (int)code;
}

int cli_make_parents(const char *path, mode_t mode) {
    char part[PATH_MAX];
    for (const char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        if ((size_t)(p - path) >= sizeof part) {
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(part, path, (size_t)(p - path));
        part[p - path] = 0;
        if (mkdir(part, mode) < 0 && errno != EEXIST)
            return -1;
    }
    return 0;
}

static int write_example(const char *path, bool force, struct error *err) {
    char key[65];
    char *text = NULL;
    size_t len = 0;
    if (!force && access(path, F_OK) == 0)
        return error_set(err, EEXIST, "%s exists; give --force to replace it", path);
    if (cli_make_parents(path, 0755) < 0)
        return error_errno(err, errno, "%s", path);
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return error_errno(err, errno, "%s", path);
    random_hex(key, sizeof key - 1);
    config_write_example(out, key);
    int rc = fclose(out) != 0 ? error_errno(err, ENOMEM, "%s", path)
                              : fd_replace_file(AT_FDCWD, path, text, len, 0600, err);
    free(text);
    return rc;
}

static int init_config(int argc, char **argv) {
    struct error err = {0};
    char standard[PATH_MAX];
    const char *path = NULL, *home = getenv("HOME");
    bool force = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--force") == 0)
            force = true;
        else if (argv[i][0] == '-')
            return usage("init-config knows no option", argv[i]);
        else if (path)
            return usage("init-config takes one path", argv[i]);
        else
            path = argv[i];
    }
    if (!path) {
        (void)snprintf(standard, sizeof standard, "%s/.sandbox.toml",
                       home && *home ? home : "/root");
        path = standard;
    }
    if (write_example(path, force, &err) < 0) {
        (void)printf("Failed to write config template: %s\n", err.message);
        return EXIT_CONFIG;
    }
    (void)printf("%s\n", path);
    return EXIT_DONE;
}

static int check_config(const struct config *c) {
    struct error err = {0};
    for (size_t i = 0; i < c->warning_count; i++)
        (void)printf("%s\n", c->warnings[i]);
    if (config_check(c, &err) < 0) {
        (void)printf("%s\n", err.message);
        return EXIT_CONFIG;
    }
    (void)printf("%s: %s\n", c->path ? c->path : "defaults",
                 c->unknown_count ? "not good" : "good");
    return c->unknown_count ? EXIT_CONFIG : EXIT_DONE;
}

static int run_command(const char *config_path, int argc, char **argv,
                       const struct cli_commands *commands) {
    struct error err = {0};
    const char *name = argc > 0 ? argv[0] : "";
    bool alone = argc <= 1;
    if (strcmp(name, "init-config") == 0)
        return init_config(argc, argv);
    bool more = strcmp(name, "image") == 0 || strcmp(name, "adopt") == 0;
    if (*name && strcmp(name, "check-config") != 0 && strcmp(name, "doctor") != 0 && !more)
        return usage("no such command", name);
    if (!alone && !more)
        return usage("too many arguments", argv[1]);
    struct config *c = config_load(config_path, &err);
    if (!c)
        return fail(EXIT_CONFIG, &err);
    int rc;
    if (strcmp(name, "check-config") == 0)
        rc = check_config(c);
    else if (config_check(c, &err) < 0)
        rc = fail(EXIT_CONFIG, &err);
    else if (strcmp(name, "doctor") == 0)
        rc = doctor_run(c, commands->ask_engine, stdout) ? EXIT_CONFIG : EXIT_DONE;
    else if (strcmp(name, "image") == 0)
        rc = commands->image(c, argc, argv);
    else if (strcmp(name, "adopt") == 0)
        rc = commands->adopt(c, argc, argv);
    else
        rc = commands->serve(c);
    config_free(c);
    return rc;
}

int cli_run(int argc, char **argv, const struct cli_commands *commands) {
    const char *config_path = NULL;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            (void)fputs(usage_text, stdout);
            return EXIT_DONE;
        }
        if (strcmp(argv[i], "--version") == 0) {
            (void)printf("opensandbox-server %s\n", OPENSANDBOX_VERSION);
            return EXIT_DONE;
        }
        if (strncmp(argv[i], "--config=", 9) == 0)
            config_path = argv[i] + 9;
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            config_path = argv[++i];
        else
            return usage(strcmp(argv[i], "--config") == 0 ? "--config needs a file"
                                                          : "no such option",
                         argv[i]);
    }
    return run_command(config_path, argc - i, argv + i, commands);
}

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

// Whether somebody at the terminal types exactly YES within 30 s.
static bool ask_terminal(void) {
    char line[16] = "";
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    if (!isatty(STDIN_FILENO))
        return false;
    (void)fprintf(
        stderr,
        "\033[31mNo API key is configured: whoever reaches this address controls all sandboxes.\n"
        "Type YES within 30 seconds to start all the same: \033[0m");
    if (poll(&p, 1, 30000) != 1)
        return false;
    ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);
    return n == 4 && memcmp(line, "YES\n", 4) == 0;
}

int cli_guard(const struct config *c, struct error *err) {
    const char *consent = getenv("OPENSANDBOX_INSECURE_SERVER");
    if (c->key_count)
        return 0;
    if (is_loopback(c->host)) {
        log_warning("no API key is configured: every program on this host controls all sandboxes "
                    "(address %s)",
                    c->host);
        return 0;
    }
    if ((consent && strcmp(consent, "YES") == 0) || ask_terminal()) {
        log_warning("no API key is configured: whoever reaches %s controls all sandboxes", c->host);
        return 0;
    }
    return error_set(err, EACCES,
                     "API key startup confirmation failed: server.api_key is not set and %s is not "
                     "a loopback address. Set "
                     "server.api_key (`opensandbox-server init-config` writes one), or host = "
                     "\"127.0.0.1\", or the "
                     "variable OPENSANDBOX_INSECURE_SERVER to YES",
                     c->host);
}

// A program of ours: the configured one, else installed beside us, else of the build tree.
static int find_beside(const char *name, const char *key, const char *configured, char *path,
                       struct error *err) {
    char self[PATH_MAX], candidate[PATH_MAX];
    if (configured) {
        if (!realpath(configured, path) || access(path, X_OK) < 0)
            return error_errno(err, errno, "%s \"%s\"", key, configured);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return error_errno(err, errno, "/proc/self/exe");
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    static const char *const places[] = {"../libexec/opensandbox/", "", "../execd/", "../egress/"};
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        int len = snprintf(candidate, sizeof candidate, "%s/%s%s", self, places[i], name);
        struct stat st;
        if (len > 0 && (size_t)len < sizeof candidate && realpath(candidate, path) &&
            access(path, X_OK) == 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode))
            return 0;
    }
    return error_set(err, ENOENT, "%s is not installed beside %s: set %s, or run `make build`",
                     name, self, key);
}

int cli_find_execd(const struct config *c, char *path, struct error *err) {
    return find_beside("execd", "runtime.execd_path", c->execd_path, path, err);
}

int cli_find_egress(const struct config *c, char *path, struct error *err) {
    return find_beside("egress", "egress.path", c->egress_path, path, err);
}
