// The configuration: types, ranges, defaults, warnings, the environment, and that messages name
// what is wrong.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fmt/json.h"
#include "server/cli.h"
#include "server/config.h"

static struct config *good(const char *text) {
    struct error err = {0};
    struct config *c = config_parse(text, "test.toml", &err);
    if (!c)
        fail_msg("%s", err.message);
    return c;
}

static void refused(const char *text, const char *message) {
    struct error err = {0};
    struct config *c = config_parse(text, "test.toml", &err);
    if (c)
        fail_msg("accepted: %s", text);
    if (!strstr(err.message, message))
        fail_msg("\"%s\" does not say \"%s\"", err.message, message);
}

static void test_defaults(void **state) {
    struct config *c = good("");
    assert_string_equal(c->host, "0.0.0.0");
    assert_int_equal(c->port, 8080);
    assert_int_equal(c->create_wait_s, 20);
    assert_int_equal(c->drain_s, 30);
    assert_int_equal(c->timeout_max_s, 0);
    assert_string_equal(c->runtime, "oci");
    assert_string_equal(c->state_dir, "/var/lib/opensandbox");
    assert_string_equal(c->store_path, "/var/lib/opensandbox/store/opensandbox.db");
    assert_string_equal(c->network, "10.200.0.0/16");
    assert_null(c->api_key);
    assert_null(c->allowed_host_paths[0]);
    assert_int_equal(c->key_count, 0);
    assert_int_equal(c->warning_count, 0);
    config_free(c);
}

static void test_values(void **state) {
    struct config *c = good("[server]\nport = \"9000\"\nhost = \"127.0.0.1\"\napi_key = "
                            "\"one\"\napi_keys = [\"two\", \" \"]\n"
                            "eip = \"\"\n[oci]\nstate_dir = \"/srv/x\"\nmanage_foreign_firewall = "
                            "\"yes\"\nstock = 4.0\n"
                            "[storage]\nallowed_host_paths = [\"/data\", "
                            "\"/more\"]\n[store]\nsynchronous = \"FULL\"\n");
    assert_int_equal(c->port, 9000);
    assert_null(c->eip);
    assert_string_equal(c->store_path, "/srv/x/store/opensandbox.db");
    assert_true(c->manage_foreign_firewall);
    assert_int_equal(c->stock, 4);
    assert_string_equal(c->allowed_host_paths[1], "/more");
    assert_null(c->allowed_host_paths[2]);
    assert_int_equal(c->key_count, 2);
    assert_string_equal(c->keys[1], "two");
    config_free(c);
}

static void test_refused(void **state) {
    refused("[server]\nport = 70000\n", "test.toml:2: server.port must be 1 to 65535");
    refused("[server]\nport = 1.5\n", "server.port must be a whole number");
    refused("[server]\napi_key = 123\n", "test.toml:2: server.api_key must be a text");
    refused("[server]\nhost = \"\"\n", "server.host must not be empty");
    refused("[log]\nlevel = \"LOUD\"\n", "log.level must be one of DEBUG|INFO");
    refused("[oci]\ndns = \"1.1.1.1\"\n", "oci.dns must be a list");
    refused("[oci]\ndns = [1]\n", "oci.dns must be a list of texts");
    refused("[oci]\nmanage_foreign_firewall = \"perhaps\"\n", "must be true or false");
    refused("[server]\nmax_sandbox_timeout_seconds = 59\n", "must be 60 to");
    refused("[server\n", "test.toml:1");
}

static void test_secrets_are_not_printed(void **state) {
    struct error err = {0};
    assert_null(config_parse("[server]\napi_keys = [\"s3cret\", 1]\n", "test.toml", &err));
    assert_null(strstr(err.message, "s3cret"));
    struct config *c =
        good("[renew_intent.redis]\ndsn = \"redis://s3cret\"\n[server]\napi_kee = \"s3cret\"\n");
    for (size_t i = 0; i < c->warning_count; i++)
        assert_null(strstr(c->warnings[i], "s3cret"));
    config_free(c);
}

static void test_unknown_and_unused(void **state) {
    struct config *c = good("[server]\nhots = 1\nloop = \"auto\"\n[docker]\nhost_ip = "
                            "\"bridge\"\n[nonsense]\nx = 1\n");
    assert_int_equal(c->unknown_count, 2);
    assert_int_equal(c->warning_count, 4);
    config_free(c);
}

// The reference's example for Docker, in our words: it loads, and is good as it stands.
static void test_reference_example(void **state) {
    struct error err = {0};
    struct config *c =
        good("[server]\nhost = \"127.0.0.1\"\nport = 8080\nmax_sandbox_timeout_seconds = 86400\n"
             "[log]\nlevel = \"INFO\"\n[runtime]\ntype = \"docker\"\nexecd_image = "
             "\"opensandbox/execd:v1\"\n"
             "[egress]\nimage = \"opensandbox/egress:v1\"\n[docker]\nnetwork_mode = \"bridge\"\n"
             "drop_capabilities = [\"MKNOD\"]\npids_limit = 4096\n[ingress]\nmode = \"direct\"\n");
    assert_int_equal(c->unknown_count, 0);
    assert_int_equal(config_check(c, &err), 0);
    assert_string_equal(c->docker_network, "bridge");
    assert_string_equal(c->drop_capabilities[0], "MKNOD");
    assert_null(c->drop_capabilities[1]);
    config_free(c);
    c = good("[docker]\nsandbox_env = { A = \"1\", B = \"x=y\" }\n");
    assert_string_equal(c->sandbox_env[0], "A=1");
    assert_string_equal(c->sandbox_env[1], "B=x=y");
    assert_string_equal(c->drop_capabilities[8], "SYS_TTY_CONFIG"); // the default
    assert_null(c->drop_capabilities[9]);
    config_free(c);
    c = good("[runtime]\ntype = \"kubernetes\"\n");
    assert_int_equal(config_check(c, &err), -1);
    assert_non_null(strstr(err.message, "runtime.type"));
    config_free(c);
}

static void test_environment_key(void **state) {
    setenv("OPENSANDBOX_SERVER_API_KEY", "from-environment", 1);
    struct config *c = good("[server]\napi_key = \"one\"\napi_keys = [\"two\"]\n");
    assert_int_equal(c->key_count, 1);
    assert_string_equal(c->keys[0], "from-environment");
    config_free(c);
    setenv("OPENSANDBOX_SERVER_API_KEY", " ", 1);
    c = good("[server]\napi_key = \"one\"\n");
    assert_int_equal(c->key_count, 1);
    assert_string_equal(c->keys[0], "one");
    assert_int_equal(c->warning_count, 1);
    config_free(c);
    unsetenv("OPENSANDBOX_SERVER_API_KEY");
}

static void test_example_loads(void **state) {
    struct error err = {0};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    config_write_example(out, "0123456789abcdef");
    assert_int_equal(fclose(out), 0);
    struct config *c = good(text);
    assert_int_equal(c->warning_count, 0);
    assert_string_equal(c->keys[0], "0123456789abcdef");
    assert_int_equal(config_check(c, &err), 0);
    config_free(c);
    // Every commented default loads too, when it is uncommented.
    for (char *p = text; (p = strstr(p, "\n# ")); p++) {
        char *equals = strstr(p + 1, " = "), *end = strchr(p + 1, '\n');
        if (equals && equals < end && (size_t)(equals - p) == 3 + strcspn(p + 3, " "))
            p[1] = p[2] = ' ';
    }
    c = good(text);
    assert_int_equal(c->warning_count, 0);
    config_free(c);
    free(text);
}

static void test_guard(void **state) {
    struct error err = {0};
    struct config *c = good("");
    assert_int_equal(dup2(open("/dev/null", 0), STDIN_FILENO), STDIN_FILENO); // no terminal
    assert_int_equal(cli_guard(c, &err), -1);
    assert_non_null(strstr(err.message, "OPENSANDBOX_INSECURE_SERVER"));
    setenv("OPENSANDBOX_INSECURE_SERVER", "yes", 1);
    assert_int_equal(cli_guard(c, &err), -1);
    setenv("OPENSANDBOX_INSECURE_SERVER", "YES", 1);
    assert_int_equal(cli_guard(c, &err), 0);
    unsetenv("OPENSANDBOX_INSECURE_SERVER");
    config_free(c);
    c = good("[server]\nhost = \"127.0.0.1\"\n");
    assert_int_equal(cli_guard(c, &err), 0);
    config_free(c);
    c = good("[server]\napi_key = \"k\"\n");
    assert_int_equal(cli_guard(c, &err), 0);
    config_free(c);
}

static void test_documented(void **state) {
    char row[200];
    char *text = calloc(1, 1 << 20);
    FILE *in = fopen(DOCS "/configuration.md", "r");
    assert_non_null(in);
    assert_true(fread(text, 1, (1 << 20) - 1, in) > 0);
    assert_int_equal(fclose(in), 0);
    for (size_t i = 0; i < config_key_count; i++) {
        (void)snprintf(row, sizeof row, "| `%s.%s` |", config_keys[i].section, config_keys[i].name);
        if (!strstr(text, row))
            fail_msg("docs/configuration.md has no row %s", row);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_secrets_are_not_printed),
        cmocka_unit_test(test_unknown_and_unused),
        cmocka_unit_test(test_reference_example),
        cmocka_unit_test(test_environment_key),
        cmocka_unit_test(test_example_loads),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_documented),
    };
    json_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
