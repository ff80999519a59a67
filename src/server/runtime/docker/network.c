// The network that sandboxes join, and whether their namespaces can be entered from here.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/random.h"
#include "fmt/json.h"
#include "server/runtime/docker/bridge/rules.h"
#include "server/runtime/docker/internal.h"
#include "server/runtime/docker/ssh/forward.h"

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
    char *const *ssh = engine_ssh(d->engine);
    if (!d->settings.publish_host)
        d->settings.publish_host = engine_is_socket(d->engine) || ssh ? "127.0.0.1" : "0.0.0.0";
    if (!ssh || docker_publishes_openly(d))
        return 0;
    d->forwards = ssh_forwards_new(ssh, d->settings.publish_host, d->settings.instance, err);
    return d->forwards ? 0 : -1;
}

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

bool docker_publishes_openly(const struct docker *d) {
    return d->settings.publish_host && !is_loopback(d->settings.publish_host);
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
    else if (!(d->rules = bridge_rules_new(bridge, &err)))
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
