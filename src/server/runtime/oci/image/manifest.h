// The documents of an image (OCI image-spec 1.1 and Docker schema 2), read strictly: what two
// readers could understand differently is refused by name (oci-runtime.md 1.1, CVE-2021-41190). Any
// thread; no I/O but manifest_read_layout().
#ifndef SERVER_RUNTIME_OCI_MANIFEST_H
#define SERVER_RUNTIME_OCI_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/encode.h"
#include "base/error.h"

enum {
    MANIFEST_MAX = 4 * 1024 * 1024, // bytes of an index, manifest or config
    MANIFEST_LAYERS_MAX = 256,
    MANIFEST_INDEX_MAX = 1024, // entries of an index
    IMAGE_STRINGS_MAX = 4096,  // environment entries, arguments, volumes, ports: each list
    IMAGE_STRINGS_BYTES_MAX = 1024 * 1024,
    DIGEST_TEXT_SIZE = 7 + SHA256_HEX_SIZE // "sha256:<hex>"
};

// What an image asks for. Lists are NULL-terminated, never NULL; texts are "" when absent. Labels
// are not kept: nothing of ours is controlled by them.
struct image_config {
    char *os, *arch, *variant;
    char **env, **entrypoint, **cmd;
    char *user;     // as written; resolved in the sandbox's root by user_resolve()
    char *workdir;  // absolute and clean, or ""
    char **volumes; // absolute and clean
    char **ports;   // "80/tcp"
};
void image_config_clear(struct image_config *c); // a zeroed one is fine
// The empty config of a root tarball: PATH only.
int image_config_plain(struct image_config *c, const char *os, const char *arch, struct error *err);
// Overwrites what the `config` member of a config blob (or record) names. `c` was made plain before
// and stays valid on failure.
int image_config_read(const json_t *j, struct image_config *c, struct error *err);
json_t *image_config_to_json(const struct image_config *c);
int image_config_from_json(const json_t *j, struct image_config *ret, struct error *err);

struct platform {
    const char *os, *arch, *variant; // Go's names; variant NULL: any
};
// The host's architecture in Go's words ("amd64").
const char *platform_host_arch(void);

struct blob {
    char digest[DIGEST_TEXT_SIZE];
    uint64_t bytes;
};
enum manifest_kind { MANIFEST_IMAGE, MANIFEST_INDEX };
struct manifest {
    enum manifest_kind kind;
    bool docker;                   // media types of Docker, not of OCI
    bool zstd;                     // some layer is compressed by it
    char digest[DIGEST_TEXT_SIZE]; // of the bytes given
    struct blob chosen;            // index only: the entry for the platform
    struct blob config;            // image only, with what follows
    unsigned layers;
    struct blob layer[MANIFEST_LAYERS_MAX];
    uint64_t layer_bytes; // compressed, together
};
// Reads one document. `expected` (may be NULL) is the digest under which it was asked for.
int manifest_parse(const char *text, size_t len, const char *expected, const struct platform *want,
                   struct manifest *ret, struct error *err);
// Reads a config blob and compares its platform with the wish.
int manifest_parse_config(const char *text, size_t len, const struct platform *want,
                          struct image_config *ret, struct error *err);
// The whole chain index.json -> (index) -> manifest -> config of an OCI layout directory with
// exactly one image for the platform: every digest hashed again, every size compared. Layers are
// hashed too. IMAGE_INVALID says what is wrong. Blocking: workers.
int manifest_read_layout(int layout, const struct platform *want, struct manifest *ret,
                         struct image_config *ret_config, struct error *err);
bool digest_valid(const char *text); // "sha256:" and 64 lower-case hex digits, nothing else

#endif
