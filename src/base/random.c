#include "base/random.h"

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>

#include "base/encode.h"

void random_bytes(void *out, size_t len) {
    for (char *p = out; len;) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno != EINTR)
            abort();
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}

void random_uuid(char text[UUID_TEXT_SIZE]) {
    uint8_t b[16];
    char hex[33];
    random_bytes(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    encode_hex(b, sizeof b, hex);
    (void)snprintf(text, UUID_TEXT_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12,
                   hex + 16, hex + 20);
}

void random_hex(char *text, size_t hex_digits) {
    for (size_t i = 0; i < hex_digits;) {
        uint8_t bytes[16];
        char hex[33];
        size_t left = hex_digits - i, n = left < 32 ? left : 32;
        random_bytes(bytes, (n + 1) / 2);
        encode_hex(bytes, (n + 1) / 2, hex);
        memcpy(text + i, hex, n);
        i += n;
    }
    text[hex_digits] = 0;
}
