#include "egress/park.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "fmt/json.h"

int park_settings(struct error *err) {
    const char *path = getenv("OPENSANDBOX_EGRESS_SETTINGS"), *name;
    static const char prefix[] = "OPENSANDBOX_EGRESS_";
    cleanup_strbuf struct strbuf text;
    json_t *value;
    strbuf_init(&text, PARK_FILE_MAX);
    if (!path || !*path)
        return 1;
    if (fd_read_file(AT_FDCWD, path, &text, err) < 0)
        return err->kind == ENOENT ? 0 : error_wrap(err, "settings");
    cleanup_json json_t *j = json_parse(text.data, text.len, NULL, err);
    if (!j)
        return error_wrap(err, "settings");
    json_object_foreach(j, name, value) {
        if (!json_is_string(value) || strncmp(name, prefix, sizeof prefix - 1) != 0)
            return error_set(err, EINVAL, "settings: %.80s is none of ours", name);
        if (setenv(name, json_string_value(value), 1) < 0)
            return error_errno(err, errno, "settings");
    }
    return 1;
}

int park_wait(int listen_fd, struct error *err) {
    struct pollfd p = {.fd = listen_fd, .events = POLLIN};
    while (poll(&p, 1, -1) < 0)
        if (errno != EINTR)
            return error_errno(err, errno, "wait for an owner");
    return 0;
}
