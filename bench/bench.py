#!/usr/bin/env python3
"""`make bench` and `make bench-check`: the rows of the built-in runtime (quality.md), measured and compared with targets.

bench.py run [ROW-PREFIX...]   measures, prints a table, merges rows by name into build/bench.json
bench.py check                 measures what is missing, prints name, value, target, met or missed; exit 1 on a missing row,
                               too few samples, or a driver that used more than half a core
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import egress
import harness
import inside
import peer
import proxy

BUILD = harness.BUILD
RELEASE = BUILD / "release"
LOAD = BUILD / "bench/bench/load"
OUT = BUILD / "bench.json"
# name: (unit, {key: target}, samples, higher is better)
TARGETS = {
    "oci.create_ready": ("ms", {"p50": 16, "p99": 50}, 100, False),
    "oci.create_rapid": ("ms", {"p50": 12, "p99": 50}, 200, False),
    "oci.delete": ("ms", {"p50": 5}, 100, False),
    "oci.first_output": ("ms", {"p50": 20}, 50, False),
    "oci.burst100": ("ms", {"value": 700}, 1, False),
    "pool.create_ready": ("ms", {"p50": 2}, 100, False),
    "pool.burst100": ("ms", {"value": 300}, 1, False),
    "oci.thousand": ("s", {"value": 12}, 1, False),
    "oci.idle_memory": ("MiB", {"value": 2.5}, 1, False),
    "command.echo": ("ms", {"p50": 2.5, "p99": 6}, 500, False),
    "http.get": ("per second", {"value": 50000}, 1, True),
    "http.list": ("per second", {"value": 7000}, 1, True),
    "health.p99_busy": ("ms", {"value": 10}, 1, False),
    "server.start": ("ms", {"p50": 50}, 20, False),
    "server.rss_idle": ("MiB", {"value": 16}, 1, False),
    "server.rss_1000": ("MiB", {"value": 40}, 1, False),
    "execd.size": ("MiB", {"value": 1.6}, 1, False),
    "execd.rss": ("MiB", {"value": 2}, 1, False),
    "execd.start": ("ms", {"p50": 2}, 20, False),
    "proxy.stream_ratio": ("ratio", {"value": 1.0}, 9, True),
    "proxy.stream_ratio_tuned": ("ratio", {"value": 0.85}, 9, True),
    "proxy.request_ratio": ("ratio", {"value": 0.9}, 9, True),
    **inside.TARGETS,
    "egress.create_added": ("ms", {"value": 10}, 100, False),
    **peer.TARGETS,
    **egress.TARGETS,
}


def quantile(samples, q):
    s = sorted(samples)
    return s[min(len(s) - 1, int(len(s) * q))]


def rows():
    try:
        return {r["name"]: r for r in json.loads(OUT.read_text())}
    except (OSError, ValueError):
        return {}


def record(name, samples=None, value=None, note="", n=None):
    unit = TARGETS[name][0]
    if samples:
        row = {"name": name, "n": len(samples), "p50": round(quantile(samples, .5), 3), "p99": round(quantile(samples, .99), 3), "unit": unit}
    else:
        row = {"name": name, "n": n or 1, "value": round(value, 3), "unit": unit}
    if note:
        row["note"] = note
    print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    all_rows = rows()
    all_rows[name] = row
    BUILD.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(list(all_rows.values()), indent=1) + "\n")


def rss_mib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1)) / 1024


def available_mib():
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(0.5)  # freed pages come back in their own time; this is a measurement, no test
    return int(re.search(r"MemAvailable:\s+(\d+)", open("/proc/meminfo").read()).group(1)) / 1024


class Bench:
    def __init__(self):
        self.server = harness.Server(binary=RELEASE / "src/server/opensandbox-server", config={"log": {"level": "WARNING"}})
        self.key = self.server.state / "key"
        fd = os.open(self.key, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, self.server.key.encode())
        os.close(fd)
        self.server.import_base()

    def load(self, mode, count, pause=0, image=harness.IMAGE):
        done = subprocess.run([str(LOAD), str(self.server.port), str(self.key), image, mode, str(count), str(pause)],
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"load {mode} failed: {done.stderr}")
        out = json.loads(done.stdout)
        if out["failures"]:
            sys.exit(f"load {mode}: {out['failures']} failures\n{done.stderr}\n{self.server.log()[-2000:]}")
        share = out["cpu_ms"] / max(out["wall_ms"], 1e-9)
        print(f"  driver {mode}: {out['cpu_ms']:.0f} ms CPU of {out['wall_ms']:.0f} ms", flush=True)
        if share > 0.5 and mode not in ("burst",):
            sys.exit(f"load {mode}: the driver used {share:.0%} of a core")
        return out

    def wrk(self, path, connections=32, seconds=5):
        script = self.server.state / "key.lua"
        script.write_text(f'wrk.headers["OPEN-SANDBOX-API-KEY"] = "{self.server.key}"\n')
        script.chmod(0o600)
        done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), self.server.base + path],
                              capture_output=True, text=True, check=True)
        if "Non-2xx" in done.stdout:
            sys.exit(done.stdout)
        return float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1))

    # ---- rows ----
    def starts(self):
        samples = []
        for _ in range(20):
            begin = time.monotonic()
            self.server.start(ready=False)
            while True:
                try:
                    if self.server.request("GET", "/health", key=None).status == 200:
                        break
                except OSError:
                    pass
            samples.append((time.monotonic() - begin) * 1000)
            self.server.wait_ready()
            if len(samples) < 20:
                self.server.stop()
        record("server.start", samples)
        record("server.rss_idle", value=rss_mib(self.server.process.pid))

    def creates(self):
        self.load("create", 20)
        out = self.load("create", 100, 300)
        record("oci.create_ready", out["samples_ms"])
        record("oci.delete", out["delete_ms"])
        record("oci.create_rapid", self.load("create", 200)["samples_ms"])
        record("oci.first_output", self.load("output", 50, 300)["samples_ms"])
        record("command.echo", self.load("echo", 500)["samples_ms"])

    def policies(self):
        """What a network policy adds to a create: medians of creates with and without, in turns, the stock refilled between."""
        policy = {"networkPolicy": {"egress": [{"action": "allow", "target": "example.com"}]}}
        samples = {False: [], True: []}
        for i in range(220):
            time.sleep(0.15)  # the stock is refilled between creates
            begin = time.monotonic()
            sb = self.server.create(**(policy if i % 2 else {}))
            if i >= 20:  # the first ones make the stock
                samples[i % 2 == 1].append((time.monotonic() - begin) * 1000)
            self.server.delete(sb["id"])
        with_it, without = (quantile(samples[k], .5) for k in (True, False))
        record("egress.create_added", value=with_it - without, n=len(samples[True]), note=f"{with_it:.1f} with, {without:.1f} without")

    def bursts(self):
        values = []
        for _ in range(3):
            time.sleep(1)  # quiet between two bursts
            values.append(max(self.load("burst", 100)["samples_ms"]))
            self.load("purge", 0)
        record("oci.burst100", value=quantile(values, .5), note=f"runs {[round(v) for v in values]}", n=3)

    def pools(self):
        def full(n):
            r = self.server.request("GET", "/v1/pools/bench").json()
            return r["status"]["available"] == n
        template = {"image": {"uri": harness.IMAGE}, "resourceLimits": {"cpu": "1", "memory": "256Mi"}}
        capacity = {"bufferMin": 10, "bufferMax": 10, "poolMin": 0, "poolMax": 1000}
        self.server.request("POST", "/v1/pools", {"name": "bench", "template": template, "capacitySpec": capacity})
        harness.wait_until(lambda: full(10), "a warm pool", 60)
        record("pool.create_ready", self.load("create", 100, 300, image="pool:bench")["samples_ms"])
        values = []
        for _ in range(3):
            self.server.request("PUT", "/v1/pools/bench", {"capacitySpec": {**capacity, "bufferMin": 100, "bufferMax": 100}})
            harness.wait_until(lambda: full(100), "a pool of 100", 120)
            time.sleep(1)  # quiet between two bursts
            values.append(max(self.load("burst", 100, image="pool:bench")["samples_ms"]))
            self.load("purge", 0)
        self.server.request("DELETE", "/v1/pools/bench")
        harness.wait_until(lambda: not os.listdir(self.server.state / "oci/oci/sandboxes"), "the stock is gone", 60)
        record("pool.burst100", value=quantile(values, .5), note=f"runs {[round(v) for v in values]}", n=3)

    def busy(self):
        burst = threading.Thread(target=lambda: self.load("burst", 50))
        result = {}

        def health():
            result.update(self.load("health", 400, 2))
        h = threading.Thread(target=health)
        h.start()
        burst.start()
        burst.join()
        h.join()
        self.load("purge", 0)
        record("health.p99_busy", value=quantile(result["samples_ms"], .99), n=400)

    def thousand(self):
        before = available_mib()
        out = self.load("many", 1000)
        record("oci.thousand", value=out["wall_ms"] / 1000)
        record("oci.idle_memory", value=(before - available_mib()) / 1000)
        record("server.rss_1000", value=rss_mib(self.server.process.pid))
        sid = self.server.sandboxes()[500]["id"]
        record("http.get", value=self.wrk(f"/v1/sandboxes/{sid}"))
        record("http.list", value=self.wrk("/v1/sandboxes?pageSize=20"))
        self.load("purge", 0)

    def execd(self):
        binary = RELEASE / "src/execd/execd"
        stripped = self.server.state / "execd"
        subprocess.run(["strip", "-o", str(stripped), str(binary)], check=True)
        record("execd.size", value=stripped.stat().st_size / 1048576)
        import http.client
        samples, rss = [], 0
        for _ in range(20):
            port = harness.free_port()
            begin = time.monotonic()
            p = subprocess.Popen([str(stripped), "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while True:
                try:
                    c = http.client.HTTPConnection("127.0.0.1", port)
                    c.request("GET", "/ping")
                    c.getresponse().read()
                    break
                except OSError:
                    pass
            samples.append((time.monotonic() - begin) * 1000)
            rss = max(rss, rss_mib(p.pid))
            p.kill()
            p.wait()
        record("execd.start", samples, note="process start seen from Python, its fork included")
        record("execd.rss", value=rss)


def measure(prefixes=()):
    if not (BUILD / "bench/build.ninja").exists():
        subprocess.run(["meson", "setup", str(BUILD / "bench"), "--buildtype=release", "-Dtests=false", "-Dserver=false"], cwd=harness.ROOT,
                       check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", str(BUILD / "bench"), "bench/dns", "bench/load", "bench/proxy"], check=True, stdout=subprocess.DEVNULL)
    alone = {"proxy": proxy.measure, "egress": egress.measure, "peer": peer.measure}  # no server needed
    for name, step in alone.items():
        if not prefixes or name in prefixes:
            step(record)
    if prefixes and not set(prefixes) - set(alone):
        return
    b = Bench()
    try:
        steps = {"server": b.starts, "oci.create": b.creates, "oci.burst": b.bursts, "pool": b.pools, "health": b.busy, "oci.thousand": b.thousand,
                 "execd": b.execd, "inside": lambda: inside.measure(b.server, record),
                 "policy": b.policies}  # last: it leaves egresses parked
        if prefixes and "server" not in prefixes:
            b.server.start()
        for name, step in steps.items():
            if not prefixes or name in prefixes:
                step()
    finally:
        b.server.remove()


def check():
    missing = [n for n in TARGETS if n not in rows()]
    if missing:
        measure()
    all_rows, failed = rows(), 0
    for name, (unit, targets, samples, higher) in TARGETS.items():
        row = all_rows.get(name)
        if not row or row["n"] < samples:
            print(f"{name}: {'missing' if not row else 'too few samples'}")
            failed += 1
            continue
        for key, target in targets.items():
            met = row[key] >= target if higher else row[key] <= target
            print(f"{name} {key} {row[key]} {unit}, target {target}: {'met' if met else 'MISSED'}")
    print(f"{len(TARGETS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        sys.exit(check())
    measure(sys.argv[2:])
