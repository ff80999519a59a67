#include "execd/files/account.h"

#include <fcntl.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/parse.h"

enum { ACCOUNTS_MAX = 4 * 1024 * 1024 };

// fields of passwd(5) and group(5)
enum { FIELD_NAME = 0, FIELD_ID = 2, FIELD_GID = 3, FIELD_MEMBERS = 3, FIELD_HOME = 5 };

void files_accounts_init(struct files_accounts *a) {
    *a = (struct files_accounts){0};
    strbuf_init(&a->passwd, ACCOUNTS_MAX);
    strbuf_init(&a->group, ACCOUNTS_MAX);
}

void files_accounts_free(struct files_accounts *a) {
    strbuf_free(&a->passwd);
    strbuf_free(&a->group);
}

static const char *load(struct strbuf *sb, bool *read, const char *path) {
    if (!*read) {
        struct error ignored; // no file: nobody has a name
        cleanup_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && fd_read_all(fd, sb, &ignored) < 0)
            strbuf_clear(sb);
        *read = true;
    }
    return sb->data;
}

static const char *passwd(struct files_accounts *a) {
    return load(&a->passwd, &a->passwd_read, a->passwd_path ? a->passwd_path : "/etc/passwd");
}

static const char *group(struct files_accounts *a) {
    return load(&a->group, &a->group_read, a->group_path ? a->group_path : "/etc/group");
}

static const char *next_line(const char *line) {
    line += strcspn(line, "\n");
    return *line ? line + 1 : line;
}

// Field `index` of a line; its length, -1 when the line has fewer.
static long field(const char *line, unsigned index, const char **ret) {
    for (; index; index--) {
        line += strcspn(line, ":\n");
        if (*line++ != ':')
            return -1;
    }
    *ret = line;
    return (long)strcspn(line, ":\n");
}

static bool field_is(const char *line, unsigned index, const char *text) {
    const char *value;
    long len = field(line, index, &value);
    return len >= 0 && (size_t)len == strlen(text) && !memcmp(value, text, (size_t)len);
}

static bool field_id(const char *line, unsigned index, unsigned *ret) {
    const char *value;
    long len = field(line, index, &value);
    uint64_t id;
    if (len <= 0 || parse_u64n(value, (size_t)len, 0, UINT32_MAX - 1, &id) < 0)
        return false;
    *ret = (unsigned)id;
    return true;
}

static const char *line_of_id(const char *file, unsigned id) {
    for (const char *line = file; *line; line = next_line(line)) {
        unsigned found;
        if (field_id(line, FIELD_ID, &found) && found == id)
            return line;
    }
    return NULL;
}

static bool id_of_name(const char *file, const char *name, unsigned *ret) {
    for (const char *line = file; *line; line = next_line(line))
        if (field_is(line, FIELD_NAME, name) && field_id(line, FIELD_ID, ret))
            return true;
    uint64_t id;
    if (parse_u64(name, 0, UINT32_MAX - 1, &id) < 0)
        return false;
    *ret = (unsigned)id;
    return true;
}

static void name_of_id(const char *file, unsigned id, char name[ACCOUNT_NAME_MAX]) {
    const char *line = line_of_id(file, id), *text;
    long len = line ? field(line, FIELD_NAME, &text) : 0;
    if (len > 0 && len < ACCOUNT_NAME_MAX)
        (void)snprintf(name, ACCOUNT_NAME_MAX, "%.*s", (int)len, text);
    else
        (void)snprintf(name, ACCOUNT_NAME_MAX, "%u", id);
}

const char *files_owner_name(struct files_accounts *a, uid_t uid) {
    if (!a->have_owner || a->last_uid != uid)
        name_of_id(passwd(a), uid, a->owner);
    a->have_owner = true;
    a->last_uid = uid;
    return a->owner;
}

const char *files_group_name(struct files_accounts *a, gid_t gid) {
    if (!a->have_group || a->last_gid != gid)
        name_of_id(group(a), gid, a->group_name);
    a->have_group = true;
    a->last_gid = gid;
    return a->group_name;
}

bool files_owner_id(struct files_accounts *a, const char *name, uid_t *ret) {
    return id_of_name(passwd(a), name, ret);
}

bool files_group_id(struct files_accounts *a, const char *name, gid_t *ret) {
    return id_of_name(group(a), name, ret);
}

static bool has_member(const char *line, const char *name, size_t name_len) {
    const char *members;
    long left = field(line, FIELD_MEMBERS, &members);
    while (left > 0) {
        size_t len = strcspn(members, ",:\n");
        if (len == name_len && !memcmp(members, name, len))
            return true;
        members += len + 1;
        left -= (long)len + 1;
    }
    return false;
}

bool files_account(struct files_accounts *a, uid_t uid, char home[ACCOUNT_HOME_MAX],
                   gid_t groups[ACCOUNT_GROUPS_MAX], size_t *ret_count) {
    const char *account = line_of_id(passwd(a), uid), *name, *path;
    size_t count = 0;
    unsigned gid;
    if (!account)
        return false;
    long name_len = field(account, FIELD_NAME, &name), path_len = field(account, FIELD_HOME, &path);
    (void)snprintf(home, ACCOUNT_HOME_MAX, "%.*s", path_len > 0 ? (int)path_len : 1,
                   path_len > 0 ? path : "/");
    if (field_id(account, FIELD_GID, &gid))
        groups[count++] = gid;
    for (const char *line = group(a); *line; line = next_line(line))
        if (count < ACCOUNT_GROUPS_MAX && has_member(line, name, (size_t)name_len) &&
            field_id(line, FIELD_ID, &gid))
            groups[count++] = gid;
    *ret_count = count;
    return true;
}
