// HTTP to a container engine (Docker Engine, Podman) by libcurl: unix socket, tcp, tcp with TLS,
// ssh (through `docker system dial-stdio`). Blocking: workers and the events thread. Any number of
// calls at once; connections are kept.
#ifndef SERVER_RUNTIME_DOCKER_ENGINE_H
#define SERVER_RUNTIME_DOCKER_ENGINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/strbuf.h"

enum { ENGINE_REPLY_MAX = 64 * 1024 * 1024, ENGINE_PATH_MAX = 4096 };
// The versions of the API that we can speak: what we send is the same in all of them.
enum { ENGINE_API_MIN = 40, ENGINE_API_MAX = 47 }; // 1.40, 1.47

struct engine_settings {
    const char *host;      // as DOCKER_HOST; NULL: unix:///var/run/docker.sock
    bool tls;              // as DOCKER_TLS_VERIFY
    const char *cert_path; // as DOCKER_CERT_PATH: ca.pem, cert.pem, key.pem; NULL: ~/.docker
    int64_t stall_ms;      // a call ends when no byte came for so long; 0: 180 s
};

// Ends a call from another thread.
struct engine_stop;
struct engine_stop *engine_stop_new(void);
void engine_stop_free(struct engine_stop *s); // NULL is fine; no call uses it any more
void engine_stop_now(struct engine_stop *s);  // any thread; later calls with it end at once

struct engine_call {
    const char *method, *path; // path with its query, without the version: "/containers/json?all=1"
    const json_t *body;        // NULL: none
    const void *data;          // instead of body: a tar archive
    size_t len;
    const char *registry_auth; // X-Registry-Auth, never logged
    bool bare;                 // the path goes without a version
    bool patient;              // silence is no failure (pulls, events)
    // Every piece of a good reply; -1 ends the call, which then has failed with ECANCELED. Then no
    // JSON is parsed.
    int (*piece)(void *arg, const char *data, size_t len);
    void *arg;
    struct engine_stop *stop; // may be NULL
};

struct engine;
// Checks the address; connects to nothing. err names DOCKER_HOST.
struct engine *engine_new(const struct engine_settings *s, struct error *err);
void engine_free(struct engine *e); // NULL is fine
// Asks for the version and settles on one. Again after the engine was away: it may be another one
// now.
int engine_negotiate(struct engine *e, struct error *err);

// One call. 2xx and 304 are success; *ret (may be NULL) is the reply, NULL when it has no body.
// err kinds: with code DOCKER::UNAVAILABLE EHOSTDOWN (there is no connection: nothing was sent) or
// ENOTCONN (no reply came: who knows what was done), else by status: EINVAL 400,
// EACCES 401 and 403, ENOENT 404, EBUSY 409, ENOTSUP 501, EIO others; the message is the engine's
// own, without a code.
int engine_do(struct engine *e, const struct engine_call *c, json_t **ret, struct error *err);
int engine_get(struct engine *e, json_t **ret, struct error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

bool engine_is_away(const struct error *err); // EHOSTDOWN or ENOTCONN
// A failure that is none, such as ENOENT of a removal: as if the call had worked.
int engine_forgive(struct error *err);
unsigned engine_api(const struct engine *e); // minor version settled on: 41 is 1.41
bool engine_is_podman(const struct engine *e);
bool engine_is_socket(const struct engine *e);     // a unix socket
const char *engine_name(const struct engine *e);   // host of tcp and ssh, "" for a socket
const char *engine_socket(const struct engine *e); // path, "" for others
// argv of ssh up to the remote command, NULL-terminated; NULL when the engine is not reached by
// ssh.
char *const *engine_ssh(const struct engine *e);
// Appends text for a path or query with everything but unreserved characters, '/' and ':' escaped.
void engine_escape(struct strbuf *sb, const char *text);

#endif
