#include "server/runtime/oci/net/firewall.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "io/spawn.h"

enum { RULES_MAX = 256 * 1024, LIST_MAX = 4 * 1024 * 1024, NFT_MS = 30000 };

// Always closed: this host, loopback, link-local and metadata services, multicast.
static const char denied4[] = "0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 100.100.100.200, "
                              "192.0.0.192, 168.63.129.16, 224.0.0.0/4, "
                              "240.0.0.0/4";

// %1$s: table, %2$s: beginning of link names, %3$s: pool, %4$u: user who fetches images.
static const char rules[] =
    "add table inet %1$s { comment \"opensandbox\"; }\n"
    "add set inet %1$s deny4 { type ipv4_addr; flags interval; auto-merge; }\n"
    "add set inet %1$s dns4 { type ipv4_addr; }\n"
    "add chain inet %1$s pre { type filter hook prerouting priority raw; policy accept; }\n"
    "add chain inet %1$s input { type filter hook input priority filter - 10; policy accept; }\n"
    "add chain inet %1$s forward { type filter hook forward priority filter - 10; policy accept; "
    "}\n"
    "add chain inet %1$s out_of_sandbox\n"
    "add chain inet %1$s post { type nat hook postrouting priority srcnat + 10; policy accept; }\n"
    "add chain inet %1$s output { type filter hook output priority filter; policy accept; }\n"
    "flush chain inet %1$s pre\n"
    "flush chain inet %1$s input\n"
    "flush chain inet %1$s forward\n"
    "flush chain inet %1$s out_of_sandbox\n"
    "flush chain inet %1$s post\n"
    "flush chain inet %1$s output\n"
    "flush set inet %1$s deny4\n"
    "flush set inet %1$s dns4\n"
    // before connection tracking: no IPv6, and only the address that we gave to the link it comes
    // from
    "add rule inet %1$s pre iifname \"%2$s*\" meta nfproto ipv6 counter drop\n"
    "add rule inet %1$s pre iifname \"%2$s*\" fib saddr . iif oif 0 counter drop\n"
    "add rule inet %1$s pre iifname \"%2$s*\" ip daddr 127.0.0.0/8 counter drop\n"
    // nothing on the host answers a sandbox, on none of the host's addresses; replies to the
    // server's own dials pass
    "add rule inet %1$s input iifname \"%2$s*\" ct state established,related accept\n"
    "add rule inet %1$s input iifname \"%2$s*\" counter drop\n"
    "add rule inet %1$s forward iifname \"%2$s*\" jump out_of_sandbox\n"
    "add rule inet %1$s forward oifname \"%2$s*\" ct state established,related accept\n"
    "add rule inet %1$s forward oifname \"%2$s*\" counter drop\n"
    "add rule inet %1$s out_of_sandbox ct state established,related accept\n"
    "add rule inet %1$s out_of_sandbox ct state invalid counter drop\n"
    "add rule inet %1$s out_of_sandbox oifname \"%2$s*\" counter drop\n"
    "add rule inet %1$s out_of_sandbox ip daddr @dns4 meta l4proto { tcp, udp } th dport 53 "
    "accept\n"
    "add rule inet %1$s out_of_sandbox ip daddr @deny4 counter reject with icmpx admin-prohibited\n"
    "add rule inet %1$s out_of_sandbox accept\n"
    "add rule inet %1$s post ip saddr %3$s oifname != \"%2$s*\" masquerade\n"
    // a registry may redirect to anywhere; names are resolved wherever the host does
    "add rule inet %1$s output meta skuid %4$u meta l4proto { tcp, udp } th dport 53 accept\n"
    "add rule inet %1$s output meta skuid %4$u fib daddr type local counter reject with icmpx "
    "admin-prohibited\n"
    "add rule inet %1$s output meta skuid %4$u ip daddr @deny4 counter reject with icmpx "
    "admin-prohibited\n"
    "add rule inet %1$s output meta skuid %4$u ip daddr { 10.0.0.0/8, 100.64.0.0/10, "
    "172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15 } counter reject with icmpx "
    "admin-prohibited\n"
    "add rule inet %1$s output meta skuid %4$u ip6 daddr != 2000::/3 counter reject with icmpx "
    "admin-prohibited\n";

static void table_name(const struct firewall *f, char name[16]) {
    (void)snprintf(name, 16, "osb_%s", f->instance);
}

void firewall_rules(const struct firewall *f, struct strbuf *sb) {
    char table[16];
    table_name(f, table);
    (void)strbuf_addf(sb, rules, table, f->prefix, f->pool, f->fetch_id);
    (void)strbuf_addf(sb, "add element inet %s deny4 { %s, %s", table, denied4, f->pool);
    for (oci_list p = f->deny; p && *p; p++)
        if (!strchr(*p, ':')) // sandboxes speak no IPv6
            (void)strbuf_addf(sb, ", %s", *p);
    (void)strbuf_adds(sb, " }\n");
    if (*f->resolvers)
        (void)strbuf_addf(sb, "add element inet %s dns4 { %s }\n", table, f->resolvers);
}

static int run_nft(const char *const *arguments, const struct strbuf *input, struct strbuf *out,
                   struct error *err) {
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    const char *argv[12] = {"nft"};
    for (size_t i = 0; i < 10 && arguments[i]; i++)
        argv[i + 1] = arguments[i];
    cleanup_strbuf struct strbuf errors;
    struct exit_status status;
    struct spawn s = {.argv = (char *const *)argv,
                      .envp = environment,
                      .stdio = {-1, -1, -1},
                      .exec_fd = -1,
                      .flags = SPAWN_NEW_GROUP | SPAWN_SEARCH_PATH};
    strbuf_init(&errors, 4096);
    if (spawn_run(&s, input ? input->data : NULL, input ? input->len : 0, out, &errors, NFT_MS,
                  &status, err))
        return error_wrap(err, "nft");
    if (!status.code && !status.signal)
        return 0;
    errors.data[strcspn(errors.data, "\n")] = '\0';
    return error_set(err, EPROTO, "nft: %s",
                     *errors.data ? errors.data : "failed without a message");
}

int firewall_load(const struct firewall *f, struct error *err) {
    static const char *const arguments[] = {"-f", "-", NULL};
    cleanup_strbuf struct strbuf text;
    strbuf_init(&text, RULES_MAX);
    firewall_rules(f, &text);
    if (text.failed)
        return error_set(err, E2BIG, "oci.deny is too long");
    return run_nft(arguments, &text, NULL, err);
}

static unsigned count_of(const char *text, const char *what) {
    unsigned n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

// Whoever removes rules removes mentions of our links, drops or sets; what is listed has as many as
// what was loaded.
bool firewall_intact(const struct firewall *f) {
    static const char *const marks[] = {" hook ",  " drop",   "accept",    "@deny4",
                                        " reject", " skuid ", "masquerade"};
    char table[16];
    struct error ignored;
    cleanup_strbuf struct strbuf is, should;
    table_name(f, table);
    const char *const arguments[] = {"list", "table", "inet", table, NULL};
    strbuf_init(&is, LIST_MAX);
    strbuf_init(&should, RULES_MAX);
    firewall_rules(f, &should);
    if (run_nft(arguments, NULL, &is, &ignored) ||
        count_of(is.data, f->prefix) != count_of(should.data, f->prefix))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(marks); i++)
        if (count_of(is.data, marks[i]) != count_of(should.data, marks[i]))
            return false;
    return true;
}

void firewall_unload(const struct firewall *f) {
    char table[16];
    struct error ignored;
    table_name(f, table);
    const char *const arguments[] = {"delete", "table", "inet", table, NULL};
    (void)run_nft(arguments, NULL, NULL, &ignored);
}

// ---- other people's firewalls ----

static json_t *list_chains(struct error *err) {
    static const char *const arguments[] = {"-j", "list", "chains", NULL};
    cleanup_strbuf struct strbuf out;
    strbuf_init(&out, LIST_MAX);
    if (run_nft(arguments, NULL, &out, err))
        return NULL;
    return json_parse(out.data, out.len, NULL, err);
}

static bool member_is(const json_t *j, const char *name, const char *value) {
    const char *text = json_string_value(json_object_get(j, name));
    return text && !strcmp(text, value);
}

static const json_t *chain_at(const json_t *list, size_t i) {
    return json_object_get(json_array_get(list, i), "chain");
}

// Where to put our accepts for a dropping chain: Docker keeps DOCKER-USER for others, everything
// else is rewritten by it.
static const char *target_chain(const json_t *list, const json_t *chain) {
    const char *family = json_string_value(json_object_get(chain, "family")),
               *table = json_string_value(json_object_get(chain, "table"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = chain_at(list, i);
        if (member_is(c, "name", "DOCKER-USER") && member_is(c, "family", family) &&
            member_is(c, "table", table))
            return "DOCKER-USER";
    }
    return json_string_value(json_object_get(chain, "name"));
}

// Two plain accepts: our own chain has decided before; a rule with `ct` would break iptables
// (pitfall 26).
static int open_chain(const struct firewall *f, const json_t *list, const json_t *chain,
                      bool repair, struct strbuf *report, struct error *err) {
    const char *family = json_string_value(json_object_get(chain, "family")),
               *table = json_string_value(json_object_get(chain, "table"));
    const char *target = target_chain(list, chain);
    char match[2][LINK_PREFIX_SIZE + 4];
    cleanup_strbuf struct strbuf there;
    const char *const show[] = {"list", "chain", family, table, target, NULL};
    strbuf_init(&there, LIST_MAX);
    (void)snprintf(match[0], sizeof match[0], "\"%s*\"", f->prefix);
    if (run_nft(show, NULL, &there, err))
        return -1;
    if (strstr(there.data, match[0]))
        return 0; // ours are in it
    static const char *const sides[] = {"iifname", "oifname"};
    for (size_t i = 0; i < ARRAY_SIZE(sides); i++) {
        const char *const insert[] = {"insert", "rule",   family,   table, target,
                                      sides[i], match[0], "accept", NULL};
        struct error refusal; // the report has the command
        if (!repair || run_nft(insert, NULL, NULL, &refusal))
            (void)strbuf_addf(report, "%snft insert rule %s %s %s %s '%s' accept",
                              report->len ? "; " : "", family, table, target, sides[i], match[0]);
    }
    return 0;
}

int firewall_foreign(const struct firewall *f, bool repair, struct strbuf *report,
                     struct error *err) {
    char own[16];
    table_name(f, own);
    cleanup_json json_t *all = list_chains(err);
    if (!all)
        return -1;
    const json_t *list = json_object_get(all, "nftables");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = chain_at(list, i);
        if (!member_is(c, "hook", "forward") || !member_is(c, "policy", "drop") ||
            member_is(c, "table", own) ||
            !(member_is(c, "family", "ip") || member_is(c, "family", "inet")))
            continue;
        if (open_chain(f, list, c, repair, report, err))
            return -1;
    }
    return 0;
}
