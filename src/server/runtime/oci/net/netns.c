#include "server/runtime/oci/net/netns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "io/netlink.h"

enum { RANGE = 65536, ROUTES_MAX = 4 * 1024 * 1024, MTU_DEFAULT = 1500, DUMP_TRIES = 50 };

// ---- the namespaces ----

// The holders are forks of a threaded server: between fork and exit they make system calls only.
static pid_t fork_into(unsigned long flags) {
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
}

static void write_plain(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(
            fd, text,
            strlen(text)); // limits are best effort; a map that failed shows at the next step
        (void)close(fd);
    }
}

// "/proc/<pid>/<file>" without stdio.
static void proc_path(char path[48], pid_t pid, const char *file) {
    char digits[12], *p = digits + sizeof digits;
    *--p = '\0';
    for (unsigned n = (unsigned)pid; n || !*p; n /= 10)
        *--p = (char)('0' + n % 10);
    char *w = stpcpy(path, "/proc/");
    w = stpcpy(w, p);
    *w++ = '/';
    (void)stpcpy(w, file);
}

// The outer namespace's process: sets its limits, becomes its root, makes the inner pair, reports
// its pid, waits, ends it.
static _Noreturn void hold_nested(int in, int out) {
    char byte, path[48];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(in, &byte, 1) != 1) // our ids are mapped
        _exit(1);
    write_plain("/proc/sys/user/max_inotify_instances", "16");
    write_plain("/proc/sys/user/max_inotify_watches", "65536");
    // an owner of namespaces must be mapped in their parent; not dumpable, our child's map files
    // would be the host root's
    if (syscall(SYS_setresgid, 0, 0, 0) || syscall(SYS_setresuid, 0, 0, 0) ||
        prctl(PR_SET_DUMPABLE, 1))
        _exit(2);
    pid_t inner = fork_into(CLONE_NEWUSER | CLONE_NEWNET);
    if (!inner) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            (void)pause();
    }
    if (inner < 0)
        _exit(3);
    proc_path(path, inner, "uid_map");
    write_plain(path, "0 0 65536");
    proc_path(path, inner, "gid_map");
    write_plain(path, "0 0 65536");
    bool told = write(out, &inner, sizeof inner) == sizeof inner && read(in, &byte, 1) == 1;
    (void)kill(inner, SIGKILL);
    (void)syscall(SYS_wait4, inner, NULL, 0, NULL);
    _exit(told ? 0 : 4);
}

static _Noreturn void hold_plain(void) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        (void)pause();
}

static int open_namespace(pid_t pid, const char *file) {
    char path[48];
    proc_path(path, pid, file);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int map_ids(pid_t pid, uint32_t base, struct error *err) {
    char path[48], text[48];
    (void)snprintf(text, sizeof text, "0 %u %d", base, RANGE);
    proc_path(path, pid, "uid_map");
    if (fd_write_text(AT_FDCWD, path, text, err))
        return -1;
    proc_path(path, pid, "gid_map");
    return fd_write_text(AT_FDCWD, path, text, err);
}

static void end_holder(pid_t pid) {
    (void)kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static int make_plain(struct netns *ret, struct error *err) {
    pid_t holder = fork_into(CLONE_NEWNET);
    if (!holder)
        hold_plain();
    if (holder < 0)
        return error_errno(err, errno, "network namespace");
    int net = open_namespace(holder, "ns/net"), saved = errno;
    end_holder(holder);
    if (net < 0)
        return error_errno(err, saved, "network namespace");
    *ret = (struct netns){.net_fd = net, .user_fd = -1};
    return 0;
}

static int make_nested(uint32_t id_base, struct netns *ret, struct error *err) {
    int go[2], back[2];
    if (pipe2(go, O_CLOEXEC))
        return error_errno(err, errno, "pipe");
    cleanup_close int go_in = go[0], go_out = go[1];
    if (pipe2(back, O_CLOEXEC))
        return error_errno(err, errno, "pipe");
    cleanup_close int back_in = back[0], back_out = back[1];
    pid_t holder = fork_into(CLONE_NEWUSER), inner = -1;
    if (!holder) {
        (void)close(go_out);
        hold_nested(go_in, back_out);
    }
    if (holder < 0)
        return error_errno(err, errno, "user namespace");
    (void)close(TAKE_FD(back_out)); // so that its end shows
    int r = map_ids(holder, id_base, err);
    if (!r && (write(go_out, "g", 1) != 1 || read(back_in, &inner, sizeof inner) != sizeof inner))
        r = error_set(err, EPERM, "nested user namespaces cannot be made here");
    cleanup_close int user = r ? -1 : open_namespace(inner, "ns/user"),
                      net = r ? -1 : open_namespace(inner, "ns/net");
    if (!r && (user < 0 || net < 0))
        r = error_errno(err, errno, "namespaces of the sandbox");
    int status = -1;
    if (r || write(go_out, "g", 1) != 1)
        end_holder(holder); // its child dies with it
    else
        while (waitpid(holder, &status, 0) < 0 && errno == EINTR)
            ;
    if (!r && status)
        r = error_set(err, EPERM, "nested user namespaces: the holder ended with %x",
                      (unsigned)status);
    if (r)
        return -1;
    *ret = (struct netns){.net_fd = TAKE_FD(net), .user_fd = TAKE_FD(user)};
    return 0;
}

int netns_make(uint32_t id_base, struct netns *ret, struct error *err) {
    return id_base ? make_nested(id_base, ret, err) : make_plain(ret, err);
}

// ---- the link ----

static void macs_of(uint32_t address, uint8_t host[6], uint8_t inside[6]) {
    const uint8_t first[2] = {0x02, 0x06}; // locally administered
    host[0] = first[0];
    inside[0] = first[1];
    host[1] = inside[1] = 0x6f;
    memcpy(host + 2, &address, 4);
    memcpy(inside + 2, &address, 4);
}

static int host_half(int net_fd, const struct netns_link *l, unsigned *ret_index,
                     struct error *err) {
    struct netlink nl;
    uint8_t host[6], inside[6];
    macs_of(l->address, host, inside);
    int r = netlink_open(&nl, NETLINK_ROUTE);
    if (r)
        return error_errno(err, -r, "netlink");
    netlink_veth(&nl, l->name, host, net_fd, "eth0", inside, l->mtu, l->group);
    r = netlink_commit(&nl);
    unsigned index = r ? 0 : if_nametoindex(l->name);
    if (index) {
        netlink_no_ipv6_address(&nl, index);
        r = netlink_commit(&nl);
        if (r == -EAFNOSUPPORT)
            r = 0; // a kernel without IPv6
        netlink_up(&nl, index, l->alias);
        netlink_route4(&nl, index, l->address, 32, 0, l->gateway);
        netlink_neighbour4(&nl, index, l->address, inside);
        int later = netlink_commit(&nl);
        r = r ? r : later;
    }
    netlink_close(&nl);
    if (r) {
        if (index)
            netns_disconnect(index);
        return error_errno(err, -r, "link %s", l->name);
    }
    *ret_index = index;
    return 0;
}

static int inner_half(const struct netns_link *l, struct error *err) { // in the namespace
    struct netlink nl;
    struct error ignored;
    char text[32];
    uint8_t host[6], inside[6];
    macs_of(l->address, host, inside);
    (void)fd_write_text(AT_FDCWD, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1",
                        &ignored); // a kernel may have none
    (void)fd_write_text(AT_FDCWD, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "1", &ignored);
    (void)snprintf(text, sizeof text, "%u %u", l->ping_first, l->ping_last);
    (void)fd_write_text(AT_FDCWD, "/proc/sys/net/ipv4/ping_group_range", text,
                        &ignored); // a convenience
    int r = netlink_open(&nl, NETLINK_ROUTE);
    if (r)
        return error_errno(err, -r, "netlink");
    unsigned eth = if_nametoindex("eth0"), lo = if_nametoindex("lo");
    netlink_up(&nl, lo, NULL);
    netlink_address4(&nl, eth, l->address, 32);
    netlink_up(&nl, eth, NULL);
    netlink_route4(&nl, eth, l->gateway, 32, 0, 0);
    netlink_route4(&nl, eth, 0, 0, l->gateway, 0);
    netlink_neighbour4(&nl, eth, l->gateway, host);
    r = netlink_commit(&nl);
    netlink_close(&nl);
    return r ? error_errno(err, -r, "network of the sandbox") : 0;
}

int netns_connect(int net_fd, const struct netns_link *l, unsigned *ret_index, struct error *err) {
    cleanup_close int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return error_errno(err, errno, "own network namespace");
    if (host_half(net_fd, l, ret_index, err))
        return -1;
    int r = setns(net_fd, CLONE_NEWNET) ? error_errno(err, errno, "network namespace") : 0;
    if (!r) {
        r = inner_half(l, err);
        if (setns(home, CLONE_NEWNET))
            abort(); // a thread of the server in a stranger's network would be worse than no server
    }
    if (r)
        netns_disconnect(*ret_index);
    return r;
}

int netns_rename(unsigned index, const char *alias, struct error *err) {
    struct netlink nl;
    int r = netlink_open(&nl, NETLINK_ROUTE);
    if (r)
        return error_errno(err, -r, "netlink");
    netlink_up(&nl, index, alias);
    r = netlink_commit(&nl);
    netlink_close(&nl);
    return r ? error_errno(err, -r, "alias of the sandbox's link") : 0;
}

void netns_disconnect(unsigned index) {
    struct netlink nl;
    if (netlink_open(&nl, NETLINK_ROUTE))
        return;
    netlink_delete_link(&nl, index);
    (void)netlink_commit(&nl); // gone already: fine
    netlink_close(&nl);
}

// ---- what is there ----

struct walk {
    int (*each)(const struct netns_found *l, void *arg);
    void *arg;
};

static int tell_link(const struct nlmsghdr *h, void *arg) {
    const struct walk *w = arg;
    const struct ifinfomsg *m = NLMSG_DATA(h);
    struct netns_found found = {.index = (unsigned)m->ifi_index, .name = "", .alias = ""};
    if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < NLMSG_LENGTH(sizeof *m))
        return 0;
    size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof *m);
    for (const struct rtattr *a = IFLA_RTA(m); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == IFLA_IFNAME)
            found.name = RTA_DATA(a);
        if (a->rta_type == IFLA_IFALIAS)
            found.alias = RTA_DATA(a);
    }
    return w->each(&found, w->arg);
}

int netns_each(int (*each)(const struct netns_found *l, void *arg), void *arg, struct error *err) {
    struct netlink nl;
    struct walk w = {each, arg};
    struct ifinfomsg m = {.ifi_family = AF_UNSPEC};
    int r = netlink_open(&nl, NETLINK_ROUTE);
    if (r)
        return error_errno(err, -r, "netlink");
    unsigned tries = 0;
    do { // links come and go beside us
        netlink_request(&nl, RTM_GETLINK, NLM_F_DUMP, &m, sizeof m);
        r = netlink_dump(&nl, tell_link, &w);
    } while (r == -EINTR && ++tries < DUMP_TRIES);
    netlink_close(&nl);
    return r < 0 ? error_errno(err, -r, "list of links") : r;
}

int netns_gateway(const char *name, const char *alias, uint32_t address, struct error *err) {
    struct netlink nl;
    int r = netlink_open(&nl, NETLINK_ROUTE);
    if (r)
        return error_errno(err, -r, "netlink");
    if (!if_nametoindex(name)) {
        netlink_dummy(&nl, name, "dummy");
        r = netlink_commit(&nl);
        if (r == -EOPNOTSUPP) { // no such kind in this kernel: an empty bridge does as well
            netlink_dummy(&nl, name, "bridge");
            r = netlink_commit(&nl);
        }
    }
    unsigned index = if_nametoindex(name), lo = if_nametoindex("lo");
    if (!r && index) {
        netlink_up(&nl, lo, NULL);
        netlink_no_ipv6_address(&nl, index);
        (void)netlink_commit(&nl); // a kernel without IPv6 refuses
        netlink_up(&nl, index, alias);
        netlink_address4(&nl, index, address, 32);
        r = netlink_commit(&nl);
    }
    netlink_close(&nl);
    return r || !index ? error_errno(err, r ? -r : ENODEV, "gateway device %s", name) : 0;
}

uint32_t netns_mtu(void) {
    cleanup_strbuf struct strbuf sb;
    struct error ignored;
    struct ifreq request = {.ifr_mtu = 0};
    strbuf_init(&sb, ROUTES_MAX);
    (void)fd_read_file(AT_FDCWD, "/proc/thread-self/net/route", &sb, &ignored);
    for (const char *line = strchr(sb.data, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
        size_t len = strcspn(line + 1, "\t"); // "eth0\t00000000\t..."
        if (len < IFNAMSIZ && !strncmp(line + 1 + len, "\t00000000\t", 10)) {
            memcpy(request.ifr_name, line + 1, len);
            break;
        }
    }
    cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (!request.ifr_name[0] || fd < 0 || ioctl(fd, SIOCGIFMTU, &request) || request.ifr_mtu < 576)
        return MTU_DEFAULT;
    return (uint32_t)request.ifr_mtu;
}
