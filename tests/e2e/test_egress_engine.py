"""Sidecars on real engines: what they may, what reads their token, and that neither they nor their sandboxes are left behind."""
import http.client
import json
import os
import pathlib
import signal
import socket
import uuid

import pytest

import engines
import harness
from far_side import ALLOWED, DENIED, RESOLVER, SHARED, net
from test_egress_sandbox import POLICY, connect, far, make, nothing_left, reaches, resolve, server  # noqa: F401 fixtures
from test_docker import state, wait_state

NET_ADMIN = 1 << 12
OPEN = {"defaultAction": "deny", "egress": [{"action": "allow", "target": "allowed.test"}, {"action": "allow", "target": SHARED}]}


@pytest.fixture(scope="module", ids=["dockerd", "podman"],
                params=[engines.Dockerd, pytest.param(engines.Podman, marks=pytest.mark.long)])
def engine(request):
    with request.param() as e:
        e.import_base()
        e.build_images()
        yield e


def sidecar(engine, sandbox):
    status, c = engine.call("GET", f"/containers/sandbox-egress-{sandbox}/json")
    assert status == 200, c
    return c


def inside(engine, sandbox):
    """Runs a function in the network that both containers are in."""
    return net.Inside(f"../../proc/{sidecar(engine, sandbox)['State']['Pid']}/ns/net")


def of_sandbox(engine, sandbox):
    """Containers of it by name, whatever their labels say."""
    return sorted(n.lstrip("/") for c in engine.containers() for n in c["Names"] if sandbox in n)


def nothing_of(engine, sandbox):
    assert of_sandbox(engine, sandbox) == []
    assert not [v for v in engine.call("GET", "/volumes")[1]["Volumes"] or [] if sandbox in v["Name"]]


def token(server, sandbox):
    r = server.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/18080")
    assert r.status == 200, r
    return r.json()["headers"]["OPENSANDBOX-EGRESS-AUTH"]


def api(server, engine, sandbox, method, path, body=None, auth=None):
    """Egress's own API, asked inside."""
    c = http.client.HTTPConnection("127.0.0.1", 18080)
    c.sock = inside(engine, sandbox)(socket.create_connection, ("127.0.0.1", 18080), 5)
    try:
        headers = {"OPENSANDBOX-EGRESS-AUTH": token(server, sandbox) if auth is None else auth}
        c.request(method, path, json.dumps(body) if body is not None else None, headers)
        r = c.getresponse()
        return r.status, r.read()
    finally:
        c.close()


def capabilities(pid):
    with open(f"/proc/{pid}/status") as f:
        return {k: int(v, 16) for k, v in (line.split(":") for line in f if line.startswith("Cap"))}


def workers(engine, sandbox):
    pid = sidecar(engine, sandbox)["State"]["Pid"]
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def test_containers_are_as_asked(server, engine, make):  # noqa: F811
    sandbox = make()
    both = [sidecar(engine, sandbox), engine.inspect(sandbox)[1]]
    secret = token(server, sandbox)
    for c in both:  # neither configuration nor environment of a process holds what opens the API
        assert secret not in json.dumps(c)
        with open(f"/proc/{c['State']['Pid']}/environ", "rb") as f:
            assert secret.encode() not in f.read()
    caps = [capabilities(c["State"]["Pid"]) for c in both]
    assert caps[0]["CapBnd"] == caps[0]["CapEff"] == NET_ADMIN
    assert not caps[1]["CapBnd"] & (NET_ADMIN | 1 << 13)  # and NET_RAW
    links = [os.readlink(f"/proc/{c['State']['Pid']}/ns/net") for c in both]
    assert links[0] == links[1]
    assert both[0]["Config"]["Labels"]["opensandbox.io/egress-sidecar-for"] == sandbox
    switch = pathlib.Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    assert inside(engine, sandbox)(switch.read_text) == "1\n"
    assert not (both[1]["HostConfig"].get("PortBindings") or {})
    assert api(server, engine, sandbox, "GET", "/policy", auth="guess")[0] == 401
    code, out, _ = server.run(sandbox, "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'")
    assert code == 0 and secret not in out and "OPENSANDBOX_EGRESS" not in out


def test_policy_survives_its_worker(server, engine, far, make):  # noqa: F811
    """The supervisor starts another one; what the owner changed is still in force, and nothing gets out meanwhile."""
    sandbox = make()
    before = len(far.frames_to(DENIED))
    assert api(server, engine, sandbox, "PUT", "/policy", OPEN)[0] == 200
    assert connect(server, sandbox, SHARED) == [0]
    old = workers(engine, sandbox)
    os.kill(old[0], signal.SIGKILL)
    harness.wait_until(lambda: old[0] not in workers(engine, sandbox), "the gap")
    assert all(connect(server, sandbox, DENIED))
    harness.wait_until(lambda: workers(engine, sandbox), "another worker", 10)
    harness.wait_until(lambda: api(server, engine, sandbox, "GET", "/healthz")[0] == 200, "it is healthy", 10)
    assert json.loads(api(server, engine, sandbox, "GET", "/policy")[1])["policy"] == OPEN
    assert reaches(server, sandbox, far) and connect(server, sandbox, SHARED) == [0]
    nothing_left(far, before)


def test_its_end_ends_the_sandbox(server, engine, far, make):  # noqa: F811
    """The engine takes the network away with the container that made it, and a new one would have another."""
    for action in ("kill", "stop?t=1"):
        sandbox = make()
        before = len(far.frames_to(DENIED))
        server.run(sandbox, "python3 -c \"import socket\nwhile True:\n try: socket.socket(2, 2).sendto(b'x', ('%s', 9))\n except OSError: pass\" "
                   ">/dev/null 2>&1 &" % DENIED, background=True)
        assert engine.call("POST", f"/containers/sandbox-egress-{sandbox}/{action}")[0] in (200, 204)
        wait_state(server, sandbox, "Failed", 10)
        nothing_left(far, before)
        server.delete(sandbox)
        nothing_of(engine, sandbox)


def test_restart_of_the_server(server, engine, far, make):  # noqa: F811
    kept, orphaned = make(), make()
    assert api(server, engine, kept, "PUT", "/policy", OPEN)[0] == 200
    secret = token(server, kept)
    server.kill()
    stray = str(uuid.uuid4())
    instance = sidecar(engine, kept)["Config"]["Labels"]["opensandbox.io/server"]
    assert engine.call("POST", f"/containers/sandbox-egress-{orphaned}/kill")[0] in (200, 204)
    labels = {"opensandbox.io/id": stray, "opensandbox.io/server": instance, "opensandbox.io/egress-sidecar-for": stray}
    status, made = engine.call("POST", f"/containers/create?name=sandbox-egress-{stray}", {"Image": "opensandbox/egress:local", "Labels": labels})
    assert status == 201, made
    server.start()
    assert state(server, kept) == "Running" and token(server, kept) == secret
    wait_state(server, orphaned, "Failed", 10)
    nothing_of(engine, stray)
    assert json.loads(api(server, engine, kept, "GET", "/policy")[1])["policy"] == OPEN
    before = len(far.frames_to(DENIED))
    assert reaches(server, kept, far) and all(connect(server, kept, DENIED))
    nothing_left(far, before)
    for sandbox in (kept, orphaned):
        server.delete(sandbox)
        nothing_of(engine, sandbox)


def test_pause_and_resume(server, engine, far, make):  # noqa: F811
    sandbox = make()
    assert server.request("POST", f"/v1/sandboxes/{sandbox}/pause").status == 202
    wait_state(server, sandbox, "Paused")
    assert api(server, engine, sandbox, "PUT", "/policy", OPEN)[0] == 200  # the policy does not sleep
    assert server.request("POST", f"/v1/sandboxes/{sandbox}/resume").status == 202
    wait_state(server, sandbox, "Running")
    assert reaches(server, sandbox, far) and connect(server, sandbox, SHARED, DENIED)[0] == 0


def test_snapshot_and_restore(server, engine, far, make):  # noqa: F811
    source = make()
    server.run(source, "echo kept > /root/file")
    snapshot = server.request("POST", f"/v1/sandboxes/{source}/snapshots", {"name": "one"}).json()["id"]
    harness.wait_until(lambda: server.request("GET", f"/v1/snapshots/{snapshot}").json()["status"]["state"] == "Ready", "ready", 20)
    restored = make(image=None, snapshotId=snapshot)
    before = len(far.frames_to(DENIED))
    assert server.run(restored, "cat /root/file")[1] == "kept\n"
    assert reaches(server, restored, far) and all(connect(server, restored, DENIED))
    nothing_left(far, before)
    for sandbox in (restored, source):
        server.delete(sandbox)
    assert server.request("DELETE", f"/v1/snapshots/{snapshot}").status == 204


def test_pool(server, engine, far):  # noqa: F811
    template = {"image": {"uri": harness.IMAGE}, "networkPolicy": POLICY}
    capacity = {"bufferMin": 1, "bufferMax": 1, "poolMin": 0, "poolMax": 3}
    assert server.request("POST", "/v1/pools", {"name": "policed", "template": template, "capacitySpec": capacity}).status == 201
    try:
        harness.wait_until(lambda: server.request("GET", "/v1/pools/policed").json()["status"]["available"] == 1, "it is filled")
        sandbox = server.request("POST", "/v1/sandboxes", {"extensions": {"poolRef": "policed"}, "timeout": 600}).json()["id"]
        assert reaches(server, sandbox, far) and all(connect(server, sandbox, DENIED))
        server.delete(sandbox)
        nothing_of(engine, sandbox)
    finally:
        server.request("DELETE", "/v1/pools/policed")
    harness.wait_until(lambda: not [n for c in engine.containers() for n in c["Names"] if "sandbox-" in n], "the stock goes")


def test_the_end_of_the_entrypoint(server, engine, make):  # noqa: F811
    sandbox = make(entrypoint=["sh", "-c", "sleep 0.3; exit 7"])
    wait_state(server, sandbox, "Failed", 10)
    harness.wait_until(lambda: not engine.call("GET", f"/containers/sandbox-egress-{sandbox}/json")[1]["State"]["Running"], "so has its sidecar", 10)
    server.delete(sandbox)
    nothing_of(engine, sandbox)


def test_failed_creates_leave_nothing(server, engine):  # noqa: F811
    before = sorted(n for c in engine.containers() for n in c["Names"])
    missing = {"claimName": "no-such-volume", "createIfNotExists": False}  # found out when the sidecar stands
    server.create(expect=400, networkPolicy=POLICY, volumes=[{"name": "a", "mountPath": "/data", "pvc": missing}])
    assert sorted(n for c in engine.containers() for n in c["Names"]) == before


def test_many(server, engine, make):  # noqa: F811
    """A large policy, which no variable of an environment holds."""
    rules = [{"action": "allow", "target": f"name-{i}.of-a-large-policy.test"} for i in range(4000)]
    sandbox = make({"defaultAction": "deny", "egress": rules + [{"action": "allow", "target": "allowed.test"}]})
    assert resolve(server, sandbox, "allowed.test", "denied.test") == [ALLOWED, None]
    assert len(json.loads(api(server, engine, sandbox, "GET", "/policy")[1])["policy"]["egress"]) == 4001


@pytest.mark.parametrize("engine", [engines.Dockerd], ids=["dockerd"], indirect=True)
def test_published_ports(engine, far):  # noqa: F811
    """Where the server cannot enter the network: execd and the API are published by the sidecar, on the loopback of the engine
    (which for the tests' Podman is in a namespace of its own)."""
    with engines.docker_server(engine, egress={"image": "opensandbox/egress:local", "dns_upstream": [RESOLVER]}, publish_ports="always") as s:
        s.start()
        sandbox = s.create(networkPolicy=POLICY)["id"]
        ports = sidecar(engine, sandbox)["NetworkSettings"]["Ports"]
        assert {b["HostIp"] for p in ("44772/tcp", "18080/tcp") for b in ports[p]} == {"127.0.0.1"}
        assert engine.inspect(sandbox)[1]["Config"]["Labels"]["opensandbox.io/embedding-proxy-port"] == ports["44772/tcp"][0]["HostPort"]
        assert s.run(sandbox, "echo through the port")[1] == "through the port\n"
        assert connect(s, sandbox, DENIED) != [0] and resolve(s, sandbox, "allowed.test") == [ALLOWED]
        s.delete(sandbox)
        nothing_of(engine, sandbox)


def test_networks_that_keep_no_policy(engine):
    assert engine.call("POST", "/networks/create", {"Name": "theirs", "Driver": "bridge"})[0] == 201
    with engines.docker_server(engine, egress={"image": "opensandbox/egress:local"}, network_mode="theirs") as s:
        s.start()
        r = s.create(expect=400, networkPolicy=POLICY)
        assert r["code"] == "SANDBOX::INVALID_PARAMETER" and "docker.network_mode" in r["message"]


def test_no_image(engine):
    with engines.docker_server(engine) as s:
        s.start()
        r = s.create(expect=400, networkPolicy=POLICY)
        assert r["code"] == "SANDBOX::INVALID_PARAMETER" and "egress.image" in r["message"]
