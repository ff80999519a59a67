// getrandom(2). Any thread; aborts if the kernel cannot give random bytes (it can, after boot).
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>

enum { UUID_TEXT_SIZE = 37 };

void random_bytes(void *out, size_t len);
void random_uuid(char text[UUID_TEXT_SIZE]);    // version 4 with dashes (RFC 9562)
void random_hex(char *text, size_t hex_digits); // lower case, NUL-terminated: text[hex_digits + 1]

#endif
