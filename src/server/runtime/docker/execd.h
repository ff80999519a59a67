// execd on the engine, and files out of images: by containers that are made and never started.
// Workers.
#ifndef SERVER_RUNTIME_DOCKER_EXECD_H
#define SERVER_RUNTIME_DOCKER_EXECD_H

#include "server/runtime/docker/internal.h"

// Fills the volume that execd is in, and names it in d. Start.
int docker_execd_prepare(struct docker *d, struct error *err);

// A container of an image (by id) that has this server's label alone: what a killed server leaves
// is swept at the next start. bind: "volume:/path" or NULL.
int docker_helper_make(struct docker *d, const char *image, const char *bind,
                       char ret_container[CONTAINER_ID_SIZE], struct error *err);
void docker_helper_remove(struct docker *d, const char *container);
// Appends a regular file of it, of at most EXECD_FILE_MAX bytes. ENOENT: there is none; EPROTO: it
// is no regular file, or an empty one.
enum { EXECD_FILE_MAX = 64 * 1024 * 1024 };
int docker_helper_read(struct docker *d, const char *container, const char *file,
                       struct strbuf *ret, struct error *err);

#endif
