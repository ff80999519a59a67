// A sandbox in the engine's words: the body of a create. Workers.
#ifndef SERVER_RUNTIME_DOCKER_CONTAINER_H
#define SERVER_RUNTIME_DOCKER_CONTAINER_H

#include "server/runtime/docker/internal.h"

struct container_place {
    unsigned host_port;              // of execd on the host's network
    char sidecar[CONTAINER_ID_SIZE]; // whose network it joins; "" none
    const struct box *published;     // where the sidecar has execd's port; NULL: no sidecar
};
// image: what the engine calls it; inherited: of docker_image_inherited().
json_t *docker_container_body(struct docker *d, const struct provision_request *q,
                              const char *image, const json_t *inherited, json_t *binds,
                              const struct container_place *place, struct error *err);
bool docker_assigns(const char *assignment, const char *name); // "name=..."
json_t *docker_log_config(const struct docker *d);             // bounded
json_t *docker_owner_labels(const struct docker *d,
                            const char *id); // of everything that a sandbox has on the engine

#endif
