"""Rows of the network policy's program, for bench.py: three network namespaces, `up` with an upstream server (bench/dns.c), `sb` with
egress and its sandbox, `bare` with nothing, both linked to `up` alike.

egress.dns_added   ms from a question to its answer through egress (allowed, uncached, a new address admitted), less the median of the
                   same questions asked directly from `bare` in the same round
egress.learn       allowed answers a second, distinct names, a new address admitted for each
egress.rss         MiB of worker and supervisor, filled once: 4,096 rules, 8,192 learned addresses, cache and events full
egress.policy_*    ms from PUT of so many rules (half names, half addresses) to its answer: in force then; and PATCH of one more rule;
                   1,000 learned addresses are judged again by each
"""
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import harness

sys.path.insert(0, str(harness.ROOT / "tests/component"))
from egress_net import Inside, run, wait_until

EGRESS = harness.BUILD / "release/src/egress/egress"
DNS = harness.BUILD / "bench/bench/dns"
RESOLVER, TOKEN = "198.51.100.53", "token-of-the-bench"
SIZES = (100, 1000, 4096)
TARGETS = {
    "egress.dns_added": ("ms", {"p50": 0.1}, 1000, False),
    "egress.learn": ("per second", {"value": 20000}, 5, True),
    "egress.rss": ("MiB", {"value": 5}, 1, False),
    **{f"egress.policy_{n}": ("ms", {"p50": 2}, 20, False) for n in SIZES},
    "egress.policy_patch": ("ms", {"p50": 2}, 20, False),
}


class Lab:
    def __enter__(self):
        tag = secrets.token_hex(3)
        self.up, self.sb, self.bare = (f"egb{kind}{tag}" for kind in ("up", "sb", "no"))
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="egress-bench-"))
        self.processes, self.log = [], open(self.dir / "log", "wb")
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for ns in (self.up, self.sb, self.bare):
            run("ip", "netns", "add", ns)
            run("ip", "-n", ns, "link", "set", "lo", "up")
        run("ip", "-n", self.up, "addr", "add", f"{RESOLVER}/32", "dev", "lo")
        for i, ns in enumerate((self.sb, self.bare)):
            run("ip", "-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", f"to{i}", "netns", self.up)
            for space, link, last in ((ns, "eth0", 2), (self.up, f"to{i}", 1)):
                run("ip", "-n", space, "addr", "add", f"192.0.2.{i * 16 + last}/28", "dev", link)
                run("ip", "-n", space, "link", "set", link, "up")
            run("ip", "-n", ns, "route", "add", "default", "via", f"192.0.2.{i * 16 + 1}")
        self.start(self.up, DNS, "upstream", RESOLVER)
        wait_until(lambda: self.ask(self.bare, 1, 1, "ready")["answers"] == 1, "the upstream answers")
        environment = {"OPENSANDBOX_EGRESS_" + k: str(v) for k, v in {
            "DNS_UPSTREAM": RESOLVER, "TOKEN": TOKEN, "LOG_LEVEL": "warn", "RULES": json.dumps(policy(0)),
            "BUDGET_NAMES": 0, "BUDGET_BYTES": 0, "BUDGET_QUERIES": 0}.items()}
        self.egress = self.start(self.sb, EGRESS, env={**environment, "PATH": os.environ["PATH"]})
        wait_until(self.healthy, "egress is healthy: " + str(self.dir / "log"))

    def start(self, ns, *command, env=None):
        # nsenter becomes the command: what is killed is what was meant
        p = subprocess.Popen(["nsenter", f"--net=/run/netns/{ns}", *map(str, command)], env=env, stdout=self.log, stderr=self.log)
        self.processes.append(p)
        return p

    def __exit__(self, *_):
        for p in reversed(self.processes):
            p.send_signal(signal.SIGTERM)
            p.wait()
        for ns in (self.up, self.sb, self.bare):
            run("ip", "netns", "del", ns, check=False)
        self.log.close()
        shutil.rmtree(self.dir)

    def ask(self, ns, count, window, prefix):
        done = subprocess.run(["nsenter", f"--net=/run/netns/{ns}", str(DNS), "ask", RESOLVER, str(count), str(window), prefix],
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout)

    def connect(self):
        c = http.client.HTTPConnection("127.0.0.1", 18080)
        c.sock = Inside(self.sb)(lambda: socket.create_connection(("127.0.0.1", 18080), 10))
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return c

    def healthy(self):
        try:
            c = self.connect()
            c.request("GET", "/healthz")
            return c.getresponse().status == 200
        except OSError:
            return False

    def worker(self):
        return int(subprocess.run(["pgrep", "-P", str(self.egress.pid)], capture_output=True, text=True, check=True).stdout)


def policy(n):
    rules = [{"action": "allow", "target": f"host-{i}.service-{i % 7}.example.com" if i % 2 else f"20.{i // 250}.{i % 250}.0/24"} for i in range(n)]
    return {"defaultAction": "deny", "egress": [{"action": "allow", "target": "*.bench.test"}] + rules[1:]}


def pss_mib(pid):
    """Resident memory; pages that both processes share (the program) count once."""
    return int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read(), re.M).group(1)) / 1024


def added(lab, record):
    samples, direct = [], []
    for i in range(10):
        base = lab.ask(lab.bare, 200, 1, f"d{i}x")["samples_ms"]
        median = statistics.median(base)
        direct.append(median)
        samples += [s - median for s in lab.ask(lab.sb, 200, 1, f"a{i}x")["samples_ms"]]
    record("egress.dns_added", samples, note=f"direct {statistics.median(direct):.3f} ms")


def learn(lab, record):
    rates, driver = [], []
    for i in range(5):
        out = lab.ask(lab.sb, 60000, 192, f"l{i}x")
        if out["lost"]:
            sys.exit(f"egress.learn: {out['lost']} questions without an answer")
        rates.append(out["answers"] / out["wall_ms"] * 1000)
        driver.append(out["cpu_ms"] / out["wall_ms"])
    record("egress.learn", value=statistics.median(rates), n=5,
           note=f"runs {[round(r) for r in rates]}, driver {statistics.median(driver):.2f} of a core")


def change(c, method, body):
    begin = time.monotonic()
    c.request(method, "/policy", body, {"OPENSANDBOX-EGRESS-AUTH": TOKEN})
    r = c.getresponse()
    text = r.read()
    took = (time.monotonic() - begin) * 1000
    if r.status != 200:
        sys.exit(f"{method} /policy: {r.status} {text}")
    return took


def policies(lab, record):
    lab.ask(lab.sb, 1000, 64, "px")
    c = lab.connect()
    for n in SIZES:
        bodies = [json.dumps(policy(n)), json.dumps(policy(n)).replace("example.com", "example.org").replace('"20.', '"21.', n // 20)]
        change(c, "PUT", bodies[1])
        record(f"egress.policy_{n}", [change(c, "PUT", bodies[i % 2]) for i in range(40)])
    change(c, "PUT", json.dumps({**policy(4000)}))
    record("egress.policy_patch", [change(c, "PATCH", json.dumps([{"action": "deny", "target": f"203.0.113.{i}"}])) for i in range(40)],
           note="one address onto 4,000 rules")


def memory(lab, record):
    change(lab.connect(), "PUT", json.dumps(policy(4096)))
    lab.ask(lab.sb, 12000, 64, "mx")
    for i in range(600):  # refused, an event each
        Inside(lab.sb)(refused, i)
    time.sleep(2.5)  # it gives back what a change has left at its next tick
    record("egress.rss", value=pss_mib(lab.egress.pid) + pss_mib(lab.worker()), note=f"worker {pss_mib(lab.worker()):.2f}")


def refused(i):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    label = f"no{i}".encode()
    s.sendto(bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(label)]) + label + b"\4evil\4test\0\0\1\0\1", (RESOLVER, 53))
    s.settimeout(2)
    s.recv(600)
    s.close()


def measure(record):
    with Lab() as lab:
        added(lab, record)
        learn(lab, record)
    with Lab() as lab:
        policies(lab, record)
    with Lab() as lab:
        memory(lab, record)
