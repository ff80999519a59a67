// Diagnostics over HTTP, in the reference's texts (lifecycle-api.md 11, docker-runtime.md 10) and,
// with `scope`, as JSON (compat-1.1.1.md L4).
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "fmt/json.h"
#include "server/api/api.h"
#include "server/api/fields.h"
#include "server/api/handlers.h"
#include "server/sandbox/diagnose/diagnose.h"

enum { TEXT_MAX = 4 * DIAGNOSE_LOG_MAX, SCOPED_LOG_LINES = 100, SCOPED_EVENT_LINES = 50 };

enum page { PAGE_LOGS, PAGE_INSPECT, PAGE_EVENTS, PAGE_SUMMARY };

struct diagnosing { // lives in the exchange's arena
    struct http_exchange *x;
    enum page page;
    int64_t tail, limit;
    const char *scope; // NULL: plain text
};

// ---- the texts ----

static void add_line(struct strbuf *out, const char *label, unsigned column, const char *value) {
    (void)strbuf_addf(out, "%-*s%s\n", (int)column, label, value);
}

static void add_time(struct strbuf *out, const char *label, unsigned column, int64_t wall_us) {
    char text[CLOCK_TEXT_MAX];
    clock_format(wall_us, text);
    add_line(out, label, column, text);
}

static bool has_ended(const struct sandbox *sb) {
    return sb->state == SANDBOX_TERMINATED || sb->state == SANDBOX_FAILED;
}

// By its name, and by a value that carries a password as URLs do.
static bool is_secret(const struct pair *variable) {
    static const char *const words[] = {"SECRET", "TOKEN",      "PASSWORD", "PASSWD",
                                        "KEY",    "CREDENTIAL", "AUTH",     "DSN"};
    const char *url = strstr(variable->value, "://");
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcasestr(variable->name, words[i]))
            return true;
    return url && strchr(url, '@');
}

static void add_pairs(struct strbuf *out, const char *title, const struct pairs *p, bool masked) {
    if (p->count)
        (void)strbuf_addf(out, "\n%s\n", title);
    for (size_t i = 0; i < p->count; i++)
        (void)strbuf_addf(out, "  %s=%s\n", p->items[i].name,
                          masked && is_secret(&p->items[i]) ? "***" : p->items[i].value);
}

static void add_resources(struct strbuf *out, const struct sandbox_spec *s) {
    if (!s->cpu_millis && !s->memory_bytes && !s->pids)
        return;
    (void)strbuf_adds(out, "\nResources:\n");
    if (s->cpu_millis)
        (void)strbuf_addf(out, "  CPU:          %.2f cores\n", (double)s->cpu_millis / 1000);
    if (s->memory_bytes)
        (void)strbuf_addf(out, "  Memory:       %llu MiB\n",
                          (unsigned long long)(s->memory_bytes >> 20));
    if (s->pids)
        (void)strbuf_addf(out, "  PIDs Limit:   %llu\n", (unsigned long long)s->pids);
}

static void inspect_text(struct strbuf *out, const struct sandbox *sb, const struct diagnosis *g) {
    enum { COLUMN = 16 };
    add_line(out, "Sandbox ID:", COLUMN, sb->id);
    add_line(out, sb->spec->snapshot_id ? "Snapshot:" : "Image:", COLUMN,
             sb->spec->snapshot_id ? sb->spec->snapshot_id : sb->spec->image);
    add_line(out, "Status:", COLUMN, sandbox_state_name(sb->state));
    if (*sb->reason)
        add_line(out, "Reason:", COLUMN, sb->reason);
    if (*sb->message)
        add_line(out, "Message:", COLUMN, sb->message);
    add_time(out, "Created At:", COLUMN, sb->created_us);
    add_time(out, has_ended(sb) ? "Finished At:" : "Changed At:", COLUMN, sb->changed_us);
    if (sb->expires_us)
        add_time(out, "Expires At:", COLUMN, sb->expires_us);
    for (size_t i = 0; i < g->facts.count; i++) {
        char label[20];
        (void)snprintf(label, sizeof label, "%.15s:", g->facts.items[i].name);
        add_line(out, label, COLUMN, g->facts.items[i].value);
    }
    add_resources(out, sb->spec);
    add_pairs(out, "Labels:", &sb->metadata, false);
    add_pairs(out, "Environment:", &sb->spec->env, true);
    if (g->facts_error.kind)
        (void)strbuf_adds(out, "[error] Failed to collect inspect diagnostics.\n");
}

// What its egress refused, newest first.
static void egress_text(struct strbuf *out, const struct diagnosis *g) {
    struct error none;
    cleanup_json json_t *j = json_parse(g->egress.data, g->egress.len, NULL, &none);
    const json_t *list = json_object_get(j, "events");
    if (g->egress_error.kind || (g->egress.len && !list))
        (void)strbuf_adds(out, "[error] Failed to collect egress events.\n");
    for (size_t i = json_array_size(list); i-- > 0;) {
        const json_t *e = json_array_get(list, i);
        const char *time = "", *since = "", *kind = "", *target = "", *by = "", *rule = "",
                   *reason = "";
        json_int_t count = 0;
        (void)json_unpack((json_t *)e, "{s?s,s?s,s?s,s?s,s?s,s?s,s?s,s?I}", "time", &time, "since",
                          &since, "kind", &kind, "target", &target, "by", &by, "rule", &rule,
                          "reason", &reason, "count", &count);
        (void)strbuf_addf(out, "%-12s%s egress refused %s %s", "Event:", time, kind, target);
        if (*by)
            (void)strbuf_addf(out, " by %s%s%s", by, *rule ? " " : "", rule);
        if (*reason)
            (void)strbuf_addf(out, ": %s", reason);
        (void)strbuf_addf(out, " (%lld times since %s)\n", (long long)count, since);
    }
}

// At most `limit` lines of what has happened. Returns how many there are in all.
static int64_t events_text(struct strbuf *out, const struct sandbox *sb, const struct diagnosis *g,
                           int64_t limit) {
    enum { COLUMN = 12 };
    char text[ERROR_MESSAGE_MAX + SANDBOX_REASON_MAX + 8];
    struct strbuf all cleanup_strbuf;
    int64_t lines = 0;
    strbuf_init(&all, 4 << 20);
    add_line(&all, "Container:", COLUMN, sb->id);
    add_line(&all, "Status:", COLUMN, sandbox_state_name(sb->state));
    add_time(&all, "Created:", COLUMN, sb->created_us);
    for (unsigned i = 0; i < sb->phase_count; i++) {
        (void)snprintf(text, sizeof text, "provisioned: %s took %.1f ms", sb->phases[i].name,
                       (double)sb->phases[i].ns / 1e6);
        add_line(&all, "Event:", COLUMN, text);
    }
    if (sb->state != SANDBOX_PENDING)
        add_time(&all, has_ended(sb) ? "Finished:" : "Changed:", COLUMN, sb->changed_us);
    if (*sb->message) {
        (void)snprintf(text, sizeof text, "%s: %s", sb->reason, sb->message);
        add_line(&all, "Event:", COLUMN, text);
    } else if (!sb->phase_count && !g->egress.len) {
        (void)strbuf_adds(&all, "(no notable events)\n");
    }
    egress_text(&all, g);
    for (const char *p = all.data, *end; *p; p = end + 1, lines++) {
        end = strchr(p, '\n');
        if (!end)
            break;
        if (lines < limit)
            (void)strbuf_add(out, p, (size_t)(end + 1 - p));
    }
    return lines;
}

// The last `tail` lines, as UTF-8. Returns how many lines there are in all.
static int64_t log_text(struct strbuf *out, const struct diagnosis *g, int64_t tail) {
    const char *data = g->log.data;
    size_t len = g->log.len;
    int64_t lines = 0, skip;
    if (g->log_error.kind) {
        (void)strbuf_adds(out, "[error] Failed to collect log diagnostics.\n");
        return 1;
    }
    for (size_t i = 0; i < len; i++)
        lines += data[i] == '\n' || i + 1 == len;
    for (skip = lines - tail; skip > 0; skip--) {
        size_t n = (size_t)((const char *)memchr(data, '\n', len) + 1 - data);
        data += n;
        len -= n;
    }
    if (!len)
        (void)strbuf_adds(out, "(no logs)\n");
    else
        (void)utf8_add_lossy(out, data, len);
    return lines;
}

// ---- replies ----

static void chop(struct strbuf *text) {
    if (text->len && text->data[text->len - 1] == '\n')
        text->data[--text->len] = '\0';
}

static void reply_text(struct http_exchange *x, struct strbuf *text, bool deprecated) {
    if (text->failed) {
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
        return;
    }
    if (deprecated)
        (void)http_reply_header(x, "Deprecation", "true");
    http_reply(x, 200, "text/plain; charset=utf-8", text->data, text->len);
}

static void reply_scoped(const struct diagnosing *q, const struct sandbox *sb, struct strbuf *text,
                         bool truncated) {
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:b}", "sandboxId", sb->id, "kind",
                          q->page == PAGE_LOGS ? "logs" : "events", "scope", q->scope, "delivery",
                          "inline", "contentType", "text/plain; charset=utf-8", "content",
                          json_stringn(text->data, text->len), "contentLength",
                          (json_int_t)text->len, "truncated", truncated);
    if (o && strcmp(q->scope, "all") == 0)
        (void)json_object_set_new(o, "warnings",
                                  json_pack("[s]", q->page == PAGE_LOGS
                                                       ? "only the scope container contributed"
                                                       : "only the scope runtime contributed"));
    if (o)
        http_reply_json(q->x, 200, o);
    else
        api_refuse(q->x, ERR_INTERNAL_ERROR, "out of memory");
}

static void add_block(struct strbuf *out, const char *title) {
    static const char rule[] = "----------------------------------------";
    (void)strbuf_addf(out, "\n%s\n%s\n%s\n", rule, title, rule);
}

static void summary_text(struct strbuf *out, const struct diagnosing *q, const struct sandbox *sb,
                         const struct diagnosis *g) {
    static const char rule[] =
        "========================================================================";
    char title[64];
    (void)strbuf_addf(out, "%s\nSANDBOX DIAGNOSTICS SUMMARY\nSandbox ID: %s\n%s\n", rule, sb->id,
                      rule);
    add_block(out, "INSPECT");
    inspect_text(out, sb, g);
    add_block(out, "EVENTS");
    (void)events_text(out, sb, g, q->limit);
    (void)snprintf(title, sizeof title, "LOGS (last %lld lines)", (long long)q->tail);
    add_block(out, title);
    (void)log_text(out, g, q->tail);
    if (out->len && out->data[out->len - 1] != '\n')
        (void)strbuf_addc(out, '\n');
}

static void diagnosed(const struct sandbox *sb, const struct diagnosis *g, const struct error *err,
                      void *arg) {
    const struct diagnosing *q = arg;
    struct strbuf text cleanup_strbuf;
    int64_t lines = 0, most = q->page == PAGE_LOGS ? q->tail : q->limit;
    strbuf_init(&text, TEXT_MAX);
    if (err) {
        api_fail(q->x, err);
        return;
    }
    if (q->page == PAGE_LOGS && g->log_error.kind) {
        api_fail(q->x, &g->log_error);
        return;
    }
    switch (q->page) {
    case PAGE_LOGS: lines = log_text(&text, g, q->tail); break;
    case PAGE_INSPECT: inspect_text(&text, sb, g); break;
    case PAGE_EVENTS: lines = events_text(&text, sb, g, q->limit); break;
    case PAGE_SUMMARY: summary_text(&text, q, sb, g); break;
    }
    if (q->page != PAGE_SUMMARY)
        chop(&text);
    if (q->scope)
        reply_scoped(q, sb, &text, lines > most);
    else
        reply_text(q->x, &text, q->page == PAGE_LOGS || q->page == PAGE_EVENTS);
}

// ---- requests ----

static void read_count(struct problems *p, const struct url_pair *pairs, long count,
                       const char *name, int64_t most, int64_t *value) {
    static const struct place query = {.name = "query"};
    const struct place at = {.in = &query, .name = name};
    const char *text = url_query_last(pairs, count, name);
    int64_t given = *value;
    if (text && !text_int(text, &given))
        problem_add(p, &at, "int_parsing",
                    "Input should be a valid integer, unable to parse string as an integer");
    else if (given < 1)
        problem_add(p, &at, "greater_than_equal", "Input should be greater than or equal to 1");
    else if (given > most)
        problem_add(p, &at, "less_than_equal", "Input should be less than or equal to %lld",
                    (long long)most);
    else
        *value = given;
}

// Trimmed, in lower case, and one that this page has; NULL: it has none such.
static const char *find_scope(enum page page, const char *text) {
    static const char *const scopes[2][2] = {{"container", "all"}, {"runtime", "all"}};
    const char *const *known = scopes[page == PAGE_EVENTS];
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    for (size_t i = 0; i < 2; i++)
        if (strlen(known[i]) == len && strncasecmp(known[i], text, len) == 0)
            return known[i];
    return NULL;
}

static int read_scope(struct diagnosing *q, const struct url_pair *pairs, long count) {
    const char *text = url_query_last(pairs, count, "scope");
    if (!text || (q->page != PAGE_LOGS && q->page != PAGE_EVENTS))
        return 0;
    q->scope = find_scope(q->page, text);
    if (!q->scope) {
        api_refuse(q->x, ERR_DIAGNOSTICS_SCOPE, "scope \"%.40s\": this page has %s and all", text,
                   q->page == PAGE_LOGS ? "container" : "runtime");
        return -1;
    }
    if (q->tail > SCOPED_LOG_LINES)
        q->tail = SCOPED_LOG_LINES;
    if (q->limit > SCOPED_EVENT_LINES)
        q->limit = SCOPED_EVENT_LINES;
    return 0;
}

static void begin(struct http_exchange *x, enum page page, int64_t tail, int64_t limit) {
    struct problems p = {0};
    struct url_pair *pairs = NULL;
    long count = url_query(x->arena, x->query, &pairs);
    struct diagnosing *q = count < 0 ? NULL : arena_alloc(x->arena, sizeof *q);
    if (!q) {
        api_refuse(x, ERR_INVALID_PARAMETER, "the query has too many parameters, or a NUL");
        return;
    }
    *q = (struct diagnosing){.x = x, .page = page, .tail = tail, .limit = limit};
    if (page == PAGE_LOGS || page == PAGE_SUMMARY)
        read_count(&p, pairs, count, "tail", 10000, &q->tail);
    if (page == PAGE_EVENTS || page == PAGE_SUMMARY)
        read_count(&p, pairs, count, page == PAGE_EVENTS ? "limit" : "event_limit", 500, &q->limit);
    if (problems_any(&p)) {
        problems_reply(x, &p);
        return;
    }
    if (read_scope(q, pairs, count) < 0)
        return;
    unsigned parts = (page == PAGE_LOGS || page == PAGE_SUMMARY ? DIAGNOSE_LOG : 0U) |
                     (page == PAGE_INSPECT || page == PAGE_SUMMARY ? DIAGNOSE_FACTS : 0U) |
                     (page == PAGE_EVENTS || page == PAGE_SUMMARY ? DIAGNOSE_EGRESS : 0U);
    diagnose(api_of(x)->domain, http_param(x, "sandbox_id"), parts, diagnosed, q);
}

void handle_diagnostics_logs(struct http_exchange *x) {
    begin(x, PAGE_LOGS, 100, 0);
}
void handle_diagnostics_inspect(struct http_exchange *x) {
    begin(x, PAGE_INSPECT, 0, 0);
}
void handle_diagnostics_events(struct http_exchange *x) {
    begin(x, PAGE_EVENTS, 0, 50);
}
void handle_diagnostics_summary(struct http_exchange *x) {
    begin(x, PAGE_SUMMARY, 50, 20);
}
