// Pseudo-terminals (pty(7)), made and driven through the master only: no name below /dev/pts is
// opened, so nothing there can be planted. Any thread; nothing blocks.
//
// The slave goes to the child by io/spawn with SPAWN_NEW_SESSION | SPAWN_TTY and is then closed by
// us. The end (stream_read: 0) comes when the last process has closed the slave, which may be long
// after the session's leader: what the leader wrote has been read when, after its exit, a read
// finds nothing (EAGAIN). The kernel (n_tty_read) waits for what is under way before it says so.
#ifndef IO_PTY_H
#define IO_PTY_H

#include <sys/types.h>

#include "base/error.h"

enum { PTY_COLUMNS = 80, PTY_ROWS = 24, PTY_SIDE_MAX = 65535 };

// Both O_CLOEXEC. Needs a devpts mount (ENOENT), and a free number in it (ENOSPC).
int pty_open(unsigned columns, unsigned rows, int *ret_master, int *ret_slave, struct error *err);
// 1..PTY_SIDE_MAX each; the kernel tells the foreground job by SIGWINCH. -1 with errno.
int pty_resize(int master, unsigned columns, unsigned rows);
// Process group in the foreground of the terminal, which is what a key like ^C means; 0 when there
// is none.
pid_t pty_foreground(int master);

#endif
