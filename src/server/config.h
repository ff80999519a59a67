// Configuration of opensandbox-server: one TOML file and three environment variables, described by
// one table of keys (config_keys.c; docs/configuration.md is made from it). Keys of the reference
// server are all accepted; those without effect here, and unknown ones, become warnings. Values of
// secret keys appear in no message. Start-up, main thread; read-only afterwards, any thread.
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum config_type { CONFIG_TEXT, CONFIG_INT, CONFIG_BOOL, CONFIG_LIST, CONFIG_ANY };
enum config_flags {
    CONFIG_SECRET = 1 << 0,   // never printed
    CONFIG_UNUSED = 1 << 1,   // known to the reference, without effect here
    CONFIG_PATH = 1 << 2,     // "~/" is expanded
    CONFIG_REQUIRED = 1 << 3, // not empty
    CONFIG_PAIRS = 1 << 4     // a list that may be written as a table: "name=value"
};

struct config_key {
    const char *section, *name;
    enum config_type type;
    unsigned flags;
    size_t offset;        // into struct config; not for CONFIG_UNUSED
    const char *standard; // default: text as is, list comma-separated; NULL: unset
    int64_t min, max;     // CONFIG_INT
    const char *choices;  // CONFIG_TEXT: "a|b|c", any case; NULL: free
    const char *help;
};
extern const struct config_key config_keys[];
extern const size_t config_key_count;

// Texts are NULL when unset, lists are NULL-terminated and never NULL.
struct config {
    char *path; // file that was read; NULL: none, all defaults
    char **warnings;
    size_t warning_count, unknown_count; // unknown keys are among the warnings

    // [server]
    char *host, *api_key, *api_keys_file, *eip, *sandbox_domain;
    char **api_keys, **cors_origins, **trusted_proxies;
    int64_t port, keep_alive_s, connections_max, backlog, timeout_max_s;
    int64_t create_wait_s, drain_s, failed_retention_s, body_max, upstream_per_sandbox;
    int64_t workers, pull_workers, queue_max, creates_running, creates_waiting, sandboxes_max;
    char **keys; // api_key, api_keys and api_keys_file, blank ones left out; or the environment's
    size_t key_count;
    // [log]
    char *log_level, *log_format, *log_file;
    bool log_file_enabled;
    int64_t log_file_max, log_backups;
    int64_t console_port;
    // [runtime]
    char *runtime, *execd_path, *execd_image;
    // [oci]
    char *state_dir, *run_dir, *oci_runtime, *user_namespace, *seccomp, *cgroup_root,
        *cgroup_prefix, *network;
    char *registry_ca_dir;
    char **dns, **deny, **seccomp_arches, **registries, **insecure_registries;
    bool manage_foreign_firewall;
    int64_t id_base, stock, pids_limit, shm_size, start_timeout_s;
    int64_t image_max_bytes, image_max_entries, image_store_max_bytes, image_max_age_days,
        pull_timeout_s;
    // [store]
    char *store_type, *store_path, *synchronous;
    // [renew_intent]
    bool renew_enabled;
    int64_t renew_interval_s;
    // [renew_intent.redis]
    bool redis_enabled;
    char *redis_dsn, *redis_key, *redis_ca_file;
    // [storage]
    char **allowed_host_paths, *ossfs_root;
    // [secure_runtime], of docker alone
    char *secure_runtime, *secure_runtime_name;
    // [egress]
    char *egress_path, *egress_image, *egress_mode, **egress_dns;
    bool egress_disable_ipv6;
    int64_t egress_readiness_s;
    // [docker]
    char *docker_network, *publish_ports, *publish_host, *apparmor_profile, *seccomp_profile,
        *limits;
    char **drop_capabilities, **sandbox_env, **sandbox_binds;
    bool no_new_privileges;
    int64_t api_timeout_s, docker_pids;
};

// path NULL: SANDBOX_CONFIG_PATH, else ~/.sandbox.toml when it exists, else defaults alone. A named
// file must exist. err names file, line, key and remedy.
struct config *config_load(const char *path, struct error *err);
struct config *config_parse(const char *text, const char *name,
                            struct error *err); // the same from memory; for tests
void config_free(struct config *c);
// What loads but cannot run in this build: other runtimes and stores.
int config_check(const struct config *c, struct error *err);
// A file that loads as it stands: every key with its default as a comment, and a fresh API key.
void config_write_example(FILE *out, const char *api_key);

#endif
