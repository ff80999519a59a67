// The parts of this directory, for its own files.
#ifndef SERVER_RUNTIME_DOCKER_ADOPT_PARTS_H
#define SERVER_RUNTIME_DOCKER_ADOPT_PARTS_H

#include "server/runtime/docker/adopt/adopt.h"
#include "server/runtime/docker/internal.h"

const char *foreign_label(const json_t *labels, const char *name); // NULL also for ""
// Fills everything but id and mark from an inspected container.
int foreign_describe(const json_t *container, struct foreign *f, struct error *err);
// JSON array of the volumes that the reference made for it, a Windows guest's own included,
// malloc'd; NULL: none.
char *foreign_volumes(const json_t *container);

#endif
