#include "server/sandbox/renew/redis.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

enum { PORT = 6379, PIECE = 16 * 1024, URL_SIZE = 300 };

// ---- the address ----

static int take(char *to, size_t size, const char *from, size_t len) {
    if (len >= size)
        return -1;
    memcpy(to, from, len);
    to[len] = '\0';
    return 0;
}

static int take_login(struct redis_address *a, const char *text, size_t len) {
    const char *colon = memchr(text, ':', len);
    size_t user = colon ? (size_t)(colon - text) : 0;
    const char *password = colon ? colon + 1 : text;
    return take(a->user, sizeof a->user, text, user) < 0 ||
                   take(a->password, sizeof a->password, password,
                        len - (size_t)(password - text)) < 0
               ? -1
               : 0;
}

static int take_place(struct redis_address *a, const char *text) {
    size_t len = strcspn(text, "/");
    const char *colon = memchr(text, ':', len);
    size_t host = colon ? (size_t)(colon - text) : len;
    uint64_t port = PORT, database = 0;
    if (!host || take(a->host, sizeof a->host, text, host) < 0 ||
        (colon && parse_u64n(colon + 1, len - host - 1, 1, 65535, &port) < 0) ||
        (text[len] && text[len + 1] && parse_u64(text + len + 1, 0, 65535, &database) < 0))
        return -1;
    a->port = (int)port;
    a->database = (int)database;
    return 0;
}

int redis_address_read(const char *dsn, struct redis_address *ret, struct error *err) {
    struct redis_address a = {.port = PORT};
    int rc = -1;
    if (strncmp(dsn, "unix://", 7) == 0) {
        rc = dsn[7] == '/' ? take(a.path, sizeof a.path, dsn + 7, strlen(dsn + 7)) : -1;
    } else if (strncmp(dsn, "redis://", 8) == 0 || strncmp(dsn, "rediss://", 9) == 0) {
        a.tls = dsn[5] == 's';
        const char *rest = strchr(dsn, '/') + 2, *at = strrchr(rest, '@');
        rc = at ? take_login(&a, rest, (size_t)(at - rest)) : 0;
        rc = rc == 0 ? take_place(&a, at ? at + 1 : rest) : rc;
    }
    if (rc < 0)
        return error_set(err, EINVAL,
                         "renew_intent.redis.dsn is neither redis[s]://[[user]:password@]host"
                         "[:port][/database] nor unix:///path");
    *ret = a;
    return 0;
}

// ---- the connection ----

struct redis {
    CURL *curl; // no more than a connection, over TLS or not
    curl_socket_t fd;
    redisReader *reader;
    int limit_ms;
    char why[CURL_ERROR_SIZE];
};

static int failed(const struct redis *r, CURLcode code, struct error *err) {
    return error_set(err, EIO, "Redis: %s", *r->why ? r->why : curl_easy_strerror(code));
}

static CURLcode prepare(struct redis *r, const struct redis_address *a, const char *ca_file) {
    char url[URL_SIZE];
    CURLcode code = CURLE_OK;
    (void)snprintf(url, sizeof url, "%s://%s:%d", a->tls ? "https" : "http",
                   *a->path ? "localhost" : a->host, a->port);
#define SET(option, value) code = code ? code : curl_easy_setopt(r->curl, option, value)
    SET(CURLOPT_URL, url);
    SET(CURLOPT_CONNECT_ONLY, 1L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_SSL_ENABLE_ALPN, 0L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)r->limit_ms);
    SET(CURLOPT_ERRORBUFFER, r->why);
    if (*a->path)
        SET(CURLOPT_UNIX_SOCKET_PATH, a->path);
    if (ca_file)
        SET(CURLOPT_CAINFO, ca_file);
#undef SET
    return code;
}

struct redis *redis_open(const struct redis_address *a, const char *ca_file, int limit_ms,
                         struct error *err) {
    struct redis *r = calloc(1, sizeof *r);
    if (!r || !(r->curl = curl_easy_init()) || !(r->reader = redisReaderCreate())) {
        redis_close(r);
        (void)error_errno(err, ENOMEM, "Redis");
        return NULL;
    }
    r->limit_ms = limit_ms;
    CURLcode code = prepare(r, a, ca_file);
    if (!code)
        code = curl_easy_perform(r->curl);
    if (!code)
        code = curl_easy_getinfo(r->curl, CURLINFO_ACTIVESOCKET, &r->fd);
    if (!code)
        return r;
    (void)failed(r, code, err);
    redis_close(r);
    return NULL;
}

void redis_close(struct redis *r) {
    if (!r)
        return;
    if (r->reader)
        redisReaderFree(r->reader);
    curl_easy_cleanup(r->curl);
    free(r);
}

static int await(const struct redis *r, short events, struct error *err) {
    struct pollfd p = {.fd = r->fd, .events = events};
    int n;
    do
        n = poll(&p, 1, r->limit_ms);
    while (n < 0 && errno == EINTR);
    return n > 0 ? 0 : error_set(err, ETIMEDOUT, "Redis does not answer");
}

static int send_all(struct redis *r, const char *data, size_t len, struct error *err) {
    while (len) {
        size_t n = 0;
        CURLcode code = curl_easy_send(r->curl, data, len, &n);
        if (code && code != CURLE_AGAIN)
            return failed(r, code, err);
        if (code && await(r, POLLOUT, err) < 0)
            return -1;
        data += n;
        len -= n;
    }
    return 0;
}

static int feed(struct redis *r, struct error *err) {
    char piece[PIECE];
    size_t n = 0;
    CURLcode code = curl_easy_recv(r->curl, piece, sizeof piece, &n);
    if (code == CURLE_AGAIN)
        return await(r, POLLIN, err);
    if (code || !n)
        return code ? failed(r, code, err)
                    : error_set(err, ECONNRESET, "Redis closed the connection");
    return redisReaderFeed(r->reader, piece, n) == REDIS_OK
               ? 0
               : error_set(err, EPROTO, "Redis: %s", r->reader->errstr);
}

redisReply *redis_ask(struct redis *r, const char *const *words, int count, struct error *err) {
    char *request = NULL;
    void *reply = NULL;
    int len = redisFormatCommandArgv(&request, count, (const char **)words, NULL);
    int rc = len < 0 ? error_errno(err, ENOMEM, "Redis") : send_all(r, request, (size_t)len, err);
    if (len > 0)
        explicit_bzero(request, (size_t)len); // it may hold the password
    redisFreeCommand(request);
    while (rc == 0 && !reply) {
        if (redisReaderGetReply(r->reader, &reply) != REDIS_OK)
            rc = error_set(err, EPROTO, "Redis: %s", r->reader->errstr);
        else if (!reply)
            rc = feed(r, err);
    }
    return reply;
}
