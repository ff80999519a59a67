#include "server/api/api.h"
#include "server/api/handlers.h"

void handle_health(struct http_exchange *x) {
    static const char text[] = "{\"status\":\"healthy\"}";
    http_reply(x, 200, "application/json", text, sizeof text - 1);
}

void handle_ready(struct http_exchange *x) {
    static const char text[] = "{\"status\":\"ready\"}";
    if (domain_ready(api_of(x)->domain))
        http_reply(x, 200, "application/json", text, sizeof text - 1);
    else
        api_refuse(x, ERR_NOT_READY, "the server is still reconciling after its start");
}

void handle_version(struct http_exchange *x) {
    http_reply_json(x, 200, json_pack("{s:s}", "version", OPENSANDBOX_VERSION));
}
