// The environment of the program (egress.md 1.2), read once at the start. What is wrong is refused:
// an egress that guesses is an open one.
#ifndef EGRESS_OPTIONS_H
#define EGRESS_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>

#include "egress/resolve/budget.h"
#include "egress/resolve/forward.h"
#include "fmt/policy.h"

enum { OPTIONS_DNS_PORT = 15353, OPTIONS_API_PORT = 18080, OPTIONS_EXEMPT_MAX = 16 };

struct options {
    bool nft; // dns+nft
    char host[64];
    unsigned port;
    int listen_fd;            // listening socket handed to us ("fd:N"), else -1
    int netfilter_fd;         // socket that join.h opened, else -1
    const char *token;        // "" none
    const char *token_sha256; // "" none: its SHA-256 in hex, so that no environment holds it
    const char *policy_file, *rules, *resolv_conf, *rules_dir;
    size_t rules_max;
    int log_fd;          // stdout, stderr or a file
    const char *webhook; // "" none
    const char *sandbox_id;
    json_t *attributes; // object of texts, for log lines and metrics
    struct upstream upstreams[FORWARD_UPSTREAMS_MAX];
    unsigned upstream_count; // 0: resolv.conf
    int64_t time_out_ms, probe_every_ms;
    char probe_name[256];
    struct net exempt[OPTIONS_EXEMPT_MAX];
    unsigned exempt_count;
    bool block_doh;
    struct netset doh[2]; // by family; both empty: all of port 443
    struct budget_limits budget;
};

// Texts are borrowed from the environment. -1: the message names the variable.
int options_read(struct options *o, struct error *err);
// Tokens and address of the API alone: what the supervisor needs.
int options_read_address(struct options *o, struct error *err);
void options_clear(struct options *o);

#endif
