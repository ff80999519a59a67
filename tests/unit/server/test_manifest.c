// Documents of images: what is read, and what two readers could understand differently.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "fmt/json.h"
#include "layout_maker.h"
#include "server/errors.h"

#define A      "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B      "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define OCI    "application/vnd.oci.image."
#define CONFIG "{\"mediaType\":\"" OCI "config.v1+json\",\"digest\":\"" A "\",\"size\":7}"
#define LAYER  "{\"mediaType\":\"" OCI "layer.v1.tar+gzip\",\"digest\":\"" B "\",\"size\":9}"
#define HEAD   "{\"schemaVersion\":2,"
#define IMAGE  "\"config\":" CONFIG ",\"layers\":[" LAYER "]}"
#define ENTRY(d, p)                                                                                \
    "{\"mediaType\":\"" OCI "manifest.v1+json\",\"digest\":\"" d "\",\"size\":5" p "}"
#define PLATFORM(os, arch) ",\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch "\"}"
#define VARIANT(arch, v)                                                                           \
    ",\"platform\":{\"os\":\"linux\",\"architecture\":\"" arch "\",\"variant\":\"" v "\"}"
#define INDEX(entries) HEAD "\"manifests\":[" entries "]}"

static const struct platform want = {"linux", "amd64", NULL};

static int parse(const char *text, struct manifest *m, struct error *err) {
    return manifest_parse(text, strlen(text), NULL, &want, m, err);
}

static void images_are_read(void **state) {
    (void)state;
    struct manifest m;
    struct error err;
    const char *text = HEAD "\"mediaType\":\"" OCI "manifest.v1+json\"," IMAGE;
    if (parse(text, &m, &err))
        fail_msg("%s", err.message);
    assert_int_equal(m.kind, MANIFEST_IMAGE);
    assert_string_equal(m.config.digest, A);
    assert_int_equal(m.config.bytes, 7);
    assert_int_equal(m.layers, 1);
    assert_string_equal(m.layer[0].digest, B);
    assert_int_equal(m.layer_bytes, 9);
    assert_false(m.docker);
    char hex[SHA256_HEX_SIZE];
    sha256_hex(text, strlen(text), hex);
    assert_string_equal(m.digest + 7, hex);
    assert_int_equal(parse(HEAD IMAGE, &m, &err), 0); // mediaType is optional
    assert_int_equal(manifest_parse(text, strlen(text), A, &want, &m, &err), -1);
    assert_non_null(strstr(err.message, "corrupt"));
}

static void indexes_choose(void **state) {
    (void)state;
    static const struct {
        const char *text, *digest;
    } rows[] = {
        {INDEX(ENTRY(A, "")), A},
        {INDEX(ENTRY(A, PLATFORM("linux", "arm64")) "," ENTRY(B, PLATFORM("linux", "amd64"))), B},
        {INDEX(ENTRY(A, VARIANT("amd64", "v2")) "," ENTRY(B, PLATFORM("linux", "amd64"))), B},
        {INDEX(ENTRY(B, PLATFORM("linux", "amd64")) "," ENTRY(A, VARIANT("amd64", "v2"))), B},
        {INDEX(ENTRY(A, VARIANT("amd64", "v1")) "," ENTRY(B, VARIANT("amd64", "v2"))), A},
        {INDEX(ENTRY(A, PLATFORM("linux", "amd64")) "," ENTRY(A, PLATFORM("linux", "amd64"))), A},
        {INDEX(ENTRY(A, PLATFORM("unknown", "unknown")) "," ENTRY(B, PLATFORM("linux", "amd64"))),
         B},
        {INDEX("{\"mediaType\":\"application/x\",\"digest\":\"" A "\",\"size\":1}," ENTRY(B, "")),
         B},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct manifest m;
        struct error err;
        if (parse(rows[i].text, &m, &err))
            fail_msg("row %zu: %s", i, err.message);
        assert_int_equal(m.kind, MANIFEST_INDEX);
        assert_string_equal(m.chosen.digest, rows[i].digest);
        assert_int_equal(m.chosen.bytes, 5);
    }
}

static void what_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "schema version"},
        {"{\"schemaVersion\":1," IMAGE, "schema version"},
        {HEAD "\"fsLayers\":[]," IMAGE, "schema version"},
        {HEAD "\"x\":1}", "neither"},
        {HEAD "\"manifests\":[" ENTRY(A, "") "]," IMAGE, "ambiguous"},
        {HEAD "\"manifests\":[" ENTRY(A, "") "],\"config\":" CONFIG "}", "ambiguous"},
        {HEAD "\"manifests\":[" ENTRY(A, "") "],\"layers\":[]}", "ambiguous"},
        {HEAD "\"mediaType\":\"" OCI "index.v1+json\"," IMAGE, "ambiguous"},
        {HEAD "\"mediaType\":\"" OCI "manifest.v1+json\",\"manifests\":[" ENTRY(A, "") "]}",
         "ambiguous"},
        {HEAD "\"mediaType\":\"text/html\"," IMAGE, "ambiguous"},
        {HEAD "\"mediaType\":7," IMAGE, "not a string"},
        {HEAD "\"Layers\":[]," IMAGE, "ambiguous"},
        {HEAD "\"MANIFESTS\":[" ENTRY(A, "") "]," IMAGE, "ambiguous"},
        {HEAD "\"layers\":[]," IMAGE, "JSON"}, // twice
        {HEAD "\"config\":" CONFIG ",\"layers\":[]}", "no layers"},
        {HEAD "\"config\":" CONFIG "}", "no layers"},
        {HEAD "\"layers\":[" LAYER "]}", "config"},
        {HEAD "\"config\":" LAYER ",\"layers\":[" LAYER "]}", "not an image"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[" CONFIG "]}", "type"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[7]}", "not an object"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" OCI
              "layer.v1.tar\",\"digest\":\"sha256:../../x\",\"size\":9}]}",
         "digest"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" OCI
              "layer.v1.tar\",\"digest\":\"sha512:" B "\",\"size\":9}]}",
         "digest"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" OCI
              "layer.v1.tar\",\"digest\":\"" B "\",\"size\":-1}]}",
         "size"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" OCI
              "layer.v1.tar\",\"digest\":\"" B "\",\"size\":1,\"urls\":[\"http://127.0.0.1/\"]}]}",
         "elsewhere"},
        {HEAD "\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" OCI
              "layer.nondistributable.v1.tar\",\"digest\":\"" B "\",\"size\":1}]}",
         "elsewhere"},
        {INDEX(""), "platform linux/amd64"},
        {INDEX(ENTRY(A, PLATFORM("linux", "s390x"))), "platform linux/amd64"},
        {INDEX(ENTRY(A, PLATFORM("windows", "amd64"))), "platform linux/amd64"},
        {INDEX(ENTRY(A, "") "," ENTRY(B, "")), "ambiguous"},
        {INDEX(ENTRY(A, PLATFORM("linux", "amd64")) "," ENTRY(B, PLATFORM("linux", "amd64"))),
         "ambiguous"},
        {HEAD "\"manifests\":7}", "list"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct manifest m;
        struct error err = {0};
        if (!parse(rows[i].text, &m, &err))
            fail_msg("row %zu was accepted", i);
        if (!strstr(err.message, rows[i].says))
            fail_msg("row %zu: %s", i, err.message);
        assert_string_equal(err.code, "OCI::IMAGE_INVALID");
        assert_int_equal(err.status, 400);
    }
}

static int parse_config(const char *config, struct image_config *c, struct error *err) {
    char text[4096];
    (void)snprintf(text, sizeof text, "{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":%s}",
                   config);
    return manifest_parse_config(text, strlen(text), &want, c, err);
}

static void configs_are_read(void **state) {
    (void)state;
    struct image_config c, again;
    struct error err;
    if (parse_config(
            "{\"Env\":[\"A=1\",\"B\"],\"Entrypoint\":null,\"Cmd\":[\"sh\"],\"User\":\"a:b\","
            "\"WorkingDir\":\"//srv/./app/\",\"Labels\":{\"opensandbox.io/x\":\"y\"},"
            "\"Volumes\":{\"/../../etc\":{},\"data\":{}},\"ExposedPorts\":{\"80/tcp\":{}}}",
            &c, &err))
        fail_msg("%s", err.message);
    json_t *j = image_config_to_json(&c);
    if (image_config_from_json(j, &again, &err))
        fail_msg("%s", err.message);
    const struct image_config *both[] = {&c, &again};
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(both[i]->env[0], "A=1");
        assert_string_equal(both[i]->env[1], "B");
        assert_null(both[i]->env[2]);
        assert_null(both[i]->entrypoint[0]);
        assert_string_equal(both[i]->cmd[0], "sh");
        assert_string_equal(both[i]->user, "a:b");
        assert_string_equal(both[i]->workdir, "/srv/app");
        assert_string_equal(both[i]->volumes[0], "/etc"); // inside: nothing of the host
        assert_string_equal(both[i]->volumes[1], "/data");
        assert_string_equal(both[i]->ports[0], "80/tcp");
    }
    json_decref(j);
    image_config_clear(&c);
    image_config_clear(&again);
    assert_int_equal(parse_config("null", &c, &err), 0);
    assert_non_null(strstr(c.env[0], "PATH="));
    assert_string_equal(c.workdir, "");
    image_config_clear(&c);
}

static void configs_that_are_refused(void **state) {
    (void)state;
    static const char *const rows[] = {
        "7",
        "{\"Env\":\"A=1\"}",
        "{\"Env\":[7]}",
        "{\"Cmd\":{}}",
        "{\"User\":7}",
        "{\"WorkingDir\":\"srv\"}",
        "{\"WorkingDir\":\"/srv/../..\"}",
        "{\"Volumes\":[]}",
        "{\"Env\":[\"A=\\u0000\"]}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct image_config c;
        struct error err = {0};
        if (!parse_config(rows[i], &c, &err))
            fail_msg("%s was accepted", rows[i]);
        assert_string_equal(err.code, "OCI::IMAGE_INVALID");
    }
}

static void the_platform_of_a_config_counts(void **state) {
    (void)state;
    static const char *const rows[] = {"{\"os\":\"linux\",\"architecture\":\"s390x\"}",
                                       "{\"os\":\"windows\",\"architecture\":\"amd64\"}",
                                       "{\"architecture\":\"amd64\"}", "{}"};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct image_config c;
        struct error err = {0};
        assert_int_equal(manifest_parse_config(rows[i], strlen(rows[i]), &want, &c, &err), -1);
        assert_non_null(strstr(err.message, "not for linux/amd64"));
    }
}

static void digests(void **state) {
    (void)state;
    assert_true(digest_valid(A));
    assert_false(digest_valid("sha256:aa"));
    assert_false(digest_valid(A "a"));
    assert_false(
        digest_valid("sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    assert_false(digest_valid(""));
}

// ---- layouts ----

struct fixture {
    char path[32];
    int layout;
};

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->path, sizeof f->path, "/tmp/test-layout-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->layout = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    layout_begin(f->layout);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct error err;
    (void)close(f->layout);
    int r = path_remove_tree(AT_FDCWD, f->path, &err);
    free(f);
    return r;
}

static struct platform host(void) {
    return (struct platform){"linux", platform_host_arch(), NULL};
}

static int read_layout(struct fixture *f, struct error *err) {
    struct manifest m;
    struct image_config c;
    const struct platform p = host();
    int r = manifest_read_layout(f->layout, &p, &m, &c, err);
    if (!r)
        image_config_clear(&c);
    return r;
}

static json_t *descriptor(struct fixture *f, const json_t *manifest) {
    return layout_blob_json(f->layout, "application/vnd.oci.image.manifest.v1+json", manifest);
}

static void a_good_layout(void **state) {
    struct fixture *f = *state;
    struct manifest m;
    struct image_config c;
    struct error err;
    const struct platform p = host();
    cleanup_json json_t *manifest = layout_manifest(f->layout, "tar", 3, NULL, NULL);
    layout_index(f->layout, descriptor(f, manifest));
    if (manifest_read_layout(f->layout, &p, &m, &c, &err))
        fail_msg("%s", err.message);
    assert_int_equal(m.layers, 1);
    assert_string_equal(c.user, "7");
    image_config_clear(&c);
    // an index in the index
    cleanup_json json_t *inner =
        json_pack("{s:i,s:[o]}", "schemaVersion", 2, "manifests", descriptor(f, manifest));
    layout_index(f->layout,
                 layout_blob_json(f->layout, "application/vnd.oci.image.index.v1+json", inner));
    assert_int_equal(read_layout(f, &err), 0);
}

static void assert_refused(struct fixture *f, const char *says) {
    struct error err = {0};
    if (!read_layout(f, &err))
        fail_msg("accepted, where it should say \"%s\"", says);
    if (!strstr(err.message, says))
        fail_msg("%s", err.message);
    assert_string_equal(err.code, "OCI::IMAGE_INVALID");
}

static void layouts_that_lie(void **state) {
    struct fixture *f = *state;
    cleanup_json json_t *manifest = layout_manifest(f->layout, "tar", 3, NULL, NULL);
    char layer[128];
    (void)snprintf(layer, sizeof layer, "blobs/sha256/%s",
                   json_string_value(json_object_get(
                       json_array_get(json_object_get(manifest, "layers"), 0), "digest")) +
                       7);
    json_t *d = descriptor(f, manifest);
    layout_index(f->layout, json_incref(d));
    layout_write(f->layout, layer, "tax"); // same size, other bytes
    assert_refused(f, "does not hash");
    layout_write(f->layout, layer, "longer");
    assert_refused(f, "6 bytes instead of 3");
    assert_int_equal(unlinkat(f->layout, layer, 0), 0);
    assert_refused(f, "No such file");
    assert_int_equal(mkfifoat(f->layout, layer, 0644), 0);
    assert_refused(f, "no regular file");
    assert_int_equal(unlinkat(f->layout, layer, 0), 0);
    assert_int_equal(symlinkat("/etc/passwd", f->layout, layer), 0);
    assert_refused(f, "symbolic");
    json_object_set_new(d, "size", json_integer(1));
    layout_index(f->layout, d);
    assert_refused(f, "instead of 1");
    layout_write_json(f->layout, "index.json", manifest);
    assert_refused(f, "no index");
    layout_write(f->layout, "oci-layout", "{\"imageLayoutVersion\":\"2.0.0\"}");
    assert_refused(f, "version");
}

static void ambiguous_layouts(void **state) {
    struct fixture *f = *state;
    cleanup_json json_t *manifest = layout_manifest(f->layout, "tar", 3, NULL, NULL);
    json_object_set_new(manifest, "manifests", json_pack("[o]", descriptor(f, manifest)));
    layout_index(f->layout, descriptor(f, manifest));
    assert_refused(f, "ambiguous");
    cleanup_json json_t *foreign = layout_manifest(f->layout, "tar", 3, "linux", "sparc");
    layout_index(f->layout, descriptor(f, foreign));
    assert_refused(f, "platform linux/sparc");
}

static void an_index_of_itself_ends(void **state) {
    struct fixture *f = *state;
    cleanup_json json_t *a = NULL;
    json_t *d = json_pack("{s:s,s:s,s:i}", "mediaType", "application/vnd.oci.image.index.v1+json",
                          "digest", A, "size", 1);
    for (int i = 0; i < 8; i++) {
        json_decref(a);
        a = json_pack("{s:i,s:[o]}", "schemaVersion", 2, "manifests", d);
        d = layout_blob_json(f->layout, "application/vnd.oci.image.index.v1+json", a);
    }
    layout_index(f->layout, d);
    assert_refused(f, "index of indexes");
}

int main(void) {
    error_set_prefix("OCI");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_are_read),
        cmocka_unit_test(indexes_choose),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(configs_are_read),
        cmocka_unit_test(configs_that_are_refused),
        cmocka_unit_test(the_platform_of_a_config_counts),
        cmocka_unit_test(digests),
        cmocka_unit_test_setup_teardown(a_good_layout, set_up, tear_down),
        cmocka_unit_test_setup_teardown(layouts_that_lie, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ambiguous_layouts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_index_of_itself_ends, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
