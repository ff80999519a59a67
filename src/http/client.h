// Blocking HTTP/1.1 client for workers, the load driver and tests: one connection over a
// descriptor, whole small replies or streamed ones. The same parser as everywhere. (Engines and
// registries are libcurl's business, not ours.)
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include "base/error.h"
#include "base/strbuf.h"
#include "http/head.h"

struct http_client;
struct http_client *http_client_new(int fd); // takes fd (blocking)
void http_client_free(struct http_client *c);
// Sends a request and reads the head and the whole body (appended to *body up to its maximum).
// headers: raw lines, each with CRLF, may be "". -1 with err; time_out_ms bounds each wait.
int http_client_request(struct http_client *c, const char *method, const char *target,
                        const char *headers, const void *data, size_t len, unsigned *ret_status,
                        struct strbuf *body, int64_t time_out_ms, struct error *err);
// Split form, for launchers: the request may be written before the peer is alive.
int http_client_send(struct http_client *c, const char *method, const char *target,
                     const char *headers, const void *data, size_t len, struct error *err);
int http_client_receive(struct http_client *c, unsigned *ret_status, struct strbuf *body,
                        int64_t time_out_ms, struct error *err);
// Called for every piece of the body instead of collecting it; return -1 to stop reading.
int http_client_receive_stream(struct http_client *c, unsigned *ret_status,
                               int (*data)(void *arg, const char *, size_t), void *arg,
                               int64_t time_out_ms, struct error *err);

#endif
