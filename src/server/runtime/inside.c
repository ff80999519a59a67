#include "server/runtime/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/cleanup.h"

int inside_socket(int net, struct error *err) {
    cleanup_close int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0 || setns(net, CLONE_NEWNET))
        return error_errno(err, errno, "network of the sandbox");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), saved = errno;
    if (setns(home, CLONE_NEWNET))
        abort();
    return fd < 0 ? error_errno(err, saved, "socket in the sandbox") : fd;
}
