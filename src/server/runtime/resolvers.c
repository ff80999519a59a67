#include "server/runtime/resolvers.h"

#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"

enum { FILE_MAX = 65536 };

static bool read_file(const char *path, bool (*take)(const char *address, void *arg), void *arg) {
    struct strbuf sb cleanup_strbuf;
    struct error ignored;
    bool taken = false;
    strbuf_init(&sb, FILE_MAX);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // often a link
    if (fd < 0 || fd_read_all(fd, &sb, &ignored))
        return false;
    for (char *rest = sb.data, *line; (line = strsep(&rest, "\n"));) {
        if (strncmp(line, "nameserver", 10) != 0 || (line[10] != ' ' && line[10] != '\t'))
            continue;
        char *address = line + 10 + strspn(line + 10, " \t");
        address[strcspn(address, " \t#;\r")] = '\0';
        taken |= take(address, arg);
    }
    return taken;
}

void resolvers_of_host(bool (*take)(const char *address, void *arg), void *arg) {
    if (!read_file("/etc/resolv.conf", take, arg))
        (void)read_file("/run/systemd/resolve/resolv.conf", take, arg);
}
