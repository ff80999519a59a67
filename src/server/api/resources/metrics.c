// GET /metrics: Prometheus text (exposition format 0.0.4). It needs the key, as everything that
// tells of others' sandboxes; scrapers that cannot send our header send it as a bearer token.
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/parse.h"
#include "server/api/api.h"
#include "server/api/handlers.h"
#include "server/api/resources/traffic.h"
#include "server/sandbox/measure/measure.h"
#include "server/sandbox/pool/pool.h"

enum { PAGE_MAX = 4 * 1024 * 1024 };

static void head(struct strbuf *out, const char *name, const char *type, const char *help) {
    (void)strbuf_addf(out, "# HELP opensandbox_%s %s\n# TYPE opensandbox_%s %s\n", name, help, name,
                      type);
}

static void one(struct strbuf *out, const char *name, const char *type, const char *help,
                uint64_t value) {
    head(out, name, type, help);
    (void)strbuf_addf(out, "opensandbox_%s %llu\n", name, (unsigned long long)value);
}

static void add_counters(struct strbuf *out, const struct domain_metrics *m) {
    const struct {
        const char *name, *help;
        uint64_t value;
    } counters[] = {
        {"creates_total", "Creates that succeeded.", m->creates},
        {"creates_failed_total", "Creates that failed.", m->creates_failed},
        {"creates_refused_total", "Creates that were not accepted.", m->creates_refused},
        {"creates_abandoned_total", "Creates whose client went away.", m->creates_abandoned},
        {"deletes_total", "Deletes that were asked for.", m->deletes},
        {"expired_total", "Sandboxes whose time was over.", m->expired},
        {"exited_total", "Sandboxes that ended by themselves.", m->exited},
        {"removed_total", "Sandboxes of which nothing is left.", m->removed},
        {"teardown_retries_total", "Steps of removals that were tried again.", m->teardown_retries},
        {"pauses_total", "Sandboxes frozen.", m->pauses},
        {"resumes_total", "Sandboxes thawed.", m->resumes},
        {"renewals_total", "Expiries that were moved.", m->renewals},
        {"dials_total", "Connections into sandboxes that were tried.", m->dials},
        {"dials_failed_total", "Connections into sandboxes that failed.", m->dials_failed},
    };
    for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
        one(out, counters[i].name, "counter", counters[i].help, counters[i].value);
}

static void add_states(struct strbuf *out, const struct registry *r) {
    head(out, "sandboxes", "gauge", "Sandboxes by state.");
    for (int s = 0; s < SANDBOX_STATE_COUNT; s++)
        (void)strbuf_addf(out, "opensandbox_sandboxes{state=\"%s\"} %zu\n",
                          sandbox_state_name((enum sandbox_state)s),
                          registry_count_state(r, (enum sandbox_state)s));
}

static void add_creates(struct strbuf *out, const struct measures *m) {
    uint64_t below = 0;
    head(out, "create_seconds", "histogram", "From an accepted create to Running.");
    for (unsigned i = 0; i < MEASURE_BUCKETS; i++) {
        below += m->buckets[i];
        (void)strbuf_addf(out, "opensandbox_create_seconds_bucket{le=\"%g\"} %llu\n",
                          measure_bounds[i], (unsigned long long)below);
    }
    below += m->buckets[MEASURE_BUCKETS];
    (void)strbuf_addf(
        out,
        "opensandbox_create_seconds_bucket{le=\"+Inf\"} %llu\n"
        "opensandbox_create_seconds_sum %.6f\nopensandbox_create_seconds_count %llu\n",
        (unsigned long long)below, (double)m->create_us / 1e6, (unsigned long long)below);
    head(out, "create_phase_seconds", "summary", "Parts of it, as the runtime names them.");
    for (unsigned i = 0; i < m->phase_count; i++)
        (void)strbuf_addf(out,
                          "opensandbox_create_phase_seconds_sum{phase=\"%s\"} %.6f\n"
                          "opensandbox_create_phase_seconds_count{phase=\"%s\"} %llu\n",
                          m->phases[i].name, (double)m->phases[i].ns / 1e9, m->phases[i].name,
                          (unsigned long long)m->phases[i].count);
}

static void add_process(struct strbuf *out) {
    struct rusage u;
    struct error err;
    char text[64], *rest = text;
    uint64_t pages;
    if (getrusage(RUSAGE_SELF, &u) == 0)
        (void)strbuf_addf(out,
                          "# TYPE process_cpu_seconds_total counter\n"
                          "process_cpu_seconds_total %.3f\n",
                          (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                              (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    if (fd_read_text(AT_FDCWD, "/proc/self/statm", text, sizeof text, &err) < 0 ||
        !strsep(&rest, " ") || !rest)
        return;
    const char *resident = strsep(&rest, " ");
    if (parse_u64(resident, 0, INT64_MAX / 4096, &pages) == 0)
        (void)strbuf_addf(out,
                          "# TYPE process_resident_memory_bytes gauge\n"
                          "process_resident_memory_bytes %llu\n",
                          (unsigned long long)pages * (unsigned long long)sysconf(_SC_PAGESIZE));
}

static bool add_pool(const struct pool *p, void *arg) {
    (void)strbuf_addf(arg,
                      "opensandbox_pool_sandboxes{pool=\"%s\",state=\"ready\"} %zu\n"
                      "opensandbox_pool_sandboxes{pool=\"%s\",state=\"making\"} %zu\n"
                      "opensandbox_pool_sandboxes{pool=\"%s\",state=\"allocated\"} %zu\n",
                      p->name, p->ready_count, p->name, p->making_count, p->name, p->allocated);
    return true;
}

void handle_metrics(struct http_exchange *x) {
    const struct api *a = api_of(x);
    const struct measure_load load = domain_load(a->domain);
    struct strbuf out cleanup_strbuf;
    strbuf_init(&out, PAGE_MAX);
    head(&out, "build_info", "gauge", "Version and runtime.");
    (void)strbuf_addf(&out, "opensandbox_build_info{version=\"%s\",runtime=\"%s\"} 1\n",
                      OPENSANDBOX_VERSION, a->config->runtime);
    add_states(&out, domain_registry(a->domain));
    add_creates(&out, domain_measures(a->domain));
    add_counters(&out, domain_metrics(a->domain));
    head(&out, "pool_sandboxes", "gauge", "Sandboxes of pools; sandboxes counts them too.");
    pools_each(a->domain, add_pool, &out);
    one(&out, "creates_waiting", "gauge", "Accepted creates that wait for image or turn.",
        load.creates - load.provisioning);
    one(&out, "creates_running", "gauge", "Creates that are being provisioned.", load.provisioning);
    one(&out, "operations", "gauge", "Operations under way or waiting.", load.operations);
    one(&out, "store_commits_total", "counter", "Transactions of the store.", load.store_commits);
    one(&out, "proxy_upstreams", "gauge", "Sandboxes that the proxy has reached.", a->upstreams);
    traffic_text(a->traffic, &out);
    add_process(&out);
    if (out.failed)
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
    else
        http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
}
