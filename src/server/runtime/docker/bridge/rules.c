#include "server/runtime/docker/bridge/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "io/spawn.h"
#include "server/runtime/rules.h"

enum { RULES_MAX = 4096, LIST_MAX = 16384, NFT_MS = 10000, BRIDGE_SIZE = 16, TABLE_SIZE = 32 };

struct bridge_rules {
    char bridge[BRIDGE_SIZE], table[TABLE_SIZE];
    struct strbuf listing; // as nft shows them once they are loaded
    struct rule_watch *watch;
};

// What sandboxes of our bridge cannot reach, whatever the engine does itself: each other, this host
// (but a resolver on the gateway, as Podman has one) and link-local addresses, where clouds keep
// their metadata.
static const char ip_rules[] =
    "add table inet %1$s\ndelete table inet %1$s\n"
    "table inet %1$s {\n"
    "  chain input {\n"
    "    type filter hook input priority -5; policy accept;\n"
    "    iifname \"%2$s\" ct state established,related accept\n"
    "    iifname \"%2$s\" meta l4proto { tcp, udp } th dport 53 accept\n"
    "    iifname \"%2$s\" drop\n"
    "  }\n"
    "  chain forward {\n"
    "    type filter hook forward priority -5; policy accept;\n"
    "    iifname \"%2$s\" oifname \"%2$s\" drop\n"
    "    iifname \"%2$s\" ip daddr { 127.0.0.0/8, 169.254.0.0/16 } drop\n"
    "    iifname \"%2$s\" ip6 daddr fe80::/10 drop\n"
    "  }\n"
    "}\n";
// Frames from one sandbox to another pass the rules above only with br_netfilter; these need none,
// but not every kernel has them.
static const char frame_rules[] = "add table bridge %1$s\ndelete table bridge %1$s\n"
                                  "table bridge %1$s {\n"
                                  "  chain forward {\n"
                                  "    type filter hook forward priority 0; policy accept;\n"
                                  "    meta ibrname \"%2$s\" drop\n"
                                  "  }\n"
                                  "}\n";

static int run_nft(const struct strbuf *text, struct strbuf *ret, struct error *err) {
    static char nft[] = "nft", file[] = "-f", input[] = "-";
    char *argv[] = {nft, file, input, NULL};
    struct strbuf errors cleanup_strbuf;
    struct exit_status status;
    const struct spawn s = {
        .argv = argv, .envp = environ, .stdio = {-1, -1, -1}, .flags = SPAWN_SEARCH_PATH};
    strbuf_init(&errors, RULES_MAX);
    if (spawn_run(&s, text->data, text->len, ret, &errors, NFT_MS, &status, err))
        return -1;
    return status.code || status.signal ? error_set(err, EIO, "nft: %.300s", errors.data) : 0;
}

static bool frames_meet_ip_rules(void) {
    static const char *const switches[] = {"/proc/sys/net/bridge/bridge-nf-call-iptables",
                                           "/proc/sys/net/bridge/bridge-nf-call-ip6tables"};
    char text[16];
    struct error ignored;
    for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
        if (fd_read_text(AT_FDCWD, switches[i], text, sizeof text, &ignored) || text[0] != '1')
            return false;
    return true;
}

// Both tables in one transaction, so that nobody finds the one without the other; the first alone
// where the kernel does not have the second.
static int load(const struct bridge_rules *r, struct error *err) {
    struct strbuf text cleanup_strbuf;
    struct error both;
    strbuf_init(&text, RULES_MAX);
    (void)strbuf_addf(&text, ip_rules, r->table, r->bridge);
    (void)strbuf_addf(&text, frame_rules, r->table, r->bridge);
    if (run_nft(&text, NULL, &both) == 0)
        return 0;
    strbuf_clear(&text);
    (void)strbuf_addf(&text, ip_rules, r->table, r->bridge);
    if (run_nft(&text, NULL, err))
        return -1;
    if (frames_meet_ip_rules())
        return 0;
    *err = both;
    return error_wrap(err, "sandboxes see each other; `modprobe br_netfilter` is the remedy");
}

// Of both tables; what is not there is not listed.
static void list(const struct bridge_rules *r, struct strbuf *ret) {
    static const char *const families[] = {"inet", "bridge"};
    struct error ignored;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        struct strbuf text cleanup_strbuf;
        strbuf_init(&text, RULES_MAX);
        (void)strbuf_addf(&text, "list table %s %s\n", families[i], r->table);
        (void)run_nft(&text, ret, &ignored);
    }
}

static void changed(bool period, void *arg) {
    const struct bridge_rules *r = arg;
    struct strbuf now cleanup_strbuf;
    struct error err;
    (void)period;
    strbuf_init(&now, LIST_MAX);
    list(r, &now);
    if (now.len == r->listing.len && memcmp(now.data, r->listing.data, now.len) == 0)
        return;
    if (load(r, &err))
        log_error("somebody removed the firewall rules of sandboxes, and they cannot be loaded: %s",
                  err.message);
    else
        log_warning("somebody removed the firewall rules of sandboxes; they are loaded again");
}

struct bridge_rules *bridge_rules_new(const char *bridge, struct error *err) {
    struct bridge_rules *r = calloc(1, sizeof *r);
    if (!r)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    strbuf_init(&r->listing, LIST_MAX);
    (void)snprintf(r->bridge, sizeof r->bridge, "%s", bridge);
    (void)snprintf(r->table, sizeof r->table, "opensandbox_docker_%.8s",
                   bridge + strlen(BRIDGE_PREFIX));
    if (load(r, err) == 0) {
        list(r, &r->listing);
        r->watch = rule_watch_new(0, changed, r, err);
    }
    if (r->watch)
        return r;
    bridge_rules_free(r);
    return NULL;
}

void bridge_rules_free(struct bridge_rules *r) {
    if (!r)
        return;
    rule_watch_free(r->watch);
    strbuf_free(&r->listing);
    free(r);
}
