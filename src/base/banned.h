// Functions that fail the build (docs/c-style.md, "Banned"). Force-included before every file of
// ours: the system headers that declare them come first, then their names stop meaning anything.
#ifndef BASE_BANNED_H
#define BASE_BANNED_H

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#undef alloca // a macro of the C library: poison wants a plain name
#pragma GCC poison strcpy strcat sprintf vsprintf strncpy strtok atoi atol atoll strtol strtoul
#pragma GCC poison strtoll strtoull sscanf gets system popen gmtime localtime getpwnam alloca usleep

#endif
