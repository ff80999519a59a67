#include "server/runtime/execd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "http/client.h"
#include "server/errors.h"

enum { ANSWER_MS = 5000, ANSWER_MAX = 4096, HEADERS_SIZE = 160, LOG_TAIL = 400 };

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

struct execd_question {
    struct http_client *client;
};

void execd_drop_question(struct execd_question *q) {
    if (q)
        http_client_free(q->client);
    free(q);
}

struct execd_question *execd_ask_start(struct runtime *r, const char *sandbox_id, const char *token,
                                       int *ret_fd, struct error *err) {
    char headers[HEADERS_SIZE];
    int fd;
    if (r->ops->dial(r, sandbox_id, EXECD_PORT, &fd, err) < 0)
        return NULL;
    struct execd_question *q = calloc(1, sizeof *q);
    struct http_client *c = http_client_new(fd);
    if (!q || !c) {
        free(q);
        http_client_free(c);
        (void)error_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    q->client = c;
    *ret_fd = fd;
    (void)snprintf(headers, sizeof headers, "X-EXECD-ACCESS-TOKEN: %.80s\r\n", token);
    if (http_client_send(c, "GET", "/start", headers, NULL, 0, err) < 0) {
        execd_drop_question(q);
        return NULL;
    }
    return q;
}

int execd_read_start(struct execd_question *q, struct error *err) {
    struct strbuf answer cleanup_strbuf;
    struct error ignored;
    unsigned status = 0;
    strbuf_init(&answer, ANSWER_MAX);
    int rc = http_client_receive(q->client, &status, &answer, ANSWER_MS, err);
    execd_drop_question(q);
    if (rc < 0)
        return -1;
    cleanup_json json_t *j = json_parse(answer.data, answer.len, NULL, &ignored);
    const char *state = json_string_value(json_object_get(j, "state")),
               *message = json_string_value(json_object_get(j, "message"));
    if (status != 200 || !state)
        return error_set(err, EPROTO, "status %u", status);
    if (strcmp(state, "started") == 0)
        return 0;
    return error_server(err, ERR_R_SANDBOX_START_FAILED, "%.800s",
                        message ? message : "it is not said why");
}

void execd_explain_silence(struct runtime *r, const char *sandbox_id, struct error *err) {
    struct strbuf log cleanup_strbuf;
    struct error ignored, cause = *err;
    strbuf_init(&log, 4 << 20);
    (void)r->ops->logs(r, sandbox_id, &log, &ignored); // what there is
    const char *tail = log.len > LOG_TAIL ? log.data + log.len - LOG_TAIL : log.data;
    (void)error_server(err, ERR_R_SANDBOX_START_FAILED,
                       "the sandbox did not come to its start: %.300s%s%s", cause.message,
                       log.len ? "; its last output: " : "", log.len ? tail : "");
}
