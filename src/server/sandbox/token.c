#include <string.h>

#include "server/sandbox/domain.h"

void domain_token(const struct domain *d, const char *purpose, const char *id,
                  char text[SANDBOX_TOKEN_SIZE]) {
    char subject[64 + SANDBOX_ID_SIZE];
    uint8_t digest[SHA256_SIZE];
    _Static_assert(4 * ((SHA256_SIZE + 2) / 3) + 1 <= SANDBOX_TOKEN_SIZE, "a token fits");
    // the NUL keeps ("ab", "c") apart from ("a", "bc")
    int n = snprintf(subject, sizeof subject, "%s%c%s", purpose, '\0', id);
    hmac_sha256(store_key(d->settings.store), STORE_KEY_SIZE, subject, (size_t)n, digest);
    (void)encode_base64url(digest, sizeof digest, text);
}
