#include "server/runtime/execd.h"

#include <stdio.h>
#include <string.h>

#include "http/client.h"
#include "server/errors.h"

enum { ANSWER_MS = 5000, ANSWER_MAX = 4096, HEADERS_SIZE = 160 };

int execd_set_environment(struct runtime *r, const char *sandbox_id, const char *token,
                          const char *env_json, struct error *err) {
    char headers[HEADERS_SIZE];
    struct strbuf answer cleanup_strbuf;
    unsigned status = 0;
    int fd;
    strbuf_init(&answer, ANSWER_MAX);
    if (r->ops->dial(r, sandbox_id, EXECD_PORT, &fd, err) < 0)
        return -1;
    (void)snprintf(headers, sizeof headers,
                   "X-EXECD-ACCESS-TOKEN: %.80s\r\nContent-Type: application/json\r\n", token);
    struct http_client *c = http_client_new(fd);
    if (!c)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    int rc = http_client_request(c, "PUT", "/environment", headers, env_json, strlen(env_json),
                                 &status, &answer, ANSWER_MS, err);
    http_client_free(c);
    if (rc == 0 && status != 204)
        rc = error_server(err, ERR_R_SANDBOX_START_FAILED,
                          "execd did not take the environment: status %u", status);
    return rc < 0 ? -1 : 0;
}
