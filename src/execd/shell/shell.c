#include "execd/shell/shell.h"

#include <errno.h>
#include <string.h>

#include "execd/process.h"

static bool is_set(char *const *envp, const char *entry) {
    size_t n = strcspn(entry, "=") + 1;
    for (; *envp; envp++)
        if (!strncmp(*envp, entry, n))
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
    if (otherwise && !is_set(given, otherwise))
        s->envp[n++] = (char *)otherwise;
    for (size_t i = 0; i < count; i++)
        if (strncmp(given[i], "PWD=", 4) != 0)
            s->envp[n++] = given[i];
    return 0;
}
