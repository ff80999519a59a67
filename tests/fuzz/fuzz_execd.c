// The small texts that execd is given: the EXECD_ENVS file, ranges, paths, glob patterns (first
// line) with names (the rest).
#include "base/log.h"
#include "execd/environment.h"
#include "execd/files/expand.h"
#include "execd/files/glob.h"
#include "execd/files/range.h"
#include "fuzz.h"

static int variable(void *arg, const char *name, size_t name_len, const char *value) {
    CHECK(name_len > 0 && !memchr(name, '=', name_len) && value);
    return ++*(int *)arg < 0;
}

static void globs(const char *text) {
    char *pattern = fuzz_text((const uint8_t *)text, strcspn(text, "\n"));
    struct files_glob *g = files_glob_new(pattern);
    if (g)
        (void)files_glob_match(g, text[strlen(pattern)] ? text + strlen(pattern) + 1 : "");
    files_glob_free(g);
    free(pattern);
}

static void paths(const char *text) {
    static const struct files_base base = {.lookup = files_environ, .home = "/h", .cwd = "/c"};
    struct arena a;
    struct error err;
    char *path;
    arena_init(&a, 1 << 20);
    if (!files_expand(&a, text, &base, &path, &err))
        CHECK(path[0] == '/' && !strstr(path, "//") && !strstr(path, "/../"));
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    log_set_level(LOG_LEVEL_ERROR); // a line for every malformed variable
    char *text = fuzz_text(data, size);
    uint64_t start, len;
    int64_t sec;
    int count = 0;
    (void)environment_parse((const char *)data, size, variable, &count);
    if (files_range_parse(text, 1000, &start, &len) == FILES_RANGE_PART)
        CHECK(start <= 1000 && len <= 1000 - start);
    (void)files_date_parse(text, &sec);
    globs(text);
    paths(text);
    free(text);
    return 0;
}
