// The container in front of a sandbox with a network policy (docker-runtime.md 5.7 to 5.10,
// egress.md 0.9): "sandbox-egress-<id>", with NET_ADMIN alone, healthy before the sandbox is made,
// which then joins its network. What ends it ends the network: the engine takes the links away, and
// a new container would have others. So a sandbox does not outlive its sidecar; a worker that dies
// in it is started again by its supervisor, and the rules stay meanwhile. Workers and the events
// thread.
#ifndef SERVER_RUNTIME_DOCKER_SIDECAR_H
#define SERVER_RUNTIME_DOCKER_SIDECAR_H

#include "server/runtime/docker/internal.h"

#define LABEL_SIDECAR_FOR LABEL "egress-sidecar-for"
#define LABEL_EGRESS      LABEL "egress" // of an image: the egress in it is ours

// Settings under which no policy can be kept: 400.
int docker_sidecar_check(const struct docker *d, struct error *err);
// At the start: tells when egress.image is not there.
void docker_sidecar_prepare(struct docker *d);
// Creates it, starts it, waits until the policy is in force. Until then ret (address, host, ports,
// policy) is untouched. What a failure leaves behind, docker_sandbox_destroy() removes.
int docker_sidecar_start(struct docker *d, const struct provision_request *q,
                         char ret_container[CONTAINER_ID_SIZE], struct box *ret, struct error *err);
// The inspected sidecar of a sandbox that lives. ENOENT: it does not run.
int docker_sidecar_inspect(struct docker *d, const char *id, json_t **ret, struct error *err);
// Its sidecar does not run any more: ends the sandbox. -1: the engine does not answer.
int docker_sidecar_lost(struct docker *d, const char *id, struct error *err);
// The sandbox has ended: so does its sidecar. Podman removes none that another container has
// joined.
int docker_sidecar_stop(struct docker *d, const char *id, struct error *err);
int docker_sidecar_remove(struct docker *d, const char *id, struct error *err); // idempotent

#endif
