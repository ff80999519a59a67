#!/usr/bin/env python3
"""kill -9 of the server at each store write and at random moments under load. After each restart, from the kernel's own
lists and this program's list of acknowledged replies: nothing acknowledged is lost, nothing is orphaned, and running
sandboxes can be used. Last, a server whose sweep is switched off must be reported as leaking."""
import json
import os
import pathlib
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness

SHORT = os.environ.get("CHECK_SHORT") == "1"
WRITES = 12 if SHORT else 40      # commits at which the server is killed, before and after each
MOMENTS = 20 if SHORT else 200    # random moments
SEED = int(os.environ.get("CRASH_SEED", time.time_ns() % 1000000))
passed = failed = 0


def check(what, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok or not what.startswith("quiet "):
        print(f"{'ok  ' if ok else 'FAIL'} {what.removeprefix('quiet ')}{'' if ok else ': ' + str(detail)[-3000:]}", flush=True)


class Load:
    """Threads that create, use and delete until the server dies; they keep what was acknowledged."""

    def __init__(self, server, threads, rng):
        self.server, self.stop_flag = server, threading.Event()
        self.lock = threading.Lock()
        self.alive, self.doomed, self.gone, self.policed, self.expiry = set(), set(), set(), set(), {}
        self.threads = [threading.Thread(target=self.work, args=(random.Random(rng.random()),)) for _ in range(threads)]

    def work(self, rng):
        while not self.stop_flag.is_set():
            policed = rng.random() < 0.3
            try:
                sb = self.server.request("POST", "/v1/sandboxes", {
                    "image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "timeout": 3600,
                    "resourceLimits": {"memory": "256Mi"}, **({"networkPolicy": {}} if policed else {})}, timeout=30)
                if sb.status != 202:
                    if sb.status not in (429, 503):
                        check("create under load", False, sb)
                    continue
                sid = sb.json()["id"]
                with self.lock:
                    self.alive.add(sid)
                    if policed:
                        self.policed.add(sid)
                if rng.random() < 0.3:
                    when = "2031-01-01T00:00:%02dZ" % rng.randrange(60)
                    r = self.server.request("POST", f"/v1/sandboxes/{sid}/renew-expiration", {"expiresAt": when}, timeout=30)
                    if r.status == 200:
                        with self.lock:
                            self.expiry[sid] = when
                if rng.random() < 0.7:
                    with self.lock:
                        self.alive.discard(sid)
                        self.doomed.add(sid)
                    if self.server.request("DELETE", f"/v1/sandboxes/{sid}", timeout=30).status == 204:
                        with self.lock:
                            self.gone.add(sid)
            except (OSError, ValueError, __import__("http.client").client.HTTPException):
                return

    def start(self):
        for t in self.threads:
            t.start()

    def join(self):
        self.stop_flag.set()
        for t in self.threads:
            t.join()


def query(server, text):
    return [r[0] for r in sqlite3.connect(f"file:{server.sections['store']['path']}?mode=ro", uri=True).execute(text)]


def found(server):
    """Sandbox ids of this server in /proc, cgroups, links and directories, read by us; other servers' are not looked at."""
    instance_root = server.state / "oci"
    instance = query(server, "select value from meta where name = 'instance'")[0]
    group = re.compile(f"/[^/\n]*-{instance}(?:\\.egress)?/([0-9a-f-]{{36}})(?![^/\n])")
    out = {"processes": set(), "cgroups": set(), "links": set(), "directories": set(), "mounts": set(), "runtimes": set()}
    marker = str(instance_root).encode()
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (p / "cmdline").read_bytes()
            groups = (p / "cgroup").read_text()
        except OSError:
            continue
        if marker in argv and b"--root" in argv:
            out["runtimes"].add(argv.replace(b"\0", b" ").decode()[:200])
        out["processes"] |= set(group.findall(groups))
    for root, dirs, _ in os.walk("/sys/fs/cgroup"):
        out["cgroups"] |= {m.group(1) for d in dirs if (m := group.search(os.path.join(root, d)))}
        if root.count("/") > 6:
            dirs.clear()
    text = subprocess.run(["ip", "-d", "-j", "link"], capture_output=True, text=True).stdout
    for link in json.loads(text):
        words = (link.get("ifalias") or "").split(":")
        if instance in words and len(words[-1]) == 36:
            out["links"].add(words[-1])
    d = instance_root / "sandboxes"
    out["directories"] = {x.name for x in d.iterdir()} if d.is_dir() else set()
    out["mounts"] = {line for line in open("/proc/self/mountinfo") if str(instance_root) in line}
    return out


def verify(server, load, label, others=frozenset()):
    """Everything after a restart."""
    listed = {sb["id"]: sb for sb in server.sandboxes()}
    lost = load.alive - set(listed)
    check(f"quiet {label}: nothing acknowledged is lost", not lost, lost)
    risen = load.gone & set(listed)
    check(f"quiet {label}: nothing deleted came back", not risen, risen)
    dead = {i: listed[i]["status"] for i in load.alive if i in listed and listed[i]["status"]["state"] != "Running"}
    check(f"quiet {label}: acknowledged sandboxes run", not dead, dead)
    wrong = {i: (listed[i].get("expiresAt"), e) for i, e in load.expiry.items() if i in listed and listed[i].get("expiresAt") != e}
    check(f"quiet {label}: renewed expiries kept", not wrong, wrong)

    def orphans():
        real = found(server)
        left = {k: sorted((v - set(listed) - others) if k not in ("mounts", "runtimes") else v) for k, v in real.items()}
        return {k: v for k, v in left.items() if v}
    end = time.monotonic() + 5  # links go a moment after their namespace
    left = orphans()
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = orphans()
    check(f"quiet {label}: nothing is orphaned", not left, left)
    for sid in list(load.alive & set(listed))[:3]:
        code, out, err = server.run(sid, "echo usable")
        check(f"quiet {label}: a running sandbox is usable", (code, out) == (0, "usable\n"), (code, out, err))
    for sid in list(load.alive & load.policed & set(listed))[:2]:
        harness.wait_until(lambda: server.request("GET", f"/v1/sandboxes/{sid}/networkpolicy").status == 200, "its policy is in force")
    rows = set(query(server, "select id from sandboxes"))
    check(f"quiet {label}: store and list agree", rows == set(listed), rows ^ set(listed))
    return listed


def clear(server, load, listed):
    for sid in listed:
        server.request("DELETE", f"/v1/sandboxes/{sid}")
    load.alive.clear()


def one_kill(server, rng, label, env=None, seconds=None):
    """Load, death, restart, proof. env: die at a store write; seconds: kill at that moment."""
    server.start(extra_env=env)
    load = Load(server, 4, rng)
    load.start()
    if seconds is not None:
        time.sleep(seconds)
        server.kill()
    else:
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            check(f"{label}: the server dies at that write", False)
    load.join()
    server.start()
    listed = verify(server, load, label)
    clear(server, load, listed)
    server.stop()


def prove_it_can_fail(server, rng):
    """With the sweep off (failpoint), ruins stay and found() sees them."""
    off = {"OPENSANDBOX_NO_SWEEP": "1"}
    leaked = False
    for _ in range(10):
        server.start(extra_env=off)
        load = Load(server, 4, rng)
        load.start()
        time.sleep(0.2 + rng.random() * 0.4)
        server.kill()
        load.join()
        server.start(extra_env=off)
        listed = {sb["id"] for sb in server.sandboxes()}
        real = found(server)
        server.kill()
        if (real["processes"] | real["cgroups"] | real["links"] | real["directories"]) - listed:
            leaked = True
            break
    check("a server without its sweep is reported as leaking", leaked)
    server.start()
    clear(server, load, [sb["id"] for sb in server.sandboxes()])
    verify(server, Load(server, 0, rng), "after the sweep is on again")
    server.stop()


def main():
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    server = harness.Server(config={"oci": {"stock": 8}})
    try:
        server.import_base()
        for n in range(1, WRITES + 1):
            for when in (f"{n}-", f"{n}"):
                one_kill(server, rng, f"write {when}", env={"OPENSANDBOX_CRASH_AT_COMMIT": when})
        check(f"killed before and after each of {WRITES} store writes", True)
        for i in range(MOMENTS):
            one_kill(server, rng, f"moment {i}", seconds=0.02 + rng.random() * 0.8)
        check(f"killed at {MOMENTS} random moments", True)
        prove_it_can_fail(server, rng)
    finally:
        if failed:
            print(server.log()[-4000:])
        server.remove()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
