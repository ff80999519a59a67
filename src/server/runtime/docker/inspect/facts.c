// What diagnoses show of a sandbox, as the engine tells it at that moment (docker-runtime.md
// section 10). At any time, also beside another call for it: nothing of ours is read but the
// engine.
#include "server/runtime/docker/inspect/facts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/errors.h"

enum { LINE_MAX_BYTES = 512 };

// Our names for the members of State; a boolean is told when it is true, a time when there was one.
static int add_state(struct pairs *ret, const json_t *state) {
    static const char *const members[][2] = {
        {"Running", "Running"},     {"Paused", "Paused"},      {"OOMKilled", "OOMKilled"},
        {"Process", "Pid"},         {"Exit Code", "ExitCode"}, {"Started At", "StartedAt"},
        {"Ended At", "FinishedAt"}, {"Error", "Error"}};
    bool running = json_is_true(json_object_get(state, "Running"));
    int r = 0;
    for (size_t i = 0; i < ARRAY_SIZE(members) && !r; i++) {
        const char *name = members[i][0], *text;
        const json_t *value = json_object_get(state, members[i][1]);
        char line[LINE_MAX_BYTES];
        if (json_is_true(value)) {
            r = pairs_add(ret, name, "True");
        } else if (json_is_integer(value)) {
            bool told = strcmp(name, "Exit Code") == 0 ? !running : json_integer_value(value) > 0;
            (void)snprintf(line, sizeof line, "%lld", (long long)json_integer_value(value));
            r = told ? pairs_add(ret, name, line) : 0;
        } else if ((text = json_string_value(value)) && *text && strncmp(text, "0001-", 5) != 0) {
            (void)snprintf(line, sizeof line, "%.500s", text);
            line[strcspn(line, "\r\n")] = '\0';
            r = pairs_add(ret, name, line);
        }
    }
    return r;
}

static int add_networks(struct pairs *ret, const json_t *settings) {
    char line[LINE_MAX_BYTES] = "";
    json_t *networks = json_object_get(settings, "Networks"), *one;
    const char *name;
    json_object_foreach(networks, name, one) {
        const char *address = json_string_value(json_object_get(one, "IPAddress"));
        size_t n = strlen(line);
        (void)snprintf(line + n, sizeof line - n, "%s%.100s%s%.60s", n ? ", " : "", name,
                       address && *address ? " " : "", address ? address : "");
    }
    return *line ? pairs_add(ret, "Network", line) : 0;
}

static int add_ports(struct pairs *ret, const json_t *settings) {
    char line[LINE_MAX_BYTES] = "";
    json_t *ports = json_object_get(settings, "Ports"), *bindings;
    const char *port;
    json_object_foreach(ports, port, bindings) {
        const json_t *b = json_array_get(bindings, 0);
        const char *ip = json_string_value(json_object_get(b, "HostIp")),
                   *host = json_string_value(json_object_get(b, "HostPort"));
        size_t n = strlen(line);
        if (ip && host)
            (void)snprintf(line + n, sizeof line - n, "%s%.20s -> %.60s:%.8s", n ? ", " : "", port,
                           ip, host);
    }
    return *line ? pairs_add(ret, "Ports", line) : 0;
}

static int add_all(struct pairs *ret, const json_t *container) {
    const char *id = json_string_value(json_object_get(container, "Id"));
    const json_t *settings = json_object_get(container, "NetworkSettings");
    char line[16];
    (void)snprintf(line, sizeof line, "%.12s", id ? id : "?");
    return pairs_add(ret, "Container ID", line) ||
                   add_state(ret, json_object_get(container, "State")) ||
                   add_networks(ret, settings) || add_ports(ret, settings)
               ? -1
               : 0;
}

int docker_facts(struct docker *d, const char *id, struct pairs *ret, struct error *err) {
    cleanup_json json_t *container = NULL;
    if (engine_get(d->engine, &container, err, "/containers/sandbox-%s/json", id))
        return err->kind == ENOENT
                   ? error_server(err, ERR_R_SANDBOX_NOT_FOUND, "the engine has no sandbox %s", id)
                   : -1;
    return add_all(ret, container) ? error_set(err, ENOMEM, "out of memory") : 0;
}
