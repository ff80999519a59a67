"""The egress of sandboxes on the built-in runtime, from its first instruction to its last: whatever dies, nothing denied gets out, and
what can come back does."""
import json
import os
import pathlib
import secrets
import signal
import sqlite3
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

import harness
from far_side import ALLOWED, DENIED, RESOLVER, SHARED, FarSide
from harness import wait_until
from test_egress_sandbox import POLICY, connect, make, policy_route, reaches, resolve  # noqa: F401

PREFIX = f"osblife{secrets.token_hex(3)}"  # of this server's control groups


@pytest.fixture(scope="module")
def far():
    with FarSide() as f:
        yield f


@pytest.fixture(scope="module")
def server(far):
    with harness.Server({"oci": {"dns": [RESOLVER], "cgroup_prefix": PREFIX}}) as s:
        s.import_base()
        yield s.start()


def directory(server, sandbox):
    return server.state / "oci/oci/sandboxes" / sandbox


def supervisor(server, sandbox):
    return int((directory(server, sandbox) / "egress.pid").read_text().split()[0])


def worker(server, sandbox):
    out = subprocess.run(["pgrep", "-P", str(supervisor(server, sandbox))], capture_output=True, text=True).stdout.split()
    return int(out[0]) if out else 0


def alive(pid):
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def groups(server, sandbox="*"):
    name = f"{PREFIX}-*.egress/{sandbox}"
    return [p for pattern in (name, "*/" + name) for p in pathlib.Path("/sys/fs/cgroup").glob(pattern) if p.is_dir()]


def parked(server):
    """Names of those that wait for an owner (4 from the first policy on)."""
    return {d.name for d in (server.state / "oci/oci/sandboxes").iterdir() if (d / "egress.pid").exists() and not (d / "lower").exists()}


def owned(server):
    """Control groups of egress with an owner."""
    return [g for g in groups(server) if g.name not in parked(server)]


def kill_egress(server, sandbox):
    """And waits for another one."""
    old = supervisor(server, sandbox)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: supervisor(server, sandbox) != old and policy_route(server, sandbox).status == 200, "another one")


class Pressure:
    """A process in the sandbox that tries denied destinations all the time."""
    CODE = """
import socket, time
n = 0
while True:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_INET, kind); s.setblocking(False)
        for a in ("%s", "%s"):
            try:
                s.connect_ex((a, 80)) if kind == socket.SOCK_STREAM else s.sendto(b"out", (a, 9000))
            except OSError: pass
        s.close()
    n += 1
    open("/tmp/tries", "w").write(str(n))
    time.sleep(0.002)
""" % (DENIED, SHARED)

    def __init__(self, server, far, sandbox):
        self.server, self.far, self.sandbox = server, far, sandbox
        self.upper = directory(server, sandbox) / "upper/tmp/tries"  # its own file system, seen from outside
        self.before = self.seen()

    def seen(self):
        return len(self.far.frames_to(DENIED)) + len(self.far.frames_to(SHARED))

    def __enter__(self):
        path = "/tmp/pressure.py"
        self.server.run(self.sandbox, f"cat >{path} <<'EOF'\n{self.CODE}\nEOF")
        self.server.run(self.sandbox, f"setsid python3 {path} >/dev/null 2>&1 </dev/null &")
        self.check()
        return self

    def tries(self):
        try:
            return int(self.upper.read_text() or 0)
        except (OSError, ValueError):
            return 0

    def check(self):
        before = self.tries()
        wait_until(lambda: self.tries() > before + 20, "packets are tried")
        assert self.seen() == self.before, "denied frames on the far side"

    def __exit__(self, *_):
        self.server.run(self.sandbox, "pkill -f pressure.py")


def test_supervisor_killed(server, far, make):
    sandbox = make()
    assert policy_route(server, sandbox, "PATCH", [{"action": "allow", "target": "hook.test"}]).status == 200
    policy = policy_route(server, sandbox).json()["policy"]
    old, old_worker = supervisor(server, sandbox), worker(server, sandbox)
    far_before = resolve(server, sandbox, "allowed.test")
    with Pressure(server, far, sandbox) as p:
        for _ in range(2):
            old, old_worker = supervisor(server, sandbox), worker(server, sandbox)
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: not alive(old_worker), "the worker goes with it")
            p.check()
            wait_until(lambda: supervisor(server, sandbox) != old and policy_route(server, sandbox).status == 200, "another one")
            p.check()
    assert policy_route(server, sandbox).json()["policy"] == policy
    assert far_before == [ALLOWED] and reaches(server, sandbox, far)
    assert "its egress ended (signal 9); it stays closed" in server.log()


def test_worker_killed(server, far, make):
    sandbox = make()
    with Pressure(server, far, sandbox) as p:
        old, first = worker(server, sandbox), supervisor(server, sandbox)
        os.kill(old, signal.SIGKILL)
        p.check()
        wait_until(lambda: worker(server, sandbox) not in (0, old) and policy_route(server, sandbox).status == 200, "another worker")
        p.check()
    assert reaches(server, sandbox, far) and supervisor(server, sandbox) == first


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("egress", ["lives", "killed"])
def test_server_restart(server, far, make, end, egress):
    sandbox = make()
    assert policy_route(server, sandbox, "PATCH", [{"action": "allow", "target": "hook.test"}]).status == 200
    policy = policy_route(server, sandbox).json()["policy"]
    token = server.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/18080").json()["headers"]
    with Pressure(server, far, sandbox) as p:
        old = supervisor(server, sandbox)
        getattr(server, end)()
        p.check()
        if egress == "killed":
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: not alive(old), "it ends")
            p.check()
        server.start()
        wait_until(lambda: policy_route(server, sandbox).status == 200, "it answers")
        p.check()
        assert (supervisor(server, sandbox) == old) == (egress == "lives")
    assert policy_route(server, sandbox).json()["policy"] == policy
    assert server.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/18080").json()["headers"] == token
    assert reaches(server, sandbox, far) and resolve(server, sandbox, "denied.test") == [None]
    kill_egress(server, sandbox)  # this server keeps it too


def test_paused(server, far, make):
    sandbox = make()
    assert server.request("POST", f"/v1/sandboxes/{sandbox}/pause").status == 202
    assert policy_route(server, sandbox, "PATCH", [{"action": "allow", "target": "other.test"}]).status == 200
    assert server.request("POST", f"/v1/sandboxes/{sandbox}/resume").status == 202
    assert reaches(server, sandbox, far, "other.test", SHARED)


def test_a_change_cuts(server, far, make):
    """A connection that a new policy denies goes nowhere from the change's answer on."""
    sandbox = make({"egress": [{"action": "allow", "target": ALLOWED}]})
    code = (f"import socket, time\ns = socket.create_connection(('{ALLOWED}', 9000)); s.settimeout(3)\nn = 0\n"
            "try:\n    while True:\n        s.send(b'x'); s.recv(1); n += 1; open('/tmp/n', 'w').write(str(n)); time.sleep(0.01)\n"
            "except OSError as e: open('/tmp/end', 'w').write(str(e))")
    server.run(sandbox, f"cat >/tmp/c.py <<'EOF'\n{code}\nEOF")
    server.run(sandbox, "setsid python3 /tmp/c.py >/dev/null 2>&1 </dev/null &")
    wait_until(lambda: int(server.run(sandbox, "cat /tmp/n || echo 0")[1] or 0) > 5, "it speaks")
    assert policy_route(server, sandbox, "PUT", {}).status == 200
    answered = time.time()
    wait_until(lambda: server.run(sandbox, "cat /tmp/end")[0] == 0, "it ends")
    assert not [t for t in far.times_of(ALLOWED) if t > answered], "frames after the answer"


def leftovers(server, sandbox, pids):
    return [p for p in pids if alive(p)] + groups(server, sandbox) + ([directory(server, sandbox)] if directory(server, sandbox).exists() else [])


def test_delete_leaves_nothing(server, make):
    sandbox = make()
    pids = [supervisor(server, sandbox), worker(server, sandbox)]
    assert len(groups(server, sandbox)) >= 1 and all(alive(p) for p in pids)
    server.delete(sandbox)
    assert leftovers(server, sandbox, pids) == []


def test_end_of_the_sandbox(server, make):
    sandbox = make(entrypoint=["sh", "-c", "sleep 1"])
    pids = [supervisor(server, sandbox), worker(server, sandbox)]
    wait_until(lambda: server.get(sandbox)["status"]["state"] == "Terminated", "it ends")
    wait_until(lambda: not groups(server, sandbox) and not any(alive(p) for p in pids), "its egress goes")
    assert policy_route(server, sandbox).json()["code"] == "SANDBOX::NOT_RUNNING"


def traces(server, sandbox):
    """What a sandbox that has ended must not have any more, seen from outside."""
    oci = server.state / "oci/oci"
    links = subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    paths = [oci / "sandboxes" / sandbox / name for name in ("upper", "work")] + [oci / "image-refs" / sandbox]
    found = [str(p) for p in [*paths, *pathlib.Path("/run/opensandbox").glob(f"*/runtime/{sandbox}")] if p.exists()]
    found += [str(p) for pattern in (f"{PREFIX}-*/{sandbox}", f"*/{PREFIX}-*/{sandbox}") for p in pathlib.Path("/sys/fs/cgroup").glob(pattern)]
    return found + [line for line in links.splitlines() if sandbox in line]


@pytest.mark.parametrize("recorded", ["Running", "Failed"])
def test_killed_in_the_middle_of_its_end(server, make, recorded):
    """The server wrote down how the sandbox ended, and was killed before it took the rest away."""
    other, sandbox = make(), make(entrypoint=["sh", "-c", "echo last words; sleep 600"])
    first, egress = server.first_process(sandbox), supervisor(server, sandbox)
    assert len(traces(server, sandbox)) >= 7
    server.kill()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not alive(first), "it ends")
    (directory(server, sandbox) / "end").write_text(json.dumps(
        {"code": 137, "signal": 9, "oom": False, "record": False, "time_us": time.time_ns() // 1000}))
    with sqlite3.connect(server.sections["store"]["path"]) as db:
        db.execute("UPDATE sandboxes SET state = ? WHERE id = ?", (recorded, sandbox))
    assert alive(egress)
    server.start()
    wait_until(lambda: not alive(egress) and not traces(server, sandbox), "nothing is left of it")
    assert server.get(sandbox)["status"]["state"] == "Failed"
    if recorded == "Running":
        assert "signal 9" in server.get(sandbox)["status"]["message"]
    assert b"last words" in server.request("GET", f"/v1/sandboxes/{sandbox}/diagnostics/logs").body
    assert server.run(other, "echo well")[1] == "well\n" and len(traces(server, other)) >= 7
    server.delete(sandbox)
    assert not directory(server, sandbox).exists()


@pytest.mark.parametrize("damage", ["address", "pid"])
def test_not_taken_over(server, make, damage):
    """What the next server cannot take over, or finds dead, leaves nothing when it is deleted."""
    sandbox = make()
    pids = [server.first_process(sandbox), supervisor(server, sandbox), worker(server, sandbox)]
    server.kill()
    with sqlite3.connect(server.sections["store"]["path"]) as db:
        state = json.loads(db.execute("SELECT runtime_state FROM sandboxes WHERE id = ?", (sandbox,)).fetchone()[0])
        state[damage] = {"address": "nowhere", "pid": os.getpid()}[damage]
        db.execute("UPDATE sandboxes SET runtime_state = ? WHERE id = ?", (json.dumps(state), sandbox))
    server.start()
    assert server.get(sandbox)["status"]["state"] == "Failed"
    assert damage == "pid" or "could not be taken over" in server.get(sandbox)["status"]["message"]
    server.delete(sandbox)
    wait_until(lambda: not leftovers(server, sandbox, pids) and not traces(server, sandbox), "nothing is left of it")


@pytest.mark.parametrize("members, code", [
    ({"entrypoint": ["/no/such/program"]}, "OCI::SANDBOX_START_FAILED"),
    ({"env": {"OPENSANDBOX_EGRESS_DENY_WEBHOOK": "https://hook.test/"}}, "SANDBOX::INVALID_PARAMETER"),
    ({"env": {"OPENSANDBOX_EGRESS_MITMPROXY_TRANSPARENT": "1"}}, "SANDBOX::INVALID_PARAMETER"),
    ({"env": {"OPENSANDBOX_EGRESS_NONSENSE": "1"}}, "SANDBOX::INVALID_PARAMETER")])
def test_failed_create_leaves_nothing(server, members, code):
    body = {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "resourceLimits": {}, "timeout": 600, "networkPolicy": POLICY, **members}
    r = server.request("POST", "/v1/sandboxes", body)
    assert r.json()["code"] == code and r.status == (500 if "START" in code else 400), r
    assert server.sandboxes() == []
    wait_until(lambda: len(parked(server)) == 4, "the stock is full")
    assert {d.name for d in (server.state / "oci/oci/sandboxes").iterdir()} == parked(server) and owned(server) == []


def test_settings_go_to_egress_alone(server, make):
    sandbox = make(env={"OPENSANDBOX_EGRESS_LOG_LEVEL": "debug", "OPENSANDBOX_EGRESS_POLICY_FILE": "/tmp/x", "MINE": "1"})
    seen = server.run(sandbox, "env")[1]
    assert "MINE=1" in seen and "EGRESS" not in seen
    settings = json.loads((directory(server, sandbox) / "egress.json").read_text())
    assert settings["OPENSANDBOX_EGRESS_LOG_LEVEL"] == "debug" and settings["OPENSANDBOX_EGRESS_POLICY_FILE"] == "policy.json"
    assert json.loads((directory(server, sandbox) / "egress/settings.json").read_text()) == settings  # of one that was parked
    status = pathlib.Path(f"/proc/{worker(server, sandbox)}/status").read_text()
    assert "CapBnd:\t0000000000001000" in status and "CapEff:\t0000000000001000" in status and "NoNewPrivs:\t1" in status


def test_pool(server, far):
    template = {"image": {"uri": harness.IMAGE}, "networkPolicy": POLICY}
    r = server.request("POST", "/v1/pools", {"name": "policed", "template": template, "capacitySpec": {
        "bufferMin": 1, "bufferMax": 1, "poolMin": 0, "poolMax": 3}})
    assert r.status == 201, r
    try:
        wait_until(lambda: server.request("GET", "/v1/pools/policed").json()["status"]["available"] == 1, "it is filled")
        r = server.request("POST", "/v1/sandboxes", {"extensions": {"poolRef": "policed"}, "timeout": 600})
        sandbox = r.json()["id"]
        assert reaches(server, sandbox, far) and resolve(server, sandbox, "denied.test") == [None]
        assert policy_route(server, sandbox).json()["policy"]["egress"] == POLICY["egress"]
        server.delete(sandbox)
    finally:
        server.request("DELETE", "/v1/pools/policed")
    wait_until(lambda: owned(server) == [], "its egress goes")


def test_snapshot(server, far, make):
    """What is made of it wants a policy of its own: the source's is not lost silently."""
    sandbox = make()
    snapshot = server.request("POST", f"/v1/sandboxes/{sandbox}/snapshots", {}).json()["id"]
    wait_until(lambda: server.request("GET", f"/v1/snapshots/{snapshot}").json()["status"]["state"] == "Ready", "it is kept")
    body = {"snapshotId": snapshot, "resourceLimits": {}, "timeout": 600}
    r = server.request("POST", "/v1/sandboxes", body)
    assert r.status == 400 and "networkPolicy is needed" in r.json()["message"], r
    r = server.request("POST", "/v1/sandboxes", {**body, "networkPolicy": {"egress": [{"action": "allow", "target": "other.test"}]}})
    restored = r.json()["id"]
    assert resolve(server, restored, "allowed.test", "other.test") == [None, SHARED]
    server.delete(restored)
    server.delete(sandbox)
    assert server.request("DELETE", f"/v1/snapshots/{snapshot}").status == 204


def test_orphan_is_swept(server, make):
    """An egress that no sandbox has any more goes at the next start."""
    sandbox = make()
    parent = groups(server, sandbox)[0].parent
    orphan = parent / str(uuid.uuid4())
    orphan.mkdir()
    p = subprocess.Popen(["sleep", "600"])
    (orphan / "cgroup.procs").write_text(str(p.pid))
    try:
        server.kill()
        server.start()
        wait_until(lambda: p.poll() is not None and not orphan.exists(), "it is swept", 10)
        assert policy_route(server, sandbox).status == 200
    finally:
        p.kill()
        p.wait()


def test_out_of_memory(server, make):
    """A sandbox that is killed for want of memory does not take its egress along."""
    sandbox = make(resourceLimits={"memory": "64Mi"})
    old = supervisor(server, sandbox)
    server.run(sandbox, "python3 -c 'x = b\"x\" * (200 << 20)'")
    assert supervisor(server, sandbox) == old and alive(old) and alive(worker(server, sandbox))


def test_parked(server, far, make):
    """Those that wait for an owner: used, replaced, ended with the server, swept after one that was killed; a dead one is nobody's."""
    make()
    full = lambda: len(parked(server)) == 4
    wait_until(full, "the stock is full")
    before = parked(server)
    pids = {supervisor(server, name) for name in before}
    sandbox = make()
    assert supervisor(server, sandbox) in pids and reaches(server, sandbox, far) and resolve(server, sandbox, "denied.test") == [None]
    wait_until(full, "it is full again")
    old = worker(server, sandbox)
    os.kill(old, signal.SIGKILL)  # the next worker knows its owner
    wait_until(lambda: worker(server, sandbox) not in (0, old) and policy_route(server, sandbox).status == 200, "another worker")
    for name in parked(server):
        os.kill(supervisor(server, name), signal.SIGKILL)
    other = make({"egress": [{"action": "allow", "target": "other.test"}]})
    assert resolve(server, other, "other.test", "allowed.test") == [SHARED, None]
    wait_until(full, "it is full again")
    old = parked(server)
    pids = [supervisor(server, name) for name in old]
    server.kill()
    server.start()
    assert not old & parked(server)
    wait_until(lambda: not any(alive(p) for p in pids), "they end")
    third = make()
    wait_until(full, "it is full again")
    pids = [supervisor(server, name) for name in parked(server)]
    server.stop()
    assert parked(server) == set() and not any(alive(p) for p in pids)
    server.start()
    assert all(policy_route(server, x).status == 200 for x in (sandbox, other, third))


@pytest.mark.parametrize("config", [{"oci": {"user_namespace": "never"}}, {"oci": {"runtime": "runc"}}, {"egress": {"mode": "dns"}}],
                         ids=["no user namespaces", "runc", "names only"])
def test_other_servers(far, config):
    config = {**config, "oci": {"dns": [RESOLVER], **config.get("oci", {})}}
    with harness.Server(config) as s:
        s.import_base()
        s.start()
        sandboxes = [s.create(networkPolicy=POLICY)["id"]]
        wait_until(lambda: len(parked(s)) == 4, "the stock is full")
        sandboxes.append(s.create(networkPolicy=POLICY)["id"])  # one that was parked
        for sandbox in sandboxes:
            status = pathlib.Path(f"/proc/{worker(s, sandbox)}/status").read_text()
            assert "CapBnd:\t0000000000001000" in status and "CapEff:\t0000000000001000" in status and "Uid:\t1048576\t" in status
            assert reaches(s, sandbox, far) and resolve(s, sandbox, "denied.test") == [None]
            assert (connect(s, sandbox, DENIED) == [0]) == (config.get("egress") is not None)
            assert policy_route(s, sandbox, "PUT", {}).json()["mode"] == "deny_all"
            kill_egress(s, sandbox)
            assert policy_route(s, sandbox).json()["mode"] == "deny_all" and resolve(s, sandbox, "allowed.test") == [None]


def test_many_at_once(server, far, make):
    """More creates than are parked; each gets its own policy, and all go."""
    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda i: make({"egress": [{"action": "allow", "target": f"n{i}.test"}]}), range(24)))
        got = list(pool.map(lambda sb: policy_route(server, sb).json()["policy"]["egress"][0]["target"], made))
        assert got == [f"n{i}.test" for i in range(24)]
        pids = [supervisor(server, sb) for sb in made]
        list(pool.map(server.delete, made))
    assert not any(alive(p) for p in pids)
    wait_until(lambda: owned(server) == [], "no control group is left")


def test_missing_program(far):
    with harness.Server({"egress": {"path": "/bin/true"}}) as s:  # one that is none
        s.import_base()
        s.start()
        r = s.create(expect=500, networkPolicy=POLICY)
        assert "the network policy is not in force" in r["message"] and not list(s.state.glob("oci/oci/sandboxes/*/lower")), r
        s.stop()
        assert not any((s.state / "oci/oci/sandboxes").iterdir())
        s.sections["egress"]["path"] = "/no/such/egress"
        s.write_config()
        s.start(ready=False)
        assert s.process.wait(20) == 3 and "egress.path" in s.log()
