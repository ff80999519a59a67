// Blocking HTTP/1.1 client for workers, the load driver and tests: one connection over a socket,
// one request at a time, whole small replies or streamed ones. The same parser as everywhere.
// (Engines and registries are libcurl's business, not ours.) One owner, any thread.
//
// Errors: ETIMEDOUT, ECONNRESET (closed early), EPROTO (malformed), EMSGSIZE, EPIPE (closed after
// an earlier reply, as its "Connection: close" said) and those of the socket. After any of them, a
// stopped body or a 101 the connection takes no further request.
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include "base/error.h"
#include "base/strbuf.h"
#include "http/head.h"

struct http_client;
struct http_client *http_client_new(int fd);  // takes fd, also on failure; NULL: out of memory
void http_client_free(struct http_client *c); // NULL is fine
// Sends a request and reads the head and the whole body (appended to *body up to its maximum; NULL:
// thrown away). headers: raw lines, each with CRLF, may be "", without Host and Content-Length.
// Interim replies are read past. time_out_ms bounds each wait, not the whole.
int http_client_request(struct http_client *c, const char *method, const char *target,
                        const char *headers, const void *data, size_t len, unsigned *ret_status,
                        struct strbuf *body, int64_t time_out_ms, struct error *err);
// Split form, for launchers: the request may be written before the peer is alive. Waits for the
// peer at most 60 s.
int http_client_send(struct http_client *c, const char *method, const char *target,
                     const char *headers, const void *data, size_t len, struct error *err);
int http_client_receive(struct http_client *c, unsigned *ret_status, struct strbuf *body,
                        int64_t time_out_ms, struct error *err);
// Called for every piece of the body instead of collecting it; return -1 to stop reading.
int http_client_receive_stream(struct http_client *c, unsigned *ret_status,
                               int (*data)(void *arg, const char *, size_t), void *arg,
                               int64_t time_out_ms, struct error *err);

#endif
