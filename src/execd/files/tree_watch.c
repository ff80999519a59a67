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
#include "base/clock.h"
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
    QUEUE_MAX = 4096,  // events that wait for the other half of a rename
    PAIR_WAIT_MS = 100 // for it: between the two, who renames may have to wait for a processor
};

struct node {
    struct list sibling, children;
    struct node *parent;
    int wd;
    char *name;
};

struct event {
    struct list node;
    int64_t read_ms;
    int wd;
    uint32_t mask, cookie;
    char name[]; // "" for the watched itself
};

struct tree_watch {
    int inotify, slash;
    char *root_path; // as the user calls it
    char *real_path; // as the kernel does. No descriptor: it would keep a removed root alive, and
                     // its end would not be told
    bool recursive, root_is_directory, gone, full;
    struct node root;
    struct map nodes; // by wd
    unsigned count, told_new, queued;
    struct list queue; // struct event
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

// Reads at most one buffer.
static void read_events(struct tree_watch *t) {
    ssize_t len = read(t->inotify, t->buffer, sizeof t->buffer);
    int64_t now = clock_boot_ms();
    for (ssize_t at = 0; at < len;) {
        const struct inotify_event *e = (const void *)(t->buffer + at);
        const char *name = e->len ? e->name : "";
        size_t size = strlen(name) + 1;
        struct event *copy = malloc(sizeof *copy + size);
        if (copy) {
            *copy = (struct event){{0}, now, e->wd, e->mask, e->cookie};
            memcpy(copy->name, name, size);
            list_push_back(&t->queue, &copy->node);
            t->queued++;
        } else {
            tell_lost(t);
        }
        at += (ssize_t)(sizeof *e + e->len);
    }
}

static struct event *take_event(struct tree_watch *t) {
    struct list *node = list_pop(&t->queue);
    t->queued -= node != NULL;
    return node ? LIST_ENTRY(node, struct event, node) : NULL;
}

// The other half of a rename, behind its first in the queue. The kernel writes both while it holds
// the directories, but events of others come between. *ret_over: there will be none, as something
// else happened to the names of that directory since.
static struct event *find_half(const struct tree_watch *t, const struct event *from,
                               bool *ret_over) {
    for (struct list *at = t->queue.next; at && at != &t->queue; at = at->next) {
        struct event *e = LIST_ENTRY(at, struct event, node);
        if (e->mask & IN_MOVED_TO && e->cookie == from->cookie)
            return e;
        if (e->wd == from->wd && e->mask & (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)) {
            *ret_over = true;
            break;
        }
    }
    return NULL;
}

static struct event *await_half(struct tree_watch *t, const struct event *from) {
    bool over = false;
    for (;;) {
        struct event *e = find_half(t, from, &over);
        int64_t left = from->read_ms + PAIR_WAIT_MS - clock_boot_ms();
        struct pollfd p = {.fd = t->inotify, .events = POLLIN};
        if (e || over || left <= 0 || t->queued >= QUEUE_MAX || poll(&p, 1, (int)left) <= 0)
            return e;
        read_events(t);
    }
}

static void arrived(struct tree_watch *t, struct node *n, const struct event *e) {
    bool directory = e->mask & IN_ISDIR;
    tell(t, TREE_CREATED, n, e->name, NULL, directory);
    if (directory && t->recursive)
        add_named(t, n, e->name);
}

static void left(struct tree_watch *t, struct node *n, const struct event *e) {
    bool directory = e->mask & IN_ISDIR;
    tell(t, TREE_DELETED, n, e->name, NULL, directory);
    if (directory)
        node_drop(t, child(n, e->name), true);
}

static void renamed(struct tree_watch *t, struct node *n, const struct event *from, struct node *to,
                    const struct event *e) {
    cleanup_strbuf struct strbuf path;
    bool directory = e->mask & IN_ISDIR;
    struct node *moved = directory ? child(n, from->name) : NULL;
    strbuf_init(&path, PATH_TEXT_MAX);
    full_path(t, n, from->name, &path);
    if (!path.failed)
        tell(t, TREE_MOVED, to, e->name, path.data, directory);
    char *name = moved ? strdup(e->name) : NULL;
    if (name) {
        list_remove(&moved->sibling);
        list_push_back(&to->children, &moved->sibling);
        moved->parent = to;
        free(moved->name);
        moved->name = name;
    } else if (directory && t->recursive) {
        node_drop(t, moved, true);
        add_named(t, to, e->name);
    }
}

static void moved_from(struct tree_watch *t, struct node *n, const struct event *from) {
    struct event *e = await_half(t, from);
    struct node *to = e ? node_find(t, e->wd) : NULL;
    if (to)
        renamed(t, n, from, to, e);
    else
        left(t, n, from);
    if (!e)
        return;
    list_remove(&e->node);
    t->queued--;
    free(e);
}

// The queue of the kernel was full. Directories may have come unseen.
static void overflowed(struct tree_watch *t) {
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

static void process(struct tree_watch *t, const struct event *e) {
    struct node *n = node_find(t, e->wd);
    if (e->mask & IN_Q_OVERFLOW)
        overflowed(t);
    else if (!n)
        return; // of a watch that was given up
    else if (e->mask & IN_MOVED_FROM)
        moved_from(t, n, e);
    else if (e->mask & IN_MOVED_TO)
        arrived(t, n, e);
    else if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED))
        end_event(t, n, e->mask);
    else
        plain_event(t, n, e->name, e->mask);
}

bool tree_watch_read(struct tree_watch *t, tree_change_fn *fn, void *arg) {
    t->tell = fn;
    t->arg = arg;
    read_events(t);
    for (struct event *e; !t->gone && (e = take_event(t)); free(e))
        process(t, e);
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
    list_init(&t->queue);
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
    for (struct event *e; (e = take_event(t));)
        free(e);
    const int fds[] = {t->inotify, t->slash};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    free(t->root_path);
    free(t->real_path);
    free(t);
}
