// What diagnoses show of a sandbox. Worker; one call of the engine.
#ifndef SERVER_RUNTIME_DOCKER_INSPECT_FACTS_H
#define SERVER_RUNTIME_DOCKER_INSPECT_FACTS_H

#include "server/runtime/docker/internal.h"

// As runtime->facts. No variables and no labels: those are the domain's to show, or nobody's.
int docker_facts(struct docker *d, const char *id, struct pairs *ret, struct error *err);

#endif
