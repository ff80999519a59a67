// Requests by route, method and status, for the metrics page. Loop thread.
#ifndef SERVER_API_RESOURCES_TRAFFIC_H
#define SERVER_API_RESOURCES_TRAFFIC_H

#include "base/strbuf.h"
#include "http/exchange.h"

struct traffic;
struct traffic *traffic_new(void); // NULL: no memory
void traffic_free(struct traffic *t);
void traffic_count(struct traffic *t, const struct http_exchange *x); // it is over
void traffic_text(const struct traffic *t, struct strbuf *out);       // Prometheus text

#endif
