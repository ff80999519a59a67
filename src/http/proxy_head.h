// Heads on their way through the proxy: which fields pass, what they become. Private to src/http;
// loop thread.
#ifndef HTTP_PROXY_HEAD_H
#define HTTP_PROXY_HEAD_H

#include "http/proxy.h"

struct strbuf;

// The request's head as the upstream gets it. -1: it does not fit.
int proxy_head_write(const struct http_exchange *x, const struct http_proxy_policy *policy,
                     struct strbuf *sb);
// The response's fields into the reply. -1: no memory, or the reply's head is full.
int proxy_head_pass(struct http_exchange *x, const struct http_proxy_policy *policy,
                    const struct http_headers *h);

#endif
