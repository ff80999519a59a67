// The network that sandboxes join, and whether their namespaces can be entered from here.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/random.h"
#include "fmt/json.h"
#include "io/spawn.h"
#include "server/runtime/docker/internal.h"

enum { RULES_MAX = 4096, NFT_MS = 10000 };

#define BRIDGE_PREFIX "osb-"
#define BRIDGE_OPTION "com.docker.network.bridge.name"

// An engine that sees the same processes as we do: a root process on the other end of the socket
// that exists for us. Engines in a virtual machine have a forwarder of some user there, engines
// outside of our container no process at all.
static bool is_neighbour(const struct docker *d) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (!engine_is_socket(d->engine) || geteuid() != 0)
        return false;
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", engine_socket(d->engine));
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0 &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 0 &&
           peer.uid == 0;
}

static int choose_publishing(struct docker *d, struct error *err) {
    bool near = d->near = is_neighbour(d);
    switch (d->settings.publish) {
    case DOCKER_PUBLISH_AUTO: d->publish = !near; break;
    case DOCKER_PUBLISH_ALWAYS: d->publish = true; break;
    case DOCKER_PUBLISH_NEVER: d->publish = false; break;
    }
    if (d->host_network) {
        d->publish = false; // every port is the host's already
        return near ? 0
                    : error_set(err, ENOTSUP,
                                "docker.network_mode = \"host\" needs an engine on this host, "
                                "reached by its unix socket as root");
    }
    if (!d->publish && !near)
        return error_set(err, ENOTSUP,
                         "docker.publish_ports = \"never\": this server cannot enter the networks "
                         "of this engine's containers; set it to \"auto\"");
    if (!d->settings.publish_host)
        d->settings.publish_host = engine_is_socket(d->engine) ? "127.0.0.1" : "0.0.0.0";
    return 0;
}

// ---- our own bridge ----

static int make_own(struct docker *d, struct error *err) {
    char bridge[16], word[9];
    random_hex(word, 8);
    (void)snprintf(bridge, sizeof bridge, BRIDGE_PREFIX "%s", word);
    // sandboxes have nothing to say to each other
    cleanup_json json_t *body =
        json_pack("{s:s,s:s,s:b,s:{s:s,s:s},s:{s:s}}", "Name", OWN_NETWORK, "Driver", "bridge",
                  "CheckDuplicate", 1, "Options", "com.docker.network.bridge.enable_icc", "false",
                  BRIDGE_OPTION, bridge, "Labels", LABEL "network", "sandboxes");
    const struct engine_call c = {.method = "POST", .path = "/networks/create", .body = body};
    if (engine_do(d->engine, &c, NULL, err) == 0)
        return 0;
    return err->kind == EBUSY ? engine_forgive(err)
                              : error_wrap(err, "network \"%s\"", OWN_NETWORK);
}

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

static int run_nft(const struct strbuf *text, struct error *err) {
    static char nft[] = "nft", file[] = "-f", input[] = "-";
    char *argv[] = {nft, file, input, NULL};
    struct strbuf errors cleanup_strbuf;
    struct exit_status status;
    const struct spawn s = {
        .argv = argv, .envp = environ, .stdio = {-1, -1, -1}, .flags = SPAWN_SEARCH_PATH};
    strbuf_init(&errors, RULES_MAX);
    if (spawn_run(&s, text->data, text->len, NULL, &errors, NFT_MS, &status, err))
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

static int load_rules(const char *bridge, struct error *err) {
    char table[64];
    struct strbuf text cleanup_strbuf;
    struct error frames;
    strbuf_init(&text, RULES_MAX);
    (void)snprintf(table, sizeof table, "opensandbox_docker_%s", bridge + strlen(BRIDGE_PREFIX));
    (void)strbuf_addf(&text, ip_rules, table, bridge);
    if (run_nft(&text, err))
        return -1;
    strbuf_clear(&text);
    (void)strbuf_addf(&text, frame_rules, table, bridge);
    if (run_nft(&text, &frames) == 0 || frames_meet_ip_rules())
        return 0;
    *err = frames;
    return error_wrap(err, "sandboxes see each other; `modprobe br_netfilter` is the remedy");
}

static bool is_ours(const char *bridge) {
    return bridge && strncmp(bridge, BRIDGE_PREFIX, strlen(BRIDGE_PREFIX)) == 0 &&
           strlen(bridge) == strlen(BRIDGE_PREFIX) + 8 &&
           strspn(bridge + strlen(BRIDGE_PREFIX), "0123456789abcdef") == 8;
}

// Only where the bridge is on this host; on another one its own firewall has to do it.
static void protect(struct docker *d, const json_t *network) {
    struct error err;
    const char *bridge =
        json_string_value(json_object_get(json_object_get(network, "Options"), BRIDGE_OPTION));
    if (!is_neighbour(d))
        log_warning("docker runtime: the engine is not on this host: what sandboxes reach there is "
                    "for its own firewall to say");
    else if (!is_ours(bridge))
        log_warning("docker runtime: network \"%s\" has no bridge of ours: what sandboxes reach on "
                    "this host is for the host's firewall to say",
                    d->network);
    else if (load_rules(bridge, &err))
        log_warning("docker runtime: sandboxes are not kept apart: %s", err.message);
}

static int get_network(struct docker *d, json_t **ret, struct error *err) {
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    (void)strbuf_adds(&path, "/networks/");
    engine_escape(&path, d->network);
    const struct engine_call c = {.method = "GET", .path = path.data};
    return engine_do(d->engine, &c, ret, err);
}

int docker_network_prepare(struct docker *d, struct error *err) {
    cleanup_json json_t *network = NULL;
    if (choose_publishing(d, err))
        return -1;
    if (get_network(d, &network, err)) {
        if (err->kind != ENOENT)
            return -1;
        if (d->settings.network_mode)
            return error_set(err, ENOENT,
                             "docker.network_mode: the engine has no network \"%.100s\"; make it "
                             "with `docker network create %.100s`",
                             d->network, d->network);
        (void)engine_forgive(err);
        if (make_own(d, err) || get_network(d, &network, err))
            return -1;
    }
    if (!d->host_network)
        protect(d, network);
    return 0;
}
