#include "server/runtime/oci/net/guard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/runtime/rules.h"

enum { LOOK_MS = 60000, REPORT_MAX = 4096 };

struct guard {
    const struct firewall *firewall;
    bool repair;
    char last_report[REPORT_MAX]; // told once
    struct rule_watch *watch;
};

static void look_at_others(struct guard *g) {
    cleanup_strbuf struct strbuf report;
    struct error err;
    strbuf_init(&report, REPORT_MAX - 1);
    if (firewall_foreign(g->firewall, g->repair, &report, &err)) {
        log_debug("other firewalls: %s", err.message);
        return;
    }
    if (report.len && strcmp(report.data, g->last_report) != 0)
        log_warning("another firewall drops the packets of sandboxes; remedy: %s", report.data);
    (void)snprintf(g->last_report, sizeof g->last_report, "%s", report.data);
}

static void look_at_ours(const struct guard *g) {
    struct error err;
    if (firewall_intact(g->firewall))
        return;
    if (firewall_load(g->firewall, &err))
        log_error("somebody removed the firewall rules of sandboxes, and they cannot be loaded: %s",
                  err.message);
    else
        log_warning("somebody removed the firewall rules of sandboxes; they are loaded again");
}

static void changed(bool period, void *arg) {
    struct guard *g = arg;
    look_at_ours(g);
    if (period)
        look_at_others(g);
}

struct guard *guard_new(const struct firewall *f, bool repair, struct error *err) {
    struct guard *g = calloc(1, sizeof *g);
    if (!g)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    *g = (struct guard){.firewall = f, .repair = repair};
    look_at_others(g);
    g->watch = rule_watch_new(LOOK_MS, changed, g, err);
    if (g->watch)
        return g;
    free(g);
    return NULL;
}

void guard_free(struct guard *g) {
    if (!g)
        return;
    rule_watch_free(g->watch);
    free(g);
}
