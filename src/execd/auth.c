// The token of the sandbox: only its SHA-256 is known here (docs/architecture.md section 9).
#include <string.h>

#include "base/cleanup.h"
#include "execd/execd.h"
#include "execd/handlers.h"

bool auth_before(struct http_exchange *x) {
    const struct execd *e = execd_of(x);
    const char *given = http_header(x, "X-EXECD-ACCESS-TOKEN");
    uint8_t digest[SHA256_SIZE];
    if (!e->guarded || (x->route && x->route->flags & HTTP_ROUTE_OPEN))
        return false;
    sha256(given ? given : "", given ? strlen(given) : 0, digest);
    if (given && constant_time_equal(digest, e->token, sizeof digest))
        return false;
    http_reply_json(x, 401,
                    json_pack("{s:s}", "error",
                              "Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN"));
    return true;
}
