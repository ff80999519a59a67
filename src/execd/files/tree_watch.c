#include "execd/files/tree_watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "base/map.h"
#include "base/path.h"
#include "base/strbuf.h"

enum {
    BUFFER = 32 * 1024,
    MASK = IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM |
           IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF,
    DEPTH_MAX = 256,
    PATH_TEXT_MAX = 256 * 1024,
    PAIR_WAIT_MS = 2 // between the two events of one rename, when they fell into two reads
};

struct node {
    struct list sibling, children;
    struct node *parent;
    int wd;
    char *name;
};

// The first half of a rename.
struct moved {
    uint32_t cookie; // 0: none
    char *path;
    struct node *node; // of a directory
    bool directory;
};

struct tree_watch {
    int inotify, slash;
    char *root_path; // as the user calls it
    char *real_path; // as the kernel does. No descriptor: it would keep a removed root alive, and
                     // its end would not be told
    bool recursive, root_is_directory, gone, full;
    struct node root;
    struct map nodes; // by wd
    unsigned count, told_new;
    struct moved moved;
    tree_change_fn *tell;
    void *arg;
    char buffer[BUFFER] __attribute__((aligned(8)));
};

// ---- nodes ----

static void key_of(int wd, char key[16]) {
    (void)snprintf(key, 16, "%d", wd);
}

static struct node *node_find(const struct tree_watch *t, int wd) {
    char key[16];
    key_of(wd, key);
    return map_get(&t->nodes, key);
}

// Out of the tree, with what is below; watches that the kernel still has end.
static void node_drop(struct tree_watch *t, struct node *n, bool rm) {
    char key[16];
    if (!n || n == &t->root)
        return;
    while (!list_empty(&n->children))
        node_drop(t, LIST_ENTRY(n->children.next, struct node, sibling), rm);
    if (rm)
        (void)inotify_rm_watch(t->inotify, n->wd); // gone already is fine
    key_of(n->wd, key);
    (void)map_remove(&t->nodes, key);
    list_remove(&n->sibling);
    t->count--;
    free(n->name);
    free(n);
}

static void add_path(struct strbuf *sb, const struct node *n) {
    if (n->parent) {
        add_path(sb, n->parent);
        if (sb->len)
            strbuf_addc(sb, '/');
        strbuf_adds(sb, n->name);
    }
}

// `name` below a node, as the root is called: for what is told.
static void full_path(const struct tree_watch *t, const struct node *n, const char *name,
                      struct strbuf *sb) {
    cleanup_strbuf struct strbuf below;
    strbuf_init(&below, PATH_TEXT_MAX);
    add_path(&below, n);
    strbuf_adds(sb, t->root_path);
    if (below.len) {
        if (sb->len && sb->data[sb->len - 1] != '/')
            strbuf_addc(sb, '/');
        strbuf_adds(sb, below.data);
    }
    if (*name) {
        if (sb->len && sb->data[sb->len - 1] != '/')
            strbuf_addc(sb, '/');
        strbuf_adds(sb, name);
    }
}

static void tell(struct tree_watch *t, enum tree_change change, const struct node *n,
                 const char *name, const char *from, bool directory) {
    cleanup_strbuf struct strbuf path;
    strbuf_init(&path, PATH_TEXT_MAX);
    full_path(t, n, name, &path);
    if (!path.failed)
        t->tell(t->arg, change, path.data, from, directory);
}

// ---- watches ----

// By descriptor, so that it is the directory that was opened, whatever its name is by now.
static int add_watch(const struct tree_watch *t, int fd) {
    char path[40];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return inotify_add_watch(t->inotify, path, MASK);
}

// Lost for good: the user has to look for himself.
static void tell_lost(struct tree_watch *t) {
    if (!t->full)
        t->tell(t->arg, TREE_OVERFLOW, NULL, NULL, false);
    t->full = true;
}

static struct node *node_add(struct tree_watch *t, struct node *parent, const char *name, int wd) {
    char key[16];
    struct node *n = node_find(t, wd);
    char *copy = strdup(name);
    if (n && copy && n->parent) { // renamed while we did not see it: it has its watch
        list_remove(&n->sibling);
        list_push_back(&parent->children, &n->sibling);
        free(n->name);
        n->parent = parent;
        n->name = copy;
        return n;
    }
    n = n ? NULL : calloc(1, sizeof *n);
    key_of(wd, key);
    if (!n || !copy || map_put(&t->nodes, key, n) < 0) {
        free(n);
        free(copy);
        return NULL;
    }
    n->parent = parent;
    n->name = copy;
    n->wd = wd;
    list_init(&n->children);
    list_push_back(&parent->children, &n->sibling);
    t->count++;
    return n;
}

static void add_below(struct tree_watch *t, struct node *n, int fd, bool told, unsigned depth);

static void add_directory(struct tree_watch *t, struct node *parent, const char *name, int fd,
                          bool told, unsigned depth) {
    int wd = t->count < TREE_WATCHES_MAX && depth < DEPTH_MAX ? add_watch(t, fd) : -1;
    struct node *n = wd < 0 ? NULL : node_add(t, parent, name, wd);
    if (!n) {
        tell_lost(t);
        (void)close(fd);
        return;
    }
    add_below(t, n, fd, told, depth + 1);
}

// What a new directory holds already came before its watch: it is told as created. fd is taken.
static void add_below(struct tree_watch *t, struct node *n, int fd, bool told, unsigned depth) {
    DIR *d = fdopendir(fd);
    if (!d) {
        (void)close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        if (told && t->told_new++ < TREE_NEW_MAX)
            tell(t, TREE_CREATED, n, e->d_name, NULL, S_ISDIR(st.st_mode));
        else if (told)
            tell_lost(t);
        int below =
            S_ISDIR(st.st_mode) && t->recursive
                ? openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                : -1;
        if (below >= 0)
            add_directory(t, n, e->d_name, below, told, depth);
    }
    (void)closedir(d);
}

// Opens a directory of the tree by its path below the root; -1 when it is gone again.
static int open_below(const struct tree_watch *t, const struct node *n, const char *name) {
    cleanup_strbuf struct strbuf path;
    strbuf_init(&path, PATH_TEXT_MAX);
    strbuf_addc(&path, '.');
    strbuf_adds(&path, t->real_path);
    if (path.data[path.len - 1] != '/')
        strbuf_addc(&path, '/');
    add_path(&path, n);
    strbuf_addc(&path, '/');
    strbuf_adds(&path, name);
    return path.failed
               ? -1
               : path_open(t->slash, path.data, PATH_NO_SYMLINKS, O_RDONLY | O_DIRECTORY, 0);
}

static void add_named(struct tree_watch *t, struct node *parent, const char *name) {
    int fd = open_below(t, parent, name);
    t->told_new = 0;
    if (fd >= 0)
        add_directory(t, parent, name, fd, true, 0);
}

static struct node *child(struct node *n, const char *name) {
    LIST_EACH(&n->children, at) {
        struct node *c = LIST_ENTRY(at, struct node, sibling);
        if (!strcmp(c->name, name))
            return c;
    }
    return NULL;
}

// ---- events ----

// A name left the tree, or its other half never came.
static void settle_moved(struct tree_watch *t) {
    struct moved *m = &t->moved;
    if (!m->cookie)
        return;
    t->tell(t->arg, TREE_DELETED, m->path, NULL, m->directory);
    node_drop(t, m->node, true);
    free(m->path);
    *m = (struct moved){0};
}

static void moved_from(struct tree_watch *t, struct node *n, const struct inotify_event *e) {
    cleanup_strbuf struct strbuf path;
    strbuf_init(&path, PATH_TEXT_MAX);
    full_path(t, n, e->name, &path);
    bool directory = e->mask & IN_ISDIR;
    t->moved = (struct moved){e->cookie, strbuf_detach(&path), directory ? child(n, e->name) : NULL,
                              directory};
    if (!t->moved.path)
        t->moved = (struct moved){0};
}

static void moved_to(struct tree_watch *t, struct node *n, const struct inotify_event *e) {
    struct moved m = t->moved;
    bool directory = e->mask & IN_ISDIR;
    if (!m.cookie || m.cookie != e->cookie) {
        settle_moved(t);
        tell(t, TREE_CREATED, n, e->name, NULL, directory);
        if (directory && t->recursive)
            add_named(t, n, e->name);
        return;
    }
    t->moved = (struct moved){0};
    tell(t, TREE_MOVED, n, e->name, m.path, directory);
    free(m.path);
    char *name = m.node ? strdup(e->name) : NULL;
    if (name) {
        list_remove(&m.node->sibling);
        list_push_back(&n->children, &m.node->sibling);
        m.node->parent = n;
        free(m.node->name);
        m.node->name = name;
    } else if (directory && t->recursive) {
        node_drop(t, m.node, true);
        add_named(t, n, e->name);
    }
}

// The queue of the kernel was full. Directories may have come unseen.
static void overflowed(struct tree_watch *t) {
    settle_moved(t);
    t->tell(t->arg, TREE_OVERFLOW, NULL, NULL, false);
    int fd = t->recursive ? open_below(t, &t->root, "") : -1;
    if (fd >= 0)
        add_below(t, &t->root, fd, false, 0);
}

// What happened to `name` in a directory, or to the root when it is "".
static void plain_event(struct tree_watch *t, struct node *n, const char *name, uint32_t mask) {
    static const struct {
        uint32_t mask;
        enum tree_change change;
    } plain[] = {{IN_CREATE, TREE_CREATED},
                 {IN_MODIFY, TREE_MODIFIED},
                 {IN_CLOSE_WRITE, TREE_CLOSED},
                 {IN_ATTRIB, TREE_ATTRIBUTES},
                 {IN_DELETE, TREE_DELETED}};
    bool directory = mask & IN_ISDIR;
    if (!*name && n != &t->root)
        return; // a directory's own attributes come under its name, too
    for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
        if (mask & plain[i].mask)
            tell(t, plain[i].change, n, name, NULL, directory);
    if (mask & IN_CREATE && directory && t->recursive)
        add_named(t, n, name);
}

// The watch of a directory ends, or what it watches.
static void end_event(struct tree_watch *t, struct node *n, uint32_t mask) {
    if (n == &t->root) {
        t->gone = true;
        t->tell(t->arg, TREE_GONE, t->root_path, NULL, t->root_is_directory);
    } else if (mask & IN_IGNORED) {
        node_drop(t, n, false);
    }
}

static void process(struct tree_watch *t, const struct inotify_event *e) {
    struct node *n = node_find(t, e->wd);
    if (t->moved.cookie && !(e->mask & IN_MOVED_TO))
        settle_moved(t);
    if (e->mask & IN_Q_OVERFLOW)
        overflowed(t);
    else if (!n)
        return; // of a watch that was given up
    else if (e->mask & IN_MOVED_FROM)
        moved_from(t, n, e);
    else if (e->mask & IN_MOVED_TO)
        moved_to(t, n, e);
    else if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED))
        end_event(t, n, e->mask);
    else
        plain_event(t, n, e->len ? e->name : "", e->mask);
}

static bool read_events(struct tree_watch *t) {
    ssize_t len = read(t->inotify, t->buffer, sizeof t->buffer);
    for (ssize_t at = 0; at < len && !t->gone;) {
        const struct inotify_event *e = (const void *)(t->buffer + at);
        process(t, e);
        at += (ssize_t)(sizeof *e + e->len);
    }
    return len > 0;
}

bool tree_watch_read(struct tree_watch *t, tree_change_fn *fn, void *arg) {
    t->tell = fn;
    t->arg = arg;
    (void)read_events(t);
    struct pollfd p = {.fd = t->inotify, .events = POLLIN};
    if (t->moved.cookie && !t->gone) {
        if (poll(&p, 1, PAIR_WAIT_MS) > 0)
            (void)read_events(t);
        settle_moved(t);
    }
    return !t->gone;
}

// ---- life ----

static void ignore(void *arg, enum tree_change change, const char *path, const char *from,
                   bool directory) {
    struct tree_watch *t = arg;
    (void)path;
    (void)from;
    (void)directory;
    t->full = t->full || change == TREE_OVERFLOW;
}

static int find_real_path(struct tree_watch *t, int fd) {
    char name[40], target[PATH_MAX];
    (void)snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, target, sizeof target);
    if (n < 0 || n == sizeof target)
        return -1;
    t->real_path = strndup(target, (size_t)n);
    t->slash = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return t->real_path && t->slash >= 0 ? 0 : -1;
}

static int start(struct tree_watch *t, int root, struct error *err) {
    char key[16];
    struct stat st;
    t->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (t->inotify < 0)
        return error_errno(err, errno, "inotify (fs.inotify.max_user_instances)");
    t->root.wd = add_watch(t, root);
    if (t->root.wd < 0 || fstat(root, &st) || find_real_path(t, root))
        return error_errno(err, errno, "watch (fs.inotify.max_user_watches)");
    key_of(t->root.wd, key);
    if (map_put(&t->nodes, key, &t->root) < 0)
        return error_errno(err, ENOMEM, "watch");
    t->root_is_directory = S_ISDIR(st.st_mode);
    if (!t->recursive || !t->root_is_directory)
        return 0;
    t->tell = ignore;
    t->arg = t;
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "read");
    add_below(t, &t->root, fd, false, 0);
    if (t->full)
        return error_set(err, ENOSPC,
                         "the tree needs more watches than %d or fs.inotify.max_user_watches allow",
                         TREE_WATCHES_MAX);
    return 0;
}

struct tree_watch *tree_watch_new(int fd, const char *path, bool recursive, struct error *err) {
    struct tree_watch *t = calloc(1, sizeof *t);
    if (!t) {
        (void)error_errno(err, ENOMEM, "watch");
        return NULL;
    }
    t->inotify = t->slash = -1;
    t->recursive = recursive;
    map_init(&t->nodes);
    list_init(&t->root.children);
    t->root_path = strdup(path);
    if (t->root_path && start(t, fd, err) == 0)
        return t;
    if (!t->root_path)
        (void)error_errno(err, ENOMEM, "watch");
    tree_watch_free(t);
    return NULL;
}

int tree_watch_fd(const struct tree_watch *t) {
    return t->inotify;
}

void tree_watch_free(struct tree_watch *t) {
    if (!t)
        return;
    while (!list_empty(&t->root.children))
        node_drop(t, LIST_ENTRY(t->root.children.next, struct node, sibling), false);
    map_clear(&t->nodes);
    free(t->moved.path);
    const int fds[] = {t->inotify, t->slash};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    free(t->root_path);
    free(t->real_path);
    free(t);
}
