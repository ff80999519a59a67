#include "server/sandbox/renew/renew.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parse.h"
#include "server/sandbox/domain.h"

enum { EXTEND_MAX_S = 86400 };

struct renewal {
    struct domain *domain;
    char id[SANDBOX_ID_SIZE];
    const char *source;
};

static void renewed(const struct sandbox *told, const struct error *err, void *arg) {
    struct renewal *r = arg;
    struct domain *d = r->domain;
    struct sandbox *sb = registry_get(d->registry, r->id);
    (void)told;
    if (sb)
        sb->access_renewing = false;
    if (err)
        log_warning("renew_intent renew_error=\"%s\" renew_event=renew_failed renew_sandbox_id=%s "
                    "renew_source=%s",
                    err->message, r->id, r->source);
    else
        log_info("renew_intent renew_event=renew_succeeded renew_sandbox_id=%s renew_source=%s",
                 r->id, r->source);
    if (sb && !err)
        sb->access_next_ms = clock_boot_ms() + d->settings.renew_interval_s * 1000;
    free(r);
}

void renew_access(struct domain *d, struct sandbox *sb, const char *source) {
    uint64_t seconds;
    if (!d->settings.renew_on_access || sb->access_renewing || !sb->expires_us ||
        sb->state != SANDBOX_RUNNING || sb->access_next_ms > clock_boot_ms())
        return;
    const char *text = pairs_get(&sb->spec->extensions, RENEW_EXTENSION);
    if (!text || parse_u64(text, 1, EXTEND_MAX_S, &seconds) < 0)
        return;
    int64_t at_us = clock_wall_us() + (int64_t)seconds * 1000000;
    if (at_us <= sb->expires_us) // it has longer than that
        return;
    struct renewal *r = calloc(1, sizeof *r);
    if (!r)
        return; // the next access tries again
    *r = (struct renewal){.domain = d, .source = source};
    (void)snprintf(r->id, sizeof r->id, "%s", sb->id);
    sb->access_renewing = true;
    lifecycle_renew(d, r->id, at_us, renewed, r);
}
