#include <string.h>

#include "base/log.h"
#include "server/api/api.h"
#include "server/api/fields.h"
#include "server/api/handlers.h"

// Clients tell how long their creates took (compat-1.1.1.md L1). It goes to the debug
// log: the metrics page counts what the server itself has seen.
void handle_metrics_event(struct http_exchange *x) {
    struct problems p = {0};
    int64_t duration = 0;
    const char *agent = http_header(x, "User-Agent");
    json_t *body = body_object(x);
    if (!body)
        return;
    struct field type = field_get(&place_body, body, "eventType"),
                 ms = field_get(&place_body, body, "createDurationMs");
    struct field success = field_get(&place_body, body, "success"),
                 id = field_get(&place_body, body, "sandboxId");
    struct field image = field_get(&place_body, body, "image");
    const char *name = field_text(&p, &type, true);
    if (name && strcmp(name, "sandbox.create") != 0)
        problem_add(&p, &type.at, "literal_error", "Input should be 'sandbox.create'");
    if (field_int(&p, &ms, 0, &duration) == 0)
        problem_add(&p, &ms.at, "missing", "Field required");
    if (!success.value)
        problem_add(&p, &success.at, "missing", "Field required");
    bool ok = field_bool(&p, &success, false);
    (void)field_text(&p, &id, false);
    (void)field_text(&p, &image, false);
    json_decref(body);
    if (problems_any(&p)) {
        problems_reply(x, &p);
        return;
    }
    log_debug("client event: create %s after %lld ms, %.80s", ok ? "succeeded" : "failed",
              (long long)duration, agent ? agent : "");
    http_reply_empty(x, 204);
}
