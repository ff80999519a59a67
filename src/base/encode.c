#include "base/encode.h"

#include <errno.h>
#include <sha1.h>
#include <sha2.h>

#include "base/random.h"

static const char digits[] = "0123456789abcdef";
static const char base64_alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char base64url_alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void encode_hex(const void *data, size_t len, char *text) {
    const uint8_t *b = data;
    for (size_t i = 0; i < len; i++) {
        text[2 * i] = digits[b[i] >> 4];
        text[2 * i + 1] = digits[b[i] & 15];
    }
    text[2 * len] = 0;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int decode_hex(const char *text, void *data, size_t len) {
    uint8_t *b = data;
    if (strlen(text) != 2 * len)
        return -1;
    for (size_t i = 0; i < len; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -1;
        b[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static size_t encode64(const void *data, size_t len, char *text, const char *alphabet, bool pad) {
    const uint8_t *b = data;
    size_t n = 0;
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t v = (uint32_t)b[i] << 16 | (left > 1 ? (uint32_t)b[i + 1] << 8 : 0) |
                     (left > 2 ? b[i + 2] : 0);
        for (size_t k = 0; k < 4; k++)
            if (k <= left)
                text[n++] = alphabet[v >> (18 - 6 * k) & 63];
            else if (pad)
                text[n++] = '=';
    }
    text[n] = 0;
    return n;
}

size_t encode_base64(const void *data, size_t len, char *text) {
    return encode64(data, len, text, base64_alphabet, true);
}

size_t encode_base64url(const void *data, size_t len, char *text) {
    return encode64(data, len, text, base64url_alphabet, false);
}

long decode_base64(const char *text, size_t text_len, void *data, size_t size) {
    uint8_t *out = data;
    size_t n = 0;
    if (text_len % 4)
        return -1;
    for (size_t i = 0; i < text_len; i += 4) {
        uint32_t v = 0;
        size_t pad = i + 4 == text_len
                         ? (size_t)(text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=')
                         : 0;
        for (size_t k = 0; k < 4 - pad; k++) {
            const char *at = text[i + k] ? strchr(base64_alphabet, text[i + k]) : NULL;
            if (!at)
                return -1;
            v |= (uint32_t)(at - base64_alphabet) << (18 - 6 * k);
        }
        for (size_t k = 0; k < 3 - pad; k++) {
            if (n >= size)
                return -1;
            out[n++] = (uint8_t)(v >> (16 - 8 * k));
        }
    }
    return (long)n;
}

void sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE]) {
    SHA2_CTX c;
    SHA256Init(&c);
    SHA256Update(&c, data, len);
    SHA256Final(out, &c);
}

void sha256_hex(const void *data, size_t len, char text[SHA256_HEX_SIZE]) {
    uint8_t digest[SHA256_SIZE];
    sha256(data, len, digest);
    encode_hex(digest, sizeof digest, text);
}

void sha1(const void *data, size_t len, uint8_t out[SHA1_SIZE]) {
    SHA1_CTX c;
    SHA1Init(&c);
    SHA1Update(&c, data, len);
    SHA1Final(out, &c);
}

int sha256_fd(int fd, uint8_t out[SHA256_SIZE]) {
    enum { PIECE = 64 * 1024 };
    SHA2_CTX c;
    uint8_t *piece = malloc(PIECE);
    ssize_t n = -1;
    if (!piece)
        return -1;
    SHA256Init(&c);
    do {
        n = read(fd, piece, PIECE);
        if (n > 0)
            SHA256Update(&c, piece, (size_t)n);
    } while (n > 0 || (n < 0 && errno == EINTR));
    free(piece);
    SHA256Final(out, &c);
    return n < 0 ? -1 : 0;
}

// RFC 2104
void hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                 uint8_t out[SHA256_SIZE]) {
    enum { BLOCK = 64 };
    uint8_t pad[BLOCK] = {0};
    SHA2_CTX c;
    if (key_len > BLOCK)
        sha256(key, key_len, pad);
    else if (key_len)
        memcpy(pad, key, key_len);
    for (int i = 0; i < BLOCK; i++)
        pad[i] ^= 0x36;
    SHA256Init(&c);
    SHA256Update(&c, pad, BLOCK);
    SHA256Update(&c, data, len);
    SHA256Final(out, &c);
    for (int i = 0; i < BLOCK; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    SHA256Init(&c);
    SHA256Update(&c, pad, BLOCK);
    SHA256Update(&c, out, SHA256_SIZE);
    SHA256Final(out, &c);
    explicit_bzero(pad, sizeof pad);
    explicit_bzero(&c, sizeof c);
}

bool constant_time_equal(const void *a, const void *b, size_t len) {
    const volatile uint8_t *x = a, *y = b;
    uint8_t difference = 0;
    for (size_t i = 0; i < len; i++)
        difference |= x[i] ^ y[i];
    return difference == 0;
}
