"""Part of `make soak`: 1,000 exports to a collector that refuses, cuts, or takes them; /proc of execd is the same before and after.

CHECK_SHORT=1 does a tenth.
"""
import os
import pathlib

import pytest

from execd_collector import Collector, cut, dead_port, lines
from execd_peer import Execd, wait_until

EXPORTS = 100 if os.environ.get("CHECK_SHORT") == "1" else 1000
FIRST = 500  # then every worker has done it, and what stays for good is there
RSS_LIMIT_KIB = 64


def refused():
    """Connections that this machine was refused."""
    names, numbers = [line.split() for line in pathlib.Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")]
    return int(numbers[names.index("AttemptFails")])


@pytest.mark.parametrize("kind", ["refused", "cut", "taken"])
def test_a_thousand_exports_leave_nothing_behind(kind):
    dead, port = dead_port()
    with dead, Collector(cut if kind == "cut" else 200) as c:
        env = c.environment(10)
        if kind == "refused":
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        tries = refused if kind == "refused" else lambda: len(c.requests)
        with Execd(env=env) as e:
            def look():
                return e.rss_kib(), min(e.descriptors() for _ in range(50)), e.threads()
            e.run("true"), e.request("GET", "/files/info?path=/")
            begin = tries()
            wait_until(lambda: tries() >= begin + FIRST, "the first exports", 60)
            before = look()
            wait_until(lambda: tries() >= begin + FIRST + EXPORTS, "the exports", 120)
            after = look()
            print(f"telemetry {kind}: RSS {before[0]} -> {after[0]} KiB, descriptors {before[1]} -> {after[1]}, threads {before[2]} -> {after[2]}")
            assert after[0] - before[0] <= RSS_LIMIT_KIB and after[2] == before[2]
            wait_until(lambda: e.descriptors() <= before[1], "a moment between two exports", 10)
            assert len(lines(e)) == 2  # where they go, and how it went: no line for each
            assert e.stdout("echo hi") == "hi\n"
