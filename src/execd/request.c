#include "execd/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

const char *request_text(struct http_exchange *x, const json_t *body, const char *name,
                         const char *absent) {
    const json_t *value = execd_member(body, name);
    if (!value || json_is_string(value))
        return value ? json_string_value(value) : absent;
    execd_fail(x, 400, CODE_BODY,
               "error parsing request, MAYBE invalid body format. %s must be a string", name);
    return NULL;
}

bool request_whole(struct http_exchange *x, const json_t *body, const char *name, int64_t min,
                   int64_t max, int64_t *ret) {
    const json_t *value = execd_member(body, name);
    if (!value)
        return true;
    if (json_is_integer(value) && json_integer_value(value) >= min &&
        json_integer_value(value) <= max) {
        *ret = json_integer_value(value);
        return true;
    }
    execd_fail(x, 400, CODE_BODY,
               "invalid request, validation error: %s must be a whole number from %lld to %lld",
               name, (long long)min, (long long)max);
    return false;
}

char *request_path(struct http_exchange *x, const char *path, struct error *err) {
    char **envp = process_environment(x->arena, NULL, err);
    return envp ? process_absolute(x->arena, execd_of(x), envp, path, err) : NULL;
}

int request_make_dirs(const char *path, struct error *err) {
    cleanup_free char *copy = strdup(path);
    struct stat st;
    if (!copy)
        return error_errno(err, ENOMEM, "%s", path);
    for (char *slash = copy; slash;) {
        if ((slash = strchr(slash + 1, '/')))
            *slash = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST && errno != EISDIR && errno != EROFS)
            return error_errno(err, errno, "mkdir %s", copy);
        if (slash)
            *slash = '/';
    }
    if (stat(path, &st) < 0)
        return error_errno(err, errno, "%s", path);
    return S_ISDIR(st.st_mode) ? 0 : error_errno(err, ENOTDIR, "%s", path);
}
