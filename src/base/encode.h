// Hex, base64 and digests (libmd). Any thread.
#ifndef BASE_ENCODE_H
#define BASE_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_SIZE = 32, SHA256_HEX_SIZE = 65, SHA1_SIZE = 20 };

void encode_hex(const void *data, size_t len, char *text);         // text[2 * len + 1]
int decode_hex(const char *text, void *data, size_t len);          // exactly len bytes
size_t encode_base64(const void *data, size_t len, char *text);    // text[4 * ((len + 2) / 3) + 1]
size_t encode_base64url(const void *data, size_t len, char *text); // no padding; same bound
// Standard alphabet, padding required. Returns the length, or -1.
long decode_base64(const char *text, size_t text_len, void *data, size_t size);

void sha256(const void *data, size_t len, uint8_t out[SHA256_SIZE]);
void sha256_hex(const void *data, size_t len, char text[SHA256_HEX_SIZE]);
void sha1(const void *data, size_t len,
          uint8_t out[SHA1_SIZE]); // WebSocket accept only (RFC 6455 4.2.2)
void hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                 uint8_t out[SHA256_SIZE]);
// Whole files, streamed.
int sha256_fd(int fd, uint8_t out[SHA256_SIZE]);
bool constant_time_equal(const void *a, const void *b, size_t len);

#endif
