// Image references as Docker writes them: "alpine", "ghcr.io/a/b:1", "localhost:5000/x@sha256:...".
// Private to image/. Any thread.
#ifndef SERVER_RUNTIME_OCI_IMAGE_REFERENCE_H
#define SERVER_RUNTIME_OCI_IMAGE_REFERENCE_H

#include "base/error.h"
#include "server/runtime/oci/oci.h"

enum { REFERENCE_MAX = 640, REGISTRY_MAX = 255 };

struct reference {
    char registry[REGISTRY_MAX + 1];   // "docker.io", "host:port"
    char repository[REGISTRY_MAX + 1]; // "library/alpine"
    char tag[129];                     // "" with a digest: it decides
    char digest[72];                   // "" without
    char text[REFERENCE_MAX + 1];      // canonical: registry/repository then :tag or @digest
};
// IMAGE_NOT_FOUND (400) says what is malformed.
int reference_parse(const char *text, struct reference *ret, struct error *err);

// Whether the registry may be asked: a listed one, or one whose addresses are all public. A
// reference is a request that we make for a stranger (oci-runtime.md 0.11). Resolves: workers only.
int reference_allowed(const struct reference *r, const struct oci_settings *s, struct error *err);
// Whether it is listed in `list` by its name, with or without the port.
bool reference_listed(const struct reference *r, oci_list list);

#endif
