#include "server/runtime/docker/sidecar/servers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"

enum { FILE_MAX = 65536, SERVERS_MAX = 8 };

static void add(char text[SERVERS_TEXT_MAX], const char *address) {
    size_t used = strlen(text);
    (void)snprintf(text + used, SERVERS_TEXT_MAX - used, "%s%s", used ? "," : "", address);
}

// The loopback is the container's own.
static bool is_usable(const char *address) {
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 != IN_LOOPBACKNET;
    return inet_pton(AF_INET6, address, &v6) == 1 && !IN6_IS_ADDR_LOOPBACK(&v6);
}

static void read_file(const char *path, char text[SERVERS_TEXT_MAX]) {
    struct strbuf sb cleanup_strbuf;
    struct error ignored;
    unsigned count = 0;
    strbuf_init(&sb, FILE_MAX);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // often a link
    if (fd < 0 || fd_read_all(fd, &sb, &ignored))
        return;
    for (char *rest = sb.data, *line; (line = strsep(&rest, "\n")) && count < SERVERS_MAX;) {
        if (strncmp(line, "nameserver", 10) != 0 || (line[10] != ' ' && line[10] != '\t'))
            continue;
        char *address = line + 10 + strspn(line + 10, " \t");
        address[strcspn(address, " \t#;\r")] = '\0';
        if (!is_usable(address))
            continue;
        add(text, address);
        count++;
    }
}

void servers_of(const struct docker *d, char text[SERVERS_TEXT_MAX]) {
    text[0] = '\0';
    for (docker_list p = d->settings.egress_dns; p && *p; p++)
        add(text, *p);
    if (!*text && d->near)
        read_file("/etc/resolv.conf", text);
    if (!*text && d->near) // systemd-resolved's own upstream servers
        read_file("/run/systemd/resolve/resolv.conf", text);
}
