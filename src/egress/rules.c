// The policy in force: where it comes from, how it changes, how it is kept.
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "egress/egress.h"
#include "fmt/json.h"

enum { TICK_MS = 1000, RELOAD_TICKS = 60, RESOLV_MAX = 64 * 1024, POLICY_FILE_MAX = 64 << 20 };

// ---- enforcement ----

// First only what changes; when the sets are not what they were thought to be, all is written
// again.
static int transact(struct egress *e, const struct index *ix, struct error *err) {
    bool all = e->firewall.fresh || !firewall_is_as_written(&e->firewall);
    for (;;) {
        firewall_enforce(&e->firewall, &e->options, ix, all ? NULL : &e->index,
                         e->forwarder.upstreams, e->forwarder.count);
        bool anew = e->options.nft && learned_judge(&e->learned, ix, all);
        int r = firewall_commit(&e->firewall, err);
        if (!r || (all && anew) || !e->options.nft)
            return r;
        all = true;
    }
}

int egress_enforce(struct egress *e, struct policy *policy, struct error *err) {
    struct index ix;
    struct error why;
    const struct policy *user = policy ? policy : &e->policy;
    proxy_flush(e); // what was judged by the old rules leaves before them
    if (index_build(&ix, &e->always[0].rules, &e->always[1].rules, user, err) < 0)
        return -1;
    int r = transact(e, &ix, &why);
    if (r && why.kind == ENOENT &&
        !firewall_is_intact(&e->firewall)) { // somebody removed the table
        log_error("the rules are gone: loading them again");
        r = firewall_load(&e->firewall, &e->options, &why) < 0 ? -1 : transact(e, &ix, &why);
    }
    if (r) {
        index_clear(&ix);
        *err = why;
        return -1;
    }
    if (e->options.nft)
        learned_settle(&e->learned);
    index_clear(&e->index);
    e->index = ix;
    if (policy) {
        struct policy before = e->policy;
        e->policy = *policy;
        *policy = before;
    }
    e->untidy = true;
    e->changes++;
    return 0;
}

// ---- where it comes from ----

int egress_load_policy(struct egress *e, struct error *err) {
    cleanup_strbuf struct strbuf text;
    const char *path = e->options.policy_file;
    strbuf_init(&text, POLICY_FILE_MAX);
    if (*path) {
        struct error why;
        if (!fd_read_file(AT_FDCWD, path, &text, &why)) {
            size_t blank = strspn(text.data, " \t\r\n");
            if (blank < text.len && !policy_parse(&e->policy, text.data, text.len, &why))
                return 0;
            log_warning("%s is %s; the environment's policy counts", path,
                        blank < text.len ? why.message : "empty");
        } else if (why.kind != ENOENT) {
            *err = why;
            return error_wrap(err, "policy file");
        }
    }
    if (policy_parse(&e->policy, e->options.rules, strlen(e->options.rules), err) < 0)
        return error_wrap(err, "OPENSANDBOX_EGRESS_RULES");
    return 0;
}

// A file that cannot be replaced (it is mounted by itself) is written where it is.
static int write_in_place(const char *path, const struct strbuf *text, struct error *err) {
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fd_write_all(fd, text->data, text->len) < 0 || fsync(fd) < 0)
        return error_errno(err, errno, "%s", path);
    return 0;
}

int egress_save_policy(const struct egress *e, const struct policy *policy, struct error *err) {
    const char *path = e->options.policy_file;
    struct stat st;
    if (!*path)
        return 0;
    cleanup_json json_t *j = policy_json(policy);
    cleanup_free char *dump = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    cleanup_strbuf struct strbuf text;
    strbuf_init(&text, POLICY_FILE_MAX);
    if (!dump || strbuf_adds(&text, dump) < 0 || strbuf_addc(&text, '\n') < 0)
        return error_set(err, ENOMEM, "out of memory");
    mode_t mode = stat(path, &st) < 0 ? 0600 : st.st_mode & 0777;
    if (!fd_replace_file(AT_FDCWD, path, text.data, text.len, mode, err))
        return 0;
    return err->kind == EBUSY || err->kind == EXDEV ? write_in_place(path, &text, err) : -1;
}

// ---- files that change ----

static void set_upstreams(struct egress *e, const struct upstream *list, unsigned count) {
    struct forwarder *fw = &e->forwarder;
    bool same = fw->count == count;
    for (unsigned i = 0; same && i < count; i++)
        same = fw->upstreams[i].port == list[i].port &&
               !memcmp(&fw->upstreams[i].address, &list[i].address, sizeof list[i].address);
    if (same)
        return;
    forward_renew(fw);
    memcpy(fw->upstreams, list, count * sizeof *list);
    fw->count = count;
}

static int load_upstreams(struct egress *e, struct error *err) {
    struct upstream list[FORWARD_UPSTREAMS_MAX];
    unsigned count;
    cleanup_strbuf struct strbuf text;
    strbuf_init(&text, RESOLV_MAX);
    if (e->options.upstream_count) {
        set_upstreams(e, e->options.upstreams, e->options.upstream_count);
        return 0;
    }
    if (fd_read_file(AT_FDCWD, e->options.resolv_conf, &text, err) < 0)
        return -1;
    forward_resolv_conf(list, &count, text.data);
    if (!count)
        return error_set(err, ENOENT, "%s names no server", e->options.resolv_conf);
    set_upstreams(e, list, count);
    return 0;
}

// Whether any link but the loopback has an IPv6 address that leads out.
static bool has_ipv6(void) {
    cleanup_strbuf struct strbuf text;
    struct error none;
    strbuf_init(&text, RESOLV_MAX);
    if (fd_read_file(AT_FDCWD, "/proc/net/if_inet6", &text, &none) < 0)
        return false;
    for (const char *line = text.data; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (strlen(line) > 44 && !strncmp(line + 39, "00 ", 3)) // address, index, prefix, scope
            return true;
    return false;
}

// 1: something changed, 0, or -1 for what stays as it was.
static int reload_always(struct egress *e, struct error *err) {
    int changed = 0;
    for (int i = 0; i < 2; i++) {
        int r = always_reload(&e->always[i], err);
        if (r < 0)
            return -1;
        changed |= r;
    }
    return changed;
}

static int load_log_skip(struct egress *e, struct error *err) {
    static const struct policy none;
    if (always_reload(&e->log_skip, err) < 0)
        return -1;
    for (size_t i = 0; i < e->log_skip.rules.count; i++)
        if (e->log_skip.rules.rules[i].kind == RULE_NET)
            return error_set(err, EINVAL, "%s: %s is not a domain pattern", e->log_skip.path,
                             e->log_skip.rules.rules[i].target);
    return index_build(&e->quiet, &none, &none, &e->log_skip.rules, err);
}

int egress_load_files(struct egress *e, struct error *err) {
    static const char *const names[] = {"deny.always", "allow.always"};
    struct error why;
    for (int i = 0; i < 2; i++) {
        (void)snprintf(e->always[i].path, sizeof e->always[i].path, "%s/%s", e->options.rules_dir,
                       names[i]);
        e->always[i].allow = i == 1;
    }
    (void)snprintf(e->log_skip.path, sizeof e->log_skip.path, "%s/log_skip.always",
                   e->options.rules_dir);
    if (reload_always(e, err) < 0 || load_log_skip(e, err) < 0)
        return -1;
    if (load_upstreams(e, &why) < 0) // closed until there is one
        log_error("no upstream server: %s", why.message);
    e->proxy.no_ipv6 = !has_ipv6();
    return 0;
}

static void reload(struct egress *e) {
    struct error err;
    struct upstream before[FORWARD_UPSTREAMS_MAX];
    unsigned count = e->forwarder.count;
    memcpy(before, e->forwarder.upstreams, sizeof before);
    int changed = reload_always(e, &err);
    if (changed < 0)
        log_warning("%s", err.message);
    if (load_upstreams(e, &err) < 0)
        log_warning("%s", err.message);
    e->proxy.no_ipv6 = !has_ipv6();
    bool moved = count != e->forwarder.count;
    for (unsigned i = 0; !moved && i < count; i++)
        moved = memcmp(&before[i].address, &e->forwarder.upstreams[i].address,
                       sizeof before[i].address) != 0 ||
                before[i].port != e->forwarder.upstreams[i].port;
    e->stale |= changed > 0 || moved;
}

static void on_tick(struct timer *t) {
    struct egress *e = CONTAINER_OF(t, struct egress, tick);
    struct error err;
    if (!firewall_is_intact(&e->firewall)) {
        log_error("somebody changed the rules: loading them again");
        if (firewall_load(&e->firewall, &e->options, &err) < 0)
            log_error("%s", err.message);
        e->stale = true;
    }
    if (++e->ticks % RELOAD_TICKS == 0)
        reload(e);
    if (e->stale && egress_enforce(e, NULL, &err) < 0)
        log_error("%s", err.message); // and again at the next tick
    else
        e->stale = false;
    if (e->untidy) // texts of thousands of rules leave holes
        (void)malloc_trim(0);
    e->untidy = false;
    timer_start(&e->loop, t, TICK_MS, on_tick);
}

void egress_start_ticking(struct egress *e) {
    timer_start(&e->loop, &e->tick, TICK_MS, on_tick);
}

void egress_denied(struct egress *e, enum event_kind kind, const char *target,
                   const struct verdict *by, const char *reason) {
    (void)events_denied(&e->events, kind, target, by, reason);
    if (kind == EVENT_NAME && *target)
        webhook_send(&e->webhook, target);
}

void egress_dropped(const struct drop *d, void *egress) {
    static const struct {
        unsigned proto;
        const char *name;
    } names[] = {{IPPROTO_TCP, "tcp"},
                 {IPPROTO_UDP, "udp"},
                 {IPPROTO_ICMP, "icmp"},
                 {IPPROTO_ICMPV6, "icmpv6"}};
    struct egress *e = egress;
    char address[NET_TEXT_MAX], target[NET_TEXT_MAX + 32], number[16];
    const char *name = number;
    struct verdict v = index_address(&e->index, &d->to);
    (void)snprintf(number, sizeof number, "%u", d->proto);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].proto == d->proto)
            name = names[i].name;
    net_format(&d->to, address);
    if (d->port)
        (void)snprintf(target, sizeof target, "%s %s/%u", address, name, d->port);
    else
        (void)snprintf(target, sizeof target, "%s %s", address, name);
    bool other =
        d->by_rule && (!v.rule || v.allow); // no rule of a policy, one of the filter itself
    egress_denied(e, EVENT_ADDRESS, target, other ? NULL : &v,
                  other ? "DNS over TLS or HTTPS is closed to all addresses" : NULL);
}
