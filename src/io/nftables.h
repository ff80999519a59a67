// Elements of nf_tables sets and maps by our own nfnetlink messages: one batch is one transaction,
// all or nothing, in microseconds. Tables, chains and rules are loaded by nft(8), off the hot path.
// A socket belongs to the network namespace it was opened in. Blocking (microseconds); one thread.
#ifndef IO_NFTABLES_H
#define IO_NFTABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/netlink.h"

struct nftables {
    struct netlink nl;
    const char *table; // of family inet; borrowed
    uint32_t commits;  // that changed something
    // the list being built
    const char *set;
    int type;
    struct nlattr *list;
};

struct nft_element {
    const void *key;
    size_t key_len;   // parts of a concatenation are padded to 4 bytes each
    const void *data; // value of a map
    size_t data_len;
    const char *chain;   // verdict of a map: goto
    uint64_t timeout_ms; // 0: the set's default
    bool end;            // first address behind an interval
};

// fd: a NETLINK_NETFILTER socket, which is taken; -1: a new one. 0 or -errno.
int nft_open(struct nftables *n, int fd, const char *table, size_t batch_max);
void nft_close(struct nftables *n);

// Builds a transaction: nft_begin, any number of the others, nft_commit.
void nft_begin(struct nftables *n);
void nft_flush(struct nftables *n, const char *set);
void nft_add(struct nftables *n, const char *set, const struct nft_element *element);
void nft_delete(struct nftables *n, const char *set, const struct nft_element *element);
// 0; or -errno, and nothing has changed (-ENOENT: no such table, set or element).
int nft_commit(struct nftables *n);

// A number over the chains and rules of our table and of `netdev_table` (NULL: none): any change,
// also of policies and hooks, gives another one. Rules must not hold counters of their own.
int nft_fingerprint(struct nftables *n, const char *netdev_table, uint64_t *ret);
// Number of the ruleset's last change, by whomever.
int nft_generation(struct nftables *n, uint32_t *ret);
// Packets that a named counter of the table has seen.
int nft_counter(struct nftables *n, const char *name, uint64_t *ret_packets);

#endif
