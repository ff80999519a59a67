#include "io/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"

int pty_open(unsigned columns, unsigned rows, int *ret_master, int *ret_slave, struct error *err) {
    cleanup_close int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0)
        return error_errno(err, errno, "/dev/ptmx");
    if (unlockpt(master) < 0 || pty_resize(master, columns, rows) < 0)
        return error_errno(err, errno, "pseudo-terminal");
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return error_errno(err, errno, "slave of the pseudo-terminal");
    *ret_master = TAKE_FD(master);
    *ret_slave = slave;
    return 0;
}

int pty_resize(int master, unsigned columns, unsigned rows) {
    if (columns - 1 >= PTY_SIDE_MAX || rows - 1 >= PTY_SIDE_MAX) {
        errno = EINVAL;
        return -1;
    }
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    return ioctl(master, TIOCSWINSZ, &size);
}

pid_t pty_foreground(int master) {
    pid_t group = 0;
    return ioctl(master, TIOCGPGRP, &group) < 0 ? 0 : group;
}
