#include <string.h>

#include "server/sandbox/domain.h"

// Each purpose has a key of its own, so that no text of one is ever good for another.
static void digest(const struct domain *d, const char *purpose, const void *data, size_t len,
                   uint8_t out[SHA256_SIZE]) {
    uint8_t key[SHA256_SIZE];
    hmac_sha256(store_key(d->settings.store), STORE_KEY_SIZE, purpose, strlen(purpose), key);
    hmac_sha256(key, sizeof key, data, len, out);
    explicit_bzero(key, sizeof key);
}

void domain_token(const struct domain *d, const char *purpose, const char *id,
                  char text[SANDBOX_TOKEN_SIZE]) {
    uint8_t out[SHA256_SIZE];
    _Static_assert(4 * ((SHA256_SIZE + 2) / 3) + 1 <= SANDBOX_TOKEN_SIZE, "a token fits");
    digest(d, purpose, id, strlen(id), out);
    (void)encode_base64url(out, sizeof out, text);
}

void domain_digest(const struct domain *d, const char *purpose, const void *data, size_t len,
                   char text[SHA256_HEX_SIZE]) {
    uint8_t out[SHA256_SIZE];
    digest(d, purpose, data, len, out);
    encode_hex(out, sizeof out, text);
}
