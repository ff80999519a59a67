#include "server/runtime/docker/engine.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/address.h"
#include "server/runtime/docker/ssh/tunnel.h"

enum {
    IDLE_MAX = 32,
    STALL_MS = 180000,
    CONNECT_MS = 10000,
    SSH_ARGS = 24,
    ERROR_BODY_MAX = 65536
};

// One connection: an easy handle keeps the one that it used last.
struct wire {
    CURL *curl;
    struct engine *engine;
    struct wire *next;
    int fd; // of the connection, for engine_stop_now()
    char error[CURL_ERROR_SIZE];
};

struct engine {
    struct engine_address address;
    struct engine_settings settings;
    char base[ENGINE_ADDRESS_TEXT_MAX + 32]; // "http://localhost"
    char ca[ENGINE_PATH_MAX], cert[ENGINE_PATH_MAX], key[ENGINE_PATH_MAX];
    char port_text[16], target[2 * ENGINE_ADDRESS_TEXT_MAX];
    char *ssh[SSH_ARGS], *dial_stdio[SSH_ARGS + 3];
    struct engine_tunnel *tunnel; // NULL: not by ssh
    pthread_mutex_t lock;         // guards what follows
    struct wire *idle;
    unsigned idle_count;
    unsigned api; // 0: not settled yet
    bool podman;
};

struct engine_stop {
    pthread_mutex_t lock;
    bool stopped;
    struct wire *wire; // of the call under way
};

// ---- connections ----

// Notes the descriptor for engine_stop_now().
static int note_socket(void *arg, curl_socket_t fd, curlsocktype purpose) {
    struct wire *w = arg;
    (void)purpose;
    w->fd = fd;
    return CURL_SOCKOPT_OK;
}

static int close_socket(void *arg, curl_socket_t fd) {
    struct wire *w = arg;
    if (fd == w->fd)
        w->fd = -1;
    return close(fd);
}

static void wire_free(struct wire *w) {
    curl_easy_cleanup(w->curl);
    free(w);
}

#define SET(option, value)                                                                         \
    (void)curl_easy_setopt(w->curl, option, value) // fails for unknown options only

static struct wire *wire_new(struct engine *e) {
    struct wire *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->engine = e;
    w->fd = -1;
    w->curl = curl_easy_init();
    if (!w->curl) {
        free(w);
        return NULL;
    }
    return w;
}

static void wire_dress(struct wire *w) {
    struct engine *e = w->engine;
    curl_easy_reset(w->curl); // connections stay
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROXY, ""); // proxies of the environment are for the world outside
    SET(CURLOPT_MAXCONNECTS, 1L);
    SET(CURLOPT_ERRORBUFFER, w->error);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SOCKOPTFUNCTION, note_socket);
    SET(CURLOPT_SOCKOPTDATA, w);
    SET(CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    SET(CURLOPT_CLOSESOCKETDATA, w);
    if (e->address.kind == ENGINE_ADDRESS_UNIX)
        SET(CURLOPT_UNIX_SOCKET_PATH, e->address.path);
    if (e->tunnel)
        // a path: libcurl (7.88) never uses a connection to an abstract socket again
        SET(CURLOPT_UNIX_SOCKET_PATH, engine_tunnel_name(e->tunnel));
    if (e->settings.tls) {
        SET(CURLOPT_CAINFO, e->ca);
        SET(CURLOPT_SSLCERT, e->cert);
        SET(CURLOPT_SSLKEY, e->key);
    }
}

static struct wire *wire_take(struct engine *e) {
    (void)pthread_mutex_lock(&e->lock);
    struct wire *w = e->idle;
    if (w) {
        e->idle = w->next;
        e->idle_count--;
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (!w)
        w = wire_new(e);
    if (w)
        wire_dress(w);
    return w;
}

static void wire_give(struct engine *e, struct wire *w, bool good) {
    (void)pthread_mutex_lock(&e->lock);
    bool keep = good && e->idle_count < IDLE_MAX;
    if (keep) {
        w->next = e->idle;
        e->idle = w;
        e->idle_count++;
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (!keep)
        wire_free(w);
}

// ---- stopping ----

struct engine_stop *engine_stop_new(void) {
    struct engine_stop *s = calloc(1, sizeof *s);
    if (s)
        (void)pthread_mutex_init(&s->lock, NULL);
    return s;
}

void engine_stop_free(struct engine_stop *s) {
    if (s)
        (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

void engine_stop_now(struct engine_stop *s) {
    (void)pthread_mutex_lock(&s->lock);
    s->stopped = true;
    if (s->wire && s->wire->fd >= 0)
        (void)shutdown(s->wire->fd, SHUT_RDWR);
    (void)pthread_mutex_unlock(&s->lock);
}

static bool stop_holds(struct engine_stop *s, struct wire *w) {
    if (!s)
        return false;
    (void)pthread_mutex_lock(&s->lock);
    s->wire = w;
    bool stopped = s->stopped;
    (void)pthread_mutex_unlock(&s->lock);
    return stopped;
}

// For the moments in which there is no connection yet; called at least once a second.
static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    struct engine_stop *s = arg;
    (void)a, (void)b, (void)c, (void)d;
    (void)pthread_mutex_lock(&s->lock);
    bool stopped = s->stopped;
    (void)pthread_mutex_unlock(&s->lock);
    return stopped;
}

// ---- one call ----

struct talk {
    const struct engine_call *call;
    struct wire *wire;
    struct strbuf body;
    bool refused; // piece() wants no more
};

static size_t on_data(char *data, size_t one, size_t len, void *arg) {
    struct talk *t = arg;
    long status = 0;
    (void)one;
    (void)curl_easy_getinfo(t->wire->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status < 300 && t->call->piece) {
        t->refused = t->call->piece(t->call->arg, data, len) < 0;
        return t->refused ? 0 : len;
    }
    if (status >= 400) {
        t->body.max = ERROR_BODY_MAX;
        (void)strbuf_add(&t->body, data, len); // a longer one is cut: it is but a message
        return len;
    }
    return strbuf_add(&t->body, data, len) ? 0 : len;
}

static int kind_of(long status) {
    switch (status) {
    case 400: return EINVAL;
    case 401:
    case 403: return EACCES;
    case 404: return ENOENT;
    case 409: return EBUSY;
    case 501: return ENOTSUP;
    default: return EIO;
    }
}

static int refused(const struct talk *t, long status, struct error *err) {
    struct error ignored;
    cleanup_json json_t *j = json_parse(t->body.data, t->body.len, NULL, &ignored);
    const char *message = json_string_value(json_object_get(j, "message"));
    if (!message)
        message = t->body.len ? t->body.data : "no reason given";
    return error_set(err, kind_of(status), "%.800s", message);
}

static int unreachable(const struct talk *t, CURLcode code, struct error *err) {
    const struct engine *e = t->wire->engine;
    if (t->refused)
        return error_set(err, ECANCELED, "ended by us");
    if (code == CURLE_WRITE_ERROR)
        return error_set(err, EMSGSIZE, "the engine's reply is larger than %d bytes",
                         (int)ENGINE_REPLY_MAX);
    (void)error_server(err, ERR_R_UNAVAILABLE,
                       "the engine at %s does not answer: %s; see that it runs and that "
                       "DOCKER_HOST names it",
                       e->address.kind == ENGINE_ADDRESS_UNIX  ? e->address.path
                       : e->address.kind == ENGINE_ADDRESS_SSH ? e->target
                                                               : e->base,
                       t->wire->error[0] ? t->wire->error : curl_easy_strerror(code));
    // When a kept connection breaks, libcurl tries a new one: the engine may have had the first.
    long request = 0;
    (void)curl_easy_getinfo(t->wire->curl, CURLINFO_REQUEST_SIZE, &request);
    bool sent =
        request > 0 || (code != CURLE_COULDNT_CONNECT && code != CURLE_COULDNT_RESOLVE_HOST);
    err->kind = sent ? ENOTCONN : EHOSTDOWN;
    return -1;
}

bool engine_is_away(const struct error *err) {
    return err->kind == ENOTCONN || err->kind == EHOSTDOWN;
}

static int finish(struct talk *t, CURLcode code, json_t **ret, struct error *err) {
    long status = 0;
    if (code != CURLE_OK)
        return unreachable(t, code, err);
    (void)curl_easy_getinfo(t->wire->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300 && status != 304)
        return refused(t, status, err);
    if (!ret)
        return 0;
    *ret = NULL;
    if (!t->body.len)
        return 0;
    *ret = json_parse(t->body.data, t->body.len, NULL, err);
    return *ret ? 0 : error_wrap(err, "reply of the engine to %s", t->call->method);
}

static struct curl_slist *headers_of(const struct engine_call *c) {
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    if (c->body)
        list = curl_slist_append(list, "Content-Type: application/json");
    else if (c->data)
        list = curl_slist_append(list, "Content-Type: application/x-tar");
    if (c->registry_auth) {
        char *line cleanup_free = NULL;
        if (asprintf(&line, "X-Registry-Auth: %s", c->registry_auth) >= 0)
            list = curl_slist_append(list, line);
        if (line)
            explicit_bzero(line, strlen(line));
    }
    return list;
}

static void set_body(struct wire *w, const void *data, size_t len) {
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDS, data);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
}

static int call_url(struct engine *e, struct wire *w, const char *path, bool bare) {
    char *url cleanup_free = NULL;
    unsigned api = bare ? 0 : engine_api(e);
    int n = api ? asprintf(&url, "%s/v1.%u%s", e->base, api, path)
                : asprintf(&url, "%s%s", e->base, path);
    if (n < 0)
        return -1;
    SET(CURLOPT_URL, url);
    return 0;
}

static int talk(struct talk *t, json_t **ret, struct error *err) {
    const struct engine_call *c = t->call;
    struct wire *w = t->wire;
    struct strbuf text cleanup_strbuf;
    strbuf_init(&text, ENGINE_REPLY_MAX);
    struct curl_slist *headers = headers_of(c);
    if (call_url(w->engine, w, c->path, c->bare) || (c->body && json_write(c->body, &text))) {
        curl_slist_free_all(headers);
        return error_set(err, ENOMEM, "out of memory");
    }
    if (c->body)
        set_body(w, text.data, text.len);
    else if (c->data || strcmp(c->method, "POST") == 0)
        set_body(w, c->data ? c->data : "", c->len);
    SET(CURLOPT_CUSTOMREQUEST, c->method);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, t);
    if (!c->patient) {
        SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
        SET(CURLOPT_LOW_SPEED_TIME, (long)((w->engine->settings.stall_ms + 999) / 1000));
    }
    if (c->stop) {
        SET(CURLOPT_NOPROGRESS, 0L);
        SET(CURLOPT_XFERINFOFUNCTION, on_progress);
        SET(CURLOPT_XFERINFODATA, c->stop);
    }
    w->error[0] = '\0';
    CURLcode code = stop_holds(c->stop, w) ? CURLE_ABORTED_BY_CALLBACK : curl_easy_perform(w->curl);
    (void)stop_holds(c->stop, NULL);
    curl_slist_free_all(headers);
    return finish(t, code, ret, err);
}

int engine_do(struct engine *e, const struct engine_call *c, json_t **ret, struct error *err) {
    struct talk t = {.call = c, .wire = wire_take(e)};
    if (!t.wire)
        return error_set(err, ENOMEM, "out of memory");
    strbuf_init(&t.body, ENGINE_REPLY_MAX);
    int r = talk(&t, ret, err);
    wire_give(e, t.wire, r == 0 || (!engine_is_away(err) && err->kind != ECANCELED));
    strbuf_free(&t.body);
    return r;
}

int engine_get(struct engine *e, json_t **ret, struct error *err, const char *format, ...) {
    char path[ENGINE_PATH_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(path, sizeof path, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof path)
        return error_set(err, ENAMETOOLONG, "path of a call to the engine");
    const struct engine_call c = {.method = "GET", .path = path};
    return engine_do(e, &c, ret, err);
}

// ---- version ----

// "1.41" is 41; only major 1 exists.
static int minor_of(const json_t *j, const char *name, unsigned *ret) {
    const char *text = json_string_value(json_object_get(j, name));
    uint64_t minor;
    if (!text || strncmp(text, "1.", 2) != 0 || parse_u64(text + 2, 0, 9999, &minor))
        return -1;
    *ret = (unsigned)minor;
    return 0;
}

static bool names_podman(const json_t *version) {
    size_t i;
    const json_t *part;
    json_array_foreach(json_object_get(version, "Components"), i, part) {
        const char *name = json_string_value(json_object_get(part, "Name"));
        if (name && strstr(name, "Podman"))
            return true;
    }
    return false;
}

static int settle(const json_t *version, unsigned *ret, struct error *err) {
    unsigned most, least = 0;
    const char *engine = json_string_value(json_object_get(version, "Version"));
    if (minor_of(version, "ApiVersion", &most))
        return error_set(err, EPROTO, "the engine names no API version; is DOCKER_HOST an engine?");
    (void)minor_of(version, "MinAPIVersion", &least);
    unsigned api = most < ENGINE_API_MAX ? most : ENGINE_API_MAX;
    if (api < ENGINE_API_MIN || api < least)
        return error_set(err, ENOTSUP,
                         "engine %.60s speaks API 1.%u to 1.%u, this server 1.%d to 1.%d; "
                         "%s",
                         engine ? engine : "?", least, most, ENGINE_API_MIN, ENGINE_API_MAX,
                         api < ENGINE_API_MIN ? "update the engine" : "update this server");
    *ret = api;
    return 0;
}

int engine_negotiate(struct engine *e, struct error *err) {
    cleanup_json json_t *version = NULL;
    const struct engine_call c = {.method = "GET", .path = "/version", .bare = true};
    unsigned api = 0;
    if (engine_do(e, &c, &version, err)) // plain HTTP that meets TLS is told of by status 400
        return err->kind == EINVAL && !e->settings.tls
                   ? error_wrap(err, "DOCKER_TLS_VERIFY is not set")
                   : -1;
    if (settle(version, &api, err))
        return -1;
    (void)pthread_mutex_lock(&e->lock);
    e->api = api;
    e->podman = names_podman(version);
    (void)pthread_mutex_unlock(&e->lock);
    return 0;
}

// ---- the object ----

static int find_certificates(struct engine *e, struct error *err) {
    const char *dir = e->settings.cert_path, *home = getenv("HOME");
    char standard[ENGINE_PATH_MAX / 2];
    (void)snprintf(standard, sizeof standard, "%s/.docker", home && *home ? home : "/root");
    if (!dir || !*dir)
        dir = standard;
    if (strlen(dir) > ENGINE_PATH_MAX / 2)
        return error_set(err, ENAMETOOLONG, "DOCKER_CERT_PATH");
    (void)snprintf(e->ca, sizeof e->ca, "%s/ca.pem", dir);
    (void)snprintf(e->cert, sizeof e->cert, "%s/cert.pem", dir);
    (void)snprintf(e->key, sizeof e->key, "%s/key.pem", dir);
    const char *const all[] = {e->ca, e->cert, e->key};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (access(all[i], R_OK))
            return error_errno(err, errno,
                               "DOCKER_TLS_VERIFY is set, but %s cannot be read (DOCKER_CERT_PATH)",
                               all[i]);
    return 0;
}

static void fill_ssh(struct engine *e) {
    static char ssh[] = "ssh", batch[] = "-oBatchMode=yes", wait[] = "-oConnectTimeout=10",
                tty[] = "-T", port[] = "-p", stop[] = "--", docker[] = "docker", sys[] = "system",
                dial[] = "dial-stdio";
    const struct engine_address *a = &e->address;
    size_t n = 0;
    (void)snprintf(e->port_text, sizeof e->port_text, "%u", a->port);
    (void)snprintf(e->target, sizeof e->target, "%s%s%s", a->user, *a->user ? "@" : "", a->host);
    e->ssh[n++] = ssh;
    e->ssh[n++] = batch; // never asks; unknown host keys are refused, as ssh's configuration says
    e->ssh[n++] = wait;
    e->ssh[n++] = tty;
    if (a->port) {
        e->ssh[n++] = port;
        e->ssh[n++] = e->port_text;
    }
    e->ssh[n++] = stop;
    e->ssh[n++] = e->target;
    memcpy(e->dial_stdio, e->ssh, sizeof e->ssh);
    e->dial_stdio[n++] = docker;
    e->dial_stdio[n++] = sys;
    e->dial_stdio[n++] = dial;
}

static int fill(struct engine *e, struct error *err) {
    char authority[ENGINE_ADDRESS_TEXT_MAX + 16];
    if (engine_address_parse(e->settings.host, &e->address, err))
        return -1;
    if (e->address.kind != ENGINE_ADDRESS_TCP)
        e->settings.tls = false; // a socket and ssh need none
    if (e->address.kind == ENGINE_ADDRESS_TCP && !e->address.port)
        e->address.port = e->settings.tls ? 2376 : 2375;
    engine_address_authority(&e->address, authority);
    (void)snprintf(e->base, sizeof e->base, "%s://%s", e->settings.tls ? "https" : "http",
                   e->address.kind == ENGINE_ADDRESS_TCP ? authority : "localhost");
    if (e->address.kind == ENGINE_ADDRESS_SSH) {
        fill_ssh(e);
        e->tunnel = engine_tunnel_new(e->dial_stdio, err);
        return e->tunnel ? 0 : -1;
    }
    return e->settings.tls ? find_certificates(e, err) : 0;
}

static void init_curl(void) {
    (void)curl_global_init(CURL_GLOBAL_ALL); // without memory the first handle fails, and says so
}

struct engine *engine_new(const struct engine_settings *s, struct error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    (void)pthread_once(&once, init_curl);
    e->settings = *s;
    if (e->settings.stall_ms <= 0)
        e->settings.stall_ms = STALL_MS;
    (void)pthread_mutex_init(&e->lock, NULL);
    if (fill(e, err)) {
        engine_free(e);
        return NULL;
    }
    return e;
}

void engine_free(struct engine *e) {
    if (!e)
        return;
    for (struct wire *w; (w = e->idle);) {
        e->idle = w->next;
        wire_free(w);
    }
    engine_tunnel_free(e->tunnel);
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}

int engine_forgive(struct error *err) {
    *err = (struct error){.kind = 0};
    return 0;
}

unsigned engine_api(const struct engine *e) {
    struct engine *locked = (struct engine *)e; // the lock is no part of what the caller sees
    (void)pthread_mutex_lock(&locked->lock);
    unsigned api = e->api;
    (void)pthread_mutex_unlock(&locked->lock);
    return api;
}

bool engine_is_podman(const struct engine *e) {
    return e->podman;
}
bool engine_is_socket(const struct engine *e) {
    return e->address.kind == ENGINE_ADDRESS_UNIX;
}
const char *engine_name(const struct engine *e) {
    return e->address.host;
}
const char *engine_socket(const struct engine *e) {
    return e->address.path;
}
char *const *engine_ssh(const struct engine *e) {
    return e->address.kind == ENGINE_ADDRESS_SSH ? e->ssh : NULL;
}

void engine_escape(struct strbuf *sb, const char *text) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/:";
    for (; *text; text++) {
        if (strchr(plain, *text))
            (void)strbuf_addc(sb, *text);
        else
            (void)strbuf_addf(sb, "%%%02X", (unsigned)(unsigned char)*text);
    }
}
