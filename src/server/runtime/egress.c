#include "server/runtime/egress.h"

#include <stdio.h>
#include <string.h>

#include "http/client.h"
#include "server/errors.h"

enum { ANSWER_MS = 35000, HEADERS_SIZE = 160 }; // its own limit for a change is 30 s

int egress_ask(struct runtime *r, const char *sandbox_id, const char *token, const char *method,
               const char *target, const char *body, unsigned *ret_status, struct strbuf *ret,
               struct error *err) {
    char headers[HEADERS_SIZE];
    struct error cause;
    int fd;
    if (r->ops->dial(r, sandbox_id, EGRESS_PORT, &fd, &cause) < 0)
        return error_server(err, ERR_BACKEND_CONNECTION_FAILED,
                            "egress of sandbox %s (it stays closed meanwhile): %s", sandbox_id,
                            cause.message);
    (void)snprintf(headers, sizeof headers,
                   "OPENSANDBOX-EGRESS-AUTH: %.80s\r\nContent-Type: application/json\r\n", token);
    struct http_client *c = http_client_new(fd);
    if (!c)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    int rc = http_client_request(c, method, target, headers, body, body ? strlen(body) : 0,
                                 ret_status, ret, ANSWER_MS, &cause);
    http_client_free(c);
    return rc == 0 ? 0
                   : error_server(err, ERR_BACKEND_RESPONSE_FAILED, "egress of sandbox %s: %s",
                                  sandbox_id, cause.message);
}
