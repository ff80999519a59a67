// The handlers that routes.c names, one file a resource. Loop thread.
#ifndef SERVER_API_HANDLERS_H
#define SERVER_API_HANDLERS_H

#include "http/exchange.h"

void handle_health(struct http_exchange *x);
void handle_ready(struct http_exchange *x);
void handle_version(struct http_exchange *x);
void handle_openapi(struct http_exchange *x);
void handle_docs(struct http_exchange *x); // to the console
void handle_metrics(struct http_exchange *x);
void handle_metrics_event(struct http_exchange *x);

void handle_create(struct http_exchange *x);
void handle_list(struct http_exchange *x);
void handle_get(struct http_exchange *x);
void handle_delete(struct http_exchange *x);
void handle_pause(struct http_exchange *x);
void handle_resume(struct http_exchange *x);
void handle_renew(struct http_exchange *x);
void handle_patch_metadata(struct http_exchange *x);
void handle_endpoint(struct http_exchange *x);
void handle_proxy(struct http_exchange *x);
extern const struct http_route proxy_route; // that of sandboxes with a host name of their own

void handle_snapshot_create(struct http_exchange *x);
void handle_snapshot_list(struct http_exchange *x);
void handle_snapshot_get(struct http_exchange *x);
void handle_snapshot_delete(struct http_exchange *x);

void handle_pool_create(struct http_exchange *x);
void handle_pool_list(struct http_exchange *x);
void handle_pool_get(struct http_exchange *x);
void handle_pool_update(struct http_exchange *x);
void handle_pool_delete(struct http_exchange *x);

void handle_diagnostics_logs(struct http_exchange *x);
void handle_diagnostics_inspect(struct http_exchange *x);
void handle_diagnostics_events(struct http_exchange *x);
void handle_diagnostics_summary(struct http_exchange *x);

void handle_policy_get(struct http_exchange *x);
void handle_policy_put(struct http_exchange *x);
void handle_policy_patch(struct http_exchange *x);
void handle_policy_delete(struct http_exchange *x);

// 501 behind what is malformed: templates are another backend's.
void handle_template(struct http_exchange *x);
void handle_template_create(struct http_exchange *x);
void handle_template_list(struct http_exchange *x);

#endif
