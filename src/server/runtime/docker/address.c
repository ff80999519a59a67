#include "server/runtime/docker/address.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"

#define STANDARD "unix:///var/run/docker.sock"

static int refuse(const char *text, const char *why, struct error *err) {
    return error_set(err, EINVAL,
                     "DOCKER_HOST \"%.200s\" %s; it reads unix:///path, tcp://host:port or "
                     "ssh://user@host",
                     text, why);
}

// Whatever ssh or a URL could take for something else is no name.
static bool is_name(const char *text, size_t len) {
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:";
    return len && len < ENGINE_ADDRESS_TEXT_MAX && text[0] != '-' && strspn(text, letters) >= len;
}

static int parse_host(const char *all, const char *text, struct engine_address *a,
                      struct error *err) {
    const char *end = text + strcspn(text, "/"), *host = text, *host_end;
    if (*end && strcmp(end, "/") != 0)
        return refuse(all, "has a path behind its host", err);
    if (*host == '[') {
        host_end = strchr(++host, ']');
        if (!host_end || host_end > end)
            return refuse(all, "has no closing bracket", err);
        text = host_end + 1;
    } else {
        host_end = memchr(host, ':', (size_t)(end - host));
        if (!host_end)
            host_end = end;
        text = host_end;
    }
    if (!is_name(host, (size_t)(host_end - host)))
        return refuse(all, "names no host", err);
    (void)snprintf(a->host, sizeof a->host, "%.*s", (int)(host_end - host), host);
    uint64_t port = 0;
    if (text < end &&
        (*text != ':' || parse_u64n(text + 1, (size_t)(end - text - 1), 1, 65535, &port)))
        return refuse(all, "has no proper port", err);
    a->port = (unsigned)port;
    return 0;
}

static int parse_ssh(const char *all, const char *text, struct engine_address *a,
                     struct error *err) {
    const char *at = strchr(text, '@');
    if (at) {
        if (!is_name(text, (size_t)(at - text)) || memchr(text, ':', (size_t)(at - text)))
            return refuse(all, "names no proper user (a password cannot be given)", err);
        (void)snprintf(a->user, sizeof a->user, "%.*s", (int)(at - text), text);
        text = at + 1;
    }
    return parse_host(all, text, a, err);
}

int engine_address_parse(const char *text, struct engine_address *ret, struct error *err) {
    struct engine_address a = {.kind = ENGINE_ADDRESS_UNIX};
    int r = 0;
    if (!text || !*text)
        text = STANDARD;
    if (strncmp(text, "unix://", 7) == 0) {
        if (text[7] != '/' || strlen(text + 7) >= sizeof a.path)
            return refuse(text, "is not an absolute path of at most 107 bytes", err);
        (void)snprintf(a.path, sizeof a.path, "%s", text + 7);
    } else if (strncmp(text, "tcp://", 6) == 0 || strncmp(text, "http://", 7) == 0) {
        a.kind = ENGINE_ADDRESS_TCP;
        r = parse_host(text, strstr(text, "://") + 3, &a, err);
    } else if (strncmp(text, "ssh://", 6) == 0) {
        a.kind = ENGINE_ADDRESS_SSH;
        r = parse_ssh(text, text + 6, &a, err);
    } else {
        r = refuse(text, "has an unknown scheme", err);
    }
    if (!r)
        *ret = a;
    return r;
}

void engine_address_authority(const struct engine_address *a,
                              char text[ENGINE_ADDRESS_TEXT_MAX + 16]) {
    bool brackets = strchr(a->host, ':') != NULL;
    int n = snprintf(text, ENGINE_ADDRESS_TEXT_MAX + 16, "%s%.*s%s", brackets ? "[" : "",
                     ENGINE_ADDRESS_TEXT_MAX - 1, a->host, brackets ? "]" : "");
    if (a->port && n > 0 && n < ENGINE_ADDRESS_TEXT_MAX + 8)
        (void)snprintf(text + n, (size_t)(ENGINE_ADDRESS_TEXT_MAX + 16 - n), ":%u", a->port);
}
