// The egress of one sandbox (egress.md, decision 9): the program `egress` in the sandbox's network
// namespace and the user namespace that owns it, with CAP_NET_ADMIN there and nothing else, first
// process of a PID namespace of its own, so that whoever ends it ends all of it. Outside it is, in
// sandboxes/<id>: egress.json (its environment), egress.pid, egress.log, e (the socket of its API)
// and egress/ (its own: the policy as it is now); and the control group
// <prefix>-<instance>.egress/<id>. It outlives the server. Private to runtime/oci.
#ifndef SERVER_RUNTIME_OCI_EGRESS_EGRESS_H
#define SERVER_RUNTIME_OCI_EGRESS_EGRESS_H

#include <sys/types.h>

#include "server/runtime/oci/cgroup.h"
#include "server/runtime/oci/oci.h"

struct egress_program { // the same for all sandboxes; nothing changes after the start
    const struct oci_settings *settings;
    const struct cgroups *groups;
    const char *sandboxes_path; // of sandboxes/
    const char *resolvers;      // "192.0.2.1, 192.0.2.2"
    bool user_namespaces;
};

// Before the first start: writes its settings and the policy below dir (sandboxes/<id>). A worker.
int egress_prepare(const struct egress_program *p, const struct provision_request *q, int dir,
                   struct error *err);
bool egress_is_prepared(int dir);
// One without an owner, for a stock: egress_start() loads its rules, closed, and it waits. With its
// owner's settings it moves from another directory into the sandbox's; egress_await() wakes it. Its
// control group has the name `parked` until egress_name(): then it is the sandbox's.
int egress_park(const struct egress_program *p, int dir, struct error *err);
int egress_settle(const struct egress_program *p, const struct provision_request *q, int from,
                  int dir, struct error *err);
int egress_name(const struct egress_program *p, const char *parked, const char *id,
                struct error *err);
// Starts it, by what egress_prepare() wrote and what it kept itself. It is not ready yet, and the
// namespace is as it was before: open at the first time, closed at every other. Milliseconds.
int egress_start(const struct egress_program *p, const char *id, int dir, int net_fd,
                 int *ret_pidfd, struct error *err);
// Waits until the policy is in force. When it ended instead: its own words, 400 when a setting was
// wrong.
int egress_await(const struct egress_program *p, int dir, int pidfd, struct error *err);
// The one that an earlier server started: its pidfd, or -1 when there is none any more.
int egress_find(const struct egress_program *p, const char *id, int dir);
// Ends it, as far as there is one; takes pidfd (-1: not known) and reaps. The rules stay with the
// namespace.
int egress_end(const struct egress_program *p, const char *id, int pidfd, struct error *err);
// A connection to its API, non-blocking.
int egress_dial(int dir, struct error *err);

#endif
