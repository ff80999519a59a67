// Credentials for registries: of the request, else of Docker's own configuration file and its
// helpers.
#ifndef SERVER_RUNTIME_DOCKER_AUTH_H
#define SERVER_RUNTIME_DOCKER_AUTH_H

#include "base/error.h"
#include "server/runtime/runtime.h"

// *ret: the value of X-Registry-Auth, malloc'd, or NULL when there are no credentials. A helper
// program runs without a shell and has 10 s; one that fails is no failure of ours: the registry
// decides. Worker.
int docker_auth_header(const struct image_request *q, char **ret, struct error *err);
void docker_auth_free(char *header); // wipes it; NULL is fine
// "docker.io" for "debian" and "library/debian", "host:port" for "host:port/name".
void docker_auth_registry(const char *reference, char *text, size_t size);

#endif
