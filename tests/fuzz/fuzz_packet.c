// A packet that the filter refused, and a resolv.conf: both are what others wrote.
#include "egress/net/drops.h"
#include "egress/resolve/forward.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct upstream list[FORWARD_UPSTREAMS_MAX];
    struct error err;
    struct drop d;
    unsigned count;
    char *text = fuzz_text(data, size), address[NET_TEXT_MAX];
    if (drops_parse(data, size, &d)) {
        net_format(&d.to, address);
        CHECK(*address && d.port < 65536);
    }
    forward_resolv_conf(list, &count, text);
    CHECK(count <= FORWARD_UPSTREAMS_MAX);
    if (!forward_parse(list, &count, text, 15353, &err))
        CHECK(count <= FORWARD_UPSTREAMS_MAX);
    free(text);
    return 0;
}
