// The lifecycle API over HTTP: routes, keys, parsing, rendering. Knows the domain (sandbox/) and no
// engine. Loop thread.
#ifndef SERVER_API_API_H
#define SERVER_API_API_H

#include "base/list.h"
#include "fmt/address.h"
#include "http/exchange.h"
#include "http/server.h"
#include "server/config.h"
#include "server/errors.h"
#include "server/sandbox/lifecycle.h"

struct api {
    const struct config *config;
    const struct config *keys; // of which the API keys hold: config, or a later reading of it
    struct domain *domain;
    struct http_server *server; // set by the caller once it exists
    unsigned features;          // of the runtime (enum runtime_feature)
    struct net *trusted;        // server.trusted_proxies
    size_t trusted_count;
    struct list held; // creates that came before the domain was ready
    bool stopping;    // and those that come from now on are refused
    struct traffic *traffic;
    unsigned upstreams;    // sandboxes that the proxy has reached
    unsigned console_port; // set by the caller; 0: there is no console
};

// Everything given must outlive it. Refuses addresses in server.trusted_proxies that are none.
int api_init(struct api *a, const struct config *c, struct domain *d, unsigned features,
             struct error *err);
void api_serve(struct api *a, struct http_server_settings *s); // fills in routes, hooks and limits
void api_ready(struct api *a); // domain_ready() is true: creates that waited go on
void api_stop(struct api *a);  // the server is to end: whoever waits for it to be ready need not
void api_clear(struct api *a); // after the server was freed

// ---- for the files of this directory ----
static inline struct api *api_of(const struct http_exchange *x) {
    return http_server_user(x->server);
}
// Ends the exchange with an error: Retry-After where one belongs, a log line where it is ours
// (5xx).
void api_fail(struct http_exchange *x, const struct error *err);
void api_refuse(struct http_exchange *x, enum error_id id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// The id of the path when such a sandbox is visible; else NULL and the exchange is over (404).
struct sandbox *api_sandbox(struct http_exchange *x);
bool api_trusts_peer(const struct http_exchange *x); // the client is one of server.trusted_proxies
bool api_is_key(const struct api *a, const char *text, size_t len); // constant time over all keys

// Hooks of the server (auth.c).
bool api_before(struct http_exchange *x);
void api_no_route(struct http_exchange *x, const char *allowed);
void api_finished(struct http_exchange *x);
bool api_has_route(struct arena *a, const char *path); // for any method
// For routes with a sandbox's id, called when the registry lets it go (proxy.c).
void api_release(struct sandbox *sb, void *api);

// Labels of metadata (Kubernetes rules, lifecycle-api.md 5.2); ERR_INVALID_METADATA_LABEL.
int label_check(const char *key, const char *value, struct error *err);
bool label_is_reserved(const char *key);
bool is_dns_label(const char *text, size_t max); // [a-z0-9]([-a-z0-9]*[a-z0-9])?

// JSON of a sandbox, members in the documented order (compat-1.1.1.md L15).
void render_created(const struct sandbox *sb, struct strbuf *o);
void render_sandbox(const struct sandbox *sb, struct strbuf *o);
// The exchange's whole reply is what render() writes.
void api_reply_sandbox(struct http_exchange *x, unsigned status, const struct sandbox *sb,
                       void (*render)(const struct sandbox *sb, struct strbuf *o));

#endif
