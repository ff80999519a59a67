// The network that sandboxes join, and whether their namespaces can be entered from here.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/runtime/docker/internal.h"

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
    bool near = is_neighbour(d);
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

static int make_own(struct docker *d, struct error *err) {
    // containers of one sandbox network have nothing to say to each other
    cleanup_json json_t *body =
        json_pack("{s:s,s:s,s:b,s:{s:s},s:{s:s}}", "Name", OWN_NETWORK, "Driver", "bridge",
                  "CheckDuplicate", 1, "Options", "com.docker.network.bridge.enable_icc", "false",
                  "Labels", LABEL "network", "sandboxes");
    const struct engine_call c = {.method = "POST", .path = "/networks/create", .body = body};
    if (engine_do(d->engine, &c, NULL, err) == 0)
        return 0;
    return err->kind == EBUSY ? engine_forgive(err)
                              : error_wrap(err, "network \"%s\"", OWN_NETWORK);
}

int docker_network_prepare(struct docker *d, struct error *err) {
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    if (choose_publishing(d, err))
        return -1;
    (void)strbuf_adds(&path, "/networks/");
    engine_escape(&path, d->network);
    const struct engine_call c = {.method = "GET", .path = path.data};
    if (engine_do(d->engine, &c, NULL, err) == 0)
        return 0;
    if (err->kind != ENOENT)
        return -1;
    (void)engine_forgive(err);
    if (!d->settings.network_mode)
        return make_own(d, err);
    return error_set(err, ENOENT,
                     "docker.network_mode: the engine has no network \"%.100s\"; make it with "
                     "`docker network create %.100s`",
                     d->network, d->network);
}
