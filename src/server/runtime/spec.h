// What a sandbox is to be: the create body in the domain's words. One struct, one JSON form, one
// hash; the subject of a create, a pool's template, a snapshot's restore record and of an
// idempotency key. Immutable once built, reference- counted with an atomic counter: any thread may
// read it. Image credentials are not part of it and are never stored.
#ifndef SERVER_RUNTIME_SPEC_H
#define SERVER_RUNTIME_SPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/encode.h"
#include "base/error.h"

struct pair {
    char *name, *value;
};
struct pairs {
    struct pair *items;
    size_t count;
};

enum volume_kind { VOLUME_HOST, VOLUME_NAMED, VOLUME_OSSFS };
struct volume_spec {
    char *name, *mount_path;
    char *source;   // VOLUME_HOST: host path; VOLUME_NAMED: claim name; VOLUME_OSSFS: bucket
    char *sub_path; // NULL or "" = none
    enum volume_kind kind;
    bool read_only;
    bool must_exist;          // VOLUME_NAMED: it is not made when there is none
    bool delete_with_sandbox; // VOLUME_NAMED: one that was made for the sandbox goes with it
    // VOLUME_OSSFS; sub_path is the prefix in the bucket
    char *endpoint, *options;  // options: a line each; NULL: none
    char *key_id, *key_secret; // in memory alone: never part of the stored form
    bool version_1;
};

enum { SPEC_GPUS_ALL = 1000000 };

struct sandbox_spec {
    unsigned refs;
    char *image;       // reference as the user wrote it; NULL when restored from a snapshot
    char *snapshot_id; // NULL: none
    char **entrypoint; // NULL-terminated
    size_t entrypoint_count;
    struct pairs env, metadata, extensions;
    bool has_metadata;                 // the member was there (an empty map is echoed on create)
    int64_t timeout_s;                 // 0: until deleted
    uint64_t cpu_millis;               // 0: no limit
    uint64_t memory_bytes;             // 0: no limit
    uint64_t pids;                     // 0: the configured default
    uint64_t gpus;                     // 0: none; SPEC_GPUS_ALL
    uint64_t disk_bytes;               // 0: not asked for; of a Windows guest alone
    char *platform_os, *platform_arch; // NULL: not asked for
    bool secure_access;
    struct volume_spec *volumes;
    size_t volume_count;
    char *network_policy;    // fmt/policy.h, its JSON as text; NULL: none
    struct pairs egress_env; // OPENSANDBOX_EGRESS_* of the request, for egress alone
    char *lifecycle;         // hooks, as execd is given them (base/handoff.h); NULL: none
    uint64_t prestart_s;     // time-out of its preStart; 0: it has none
};

struct sandbox_spec *
spec_new(void); // empty, one reference; filled by its maker before it is shared
struct sandbox_spec *spec_ref(struct sandbox_spec *s);
void spec_unref(struct sandbox_spec *s); // NULL is fine
// `["tail","-f","/dev/null"]`, which clients send by default and execd idles for instead of running
// it.
bool spec_entrypoint_idles(const struct sandbox_spec *s);
bool spec_is_windows(const struct sandbox_spec *s); // a guest in a Linux container
// Copies; what was there goes. -1: no memory.
int spec_set_entrypoint(struct sandbox_spec *s, char *const *words, size_t count);
// The stored form (not the wire form). spec_from_json() refuses what spec_to_json() would not have
// written.
json_t *spec_to_json(const struct sandbox_spec *s);
struct sandbox_spec *spec_from_json(const json_t *j, struct error *err);
char *spec_to_text(const struct sandbox_spec *s); // the same as text, malloc'd; NULL: no memory
struct sandbox_spec *spec_from_text(const char *text, struct error *err);
// Of the stored form with sorted members: equal specs, however they were built, have equal hashes.
int spec_hash(const struct sandbox_spec *s, uint8_t out[SHA256_SIZE]);

// Copies; replaces a same name; a NULL value stays one. -1: no memory.
int pairs_add(struct pairs *p, const char *name, const char *value);
const char *pairs_get(const struct pairs *p, const char *name);
void pairs_clear(struct pairs *p);
int pairs_copy(struct pairs *to, const struct pairs *from); // what `to` held goes; -1: no memory
// RFC 7396: a NULL value removes, another one replaces or adds. -1: no memory, *p as before.
int pairs_patch(struct pairs *p, const struct pairs *patch);
char *pairs_to_text(const struct pairs *p); // JSON object, malloc'd; NULL: no memory
int pairs_from_text(struct pairs *p, const char *text, struct error *err);

#endif
