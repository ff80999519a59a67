// Sandboxes by host name: {port}-{id}.<server.sandbox_domain>, each an origin of its own. Loop
// thread.
#ifndef SERVER_API_RESOURCES_HOST_H
#define SERVER_API_RESOURCES_HOST_H

#include "server/api/api.h"

enum host_kind {
    HOST_OTHER,   // not of the domain: the API
    HOST_SANDBOX, // *ret_port, *ret_id: texts in the arena
    HOST_UNKNOWN  // of the domain, but no sandbox's
};
enum host_kind host_read(struct http_exchange *x, const char **ret_port, const char **ret_id);

#endif
