#!/usr/bin/env python3
"""100 sandboxes, then nothing of them is left: processes, mounts, namespaces, veths, cgroups (also plain directories that a
runtime leaves on hybrid hosts), nft set elements, sockets, directories, and the server's own descriptors and threads."""
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from census import census, left_since

COUNT = 30 if os.environ.get("CHECK_SHORT") == "1" else 100
passed = failed = 0


def check(what, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {what}{'' if ok else ': ' + str(detail)[-3000:]}", flush=True)


def own(pid):
    """Descriptors and threads of the server; the stock of namespaces is replaced, so numbers are compared, not names."""
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task"))}


def counts(c):
    return {kind: len(items) for kind, items in c.items()}


def use(server, i):
    policed = {"networkPolicy": {"egress": [{"action": "allow", "target": "a.test"}]}} if i % 4 == 0 else {}
    sb = server.create(metadata={"n": str(i)}, **policed)["id"]
    if policed:
        assert server.request("PATCH", f"/v1/sandboxes/{sb}/networkpolicy", [{"action": "deny", "target": "b.test"}]).status == 200
    if i % 3 == 0:
        assert server.run(sb, "sleep 60 & echo $$; dd if=/dev/zero of=/tmp/x bs=1M count=1 2>/dev/null")[0] == 0
    if i % 5 == 0:
        assert server.request("POST", f"/v1/sandboxes/{sb}/pause").status == 202
    if i % 7 == 0:
        server.request("GET", f"/v1/sandboxes/{sb}/proxy/9/")
    server.delete(sb)


def main():
    empty = census()
    server = harness.Server()
    roots = [server.state / "oci/oci"]
    try:
        server.import_base()
        server.start()
        with ThreadPoolExecutor(8) as pool:  # threads and pools reach their size
            list(pool.map(lambda i: use(server, i), range(16)))
        pid = server.process.pid

        def settled(want=None):
            state = {**counts(census(roots)), **own(pid)}
            return state if want is None or all(state[k] <= want[k] for k in want) else None
        harness.wait_until(lambda: not any("/execd init" in p for p in census()["processes"] - empty["processes"]), "first sandboxes gone", 20)
        import time
        before, end = settled(), time.monotonic() + 3
        while time.monotonic() < end:  # kernel and stock settle; the smallest state is the base
            now = settled()
            before = {k: min(before[k], now[k]) for k in now}
            time.sleep(0.1)
        stock = {k: max(before[k], settled()[k]) for k in before}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: use(server, i), range(COUNT)))
        check(f"{COUNT} sandboxes made, used and deleted", True)
        try:  # the stock refills meanwhile: the state that was waited for counts, not a later one
            after = harness.wait_until(lambda: settled(stock), "the state of before", 30)
        except AssertionError:
            after = settled()
        for kind in before:
            check(f"{kind}: {stock[kind]} before, {after[kind]} after", after[kind] <= stock[kind], sorted(census(roots).get(kind, [])))
        # the check can fail: what a leak would leave is reported
        planted = pathlib.Path("/sys/fs/cgroup/pids/opensandbox-planted.egress")
        planted.mkdir()
        subprocess.run(["ip", "link", "add", "osbplanted", "type", "veth", "peer", "name", "osbplanted2"], check=True)
        orphan = subprocess.Popen(["/planted/egress"], executable="/bin/cat", stdin=subprocess.PIPE)  # waits for us
        try:
            harness.wait_until(lambda: any("planted/egress" in str(p) for p in census()["processes"]), "the planted process", 10)
            seen = census(roots)
            check("a planted cgroup, link and egress are reported",
                  all(any("planted" in str(item) for item in seen[kind]) for kind in ("cgroups", "links", "processes")), seen)
        finally:
            orphan.kill()
            orphan.wait()
            planted.rmdir()
            subprocess.run(["ip", "link", "del", "osbplanted"], check=True)
        server.stop()
    finally:
        server.remove()
    left = left_since(empty)
    check("after the server's end nothing of it is left", not left, left)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
