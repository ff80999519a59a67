// Our OpenAPI document, and the console: a listener of its own (console.port) that serves the page
// that shows it. Both are constants of the build (tools/openapi.py). Loop thread.
#ifndef SERVER_API_RESOURCES_OPENAPI_H
#define SERVER_API_RESOURCES_OPENAPI_H

#include <stddef.h>

#include "http/server.h"

extern const unsigned char openapi_json[], openapi_page[];
extern const size_t openapi_json_size, openapi_page_size;

void console_serve(struct http_server_settings *s); // fills in routes and limits

#endif
