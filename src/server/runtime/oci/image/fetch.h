// Registries, by way of skopeo. Credentials go into a file of mode 0600 that lives as long as one
// skopeo: never on a command line, never in a log. Private to image/. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_IMAGE_FETCH_H
#define SERVER_RUNTIME_OCI_IMAGE_FETCH_H

#include <stdbool.h>

#include "base/error.h"
#include "server/runtime/oci/image/manifest.h"
#include "server/runtime/oci/image/reference.h"
#include "server/runtime/oci/image/work.h"

struct fetch {
    struct work *work;
    const struct reference *reference;
    const char *username, *password; // NULL: none
    struct platform want;
    // A server fetches for strangers: from a registry that is not listed with an id that our
    // firewall keeps from addresses that are not public, whatever the registry redirects to.
    bool for_strangers;
};
// The image manifest for the platform; its digest names the image from here on.
int fetch_resolve(const struct fetch *f, struct manifest *ret, struct error *err);
// Copies exactly that image into the OCI layout <work>/layout.
int fetch_copy(const struct fetch *f, const struct manifest *m, struct error *err);
// The same from a docker-archive file.
int fetch_archive(struct work *w, int file, struct error *err);
// <work>/layout -> <work>/converted, with OCI's media types and gzip only.
int fetch_convert(struct work *w, struct error *err);

#endif
