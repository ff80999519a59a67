// Glob patterns on base names (execd.md 6.7, A.6): * ** ? [a-z] [!a] [^a] {a,b} \x and !(...),
// which negates the whole match with the group's content inlined. Compiled to a little program that
// is run over a set of states: linear in pattern times name, whatever the pattern. Any thread.
#ifndef EXECD_FILES_GLOB_H
#define EXECD_FILES_GLOB_H

#include <stdbool.h>

enum { GLOB_PATTERN_MAX = 1024 }; // bytes

struct files_glob;
// NULL with errno: EINVAL malformed, E2BIG too long, ENOMEM.
struct files_glob *files_glob_new(const char *pattern);
bool files_glob_match(const struct files_glob *g, const char *name);
void files_glob_free(struct files_glob *g); // NULL is fine

#endif
