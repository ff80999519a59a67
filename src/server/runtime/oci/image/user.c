#include "server/runtime/oci/image/user.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/parse.h"
#include "base/path.h"
#include "server/errors.h"

#define REFUSE(err, ...) error_server(err, ERR_INVALID_PARAMETER, __VA_ARGS__)

enum { FILE_MAX = 1024 * 1024, LINE_MAX_BYTES = 4096, FIELDS = 7, DIGITS_MAX = 10 };
enum passwd_field { P_NAME, P_PASSWORD, P_UID, P_GID, P_GECOS, P_HOME };
enum group_field { G_NAME, G_PASSWORD, G_GID, G_MEMBERS };

struct span {
    const char *at;
    size_t len;
};

static bool span_is(struct span s, const char *text, size_t len) {
    return s.len == len && !memcmp(s.at, text, len);
}

static bool is_id(struct span s, uint32_t *ret) {
    uint64_t v;
    if (s.len < 1 || s.len > DIGITS_MAX || parse_u64n(s.at, s.len, 0, INT32_MAX, &v) < 0)
        return false;
    *ret = (uint32_t)v;
    return true;
}

static bool all_digits(struct span s) {
    for (size_t i = 0; i < s.len; i++)
        if (s.at[i] < '0' || s.at[i] > '9')
            return false;
    return s.len > 0;
}

static bool is_name(struct span s) {
    if (s.len < 1 || s.len >= USER_NAME_SIZE || s.at[0] == '-')
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.at[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '.' || c == '-'))
            return false;
    }
    return true;
}

// ---- lines ----

struct reader {
    const char *at, *end;
    struct span field[FIELDS]; // of the current line
    unsigned fields;
};

static struct reader reader_of(const char *text, size_t len) {
    return (struct reader){.at = text, .end = text ? text + len : NULL};
}

// The next line with at least `needed` fields; longer ones than 4 KiB do not exist for us.
static bool next_line(struct reader *r, unsigned needed) {
    while (r->at < r->end) {
        const char *line = r->at, *stop = memchr(line, '\n', (size_t)(r->end - line));
        if (!stop)
            stop = r->end;
        r->at = stop + (stop < r->end);
        r->fields = 0;
        if (stop - line > LINE_MAX_BYTES)
            continue;
        for (const char *p = line; r->fields < FIELDS;) {
            const char *colon = memchr(p, ':', (size_t)(stop - p));
            const char *e = colon ? colon : stop;
            r->field[r->fields++] = (struct span){p, (size_t)(e - p)};
            if (!colon)
                break;
            p = colon + 1;
        }
        if (r->fields >= needed)
            return true;
    }
    return false;
}

// ---- passwd ----

static void take_home(struct user *u, struct span home) {
    bool good = home.len > 0 && home.len < sizeof u->home;
    for (size_t i = 0; good && i < home.len; i++)
        good = (unsigned char)home.at[i] >= 0x20 && home.at[i] != 0x7f;
    if (good) {
        memcpy(u->home, home.at, home.len);
        u->home[home.len] = '\0';
        good = path_is_clean(u->home);
    }
    if (!good)
        memcpy(u->home, "/", 2);
}

// By name or by number. 1: found, 0: no entry, -1: the entry cannot be used.
static int find_passwd(const struct user_files *f, struct span name, struct user *u,
                       struct error *err) {
    struct reader r = reader_of(f->passwd, f->passwd_len);
    bool by_id = all_digits(name);
    uint32_t uid, gid;
    while (next_line(&r, P_GID + 1)) {
        bool good = is_id(r.field[P_UID], &uid);
        if (by_id ? !good || uid != u->uid : !span_is(r.field[P_NAME], name.at, name.len))
            continue;
        if (!good || !is_id(r.field[P_GID], &gid))
            return REFUSE(err, "the image's /etc/passwd gives \"%.*s\" no usable ids",
                          (int)name.len, name.at);
        u->uid = uid;
        u->gid = gid;
        if (is_name(r.field[P_NAME])) {
            memcpy(u->name, r.field[P_NAME].at, r.field[P_NAME].len);
            u->name[r.field[P_NAME].len] = '\0';
        }
        take_home(u, r.fields > P_HOME ? r.field[P_HOME] : (struct span){"", 0});
        return 1;
    }
    return 0;
}

static int find_user(const struct user_files *f, struct span name, struct user *u,
                     struct error *err) {
    if (all_digits(name)) {
        if (!is_id(name, &u->uid))
            return REFUSE(err, "the image's user \"%.*s\" is no number up to 2147483647",
                          (int)name.len, name.at);
    } else if (!is_name(name)) {
        return REFUSE(err, "the image's user \"%.*s\" is neither a name nor a number",
                      (int)(name.len > 64 ? 64 : name.len), name.at);
    }
    int found = find_passwd(f, name, u, err);
    if (!found && !all_digits(name))
        return REFUSE(err, "the image's user \"%.*s\" is not in its /etc/passwd%s", (int)name.len,
                      name.at, f->passwd ? "" : ", which is missing or no regular file");
    return found < 0 ? -1 : 0;
}

// ---- group ----

static int find_group(const struct user_files *f, struct span name, struct user *u,
                      struct error *err) {
    struct reader r = reader_of(f->group, f->group_len);
    if (all_digits(name)) {
        if (is_id(name, &u->gid))
            return 0;
        return REFUSE(err, "the image's group \"%.*s\" is no number up to 2147483647",
                      (int)name.len, name.at);
    }
    if (!is_name(name))
        return REFUSE(err, "the image's group \"%.*s\" is neither a name nor a number",
                      (int)(name.len > 64 ? 64 : name.len), name.at);
    while (next_line(&r, G_GID + 1)) {
        if (!span_is(r.field[G_NAME], name.at, name.len))
            continue;
        if (is_id(r.field[G_GID], &u->gid))
            return 0;
        return REFUSE(err, "the image's /etc/group gives \"%.*s\" no usable id", (int)name.len,
                      name.at);
    }
    return REFUSE(err, "the image's group \"%.*s\" is not in its /etc/group", (int)name.len,
                  name.at);
}

static bool has_member(struct span list, const char *name, size_t len) {
    for (const char *p = list.at, *end = list.at + list.len; p <= end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p)), *e = comma ? comma : end;
        if (span_is((struct span){p, (size_t)(e - p)}, name, len))
            return true;
        p = e + 1;
    }
    return false;
}

static bool in_groups(const struct user *u, uint32_t gid) {
    for (unsigned i = 0; i < u->group_count; i++)
        if (u->groups[i] == gid)
            return true;
    return gid == u->gid;
}

static void add_groups(const struct user_files *f, struct user *u) {
    struct reader r = reader_of(f->group, f->group_len);
    uint32_t gid;
    while (*u->name && u->group_count < USER_GROUPS_MAX && next_line(&r, G_MEMBERS + 1))
        if (has_member(r.field[G_MEMBERS], u->name, strlen(u->name)) &&
            is_id(r.field[G_GID], &gid) && !in_groups(u, gid))
            u->groups[u->group_count++] = gid;
}

// ---- entry points ----

int user_find(const struct user_files *f, const char *text, struct user *ret, struct error *err) {
    struct user u = {.home = "/"};
    const char *colon = strchr(text, ':');
    struct span name = {text, colon ? (size_t)(colon - text) : strlen(text)};
    if (!*text)
        name = (struct span){"0", 1};
    if (find_user(f, name, &u, err))
        return -1;
    if (!colon)
        add_groups(f, &u);
    else if (find_group(f, (struct span){colon + 1, strlen(colon + 1)}, &u, err))
        return -1;
    *ret = u;
    return 0;
}

// The beginning of a regular file; false when there is none. Whoever made the image may have put a
// FIFO there.
static bool read_file(int root, const char *path, struct strbuf *sb) {
    struct stat st;
    cleanup_close int fd =
        path_open(root, path, PATH_IN_ROOT, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
        return false;
    for (ssize_t n = 1; n > 0;) {
        size_t room = sb->max - sb->len;
        char *at = room ? strbuf_reserve(sb, room < 65536 ? room : 65536) : NULL;
        n = at ? read(fd, at, room < 65536 ? room : 65536) : 0;
        sb->len += n > 0 ? (size_t)n : 0;
    }
    return true;
}

int user_resolve(int root, const char *text, struct user *ret, struct error *err) {
    cleanup_strbuf struct strbuf passwd, group;
    strbuf_init(&passwd, FILE_MAX);
    strbuf_init(&group, FILE_MAX);
    struct user_files f = {.passwd = read_file(root, "etc/passwd", &passwd) ? passwd.data : NULL,
                           .group = read_file(root, "etc/group", &group) ? group.data : NULL};
    f.passwd_len = passwd.len;
    f.group_len = group.len;
    return user_find(&f, text, ret, err);
}
