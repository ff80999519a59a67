// The body of a create: JSON -> struct sandbox_spec, every fault named, in the documented order
// (lifecycle-api.md 5.1, compat-1.1.1.md L8 to L14). Loop thread.
#ifndef SERVER_API_CREATE_H
#define SERVER_API_CREATE_H

#include "server/api/api.h"
#include "server/api/fields.h"

struct create_form {
    const json_t *body;     // borrowed, and all texts below with it
    const struct place *at; // where it stands; NULL: it is the body of the request
    const char *image, *username, *password, *snapshot, *template_id, *os, *arch;
    const char *pool; // extensions.poolRef, NULL when absent or blank
    bool has_lifecycle, has_policy, proxy_enabled, has_limits;
    int64_t timeout_s; // 0: none
    struct pairs limits;
    struct sandbox_spec *spec;
};

// Types and ranges (422). -1: no memory.
int create_read(struct create_form *f, const json_t *body, struct problems *p);
// Rules between members (422); only when create_read() found nothing.
void create_relate(const struct create_form *f, struct problems *p);
// What is well-formed but not acceptable here (400...); completes f->spec.
int create_check(const struct api *a, struct create_form *f, struct error *err);
void create_form_clear(struct create_form *f);

// The template of a pool: a create body without identity, or a pod template of which image, env and
// resources of containers[0] count. NULL: problems added, or err set.
struct sandbox_spec *template_read(const struct api *a, const struct place *at,
                                   const json_t *template, struct problems *p, struct error *err);

// `lifecycle` (422) into spec->lifecycle, with nothing when it names no hook. 1: it is there, 0:
// absent or no object, -1: no memory.
int hooks_read(struct problems *p, const struct field *f, struct sandbox_spec *spec);

// Volumes (5.3): types (422), then meaning (400) into spec->volumes.
void volumes_read(struct problems *p, const struct field *list);
int volumes_convert(const struct api *a, const json_t *list, struct sandbox_spec *spec,
                    struct error *err);

// Network policies (egress.md sections 2 and 3): types (422; whether there is one), then meaning in
// egress's own words (400) into the canonical text; NULL with err.
bool policy_read(struct problems *p, const struct field *policy);
char *policy_convert(const json_t *policy, struct error *err);

#endif
