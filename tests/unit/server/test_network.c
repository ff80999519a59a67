// Addresses, rules and links. The kernel's part runs in a network namespace of its own: nothing of
// the host is touched.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "io/spawn.h"
#include "server/runtime/oci/net/address.h"
#include "server/runtime/oci/net/firewall.h"
#include "server/runtime/oci/net/guard.h"
#include "server/runtime/oci/net/netns.h"
#include "server/runtime/oci/net/network.h"

enum { WAIT_MS = 10000 };

static void cidrs_are_strict(void **state) {
    static const char *const bad[] = {
        "",          "10.0.0.0",  "10.0.0.1/24", "10.0.0.0/33", "10.0.0.0/x",
        "10.0.0.0/", "10.0.0/24", "::/64",       "010.0.0.0/8 "};
    uint32_t network;
    uint8_t prefix;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (!address_parse_cidr(bad[i], &network, &prefix))
            fail_msg("%s was accepted", bad[i]);
    assert_int_equal(address_parse_cidr("10.200.0.0/16", &network, &prefix), 0);
    assert_int_equal(ntohl(network), 0x0ac80000);
    assert_int_equal(prefix, 16);
    assert_int_equal(address_parse_cidr("0.0.0.0/0", &network, &prefix), 0);
}

static void a_freed_address_goes_to_the_back(void **state) {
    struct address_pool p;
    struct error err;
    uint32_t a, first;
    char text[ADDRESS_TEXT_SIZE];
    (void)state;
    assert_int_equal(address_pool_init(&p, "10.9.8.0/29", &err), 0);
    address_format(address_pool_gateway(&p), text);
    assert_string_equal(text, "10.9.8.1");
    assert_int_equal(address_pool_take(&p, &first, &err), 0);
    address_format(first, text);
    assert_string_equal(text, "10.9.8.2");
    address_pool_give(&p, first);
    for (unsigned i = 3; i <= 6; i++) { // the others first
        assert_int_equal(address_pool_take(&p, &a, &err), 0);
        assert_int_equal(ntohl(a) & 0xff, i);
    }
    assert_int_equal(address_pool_take(&p, &a, &err), 0);
    assert_int_equal(a, first);
    assert_int_equal(address_pool_take(&p, &a, &err), -1);
    assert_int_equal(err.kind, EADDRNOTAVAIL);
    address_pool_clear(&p);
}

static void claims_are_checked(void **state) {
    struct address_pool p;
    struct error err;
    uint32_t a;
    (void)state;
    assert_int_equal(address_pool_init(&p, "10.9.8.0/29", &err), 0);
    assert_false(address_pool_claim(&p, htonl(0x0a090800))); // network, gateway, broadcast, others'
    assert_false(address_pool_claim(&p, htonl(0x0a090801)));
    assert_false(address_pool_claim(&p, htonl(0x0a090807)));
    assert_false(address_pool_claim(&p, htonl(0x0a090808)));
    assert_true(address_pool_claim(&p, htonl(0x0a090802)));
    assert_false(address_pool_claim(&p, htonl(0x0a090802)));
    assert_int_equal(address_pool_take(&p, &a, &err), 0);
    assert_int_equal(a, htonl(0x0a090803));
    address_pool_clear(&p);
    assert_int_equal(address_pool_init(&p, "10.0.0.0/30", &err), -1);
    assert_int_equal(address_pool_init(&p, "10.0.0.0/7", &err), -1);
}

static void nft_run(const char *const *arguments, struct strbuf *out) {
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    const char *argv[12] = {"nft"};
    struct exit_status status;
    struct error err;
    for (size_t i = 0; i < 10 && arguments[i]; i++)
        argv[i + 1] = arguments[i];
    struct spawn s = {.argv = (char *const *)argv,
                      .envp = environment,
                      .stdio = {-1, -1, -1},
                      .flags = SPAWN_SEARCH_PATH};
    if (spawn_run(&s, NULL, 0, out, NULL, WAIT_MS, &status, &err))
        fail_msg("%s", err.message);
    assert_int_equal(status.code, 0);
}

static void rules_load_and_reload(void **state) {
    static const char *const deny[] = {"10.55.0.0/16", "fd00::/8", NULL}, *const list[] = {
                                                                              "list", "ruleset",
                                                                              NULL};
    struct firewall f = {.instance = "0123abcd",
                         .prefix = "osb0123a",
                         .pool = "10.200.0.0/16",
                         .deny = deny,
                         .resolvers = "192.0.2.53",
                         .fetch_id = 1114109};
    struct error err;
    cleanup_strbuf struct strbuf once, twice, gone;
    (void)state;
    strbuf_init(&once, 65536);
    strbuf_init(&twice, 65536);
    strbuf_init(&gone, 65536);
    for (unsigned i = 0; i < 2; i++) {
        if (firewall_load(&f, &err))
            fail_msg("%s", err.message);
        nft_run(list, i ? &twice : &once);
    }
    assert_string_equal(once.data, twice.data);
    assert_non_null(strstr(once.data, "table inet osb_0123abcd"));
    assert_non_null(strstr(once.data, "10.55.0.0/16"));
    assert_non_null(strstr(once.data, "169.254.0.0/16"));
    assert_null(strstr(once.data, "fd00"));
    assert_non_null(strstr(once.data, "skuid 1114109"));
    static const char *const chains[] = {"input", "output"};
    for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
        const char *const flush[] = {"flush", "chain", "inet", "osb_0123abcd", chains[i], NULL};
        assert_true(firewall_intact(&f));
        nft_run(flush, NULL);
        assert_false(firewall_intact(&f));
        assert_int_equal(firewall_load(&f, &err), 0);
        assert_true(firewall_intact(&f));
    }
    firewall_unload(&f);
    firewall_unload(&f);
    assert_false(firewall_intact(&f));
    nft_run(list, &gone);
    assert_null(strstr(gone.data, "osb_"));
}

static void a_foreign_drop_is_found_and_opened(void **state) {
    static const char *const
        table[] = {"add", "table", "ip", "other", NULL},
        *const chain[] = {"add",   "chain", "ip",
                          "other", "FWD",   "{ type filter hook forward priority 0; policy drop; }",
                          NULL},
        *const list[] = {"list", "table", "ip", "other", NULL};
    struct firewall f = {
        .instance = "0123abcd", .prefix = "osb0123a", .pool = "10.200.0.0/16", .resolvers = ""};
    struct error err;
    cleanup_strbuf struct strbuf report, rules;
    (void)state;
    strbuf_init(&report, 4096);
    strbuf_init(&rules, 65536);
    nft_run(table, NULL);
    nft_run(chain, NULL);
    assert_int_equal(firewall_foreign(&f, false, &report, &err), 0);
    assert_non_null(
        strstr(report.data, "nft insert rule ip other FWD iifname '\"osb0123a*\"' accept"));
    strbuf_clear(&report);
    assert_int_equal(firewall_foreign(&f, true, &report, &err), 0);
    assert_string_equal(report.data, "");
    assert_int_equal(firewall_foreign(&f, false, &report, &err), 0); // it is open now
    assert_string_equal(report.data, "");
    nft_run(list, &rules);
    assert_non_null(strstr(rules.data, "oifname \"osb0123a*\""));
}

static void removed_rules_come_back(void **state) {
    static const char *const flush[] = {"flush", "ruleset", NULL};
    struct firewall f = {
        .instance = "0123abcd", .prefix = "osb0123a", .pool = "10.200.0.0/16", .resolvers = ""};
    struct error err;
    (void)state;
    assert_int_equal(firewall_load(&f, &err), 0);
    struct guard *g = guard_new(&f, false, &err);
    assert_non_null(g);
    nft_run(flush, NULL);
    for (unsigned i = 0; i < 1000 && !firewall_intact(&f); i++)
        ; // each look takes milliseconds
    assert_true(firewall_intact(&f));
    guard_free(g);
    firewall_unload(&f);
}

static const struct oci_settings settings = {.instance = "0123abcd",
                                             .pool = "10.77.0.0/24",
                                             .id_base = 1048576,
                                             .stock = 3,
                                             .dns = (const char *const[]){"192.0.2.53", NULL}};

struct tally {
    unsigned count;
    char last[80];
};

static int tally_id(const char *id, void *arg) {
    struct tally *t = arg;
    t->count++;
    (void)snprintf(t->last, sizeof t->last, "%s", id);
    return 0;
}

static bool is_first(const char *id, void *arg) {
    (void)arg;
    return !strcmp(id, "first");
}

// Connects to a listener inside the namespace by its address, from here.
static void assert_reachable(const struct network_entry *e) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(4711), .sin_addr.s_addr = e->address};
    cleanup_close int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_int_equal(setns(e->net_fd, CLONE_NEWNET), 0);
    cleanup_close int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(setns(home, CLONE_NEWNET), 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 1), 0);
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int failed = connect(fd, (struct sockaddr *)&a, sizeof a) ? errno : 0;
    socklen_t len = sizeof failed;
    if (failed == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len), 0);
    }
    assert_int_equal(failed, 0);
}

static void links_live_and_are_swept(void **state) {
    struct error err;
    struct network_entry first, second, again = {.user_fd = -1};
    struct tally t = {.count = 0};
    (void)state;
    struct network *n = network_new(&settings, true, &err);
    if (!n)
        fail_msg("%s", err.message);
    assert_string_equal(network_resolv_conf(n), "nameserver 192.0.2.53\n");
    assert_int_equal(network_take(n, "first", &first, &err), 0);
    assert_int_equal(network_take(n, "second", &second, &err), 0);
    assert_true(first.user_fd >= 0);
    assert_string_equal(first.address_text, "10.77.0.2");
    assert_reachable(&first);
    assert_int_equal(network_each(n, tally_id, &t), 0);
    assert_int_equal(t.count, 2);
    // another server of the same instance: takes the first over and sweeps the second
    int kept = fcntl(first.net_fd, F_DUPFD_CLOEXEC, 0);
    network_free(n, NETWORK_KEEP);
    n = network_new(&settings, true, &err);
    if (!n)
        fail_msg("%s", err.message);
    again.net_fd = kept;
    assert_int_equal(network_adopt(n, "first", "10.77.0.2", &again, &err), 0);
    assert_int_equal(network_sweep(n, is_first, NULL, &err), 0);
    t.count = 0;
    assert_int_equal(network_each(n, tally_id, &t), 0);
    assert_int_equal(t.count, 1);
    assert_string_equal(t.last, "first");
    assert_reachable(&again);
    struct network_entry third;
    assert_int_equal(network_take(n, "third", &third, &err),
                     0); // never the address of a living one
    assert_int_not_equal(third.address, first.address);
    network_release(n, "third", &third);
    network_release(n, "first", &again);
    (void)close(first.net_fd);
    (void)close(first.user_fd);
    (void)close(second.net_fd);
    (void)close(second.user_fd);
    network_free(n, NETWORK_LAST);
    assert_int_equal(if_nametoindex("osbg0123abcd"), 0);
}

static void a_network_in_use_is_refused(void **state) {
    struct oci_settings s = settings;
    struct error err;
    (void)state;
    assert_int_equal(netns_gateway("other0", "someone", htonl(0x0a4e0005), &err), 0); // 10.78.0.5
    s.pool = "10.78.0.0/16";
    assert_null(network_new(&s, true, &err));
    assert_int_equal(err.kind, EADDRINUSE);
    assert_non_null(strstr(err.message, "other0"));
    netns_disconnect(if_nametoindex("other0"));
}

static int own_namespace(void **state) {
    (void)state;
    return unshare(CLONE_NEWNET);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(cidrs_are_strict),
                                       cmocka_unit_test(a_freed_address_goes_to_the_back),
                                       cmocka_unit_test(claims_are_checked),
                                       cmocka_unit_test(rules_load_and_reload),
                                       cmocka_unit_test(removed_rules_come_back),
                                       cmocka_unit_test(a_foreign_drop_is_found_and_opened),
                                       cmocka_unit_test(a_network_in_use_is_refused),
                                       cmocka_unit_test(links_live_and_are_swept)};
    return cmocka_run_group_tests(tests, own_namespace, NULL);
}
