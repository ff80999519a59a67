// config.json: what stands in it, and that nothing of a stranger's can change its shape.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/handoff.h"
#include "fmt/json.h"
#include "server/runtime/oci/bundle.h"

static const struct bundle_shared shared = {.instance = "0123abcd",
                                            .root_path = "/run/opensandbox/0123abcd/rootfs",
                                            .execd_path = "/usr/lib/opensandbox/execd",
                                            .swap_limit = true,
                                            .id_base = 1048576};
static const gid_t groups[] = {4, 20};
static const struct bundle plain = {
    .id = "11111111-2222-4333-8444-555555555555",
    .cgroup_path = "/opensandbox-0123abcd/11111111-2222-4333-8444-555555555555",
    .net_path = "/proc/10/fd/7",
    .user_path = "/proc/10/fd/8",
    .volume_dir = "/state/sandboxes/1/vol",
    .uid = 1000,
    .gid = 100,
    .groups = groups,
    .group_count = 2,
    .cpu_millis = 500,
    .memory_bytes = 256 << 20,
    .pids = 64,
    .shm_bytes = 64 << 20,
    .nofile_hard = 20000};

static json_t *write_bundle(const struct bundle_shared *s, const struct bundle *b) {
    struct error err;
    struct bundle_template *t = bundle_template_new(s, &err);
    if (!t)
        fail_msg("%s", err.message);
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, BUNDLE_MAX);
    assert_int_equal(bundle_write(t, b, &sb, &err), 0);
    assert_int_equal(strlen(bundle_template_hash(t)), 64);
    bundle_template_free(t);
    json_t *j = json_parse(sb.data, sb.len, NULL, &err);
    assert_non_null(j);
    return j;
}

// "process.user.uid"; numbers are indexes of lists.
static const json_t *at(const json_t *j, const char *path) {
    char name[64];
    for (const char *p = path; *p && j;) {
        size_t len = strcspn(p, ".");
        (void)snprintf(name, sizeof name, "%.*s", (int)len, p);
        j = json_is_array(j) ? json_array_get(j, (size_t)(name[0] - '0'))
                             : json_object_get(j, name);
        p += len + (p[len] == '.');
    }
    return j;
}

static void assert_number(const json_t *j, const char *path, long long value) {
    const json_t *v = at(j, path);
    if (!json_is_integer(v)) // crun runs a string as uid 0
        fail_msg("%s is no integer", path);
    assert_int_equal(json_integer_value(v), value);
}

static void assert_text(const json_t *j, const char *path, const char *value) {
    const json_t *v = at(j, path);
    if (!json_is_string(v))
        fail_msg("%s is no string", path);
    assert_string_equal(json_string_value(v), value);
}

static bool list_has(const json_t *list, const char *text) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(json_array_get(list, i)), text))
            return true;
    return false;
}

static const json_t *mount_of(const json_t *j, const char *destination) {
    const json_t *list = at(j, "mounts");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(json_object_get(json_array_get(list, i), "destination")),
                    destination))
            return json_array_get(list, i);
    return NULL;
}

static void users_and_limits_are_integers(void **state) {
    (void)state;
    cleanup_json json_t *j = write_bundle(&shared, &plain);
    assert_number(j, "process.user.uid", 1000);
    assert_number(j, "process.user.gid", 100);
    assert_number(j, "process.user.umask", 022);
    assert_number(j, "process.user.additionalGids.1", 20);
    assert_number(j, "linux.resources.memory.limit", 256 << 20);
    assert_number(j, "linux.resources.memory.swap", 256 << 20);
    assert_number(j, "linux.resources.cpu.quota", 50000);
    assert_number(j, "linux.resources.cpu.period", 100000);
    assert_number(j, "linux.resources.cpu.shares", 512);
    assert_number(j, "linux.resources.pids.limit", 64);
    assert_number(j, "process.rlimits.0.hard", 20000);
    assert_number(j, "process.rlimits.0.soft", 1024);
    assert_number(j, "process.rlimits.1.hard", 0);
}

static void it_is_hardened(void **state) {
    (void)state;
    cleanup_json json_t *j = write_bundle(&shared, &plain);
    assert_true(json_is_true(at(j, "process.noNewPrivileges")));
    assert_true(json_is_false(at(j, "process.terminal")));
    assert_text(j, "process.cwd", "/"); // never the image's: /proc/self/fd/N would be a way out
    assert_text(j, "process.args.0", BUNDLE_EXECD);
    assert_text(j, "process.args.1", "init");
    assert_int_equal(json_array_size(at(j, "process.capabilities.bounding")), 11);
    assert_null(at(j, "process.capabilities.inheritable"));
    assert_null(at(j, "process.capabilities.ambient"));
    assert_false(list_has(at(j, "process.capabilities.bounding"), "CAP_NET_RAW"));
    assert_false(list_has(at(j, "process.capabilities.bounding"), "CAP_MKNOD"));
    assert_true(list_has(at(j, "linux.maskedPaths"), "/proc/kcore"));
    assert_true(list_has(at(j, "linux.readonlyPaths"), "/proc/sys"));
    assert_true(json_is_false(at(j, "linux.resources.devices.0.allow")));
    assert_text(j, "linux.resources.devices.0.access", "rwm");
    assert_true(list_has(json_object_get(mount_of(j, BUNDLE_EXECD), "options"), "ro"));
    assert_true(list_has(json_object_get(mount_of(j, "/sys"), "options"), "ro"));
    assert_true(list_has(json_object_get(mount_of(j, "/dev/shm"), "options"), "size=67108864"));
    char handoff[64];
    (void)snprintf(handoff, sizeof handoff, "%s=3", HANDOFF_VARIABLE);
    assert_true(list_has(at(j, "process.env"), handoff));
    assert_true(list_has(at(j, "process.env"), "HOME=/")); // else crun reads /etc/passwd
    assert_int_equal(json_array_size(at(j, "process.env")),
                     3); // the user's variables never stand here
}

static void crun_gets_the_program_and_runc_the_rules(void **state) {
    struct bundle_shared runc = shared;
    (void)state;
    runc.runc = true;
    cleanup_json json_t *c = write_bundle(&shared, &plain), *r = write_bundle(&runc, &plain);
    assert_true(json_is_string(json_object_get(at(c, "annotations"), "run.oci.seccomp_bpf_data")));
    assert_null(at(c, "linux.seccomp"));
    assert_null(at(c, "linux.uidMappings"));
    assert_null(json_object_get(at(r, "annotations"), "run.oci.seccomp_bpf_data"));
    assert_text(r, "linux.seccomp.defaultAction", "SCMP_ACT_ERRNO");
    assert_number(r, "linux.uidMappings.0.hostID", 1048576);
    assert_number(r, "linux.gidMappings.0.size", 65536);
}

static void no_user_namespace_no_limits(void **state) {
    struct bundle b = plain;
    (void)state;
    b.user_path = NULL;
    b.cpu_millis = b.memory_bytes = 0;
    b.nofile_hard = 512;
    cleanup_json json_t *j = write_bundle(&shared, &b);
    const json_t *list = at(j, "linux.namespaces");
    assert_int_equal(json_array_size(list), 6);
    for (size_t i = 0; i < json_array_size(list); i++)
        assert_string_not_equal(json_string_value(json_object_get(json_array_get(list, i), "type")),
                                "user");
    assert_null(at(j, "linux.resources.memory"));
    assert_null(at(j, "linux.resources.cpu"));
    assert_number(j, "process.rlimits.0.soft", 512);
}

static void volumes_come_last_with_their_flags(void **state) {
    struct volumes v = {.count = 2,
                        .items = {{.mount_path = "/data", .read_only = true, .is_directory = true},
                                  {.mount_path = "/data/\"}],\"x\":[{\"", .is_directory = true}}};
    struct bundle b = plain;
    (void)state;
    b.volumes = &v;
    cleanup_json json_t *j = write_bundle(&shared, &b);
    const json_t *list = at(j, "mounts"), *first = mount_of(j, "/data");
    size_t n = json_array_size(list);
    assert_ptr_equal(json_array_get(list, n - 2), first);
    assert_string_equal(json_string_value(json_object_get(first, "source")),
                        "/state/sandboxes/1/vol/0");
    assert_true(list_has(json_object_get(first, "options"), "ro"));
    assert_true(list_has(json_object_get(first, "options"), "nodev"));
    assert_true(list_has(json_object_get(first, "options"), "nosuid"));
    const json_t *second = json_array_get(list, n - 1);
    assert_string_equal(json_string_value(json_object_get(second, "destination")),
                        "/data/\"}],\"x\":[{\"");
    assert_false(list_has(json_object_get(second, "options"), "ro"));
}

static void the_hash_changes_with_the_profile(void **state) {
    struct bundle_shared other = shared;
    struct error err;
    (void)state;
    other.seccomp = OCI_SECCOMP_CONTAINERS;
    struct bundle_template *a = bundle_template_new(&shared, &err),
                           *b = bundle_template_new(&other, &err);
    assert_non_null(a);
    assert_non_null(b);
    assert_string_not_equal(bundle_template_hash(a), bundle_template_hash(b));
    bundle_template_free(a);
    bundle_template_free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(users_and_limits_are_integers),
                                       cmocka_unit_test(it_is_hardened),
                                       cmocka_unit_test(crun_gets_the_program_and_runc_the_rules),
                                       cmocka_unit_test(no_user_namespace_no_limits),
                                       cmocka_unit_test(volumes_come_last_with_their_flags),
                                       cmocka_unit_test(the_hash_changes_with_the_profile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
