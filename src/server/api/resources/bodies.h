// Bodies of the smaller requests: JSON -> values of the domain, every fault named. A create's is in
// api/create.h. Loop thread; texts are borrowed from the body.
#ifndef SERVER_API_RESOURCES_BODIES_H
#define SERVER_API_RESOURCES_BODIES_H

#include "server/api/create.h"
#include "server/sandbox/pool/pool.h"

// {"expiresAt": instant}, in one of the forms of lifecycle-api.md 3.3.
void renewal_read(const json_t *body, struct problems *p, int64_t *ret_expires_us);
// Of metadata: a name without value is one to be removed. -1: no memory.
int patch_read(const json_t *body, struct problems *p, struct pairs *ret);
// {"name": text}; NULL: none.
const char *snapshot_name_read(const json_t *body, struct problems *p);

struct pool_form {
    const char *name; // only of a create
    struct pool_capacity capacity;
    struct sandbox_spec *spec; // owned by the caller; NULL: problems, err, or an update without one
};
void pool_read(const struct api *a, const json_t *body, bool create, struct pool_form *f,
               struct problems *p, struct error *err);

#endif
