#include "base/cleanup.h"
#include "http/router.h"
#include "server/api/api.h"
#include "server/api/handlers.h"

// The one table: what lifecycle-api.md 1.2 and compat-1.1.1.md L1 to L7 name. Every route stands at
// the root and below /v1.
#define BUFFERED HTTP_BODY_BUFFERED
#define STREAMED HTTP_BODY_STREAMED
#define OPEN     HTTP_ROUTE_OPEN
#define ROOT     HTTP_ROUTE_ROOT_ONLY
#define MOUNT    HTTP_ROUTE_MOUNT_ONLY
#define SANDBOX  "/sandboxes/{sandbox_id}"

static const char create_codes[] =
    "INVALID_REQUEST SANDBOX::INVALID_PARAMETER SANDBOX::API_NOT_SUPPORTED "
    "SANDBOX::INVALID_METADATA_LABEL SANDBOX::POLICY_TOO_LARGE SANDBOX::TOO_MANY "
    "SANDBOX::IDEMPOTENCY_CONFLICT OVERLOADED "
    "POOL::NOT_FOUND POOL::EMPTY SNAPSHOT::NOT_FOUND SNAPSHOT::NOT_READY "
    "SNAPSHOT::INVALID_RESTORE_CONFIG %::INVALID_ENTRYPOINT %::IMAGE_NOT_FOUND "
    "%::IMAGE_UNAUTHORIZED %::IMAGE_INVALID %::IMAGE_PULL_FAILED %::SANDBOX_IMAGE_PULL_FAILED "
    "%::SANDBOX_START_FAILED %::UNAVAILABLE %::DISK_FULL "
    "VOLUME::DUPLICATE_NAME VOLUME::INVALID_MOUNT_PATH VOLUME::INVALID_SUB_PATH "
    "VOLUME::INVALID_HOST_PATH VOLUME::HOST_PATH_NOT_ALLOWED VOLUME::HOST_PATH_CREATE_FAILED "
    "VOLUME::UNSUPPORTED_BACKEND VOLUME::INVALID_PVC_NAME VOLUME::PVC_NOT_FOUND "
    "VOLUME::PVC_INSPECT_FAILED "
    "VOLUME::PVC_SUBPATH_UNSUPPORTED_DRIVER VOLUME::OSSFS_MOUNT_FAILED "
    "VOLUME::INVALID_OSSFS_BUCKET VOLUME::INVALID_OSSFS_ENDPOINT VOLUME::INVALID_OSSFS_OPTION "
    "VOLUME::INVALID_OSSFS_CREDENTIALS";
static const char template_codes[] =
    "INVALID_REQUEST SANDBOX::INVALID_PARAMETER "
    "SANDBOX::INVALID_METADATA_LABEL SANDBOX::POLICY_TOO_LARGE POOL::ALREADY_EXISTS "
    "SANDBOX::TOO_MANY %::DISK_FULL OVERLOADED "
    "%::INVALID_ENTRYPOINT VOLUME::DUPLICATE_NAME VOLUME::INVALID_MOUNT_PATH "
    "VOLUME::INVALID_SUB_PATH VOLUME::INVALID_HOST_PATH VOLUME::HOST_PATH_NOT_ALLOWED "
    "VOLUME::UNSUPPORTED_BACKEND "
    "VOLUME::INVALID_OSSFS_BUCKET VOLUME::INVALID_OSSFS_ENDPOINT VOLUME::INVALID_OSSFS_OPTION "
    "VOLUME::INVALID_OSSFS_CREDENTIALS";
static const char update_codes[] =
    "INVALID_REQUEST SANDBOX::INVALID_PARAMETER "
    "SANDBOX::INVALID_METADATA_LABEL SANDBOX::POLICY_TOO_LARGE POOL::NOT_FOUND %::DISK_FULL "
    "OVERLOADED "
    "%::INVALID_ENTRYPOINT "
    "VOLUME::DUPLICATE_NAME VOLUME::INVALID_MOUNT_PATH VOLUME::INVALID_SUB_PATH "
    "VOLUME::INVALID_HOST_PATH VOLUME::HOST_PATH_NOT_ALLOWED "
    "VOLUME::UNSUPPORTED_BACKEND "
    "VOLUME::INVALID_OSSFS_BUCKET VOLUME::INVALID_OSSFS_ENDPOINT VOLUME::INVALID_OSSFS_OPTION "
    "VOLUME::INVALID_OSSFS_CREDENTIALS";
static const char proxy_codes[] = "%::SANDBOX_NOT_FOUND %::INVALID_PORT SANDBOX::INVALID_PARAMETER "
                                  "SANDBOX::PENDING SANDBOX::PAUSED SANDBOX::NOT_RUNNING "
                                  "SANDBOX::INTERNAL_ERROR "
                                  "MISSING_OR_INVALID_EXECD_TOKEN MISSING_OR_INVALID_SECURE_ACCESS "
                                  "BACKEND_CONNECTION_FAILED BACKEND_RESPONSE_FAILED "
                                  "BACKEND_TIMEOUT OVERLOADED NOT_READY";
static const char diagnostics_codes[] =
    "INVALID_REQUEST SANDBOX::INVALID_PARAMETER %::SANDBOX_NOT_FOUND OVERLOADED";
static const char diagnostics_scoped[] =
    "INVALID_REQUEST DIAGNOSTICS_SCOPE_UNSUPPORTED SANDBOX::INVALID_PARAMETER "
    "%::SANDBOX_NOT_FOUND OVERLOADED";
static const char inspect_codes[] = "SANDBOX::INVALID_PARAMETER %::SANDBOX_NOT_FOUND OVERLOADED";
static const char policy_codes[] =
    "%::SANDBOX_NOT_FOUND SANDBOX::PENDING SANDBOX::NOT_RUNNING BACKEND_CONNECTION_FAILED "
    "BACKEND_RESPONSE_FAILED OVERLOADED";
static const char policy_change_codes[] =
    "INVALID_REQUEST SANDBOX::INVALID_PARAMETER SANDBOX::POLICY_TOO_LARGE %::SANDBOX_NOT_FOUND "
    "SANDBOX::PENDING SANDBOX::NOT_RUNNING BACKEND_CONNECTION_FAILED BACKEND_RESPONSE_FAILED "
    "OVERLOADED";
static const char templates[] = "FSB::API_NOT_SUPPORTED";
static const char templates_read[] =
    "INVALID_REQUEST SANDBOX::INVALID_PARAMETER FSB::API_NOT_SUPPORTED";

static const struct http_route routes[] = {
    {"GET", "/health", handle_health, BUFFERED, OPEN | ROOT, ""},
    {"GET", "/livez", handle_health, BUFFERED, OPEN | ROOT, ""},
    {"GET", "/readyz", handle_ready, BUFFERED, OPEN | ROOT, "NOT_READY"},
    {"GET", "/version", handle_version, BUFFERED, OPEN | ROOT, ""},
    {"GET", "/openapi.json", handle_openapi, BUFFERED, OPEN | ROOT, ""},
    {"GET", "/docs", handle_docs, BUFFERED, OPEN | ROOT, "NOT_FOUND"},
    {"GET", "/redoc", handle_docs, BUFFERED, OPEN | ROOT, "NOT_FOUND"},
    {"GET", "/metrics", handle_metrics, BUFFERED, ROOT, ""},
    {"POST", "/metrics/events", handle_metrics_event, BUFFERED, MOUNT,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER"},

    {"POST", "/sandboxes", handle_create, BUFFERED, 0, create_codes},
    {"GET", "/sandboxes", handle_list, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER INVALID_METADATA_FORMAT"},
    {"GET", SANDBOX, handle_get, BUFFERED, 0, "%::SANDBOX_NOT_FOUND"},
    {"DELETE", SANDBOX, handle_delete, BUFFERED, 0,
     "%::SANDBOX_NOT_FOUND %::SANDBOX_DELETE_FAILED"},
    {"PATCH", SANDBOX "/metadata", handle_patch_metadata, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER %::SANDBOX_NOT_FOUND INVALID_METADATA_LABEL "
     "SANDBOX::INVALID_METADATA_LABEL %::DISK_FULL OVERLOADED"},
    {"POST", SANDBOX "/pause", handle_pause, BUFFERED, 0,
     "%::SANDBOX_NOT_FOUND %::SANDBOX_NOT_RUNNING %::SANDBOX_PAUSE_FAILED %::DISK_FULL "
     "%::UNAVAILABLE OVERLOADED"},
    {"POST", SANDBOX "/resume", handle_resume, BUFFERED, 0,
     "%::SANDBOX_NOT_FOUND %::SANDBOX_NOT_PAUSED %::SANDBOX_RESUME_FAILED %::DISK_FULL "
     "%::UNAVAILABLE OVERLOADED"},
    {"POST", SANDBOX "/renew-expiration", handle_renew, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER %::SANDBOX_NOT_FOUND %::INVALID_EXPIRATION "
     "%::DISK_FULL OVERLOADED"},
    {"GET", SANDBOX "/endpoints/{port}", handle_endpoint, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER SANDBOX::API_NOT_SUPPORTED %::INVALID_PORT "
     "%::SANDBOX_NOT_FOUND"},
    {"*", SANDBOX "/proxy/{port}/*", handle_proxy, STREAMED, OPEN, proxy_codes},
    {"*", "/route/{sandbox_id}/{port}/*", handle_proxy, STREAMED, OPEN, proxy_codes},

    {"POST", SANDBOX "/snapshots", handle_snapshot_create, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER %::SANDBOX_NOT_FOUND "
     "SNAPSHOT::INVALID_SOURCE_STATE %::DISK_FULL OVERLOADED"},
    {"GET", "/snapshots", handle_snapshot_list, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER"},
    {"GET", "/snapshots/{snapshot_id}", handle_snapshot_get, BUFFERED, 0, "SNAPSHOT::NOT_FOUND"},
    {"DELETE", "/snapshots/{snapshot_id}", handle_snapshot_delete, BUFFERED, 0,
     "SNAPSHOT::NOT_FOUND SNAPSHOT::INVALID_STATE SNAPSHOT::DELETE_CONFLICT %::DISK_FULL "
     "OVERLOADED"},
    {"GET", SANDBOX "/diagnostics/logs", handle_diagnostics_logs, BUFFERED, 0, diagnostics_scoped},
    {"GET", SANDBOX "/diagnostics/inspect", handle_diagnostics_inspect, BUFFERED, 0, inspect_codes},
    {"GET", SANDBOX "/diagnostics/events", handle_diagnostics_events, BUFFERED, 0,
     diagnostics_scoped},
    {"GET", SANDBOX "/diagnostics/summary", handle_diagnostics_summary, BUFFERED, 0,
     diagnostics_codes},
    {"GET", SANDBOX "/networkpolicy", handle_policy_get, BUFFERED, 0, policy_codes},
    {"PUT", SANDBOX "/networkpolicy", handle_policy_put, BUFFERED, 0, policy_change_codes},
    {"PATCH", SANDBOX "/networkpolicy", handle_policy_patch, BUFFERED, 0, policy_change_codes},
    {"DELETE", SANDBOX "/networkpolicy", handle_policy_delete, BUFFERED, 0,
     "INVALID_REQUEST SANDBOX::INVALID_PARAMETER %::SANDBOX_NOT_FOUND SANDBOX::PENDING "
     "SANDBOX::NOT_RUNNING BACKEND_CONNECTION_FAILED BACKEND_RESPONSE_FAILED OVERLOADED"},
    {"POST", "/pools", handle_pool_create, BUFFERED, 0, template_codes},
    {"GET", "/pools", handle_pool_list, BUFFERED, 0, ""},
    {"GET", "/pools/{pool_name}", handle_pool_get, BUFFERED, 0, "POOL::NOT_FOUND"},
    {"PUT", "/pools/{pool_name}", handle_pool_update, BUFFERED, 0, update_codes},
    {"DELETE", "/pools/{pool_name}", handle_pool_delete, BUFFERED, 0,
     "POOL::NOT_FOUND %::DISK_FULL OVERLOADED"},
    {"POST", "/templates", handle_template_create, BUFFERED, 0, templates_read},
    {"GET", "/templates", handle_template_list, BUFFERED, 0, templates_read},
    {"GET", "/templates/{template_id}", handle_template, BUFFERED, 0, templates},
    {"DELETE", "/templates/{template_id}", handle_template, BUFFERED, 0, templates},
};

const struct http_route proxy_route = {
    "*", SANDBOX "/proxy/{port}/*", handle_proxy, STREAMED, OPEN, proxy_codes};

static const char *const mounts[] = {"/v1", NULL};

bool api_has_route(struct arena *a, const char *path) {
    const struct http_server_settings s = {
        .routes = routes, .route_count = ARRAY_SIZE(routes), .mounts = mounts};
    struct http_match m = {0};
    return http_router_match(&s, a, "GET", path, &m) == 0 && (m.route || m.allowed);
}

void api_serve(struct api *a, struct http_server_settings *s) {
    http_server_defaults(s);
    s->routes = routes;
    s->route_count = ARRAY_SIZE(routes);
    s->mounts = mounts;
    s->user = a;
    s->default_code = error_code(ERR_INTERNAL_ERROR);
    s->before = api_before;
    s->no_route = api_no_route;
    s->finished = api_finished;
    s->body_max = (size_t)a->config->body_max;
    s->connections_max = (unsigned)a->config->connections_max;
    s->idle_ms = a->config->keep_alive_s * 1000;
}
