#include "execd/shell/shell.h"

#include <errno.h>
#include <string.h>

#include "execd/process.h"

static bool holds(char *const *envp, const char *entry) {
    for (; *envp; envp++)
        if (!strcmp(*envp, entry))
            return true;
    return false;
}

// What an engine puts into every container is nobody's choice: Podman's TERM=xterm.
static bool is_unasked(char *const *envp, const char *entry) {
    return !strcmp(entry, "TERM=xterm") && holds(envp, "container=podman");
}

static size_t name_length(const char *entry) {
    return strcspn(entry, "=") + 1;
}

static bool is_chosen(char *const *envp, const char *entry) {
    for (char *const *e = envp; *e; e++)
        if (!strncmp(*e, entry, name_length(entry)) && !is_unasked(envp, *e))
            return true;
    return false;
}

int shell_prepare(struct shell *s, struct arena *a, const char *cwd, const char *otherwise,
                  struct error *err) {
    size_t count = 0, n = 0;
    s->file = process_shell(a, &s->bash);
    if (!s->file)
        return error_set(err, ENOENT, "neither bash nor sh is in PATH");
    char **given = process_environment(a, NULL, err);
    if (!given)
        return -1;
    while (given[count])
        count++;
    s->envp = arena_alloc(a, (count + 3) * sizeof *s->envp);
    char *pwd = arena_printf(a, "PWD=%s", cwd);
    if (!s->envp || !pwd)
        return error_errno(err, ENOMEM, "environment");
    s->envp[n++] = pwd;
    if (otherwise && is_chosen(given, otherwise))
        otherwise = NULL;
    if (otherwise)
        s->envp[n++] = (char *)otherwise;
    for (size_t i = 0; i < count; i++)
        if (strncmp(given[i], "PWD=", 4) != 0 &&
            (!otherwise || strncmp(given[i], otherwise, name_length(otherwise)) != 0))
            s->envp[n++] = given[i];
    return 0;
}
