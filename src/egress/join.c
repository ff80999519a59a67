#include "egress/join.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/parse.h"
#include "egress/net/firewall.h"

#define VARIABLE "OPENSANDBOX_EGRESS_NAMESPACES"

struct place {
    uint64_t net, user, uid; // user 0: the namespace that we are in
};

static int read_place(const char *text, struct place *p) {
    const char *comma = strchr(text, ','), *colon = strchr(text, ':');
    *p = (struct place){0};
    if (!colon || (comma && comma > colon) || parse_u64(colon + 1, 0, UINT32_MAX - 1, &p->uid) < 0)
        return -1;
    if (comma && parse_u64n(comma + 1, (size_t)(colon - comma - 1), 3, 1023, &p->user) < 0)
        return -1;
    return parse_u64n(text, (size_t)((comma ? comma : colon) - text), 3, 1023, &p->net);
}

static int keep_one_capability(struct error *err) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const uint32_t bit = 1U << CAP_NET_ADMIN;
    struct __user_cap_data_struct data[2] = {
        {.effective = bit, .permitted = bit, .inheritable = bit}};
    if (syscall(SYS_capset, &head, data) < 0)
        return error_errno(err, errno, "keep CAP_NET_ADMIN");
    // nft, which we execute, has it too; whoever is root in the namespace gets it by that already
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) < 0)
        return error_errno(err, errno, "pass CAP_NET_ADMIN on");
    return 0;
}

// A log that is full is an error of its write, not our end.
static int limit_files(void) {
    const struct rlimit most = {JOIN_FILE_MAX, JOIN_FILE_MAX};
    return signal(SIGXFSZ, SIG_IGN) == SIG_ERR ? -1 : setrlimit(RLIMIT_FSIZE, &most);
}

static int become(const struct place *p, struct error *err) {
    gid_t id = (gid_t)p->uid;
    if (limit_files() < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "limits");
    for (int i = 0; i < 64; i++)
        if (i != CAP_NET_ADMIN && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0 && errno != EINVAL)
            return error_errno(err, errno, "drop capability %d", i);
    if (setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 ||
        setresuid((uid_t)p->uid, (uid_t)p->uid, (uid_t)p->uid) < 0)
        return error_errno(err, errno, "become user %llu", (unsigned long long)p->uid);
    return keep_one_capability(err);
}

// The socket to the packet filter, while we may still make it large: in the place of the network
// namespace's descriptor, so that the supervisor hands it on with the API's.
static int open_netfilter(const struct place *p, struct error *err) {
    struct netlink nl;
    char text[16];
    int r = netlink_open(&nl, NETLINK_NETFILTER);
    if (!r)
        r = netlink_grow(&nl, FIREWALL_BATCH_MAX);
    if (!r && dup2(nl.fd, (int)p->net) < 0)
        r = -errno;
    netlink_close(&nl);
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)p->net);
    if (!r && setenv("OPENSANDBOX_EGRESS_NETFILTER", text, 1) < 0)
        r = -errno;
    return r ? error_errno(err, -r, "netfilter") : 0;
}

int join_namespaces(struct error *err) {
    const char *text = getenv(VARIABLE);
    struct place p;
    if (!text)
        return 0;
    if (read_place(text, &p) < 0)
        return error_set(err, EINVAL, VARIABLE ": NET:UID or NET,USER:UID, not \"%.40s\"", text);
    if (setns((int)p.net, CLONE_NEWNET) < 0)
        return error_errno(err, errno, "network namespace");
    if (open_netfilter(&p, err) < 0)
        return -1;
    if (p.user && setns((int)p.user, CLONE_NEWUSER) < 0)
        return error_errno(err, errno, "user namespace");
    if (p.user)
        (void)close((int)p.user);
    (void)unsetenv(VARIABLE);
    return become(&p, err);
}
