// What an engine says of itself, before a runtime is made on it. Blocking; any thread.
#ifndef SERVER_RUNTIME_DOCKER_INSPECT_EXAMINE_H
#define SERVER_RUNTIME_DOCKER_INSPECT_EXAMINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "server/runtime/docker/engine.h"

struct engine_examination {
    char name[120]; // "Podman 4.3.1, API 1.41"
    bool limits;    // engine_can_limit()
    size_t foreign; // sandboxes of another server (adopt.h foreign_count())
};
// -1: err says why it cannot be asked.
int engine_examine(const struct engine_settings *s, struct engine_examination *ret,
                   struct error *err);

// Memory, processor and number of processes, as the reply to /info tells (rootless engines on
// control groups v1 cannot).
bool engine_can_limit(const json_t *info);
// "engine 20.10.24, API 1.41" of the same reply.
void engine_describe(const struct engine *e, const json_t *info, char *text, size_t size);

#endif
