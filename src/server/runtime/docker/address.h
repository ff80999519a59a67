// Where the engine is: DOCKER_HOST taken apart. Any thread.
#ifndef SERVER_RUNTIME_DOCKER_ADDRESS_H
#define SERVER_RUNTIME_DOCKER_ADDRESS_H

#include "base/error.h"

enum engine_address_kind { ENGINE_ADDRESS_UNIX, ENGINE_ADDRESS_TCP, ENGINE_ADDRESS_SSH };
enum { ENGINE_ADDRESS_TEXT_MAX = 256 };

struct engine_address {
    enum engine_address_kind kind;
    char path[108];                     // ENGINE_ADDRESS_UNIX
    char host[ENGINE_ADDRESS_TEXT_MAX]; // without brackets
    char user[ENGINE_ADDRESS_TEXT_MAX]; // ENGINE_ADDRESS_SSH; "" = ssh's own choice
    unsigned port;                      // 0: none was named
};
int engine_address_parse(const char *text, struct engine_address *ret,
                         struct error *err); // NULL: the standard socket
// "host:port" of a URL, an IPv6 address in brackets; port 0 is left out.
void engine_address_authority(const struct engine_address *a,
                              char text[ENGINE_ADDRESS_TEXT_MAX + 16]);

#endif
