// opensandbox-server: puts the parts together. The only file that names a concrete runtime.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fmt/json.h"
#include "io/signals.h"
#include "io/stream.h"
#include "server/adopt/adopt.h"
#include "server/api/api.h"
#include "server/api/resources/openapi.h"
#include "server/cli.h"
#include "server/doctor.h"
#include "server/image_cli.h"
#include "server/runtime/docker/docker.h"
#include "server/runtime/docker/inspect/examine.h"
#include "server/runtime/oci/oci.h"
#include "server/sandbox/renew/queue.h"

enum { DOCKER_CREATES = 16 }; // the engine does the work

struct server {
    const struct config *config;
    struct loop loop;
    struct store *store;
    struct runtime *runtime;
    struct domain *domain;
    struct api api;
    struct http_server *http, *console;
    struct renew_queue *renewals;
    struct signal_watch terminate, interrupt, hangup;
    struct config *reloaded;                // on the last SIGHUP; NULL: there was none
    char execd[PATH_MAX], egress[PATH_MAX]; // egress "": there is none
    bool stopping;
    int exit_code;
};

static struct oci_settings oci_settings(const struct config *c, const char *instance,
                                        const char *execd, const char *egress) {
    return (struct oci_settings){
        .state_dir = c->state_dir,
        .run_dir = c->run_dir,
        .instance = instance,
        .execd_path = execd,
        .egress_path = egress,
        .egress_names_only = strcasecmp(c->egress_mode, "dns") == 0,
        .egress_ready_ms = c->egress_readiness_s * 1000,
        .runtime = c->oci_runtime,
        .user_namespace = strcasecmp(c->user_namespace, "never") == 0     ? OCI_USERNS_NEVER
                          : strcasecmp(c->user_namespace, "require") == 0 ? OCI_USERNS_REQUIRE
                                                                          : OCI_USERNS_AUTO,
        .id_base = (uint32_t)c->id_base,
        .seccomp = strcasecmp(c->seccomp, "containers") == 0 ? OCI_SECCOMP_CONTAINERS
                                                             : OCI_SECCOMP_DEFAULT,
        .seccomp_arches = (oci_list)c->seccomp_arches,
        .cgroup_root = c->cgroup_root,
        .cgroup_prefix = c->cgroup_prefix,
        .pool = c->network,
        .dns = (oci_list)c->dns,
        .deny = (oci_list)c->deny,
        .manage_foreign_firewall = c->manage_foreign_firewall,
        .stock = (unsigned)c->stock,
        .default_pids = (uint64_t)c->pids_limit,
        .shm_bytes = (uint64_t)c->shm_size,
        .start_timeout_ms = c->start_timeout_s * 1000,
        .sandboxes_max = (unsigned)c->sandboxes_max,
        .allowed_host_paths = (oci_list)c->allowed_host_paths,
        .registries = (oci_list)c->registries,
        .insecure_registries = (oci_list)c->insecure_registries,
        .registry_ca_dir = c->registry_ca_dir,
        .image_max_bytes = (uint64_t)c->image_max_bytes,
        .image_max_entries = (uint64_t)c->image_max_entries,
        .image_store_max_bytes = (uint64_t)c->image_store_max_bytes,
        .image_max_age_days = (unsigned)c->image_max_age_days,
        .pull_timeout_ms = c->pull_timeout_s * 1000,
    };
}

static const char *secure_runtime(const struct config *c) {
    if (!*c->secure_runtime)
        return NULL;
    if (c->secure_runtime_name)
        return c->secure_runtime_name;
    return strcasecmp(c->secure_runtime, "kata") == 0 ? "kata-runtime" : "runsc";
}

static struct docker_settings docker_settings(const struct config *c, const char *instance,
                                              const char *execd) {
    const char *publish = c->publish_ports;
    return (struct docker_settings){
        .engine = docker_engine_of_environment(c->api_timeout_s * 1000),
        .instance = instance,
        .execd_path = execd,
        .execd_image = c->execd_image && *c->execd_image ? c->execd_image : NULL,
        .network_mode = c->docker_network,
        .publish = strcasecmp(publish, "always") == 0  ? DOCKER_PUBLISH_ALWAYS
                   : strcasecmp(publish, "never") == 0 ? DOCKER_PUBLISH_NEVER
                                                       : DOCKER_PUBLISH_AUTO,
        .publish_host = c->publish_host,
        .drop_capabilities = (docker_list)c->drop_capabilities,
        .no_new_privileges = c->no_new_privileges,
        .apparmor_profile = c->apparmor_profile,
        .seccomp_profile = c->seccomp_profile,
        .secure_runtime = secure_runtime(c),
        .sandbox_env = (docker_list)c->sandbox_env,
        .sandbox_binds = (docker_list)c->sandbox_binds,
        .allowed_host_paths = (docker_list)c->allowed_host_paths,
        .egress_image = c->egress_image && *c->egress_image ? c->egress_image : NULL,
        .egress_dns = (docker_list)c->egress_dns,
        .egress_names_only = strcmp(c->egress_mode, "dns") == 0,
        .egress_disable_ipv6 = c->egress_disable_ipv6,
        .egress_ready_ms = c->egress_readiness_s * 1000,
        .ossfs_root = c->ossfs_root,
        .limits = strcasecmp(c->limits, "best_effort") == 0 ? DOCKER_LIMITS_BEST_EFFORT
                                                            : DOCKER_LIMITS_ENFORCE,
        .default_pids = (uint64_t)c->docker_pids,
        .start_timeout_ms = c->start_timeout_s * 1000,
    };
}

static bool is_docker(const struct config *c) {
    return strcasecmp(c->runtime, "docker") == 0;
}

static struct runtime *new_runtime(const struct server *s, struct error *err) {
    const struct config *c = s->config;
    const char *instance = store_instance(s->store);
    const struct docker_settings docker = docker_settings(c, instance, s->execd);
    const struct oci_settings oci = oci_settings(c, instance, s->execd, s->egress);
    return is_docker(c) ? docker_new(&docker, err) : oci_new(&oci, err);
}

static int image(const struct config *c, int argc, char **argv) {
    const struct oci_settings s = oci_settings(c, "", NULL, "");
    return image_cli(&s, argc - 1, argv + 1);
}

static int adopt(const struct config *c, int argc, char **argv) {
    const struct engine_settings engine = docker_engine_of_environment(c->api_timeout_s * 1000);
    if (is_docker(c))
        return adopt_cli(c, &engine, argc, argv);
    (void)fprintf(stderr, "opensandbox-server: adopt is for runtime.type = \"docker\"\n");
    return EXIT_CONFIG;
}

static int ask_engine(const struct config *c, struct doctor_engine *ret, struct error *err) {
    const struct engine_settings engine = docker_engine_of_environment(c->api_timeout_s * 1000);
    struct engine_examination found;
    if (engine_examine(&engine, &found, err))
        return -1;
    ret->limits = found.limits;
    ret->foreign = found.foreign;
    (void)snprintf(ret->name, sizeof ret->name, "%s", found.name);
    return 0;
}

// ---- the end ----

static void stopped(void *arg) {
    loop_stop(&((struct server *)arg)->loop);
}

static void drained(void *arg) {
    struct server *s = arg;
    domain_stop(s->domain, stopped, s);
}

static void begin_stop(struct server *s) {
    s->stopping = true;
    api_stop(&s->api);
    http_server_drain(s->http, s->config->drain_s * 1000, drained, s);
}

static void stop_signal(struct server *s, int number) {
    if (s->stopping) {
        log_warning("second signal %d: ending at once; sandboxes run on and are found again",
                    number);
        _exit(EXIT_CONFIG);
    }
    log_info("signal %d: no new connections, running requests have %lld s", number,
             (long long)s->config->drain_s);
    begin_stop(s);
}

static void on_terminate(struct signal_watch *w, int number) {
    stop_signal(CONTAINER_OF(w, struct server, terminate), number);
}

static void on_interrupt(struct signal_watch *w, int number) {
    stop_signal(CONTAINER_OF(w, struct server, interrupt), number);
}

// SIGHUP: API keys and the level of the log are read again; everything else needs a restart. What
// is wrong leaves all as it was.
static void on_hangup(struct signal_watch *w, int number) {
    struct server *s = CONTAINER_OF(w, struct server, hangup);
    struct error err = {0};
    enum log_level level = LOG_LEVEL_INFO;
    struct config *c = config_load(s->config->path, &err);
    if (c && !c->key_count && s->api.keys->key_count) {
        (void)error_set(&err, EACCES, "no API key is left: restart to serve without one");
        config_free(c);
        c = NULL;
    }
    if (!c) {
        log_error("SIGHUP: nothing is changed: %s", err.message);
        return;
    }
    (void)log_level_parse(c->log_level, &level);
    log_set_level(level);
    config_free(s->reloaded);
    s->reloaded = c;
    s->api.keys = c;
    log_info("SIGHUP: %zu API keys, log level %s", c->key_count, c->log_level);
}

static void started(const struct error *err, void *arg) {
    struct server *s = arg;
    if (!err) {
        log_info("ready: %zu sandboxes", registry_count(domain_registry(s->domain)));
        api_ready(&s->api);
        return;
    }
    log_error("start failed: %s", err->message);
    s->exit_code = EXIT_START;
    if (!s->stopping)
        begin_stop(s);
}

// ---- the beginning ----

static int open_log(const struct config *c, struct error *err) {
    enum log_level level = LOG_LEVEL_INFO;
    enum log_format format =
        strcasecmp(c->log_format, "json") == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT;
    (void)log_level_parse(c->log_level, &level); // the table of keys checked it
    log_configure(level, format, STDERR_FILENO);
    if (c->log_file_enabled &&
        (cli_make_parents(c->log_file, 0750) < 0 ||
         log_to_file(c->log_file, c->log_file_max, (unsigned)c->log_backups) < 0))
        return error_errno(err, errno, "log.file_path \"%s\": cannot be opened, set another",
                           c->log_file);
    return 0;
}

static void raise_file_limit(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r); // fewer connections then, nothing else
    }
}

// Users of sandboxes walk through it, so it is searchable for all; what lies in it has modes of its
// own.
static int make_state_dir(const char *path, struct error *err) {
    if (cli_make_parents(path, 0755) < 0 || (mkdir(path, 0711) < 0 && errno != EEXIST))
        return error_errno(err, errno, "oci.state_dir \"%s\"", path);
    return 0;
}

static int open_domain(struct server *s, struct error *err) {
    const struct config *c = s->config;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const struct store_settings store = {.path = c->store_path,
                                         .full_sync = strcasecmp(c->synchronous, "full") == 0,
                                         .queue_max = (unsigned)c->queue_max};
    if (make_state_dir(c->state_dir, err) < 0)
        return -1;
    s->store = store_open(&s->loop, &store, err);
    if (!s->store)
        return -1;
    s->runtime = new_runtime(s, err);
    if (!s->runtime)
        return -1;
    error_set_prefix(s->runtime->ops->code_prefix);
    const struct domain_settings domain = {
        .loop = &s->loop,
        .store = s->store,
        .runtime = s->runtime,
        .workers = (unsigned)c->workers,
        .pull_workers = (unsigned)c->pull_workers,
        .queue_max = (unsigned)c->queue_max,
        .creates_running = c->creates_running ? (unsigned)c->creates_running
                           : is_docker(c)     ? DOCKER_CREATES
                                              : 2 * (unsigned)(cores > 0 ? cores : 1),
        .creates_waiting = (unsigned)c->creates_waiting,
        .sandboxes_max = (unsigned)c->sandboxes_max,
        .create_wait_ms = c->create_wait_s * 1000,
        .failed_retention_s = c->failed_retention_s,
        .max_timeout_s = c->timeout_max_s,
        .renew_on_access = c->renew_enabled,
        .renew_interval_s = c->renew_interval_s,
        .default_pids = (uint64_t)(is_docker(c) ? c->docker_pids : c->pids_limit),
    };
    s->domain = domain_new(&domain, err);
    if (!s->domain || !c->renew_enabled || !c->redis_enabled)
        return s->domain ? 0 : -1;
    const struct renew_queue_settings queue = {
        .dsn = c->redis_dsn, .key = c->redis_key, .ca_file = c->redis_ca_file};
    s->renewals = renew_queue_new(&s->loop, s->domain, &queue, err);
    return s->renewals ? 0 : -1;
}

static int listen_on(const struct config *c, int64_t port, struct error *err) {
    const char *host = strcasecmp(c->host, "localhost") == 0 ? "127.0.0.1" : c->host;
    return listen_tcp(host, (unsigned)port, (int)c->backlog, err);
}

// The page that shows the API. A port that is taken costs the page, not the server.
static void open_console(struct server *s) {
    struct http_server_settings settings;
    struct error err = {0};
    if (!s->config->console_port)
        return;
    console_serve(&settings);
    int fd = listen_on(s->config, s->config->console_port, &err);
    s->console = fd < 0 ? NULL : http_server_new(&s->loop, &settings, &err);
    if (s->console && http_server_listen(s->console, fd, &err) == 0)
        s->api.console_port = (unsigned)s->config->console_port;
    else
        log_warning("console.port %lld: %s; there is no page at /docs",
                    (long long)s->config->console_port, err.message);
}

// What the runtime can do, less what this server has no program for.
static unsigned features(const struct server *s) {
    unsigned all = s->runtime->ops->features;
    bool egress = is_docker(s->config) ? s->config->egress_image != NULL : *s->egress != 0;
    bool execd_image = s->config->execd_image && *s->config->execd_image;
    if (!egress)
        all &= ~(unsigned)RUNTIME_NETWORK_POLICY;
    return execd_image ? all : all & ~(unsigned)RUNTIME_WINDOWS;
}

static int open_http(struct server *s, struct error *err) {
    const struct config *c = s->config;
    struct http_server_settings settings;
    if (api_init(&s->api, c, s->domain, features(s), err) < 0)
        return -1;
    api_serve(&s->api, &settings);
    s->http = http_server_new(&s->loop, &settings, err);
    if (!s->http)
        return -1;
    s->api.server = s->http;
    int fd = listen_on(c, c->port, err);
    if (fd < 0)
        return error_wrap(err, "server.host %s, server.port %lld", c->host, (long long)c->port);
    if (http_server_listen(s->http, fd, err) < 0)
        return -1;
    open_console(s);
    if (signal_watch_start(&s->loop, &s->terminate, SIGTERM, on_terminate) < 0 ||
        signal_watch_start(&s->loop, &s->interrupt, SIGINT, on_interrupt) < 0 ||
        signal_watch_start(&s->loop, &s->hangup, SIGHUP, on_hangup) < 0)
        return error_set(err, EIO, "cannot watch signals");
    return 0;
}

static void close_all(struct server *s) {
    signal_watch_stop(&s->terminate);
    signal_watch_stop(&s->interrupt);
    signal_watch_stop(&s->hangup);
    if (s->console)
        http_server_free(s->console);
    if (s->http)
        http_server_free(s->http);
    renew_queue_free(s->renewals);
    if (s->domain)
        domain_free(s->domain); // lets go of every sandbox, and with it of the proxy's connections
    if (s->runtime) {
        s->runtime->ops->stop(s->runtime);
        s->runtime->ops->free(s->runtime);
    }
    store_close(s->store);
    api_clear(&s->api);
    config_free(s->reloaded);
    int left = loop_close(&s->loop);
    if (left != 0)
        log_warning("the loop did not close clean: %s", uv_strerror(left));
}

// Refuses what needs no running part, so that the reason is the first line anybody sees.
static int prepare(struct server *s, int *ret_code, struct error *err) {
    *ret_code = EXIT_CONFIG;
    if (open_log(s->config, err) < 0 || cli_guard(s->config, err) < 0)
        return -1;
    for (size_t i = 0; i < s->config->warning_count; i++)
        log_warning("%s", s->config->warnings[i]);
    *ret_code = EXIT_START;
    if (doctor_start_check(s->config, err) < 0 || cli_find_execd(s->config, s->execd, err) < 0)
        return -1;
    if (!is_docker(s->config) && cli_find_egress(s->config, s->egress, err) < 0) {
        if (s->config->egress_path)
            return -1;
        s->egress[0] = 0;
        log_warning("networkPolicy is refused: %s", err->message);
    }
    raise_file_limit();
    (void)umask(022);
    json_init();
    signals_init();
    return loop_init(&s->loop, err);
}

static int serve(const struct config *c) {
    static struct server s; // too large for comfort on the stack, and there is one
    struct error err = {0};
    int code = 0;
    s.config = c;
    if (prepare(&s, &code, &err) < 0) {
        log_error("%s", err.message);
        return code;
    }
    if (open_domain(&s, &err) < 0) {
        log_error("%s", err.message);
        s.exit_code = EXIT_START;
    } else if (open_http(&s, &err) < 0) {
        log_error("%s", err.message);
        s.exit_code = EXIT_CONFIG;
    } else {
        log_info("opensandbox-server %s on %s port %u, runtime %s, %s", OPENSANDBOX_VERSION,
                 c->host, http_server_port(s.http), s.runtime->ops->name,
                 c->path ? c->path : "no configuration file");
        domain_start(s.domain, started, &s);
        loop_run(&s.loop);
        log_info("stopped");
    }
    close_all(&s);
    return s.exit_code;
}

int main(int argc, char **argv) {
    static const struct cli_commands commands = {
        .serve = serve, .image = image, .adopt = adopt, .ask_engine = ask_engine};
    return cli_run(argc, argv, &commands);
}
