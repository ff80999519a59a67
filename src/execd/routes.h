// The route table of execd as settings of its HTTP server; the rooms run already. Loop thread.
#ifndef EXECD_ROUTES_H
#define EXECD_ROUTES_H

#include "execd/execd.h"

void routes_serve(struct execd *e, struct http_server_settings *s);

#endif
