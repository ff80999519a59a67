// Lists of upstream servers: from the environment and from resolv.conf.
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/parse.h"
#include "egress/resolve/forward.h"

static bool is_loopback(const struct net *n) {
    static const uint8_t one[16] = {[15] = 1};
    return n->size == 4 ? n->bytes[0] == 127 : !memcmp(n->bytes, one, sizeof one);
}

static int take_server(struct upstream *u, char *text) {
    uint64_t port = DNS_PORT;
    char *colon = strrchr(text, ':');
    if (*text == '[') {
        char *end = strchr(text++, ']');
        if (!end || (end[1] && end[1] != ':') ||
            (end[1] && parse_u64(end + 2, 1, 65535, &port) < 0))
            return -1;
        *end = '\0';
    } else if (colon && strchr(text, ':') == colon) { // one colon: IPv4 and a port
        if (parse_u64(colon + 1, 1, 65535, &port) < 0)
            return -1;
        *colon = '\0';
    }
    *u = (struct upstream){.port = (unsigned)port};
    return net_parse(text, &u->address) < 0 || !net_is_address(&u->address) ? -1 : 0;
}

static void add(struct upstream *list, unsigned *count, const struct upstream *u) {
    for (unsigned i = 0; i < *count; i++)
        if (list[i].port == u->port && !memcmp(&list[i].address, &u->address, sizeof u->address))
            return;
    if (*count < FORWARD_UPSTREAMS_MAX)
        list[(*count)++] = *u;
}

int forward_parse(struct upstream *list, unsigned *ret_count, const char *text, unsigned own_port,
                  struct error *err) {
    *ret_count = 0;
    while (*text) {
        char one[80];
        struct upstream u;
        while (isspace((unsigned char)*text) || *text == ',')
            text++;
        size_t len = strcspn(text, ", \t\r\n");
        if (!len)
            break;
        if (len >= sizeof one)
            return error_set(err, EINVAL, "not an address: %.*s", 60, text);
        memcpy(one, text, len);
        one[len] = '\0';
        if (take_server(&u, one) < 0)
            return error_set(err, EINVAL, "not an address: %.*s", (int)len, text);
        if (is_loopback(&u.address) && u.port == own_port)
            return error_set(err, EINVAL, "%.*s is this proxy itself", (int)len, text);
        add(list, ret_count, &u);
        text += len;
    }
    return 0;
}

void forward_resolv_conf(struct upstream *list, unsigned *ret_count, const char *text) {
    static const char word[] = "nameserver";
    *ret_count = 0;
    for (int loopback = 0; loopback < 2; loopback++)
        for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
            char one[64];
            struct upstream u;
            const char *p = line + strspn(line, " \t");
            if (strncmp(p, word, sizeof word - 1) != 0 || !strchr(" \t", p[sizeof word - 1]))
                continue;
            p += sizeof word - 1;
            p += strspn(p, " \t");
            size_t len = strcspn(p, " \t\r\n#;");
            if (!len || len >= sizeof one)
                continue;
            memcpy(one, p, len);
            one[len] = '\0';
            u = (struct upstream){.port = DNS_PORT};
            if (!net_parse(one, &u.address) && net_is_address(&u.address) &&
                is_loopback(&u.address) == loopback)
                add(list, ret_count, &u);
        }
}
