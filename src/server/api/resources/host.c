#include "server/api/resources/host.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

enum { PORT_DIGITS = 5 };

enum host_kind host_read(struct http_exchange *x, const char **ret_port, const char **ret_id) {
    const char *domain = api_of(x)->config->sandbox_domain, *host = http_header(x, "Host");
    if (!domain || !*domain || !host)
        return HOST_OTHER;
    size_t len = strcspn(host, ":"), tail = strlen(domain);
    while (len && host[len - 1] == '.') // the root of all names
        len--;
    if (len == tail && strncasecmp(host, domain, tail) == 0)
        return HOST_UNKNOWN;
    if (len < tail + 1 || host[len - tail - 1] != '.' ||
        strncasecmp(host + len - tail, domain, tail) != 0)
        return HOST_OTHER;
    len -= tail + 1;
    size_t digits = strspn(host, "0123456789");
    if (!digits || digits > PORT_DIGITS || len != digits + 1 + SANDBOX_ID_SIZE - 1 ||
        host[digits] != '-')
        return HOST_UNKNOWN;
    char *id = arena_strndup(x->arena, host + digits + 1, SANDBOX_ID_SIZE - 1);
    char *port = arena_strndup(x->arena, host, digits);
    for (char *p = id; p && *p; p++)
        *p = (char)tolower((unsigned char)*p);
    *ret_id = id;
    *ret_port = port;
    return id && port ? HOST_SANDBOX : HOST_UNKNOWN;
}
