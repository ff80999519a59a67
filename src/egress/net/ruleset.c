// The text of the rules. Sets, maps and the default verdict are filled by firewall.c.
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "egress/net/firewall.h"
#include "egress/options.h"

// %1$u: mark of our own packets.
static const char redirect[] =
    "  set up_v4 { type ipv4_addr . inet_proto . inet_service; }\n"
    "  set up_v6 { type ipv6_addr . inet_proto . inet_service; }\n"
    "  set up_addr_v4 { type ipv4_addr; }\n"
    "  set up_addr_v6 { type ipv6_addr; }\n"
    "  set exempt_v4 { type ipv4_addr; }\n"
    "  set exempt_v6 { type ipv6_addr; }\n"
    // our own flows are tracked apart: a port that the sandbox uses next is not taken for ours
    "  chain apart { type filter hook output priority -300; policy accept;\n"
    "    meta mark %1$u ct original zone set 1\n"
    "  }\n"
    "  chain nat_out { type nat hook output priority -100; policy accept;\n"
    "    meta mark %1$u ip daddr . meta l4proto . th dport @up_v4 return\n"
    "    meta mark %1$u ip6 daddr . meta l4proto . th dport @up_v6 return\n"
    "    ip daddr @exempt_v4 meta l4proto { tcp, udp } th dport 53 return\n"
    "    ip6 daddr @exempt_v6 meta l4proto { tcp, udp } th dport 53 return\n"
    "    udp dport 53 redirect to :15353\n"
    "    tcp dport 53 redirect to :15353\n"
    "  }\n"
    // answers that pretend to come from an upstream cannot come over the loopback; what the sandbox
    // asked that address itself was redirected, and its answer does
    "  chain input { type filter hook input priority 0; policy accept;\n"
    "    iifname \"lo\" ip saddr @up_addr_v4 ip saddr . meta l4proto . th sport @up_v4 ct status "
    "and dnat == 0 counter name forged drop\n"
    "    iifname \"lo\" ip6 saddr @up_addr_v6 ip6 saddr . meta l4proto . th sport @up_v6 ct status "
    "and dnat == 0 counter name forged drop\n"
    "    iifname \"lo\" accept\n"
    "    ct state new tcp flags & (syn|ack|fin|rst) != syn drop\n"
    "  }\n";

// %1$u: mark of our own packets, %2$u: stamp of admitted ones.
static const char filter[] =
    "  set live { type mark; }\n"
    "  map generation { type nf_proto : mark; }\n"
    "  map default { type nf_proto : verdict; }\n"
    "  set allow_v4 { type ipv4_addr; flags interval; }\n"
    "  set deny_v4 { type ipv4_addr; flags interval; }\n"
    "  set allow_v6 { type ipv6_addr; flags interval; }\n"
    "  set deny_v6 { type ipv6_addr; flags interval; }\n"
    "  set dyn_allow_v4 { type ipv4_addr; flags timeout; timeout 360s; size 65536; }\n"
    "  set dyn_allow_v6 { type ipv6_addr; flags timeout; timeout 360s; size 65536; }\n"
    "  chain admit { ct mark set meta nfproto map @generation meta mark set %2$u accept; }\n"
    "  chain refuse {\n"
    "    counter name dropped_default\n"
    "%4$s"
    "    meta l4proto tcp reject with tcp reset\n"
    "    reject with icmpx type admin-prohibited\n"
    "  }\n"
    "  chain denied {\n"
    "    counter name dropped_deny\n"
    "%5$s"
    "    meta l4proto tcp reject with tcp reset\n"
    "    reject with icmpx type admin-prohibited\n"
    "  }\n"
    "  chain judge {\n"
    "    meta l4proto { tcp, udp } th dport 853 goto denied\n"
    "%3$s"
    "    ip daddr @deny_v4 goto denied\n"
    "    ip6 daddr @deny_v6 goto denied\n"
    "    ip daddr @exempt_v4 meta l4proto { tcp, udp } th dport 53 goto admit\n"
    "    ip6 daddr @exempt_v6 meta l4proto { tcp, udp } th dport 53 goto admit\n"
    "    ip daddr @dyn_allow_v4 goto admit\n"
    "    ip6 daddr @dyn_allow_v6 goto admit\n"
    "    ip daddr @allow_v4 goto admit\n"
    "    ip6 daddr @allow_v6 goto admit\n"
    "    meta nfproto vmap @default\n"
    "    goto refuse\n"
    "  }\n"
    "  chain egress { type filter hook output priority 0; policy drop;\n"
    "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, "
    "mld2-listener-report } meta mark set %2$u accept\n"
    "    oifname \"lo\" accept\n"
    "    ct status dnat ip daddr 127.0.0.1 meta l4proto { tcp, udp } th dport 15353 accept\n"
    "    ct status dnat ip6 daddr ::1 meta l4proto { tcp, udp } th dport 15353 accept\n"
    "    meta mark %1$u ip daddr . meta l4proto . th dport @up_v4 meta mark set %2$u accept\n"
    "    meta mark %1$u ip6 daddr . meta l4proto . th dport @up_v6 meta mark set %2$u accept\n"
    "    meta mark %1$u goto refuse\n"
    "    ct direction reply ct state established,related meta mark set %2$u accept\n"
    "    ct state established,related ct mark @live meta mark set %2$u accept\n"
    "    goto judge\n"
    "  }\n"
    "  chain forward { type filter hook forward priority 0; policy drop;\n"
    "    ct direction reply ct state established,related meta mark set %2$u accept\n"
    "    ct state established,related ct mark @live meta mark set %2$u accept\n"
    "    goto judge\n"
    "  }\n";

static void add_doh(const struct options *o, struct strbuf *sb) {
    static const char *const names[] = {"ip", "ip6"};
    if (!o->block_doh)
        return;
    if (!o->doh[0].count && !o->doh[1].count) {
        (void)strbuf_adds(sb, "    meta l4proto { tcp, udp } th dport 443 goto denied\n");
        return;
    }
    for (int v6 = 0; v6 < 2; v6++)
        for (size_t i = 0; i < o->doh[v6].count; i++) {
            char text[NET_TEXT_MAX];
            net_format(&o->doh[v6].nets[i], text);
            (void)strbuf_addf(
                sb, "    %s daddr %s meta l4proto { tcp, udp } th dport 443 goto denied\n",
                names[v6], text);
        }
}

// Every link but the loopback: frames that no rule has stamped do not leave, whoever wrote them.
static void add_netdev(const struct firewall *f, struct strbuf *sb) {
    struct if_nameindex *links = if_nameindex();
    (void)strbuf_adds(sb, "add table netdev " FIREWALL_NETDEV "\n"
                          "delete table netdev " FIREWALL_NETDEV "\n"
                          "table netdev " FIREWALL_NETDEV " {\n");
    for (size_t i = 0; links && links[i].if_index; i++)
        if (strcmp(links[i].if_name, "lo") != 0 && !strpbrk(links[i].if_name, "\"\\\n"))
            (void)strbuf_addf(sb,
                              "  chain link%zu { type filter hook egress device \"%s\" priority 0; "
                              "policy drop;\n    ether type arp accept\n"
                              "    meta mark %u accept\n  }\n",
                              i, links[i].if_name, f->stamp);
    if (links)
        if_freenameindex(links);
    (void)strbuf_adds(sb, "}\n");
}

void firewall_rules(const struct firewall *f, const struct options *o, unsigned parts,
                    struct strbuf *sb) {
    static const char log_default[] =
        "    limit rate 20/second burst 40 packets log group 15353 prefix \"default\" snaplen 96\n";
    static const char log_deny[] =
        "    limit rate 20/second burst 40 packets log group 15353 prefix \"deny\" snaplen 96\n";
    bool log = parts & FIREWALL_LOG;
    cleanup_strbuf struct strbuf doh;
    strbuf_init(&doh, FIREWALL_RULES_MAX);
    add_doh(o, &doh);
    (void)strbuf_adds(sb, "add table inet " FIREWALL_TABLE "\n"
                          "delete table inet " FIREWALL_TABLE "\n"
                          "table inet " FIREWALL_TABLE " {\n"
                          "  counter forged { }\n"
                          "  counter dropped_default { }\n"
                          "  counter dropped_deny { }\n");
    (void)strbuf_addf(sb, redirect, f->mark);
    if (o->nft)
        (void)strbuf_addf(sb, filter, f->mark, f->stamp, doh.data, log ? log_default : "",
                          log ? log_deny : "");
    (void)strbuf_adds(sb, "}\n");
    if (o->nft && parts & FIREWALL_LINKS)
        add_netdev(f, sb);
    sb->failed |= doh.failed;
}
