// egress: the network policy of one sandbox. `egress` is the supervisor, `egress worker` the
// worker: rules first, answers second, the API last. Nothing here takes a rule away.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "egress/egress.h"
#include "egress/join.h"
#include "egress/park.h"
#include "egress/supervisor.h"
#include "fmt/json.h"
#include "io/signals.h"

enum { DRAIN_MS = 5000 };

struct program {
    struct egress e;
    struct signal_watch stop[2];
    bool stopping;
};

static void start_log(int fd) {
    const char *name = getenv("OPENSANDBOX_EGRESS_LOG_LEVEL");
    enum log_level level = LOG_LEVEL_INFO;
    (void)log_level_parse(name && *name ? name : "info", &level); // unknown: info
    log_configure(level, LOG_FORMAT_JSON, fd);
}

static void on_drained(void *arg) {
    loop_stop(&((struct program *)arg)->e.loop);
}

static void on_stop(struct signal_watch *w, int number) {
    struct program *p = CONTAINER_OF(w - (number == SIGINT), struct program, stop[0]);
    if (p->stopping)
        return;
    p->stopping = true;
    log_info("stopping; the rules stay in place");
    http_server_drain(p->e.http, DRAIN_MS, on_drained, p);
}

// Closed before anything else, and before any policy could be wrong.
static int start_closed(struct egress *e, struct error *err) {
    if (firewall_init(&e->firewall, &e->options, err) < 0 ||
        firewall_load(&e->firewall, &e->options, err) < 0)
        return -1;
    learned_init(&e->learned, &e->firewall);
    return 0;
}

static int start(struct program *p, struct error *err) {
    struct egress *e = &p->e;
    static const int numbers[] = {SIGTERM, SIGINT};
    e->forwarder.mark = e->firewall.mark;
    e->forwarder.time_out_ms = e->options.time_out_ms;
    e->forwarder.probe_every_ms = e->options.probe_every_ms;
    memcpy(e->forwarder.probe_name, e->options.probe_name, sizeof e->forwarder.probe_name);
    if (egress_load_files(e, err) < 0 || egress_load_policy(e, err) < 0 || proxy_start(e, err) < 0)
        return -1;
    if (webhook_start(&e->webhook, &e->loop, &e->forwarder, &e->firewall, e->options.webhook,
                      e->options.sandbox_id, err) < 0)
        return -1;
    if (egress_enforce(e, NULL, err) < 0)
        return -1;
    struct error why;
    if (e->options.nft && drops_start(&e->drops, &e->loop, egress_dropped, e, &why) < 0)
        log_warning("refused packets are only counted: %s", why.message);
    forward_start(&e->forwarder, &e->loop);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        if (signal_watch_start(&e->loop, &p->stop[i], numbers[i], on_stop) < 0)
            return error_errno(err, errno, "watch for signals");
    egress_start_ticking(e);
    return api_start(e, err);
}

static void tell_loaded(struct egress *e) {
    json_t *rules = policy_rules_json(&e->policy);
    events_log(&e->events, LOG_LEVEL_INFO, "loaded",
               json_pack("{s:s,s:s,s:o*}", "opensandbox.event", "egress.loaded", "egress.default",
                         e->policy.allow ? "allow" : "deny", "rules", rules));
    for (size_t i = 0; !e->options.nft && i < e->policy.count; i++)
        if (e->policy.rules[i].kind == RULE_NET) {
            log_warning("mode dns: address rules have no effect");
            break;
        }
}

static void finish(struct program *p) {
    struct egress *e = &p->e;
    timer_stop(&e->tick);
    http_server_free(e->http);
    webhook_stop(&e->webhook);
    drops_stop(&e->drops);
    proxy_stop(e);
    if (e->forwarder.loop)
        forward_stop(&e->forwarder);
    for (size_t i = 0; i < ARRAY_SIZE(p->stop); i++)
        signal_watch_stop(&p->stop[i]);
    if (loop_close(&e->loop) != 0)
        log_error("a handle was left open");
    learned_clear(&e->learned);
    firewall_clear(&e->firewall);
    index_clear(&e->index);
    index_clear(&e->quiet);
    policy_clear(&e->policy);
    policy_clear(&e->always[0].rules);
    policy_clear(&e->always[1].rules);
    policy_clear(&e->log_skip.rules);
    events_clear(&e->events);
    options_clear(&e->options);
}

static int read_options(struct egress *e, struct error *err) {
    if (options_read(&e->options, err) < 0)
        return -1;
    start_log(e->options.log_fd);
    events_init(&e->events, e->options.attributes, e->options.log_fd);
    return 0;
}

// Nobody had a use for us so far: waits, and takes what the owner wants.
static int take_owner(struct egress *e, struct error *err) {
    bool nft = e->options.nft, doh = e->options.block_doh;
    if (park_wait(e->options.listen_fd, err) < 0)
        return -1;
    int known = park_settings(err);
    if (known <= 0)
        return known < 0 ? -1 : error_set(err, EINVAL, "somebody connected, and left no settings");
    options_clear(&e->options);
    if (read_options(e, err) < 0)
        return -1;
    bool same = nft == e->options.nft && !doh && !e->options.block_doh;
    return same ? 0 : firewall_load(&e->firewall, &e->options, err); // other rules than those
}

// Closed from here on, or an exit code.
static int begin(struct egress *e, struct error *err) {
    int known = park_settings(err);
    if (known < 0 || read_options(e, err) < 0)
        return SUPERVISOR_SETUP;
    if (start_closed(e, err) < 0)
        return err->kind == EPERM ? SUPERVISOR_NO_RIGHT : 1;
    if (!known && take_owner(e, err) < 0)
        return SUPERVISOR_SETUP;
    return 0;
}

static int worker(void) {
    static struct program p; // zeroed, and not on the stack
    struct egress *e = &p.e;
    struct error err;
    (void)prctl(PR_SET_DUMPABLE, 0); // the token is nobody else's
    start_log(1);
    json_init();
    signals_init();
    (void)signal(SIGXFSZ, SIG_IGN); // a log that is full stops nothing
    int code = begin(e, &err);
    if (code) {
        log_error("%s", err.message);
        return code;
    }
    if (loop_init(&e->loop, &err) < 0 || start(&p, &err) < 0) {
        log_error("%s", err.message); // what was opened ends with the process; the rules do not
        return err.kind == EINVAL || err.kind == ENOTSUP ? SUPERVISOR_SETUP : 1;
    }
    tell_loaded(e);
    loop_run(&e->loop);
    finish(&p);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "worker"))
        return worker();
    if (argc > 1) {
        dprintf(2, "usage: %s    the environment says the rest (docs/network-policy.md)\n",
                argv[0]);
        return SUPERVISOR_SETUP;
    }
    struct error err;
    if (join_namespaces(&err) < 0 || api_hold(&err) < 0) {
        start_log(2);
        log_error("%s", err.message);
        return SUPERVISOR_SETUP;
    }
    return supervisor_run("/proc/self/exe");
}
