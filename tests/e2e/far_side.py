"""What sandboxes reach over this host: a namespace with names, servers and a sniffer, as tests/component/egress_net.py has them.

One at a time on a host, since its addresses are routed here; everything dies with it.
"""
import fcntl
import sys

import harness

sys.path.insert(0, str(harness.ROOT / "tests/component"))
import egress_net as net  # noqa: E402
from egress_net import ALLOWED, DENIED, RESOLVER, SHARED  # noqa: E402,F401

ROUTED = (ALLOWED, SHARED, DENIED, RESOLVER, net.EVIL)


class FarSide(net.Bed):
    def __enter__(self):
        self.lock = open("/run/lock/opensandbox-far-side", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        return super().__enter__()

    def build(self):
        self.link = f"far{self.tag}"
        net.run("ip", "netns", "add", self.up)
        net.run("ip", "-n", self.up, "link", "set", "lo", "up")
        net.run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.up)
        net.run("ip", "addr", "add", "203.0.113.242/30", "dev", self.link)
        net.run("ip", "link", "set", self.link, "up")
        net.run("ip", "-n", self.up, "addr", "add", "203.0.113.241/30", "dev", "eth0")
        net.run("ip", "-n", self.up, "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
        net.run("ip", "-n", self.up, "link", "set", "eth0", "up")
        net.run("ip", "-n", self.up, "route", "add", "default", "via", "203.0.113.242")
        for a in ROUTED:
            net.run("ip", "-n", self.up, "addr", "add", f"{a}/32", "dev", "lo")
            net.run("ip", "route", "add", f"{a}/32", "via", "203.0.113.241")
        self.start_sniffer()
        self.start_servers()
        self.start_dnsmasq()
        self.start_evil()

    def tear_down(self):
        super().tear_down()
        net.run("ip", "link", "del", self.link, check=False)  # its routes go with it
        self.lock.close()


class FarInside(net.Bed):
    """The same in the network namespace of a process that has one of its own (Podman's): what sandboxes reach is on its own links."""

    def __init__(self, pid):
        super().__init__()
        self.pid = pid

    def build(self):
        net.run("ip", "netns", "attach", self.up, str(self.pid))
        for a in ROUTED:
            net.run("ip", "-n", self.up, "addr", "add", f"{a}/32", "dev", "lo")
        net.run("ip", "-n", self.up, "addr", "add", "2001:db8::1/128", "dev", "lo")
        self.start_sniffer(link=None)
        self.start_servers()
        self.start_dnsmasq()
        self.start_evil()
