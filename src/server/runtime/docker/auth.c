#include "server/runtime/docker/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/fd.h"
#include "base/log.h"
#include "fmt/json.h"
#include "io/spawn.h"

enum {
    CONFIG_MAX = 1024 * 1024,
    HELPER_MS = 10000,
    HELPER_OUTPUT_MAX = 65536,
    NAME_MAX_BYTES = 256
};

#define HUB_KEY "https://index.docker.io/v1/"

void docker_auth_registry(const char *reference, char *text, size_t size) {
    const char *slash = strchr(reference, '/');
    size_t n = slash ? (size_t)(slash - reference) : 0;
    bool host = n && (memchr(reference, '.', n) || memchr(reference, ':', n) ||
                      (n == 9 && strncmp(reference, "localhost", n) == 0));
    if (host)
        (void)snprintf(text, size, "%.*s", (int)n, reference);
    else
        (void)snprintf(text, size, "docker.io");
}

static void wipe_json(json_t **j) {
    const char *name;
    json_t *value;
    json_object_foreach(*j, name, value) {
        if (json_is_string(value))
            explicit_bzero((char *)json_string_value(value), json_string_length(value));
    }
    json_decref(*j);
}
#define cleanup_secret __attribute__((__cleanup__(wipe_json)))

static int encode(const json_t *j, char **ret, struct error *err) {
    struct strbuf text cleanup_strbuf;
    strbuf_init(&text, CONFIG_MAX);
    char *header = j && !json_write(j, &text) ? malloc(4 * ((text.len + 2) / 3) + 1) : NULL;
    if (!header)
        return error_set(err, ENOMEM, "out of memory");
    size_t n = encode_base64url(text.data, text.len, header);
    while (n % 4) // the engine's decoder wants its padding; the bound above has room for it
        header[n++] = '=';
    header[n] = '\0';
    explicit_bzero(text.data, text.len);
    *ret = header;
    return 0;
}

void docker_auth_free(char *header) {
    if (header)
        explicit_bzero(header, strlen(header));
    free(header);
}

// ---- Docker's own configuration ----

static json_t *read_config(void) {
    const char *dir = getenv("DOCKER_CONFIG"), *home = getenv("HOME");
    char *path cleanup_free = NULL;
    struct strbuf text cleanup_strbuf;
    struct error ignored;
    strbuf_init(&text, CONFIG_MAX);
    if ((dir && *dir
             ? asprintf(&path, "%s/config.json", dir)
             : asprintf(&path, "%s/.docker/config.json", home && *home ? home : "/root")) < 0)
        return NULL;
    if (fd_read_file(AT_FDCWD, path, &text, &ignored))
        return NULL; // most hosts have none
    json_t *j = json_parse(text.data, text.len, NULL, &ignored);
    if (!j)
        log_warning("%s: %s", path, ignored.message);
    explicit_bzero(text.data, text.len);
    return j;
}

// "auth" is base64 of user:password.
static json_t *from_auths(const json_t *config, const char *registry) {
    const json_t *auths = json_object_get(config, "auths");
    char key[NAME_MAX_BYTES + 16], plain[4096];
    const json_t *entry = json_object_get(auths, registry);
    if (!entry && strcmp(registry, "docker.io") == 0)
        entry = json_object_get(auths, HUB_KEY);
    for (size_t i = 0; !entry && i < 2; i++) {
        (void)snprintf(key, sizeof key, i ? "http://%s" : "https://%s", registry);
        entry = json_object_get(auths, key);
    }
    const char *auth = json_string_value(json_object_get(entry, "auth"));
    const char *token = json_string_value(json_object_get(entry, "identitytoken"));
    if (token && *token)
        return json_pack("{s:s,s:s}", "identitytoken", token, "serveraddress", registry);
    if (!auth || !*auth || strlen(auth) > 5000)
        return NULL;
    long n = decode_base64(auth, strlen(auth), plain, sizeof plain - 1);
    if (n <= 0)
        return NULL;
    plain[n] = '\0';
    char *colon = strchr(plain, ':');
    if (!colon)
        return NULL;
    *colon = '\0';
    json_t *j = json_pack("{s:s,s:s}", "username", plain, "password", colon + 1);
    explicit_bzero(plain, sizeof plain);
    return j;
}

static const char *helper_of(const json_t *config, const char *registry) {
    const char *name =
        json_string_value(json_object_get(json_object_get(config, "credHelpers"), registry));
    return name ? name : json_string_value(json_object_get(config, "credsStore"));
}

// docker-credential-NAME get: the server's address on its input, a JSON object on its output.
static json_t *from_helper(const char *name, const char *registry) {
    char program[NAME_MAX_BYTES], verb[] = "get";
    char *argv[] = {program, verb, NULL};
    struct strbuf out cleanup_strbuf;
    struct exit_status status;
    struct error err;
    const char *server = strcmp(registry, "docker.io") == 0 ? HUB_KEY : registry;
    const struct spawn s = {
        .argv = argv, .envp = environ, .stdio = {-1, -1, -1}, .flags = SPAWN_SEARCH_PATH};
    strbuf_init(&out, HELPER_OUTPUT_MAX);
    if (strchr(name, '/') ||
        snprintf(program, sizeof program, "docker-credential-%s", name) >= (int)sizeof program)
        return NULL;
    if (spawn_run(&s, server, strlen(server), &out, NULL, HELPER_MS, &status, &err)) {
        log_warning("%s: %s", program, err.message);
        return NULL;
    }
    cleanup_secret json_t *j =
        status.code == 0 && !status.signal ? json_parse(out.data, out.len, NULL, &err) : NULL;
    explicit_bzero(out.data, out.len);
    const char *user = json_string_value(json_object_get(j, "Username"));
    const char *secret = json_string_value(json_object_get(j, "Secret"));
    if (!user || !secret)
        return NULL; // it knows nothing of this registry
    return strcmp(user, "<token>") == 0
               ? json_pack("{s:s,s:s}", "identitytoken", secret, "serveraddress", registry)
               : json_pack("{s:s,s:s}", "username", user, "password", secret);
}

int docker_auth_header(const struct image_request *q, char **ret, struct error *err) {
    char registry[NAME_MAX_BYTES];
    *ret = NULL;
    if (q->username || q->password) {
        cleanup_secret json_t *own =
            json_pack("{s:s,s:s}", "username", q->username ? q->username : "", "password",
                      q->password ? q->password : "");
        return encode(own, ret, err);
    }
    cleanup_json json_t *config = read_config();
    docker_auth_registry(q->reference, registry, sizeof registry);
    const char *helper = helper_of(config, registry);
    cleanup_secret json_t *found = helper && *helper ? from_helper(helper, registry) : NULL;
    if (!found)
        found = from_auths(config, registry);
    return found ? encode(found, ret, err) : 0;
}
