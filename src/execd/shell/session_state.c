#include "execd/shell/session_state.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

// The report's descriptor is moved out of the way of scripts that use small numbers; dash reads one
// digit only. One line, so that the user's lines count from 1. The script leaves the command as $1.
static const char bash_text[] =
    "{ . /proc/self/fd/3; } 2>/dev/null; exec 99>&4 3<&- 4>&-; "
    "eval \"${1?the state of the session is unreadable}\"; { __execd_state; } 2>/dev/null && :";
static const char sh_text[] =
    "{ . /proc/self/fd/3; } 2>/dev/null; exec 9>&4 3<&- 4>&-; "
    "eval \"${1?the state of the session is unreadable}\"; { __execd_state; } 2>/dev/null && :";

// Appends a report and keeps $?. An EXIT trap of the user's is put between two reports: the first
// is for a trap that exits itself, the second has what it changed. `&& :` is for set -e.
static const char bash_functions[] =
    "__execd_state() {\n"
    "    set -- \"$?\"\n"
    "    [[ $BASHPID != \"$$\" ]] || { builtin printf '%s\\0' \"$PWD\"; builtin export -p; "
    "builtin printf '\\0'; } >&99\n"
    "    return \"$1\"\n"
    "}\n"
    "trap() {\n"
    "    builtin trap \"$@\" || return\n"
    "    {\n"
    "        [[ $BASHPID == \"$$\" && $(builtin trap -p EXIT) != *__execd_state* ]] || return 0\n"
    "        eval \"set -- $(builtin trap -p EXIT)\"\n"
    "        builtin trap -- \"{ __execd_state; } 2>/dev/null && :\n"
    "${3-}\n"
    "{ __execd_state; } 2>/dev/null && :\" EXIT\n"
    "    } 2>/dev/null\n"
    "}\n"
    "builtin trap '{ __execd_state; } 2>/dev/null && :' EXIT\n";
static const char sh_functions[] = "__execd_state() {\n"
                                   "    set -- \"$?\"\n"
                                   "    { printf '%s\\0' \"$PWD\"; export -p; printf '\\0'; } >&9\n"
                                   "    return \"$1\"\n"
                                   "}\n"
                                   "trap '{ __execd_state; } 2>/dev/null && :' EXIT\n";

void session_state_clear(struct session_state *st) {
    free(st->cwd);
    free(st->exports);
    free(st->seen);
    *st = (struct session_state){0};
}

const char *session_shell_text(bool bash) {
    return bash ? bash_text : sh_text;
}

// Length of the name of an environment entry that a shell can hold as a variable, else 0. The
// shell's own bookkeeping is left to it.
static size_t variable_name(const char *entry) {
    static const char *const own[] = {"PWD", "OLDPWD", "SHLVL", "_"};
    size_t n = strcspn(entry, "=");
    if (entry[n] != '=' || isdigit((unsigned char)entry[0]))
        return 0;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)entry[i]) && entry[i] != '_')
            return 0;
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        if (strlen(own[i]) == n && !memcmp(entry, own[i], n))
            return 0;
    return n;
}

static void add_quoted(struct strbuf *sb, const char *text) {
    (void)strbuf_addc(sb, '\''); // failures are sticky
    for (size_t n; *text; text += n) {
        n = strcspn(text, "'");
        (void)strbuf_add(sb, text, n);
        if (text[n] == '\'') {
            (void)strbuf_adds(sb, "'\\''");
            n++;
        }
    }
    (void)strbuf_addc(sb, '\'');
}

static bool was_seen(const char *seen, const char *entry) {
    for (; seen && *seen; seen += strlen(seen) + 1)
        if (!strcmp(seen, entry))
            return true;
    return false;
}

// Everything of the environment is unset first: what the session unset must not come back.
static void add_memory(struct strbuf *sb, const struct session_state *st, char *const *envp) {
    for (char *const *v = envp; *v; v++) {
        size_t n = variable_name(*v);
        if (n)
            (void)strbuf_addf(sb, "unset -v %.*s\n", (int)n, *v);
    }
    (void)strbuf_adds(sb, st->exports);
    for (char *const *v = envp; *v; v++) {
        size_t n = variable_name(*v);
        if (n && !was_seen(st->seen, *v)) {
            (void)strbuf_addf(sb, "export %.*s=", (int)n, *v);
            add_quoted(sb, *v + n + 1);
            (void)strbuf_addc(sb, '\n');
        }
    }
}

static int remember(struct session_state *st, char *const *envp) {
    struct strbuf sb;
    strbuf_init(&sb, SESSION_SCRIPT_MAX);
    for (; *envp; envp++)
        if (**envp)
            (void)strbuf_add(&sb, *envp, strlen(*envp) + 1);
    (void)strbuf_addc(&sb, '\0');
    char *seen = strbuf_detach(&sb);
    if (!seen)
        return -1;
    free(st->seen);
    st->seen = seen;
    return 0;
}

int session_script(struct strbuf *sb, struct session_state *st, bool bash, char *const *envp,
                   const char *cwd, const char *command) {
    (void)strbuf_adds(sb, bash ? bash_functions : sh_functions);
    if (st->exports)
        add_memory(sb, st, envp);
    (void)strbuf_adds(sb, "PWD=");
    add_quoted(sb, cwd);
    (void)strbuf_adds(sb, "\nset -- 'set --; '");
    add_quoted(sb, command);
    (void)strbuf_addc(sb, '\n');
    return sb->failed || remember(st, envp) < 0 ? -1 : 0;
}

static ssize_t read_whole(int fd, char *data, size_t size) {
    size_t got = 0;
    while (got < size) {
        ssize_t n = pread(fd, data + got, size - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

// Reports are "cwd NUL exports NUL"; one that the shell did not finish is followed by no NUL.
static const char *last_report(const char *data, size_t len) {
    const char *report = NULL;
    for (const char *p = data, *end = data + len; p < end;) {
        const char *exports = memchr(p, '\0', (size_t)(end - p));
        const char *stop = exports ? memchr(exports + 1, '\0', (size_t)(end - exports) - 1) : NULL;
        if (!stop)
            break;
        report = *p == '/' ? p : report;
        p = stop + 1;
    }
    return report;
}

int session_state_take(struct session_state *st, int fd, struct error *err) {
    struct stat file;
    if (fstat(fd, &file) < 0)
        return error_errno(err, errno, "state of the session");
    if (file.st_size > SESSION_STATE_MAX)
        return error_set(err, EFBIG,
                         "the environment of the session is larger than %d bytes and was not kept",
                         SESSION_STATE_MAX);
    cleanup_free char *data = malloc((size_t)file.st_size + 1);
    ssize_t len = data ? read_whole(fd, data, (size_t)file.st_size) : -1;
    if (len < 0)
        return error_errno(err, errno, "state of the session");
    const char *report = last_report(data, (size_t)len);
    if (!report)
        return 0;
    char *cwd = strdup(report), *exports = strdup(report + strlen(report) + 1);
    if (!cwd || !exports) {
        free(cwd);
        free(exports);
        return error_errno(err, ENOMEM, "state of the session");
    }
    free(st->cwd);
    free(st->exports);
    st->cwd = cwd;
    st->exports = exports;
    return 1;
}
