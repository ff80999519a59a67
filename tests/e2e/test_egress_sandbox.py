"""Network policies of real sandboxes: what leaves one is counted on the far side. The same tests on every runtime that has them."""
import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.models.sandboxes import NetworkPolicy, NetworkRule
from opensandbox.sync.sandbox import SandboxSync

import engines
import harness
from far_side import ALLOWED, DENIED, RESOLVER, SHARED, FarInside, FarSide
from harness import wait_until

sys.path.insert(0, str(harness.ROOT / "tests/component"))
from execd_collector import Collector, counts, points, resource  # noqa: E402

POLICY = {"defaultAction": "deny", "egress": [{"action": "allow", "target": "allowed.test"}]}


@pytest.fixture(scope="module", ids=["oci", "dockerd", "podman"],
                params=[None, engines.Dockerd, pytest.param(engines.Podman, marks=pytest.mark.long)])
def engine(request):
    """None: the built-in runtime."""
    if not request.param:
        yield None
        return
    with request.param() as e:
        e.import_base()
        e.build_images()
        yield e


@pytest.fixture(scope="module")
def far(engine):
    with FarInside(engine.process.pid) if engine and engine.name == "podman" else FarSide() as f:
        yield f


@pytest.fixture(scope="module")
def server(engine, far):
    with (engines.docker_server(engine, egress={"image": "opensandbox/egress:local", "dns_upstream": [RESOLVER]}) if engine
          else harness.Server({"oci": {"dns": [RESOLVER]}})) as s:
        if not engine:
            s.import_base()
        yield s.start()


@pytest.fixture
def make(server):
    made = []

    def create(policy=POLICY, **members):
        sb = server.create(networkPolicy=policy, **members)["id"]
        made.append(sb)
        return sb
    yield create
    for sb in made:
        server.request("DELETE", f"/v1/sandboxes/{sb}")


def python(server, sandbox, code):
    status, out, err = server.run(sandbox, "python3 -c '" + code.replace("'", "'\\''") + "'")
    assert status == 0, (out, err)
    return json.loads(out)


RESOLVE = """
import socket, json
def ask(n):
    try: return socket.gethostbyname(n)
    except OSError: return None
print(json.dumps([ask(n) for n in NAMES]))"""
CONNECT = """
import socket, json
def go(a, p):
    s = socket.socket(); s.settimeout(3)
    try: return s.connect_ex((a, p))
    except OSError as e: return str(e)
    finally: s.close()
print(json.dumps([go(a, p) for a, p in PLACES]))"""


def resolve(server, sandbox, *names):
    return python(server, sandbox, f"NAMES = {list(names)!r}" + RESOLVE)


def connect(server, sandbox, *places):
    return python(server, sandbox, f"PLACES = {[p if isinstance(p, tuple) else (p, 80) for p in places]!r}" + CONNECT)


def reaches(server, sandbox, far, name="allowed.test", address=ALLOWED):
    return resolve(server, sandbox, name) == [address] and connect(server, sandbox, address) == [0]


def nothing_left(far, before):
    assert len(far.frames_to(DENIED)) == before, "denied frames were seen on the far side"


def test_names_and_addresses(server, far, make):
    sandbox = make()
    before = len(far.frames_to(DENIED))
    assert resolve(server, sandbox, "allowed.test", "denied.test", "alias.test") == [ALLOWED, None, None]
    assert connect(server, sandbox, ALLOWED) == [0]
    assert all(connect(server, sandbox, DENIED, (DENIED, 443), (DENIED, 853), SHARED))
    nothing_left(far, before)


def test_without_policy(server, far, engine):
    """The far side is reached by whoever has no policy: so the others were kept from it."""
    sandbox = server.create()["id"]
    try:
        if not engine:  # an engine has servers of its own for the others
            assert resolve(server, sandbox, "denied.test") == [DENIED]
        before = len(far.frames_to(DENIED))
        assert connect(server, sandbox, DENIED) == [0]
        wait_until(lambda: len(far.frames_to(DENIED)) > before, "the sniffer has them")
    finally:
        server.delete(sandbox)


# ---- the policy over HTTP ----

def policy_route(server, sandbox, method="GET", body=None):
    return server.request(method, f"/v1/sandboxes/{sandbox}/networkpolicy", body)


def test_lifecycle_route(server, far, make):
    sandbox = make()
    got = policy_route(server, sandbox).json()
    assert got == {"status": "ok", "mode": "enforcing", "enforcementMode": "dns+nft", "policy": {
        "egress": POLICY["egress"], "defaultAction": "deny"}}
    r = policy_route(server, sandbox, "PATCH", [{"action": "allow", "target": "other.test"}])
    assert r.status == 200 and reaches(server, sandbox, far, "other.test", SHARED), r
    r = policy_route(server, sandbox, "DELETE", ["other.test"])
    assert r.status == 200 and resolve(server, sandbox, "other.test", "allowed.test") == [None, ALLOWED], r
    assert connect(server, sandbox, SHARED) != [0]
    r = policy_route(server, sandbox, "PUT", {"default_action": "ALLOW"})
    assert r.json()["mode"] == "allow_all" and resolve(server, sandbox, "denied.test") == [DENIED], r
    r = policy_route(server, sandbox, "PUT", {})
    assert r.json()["mode"] == "deny_all" and resolve(server, sandbox, "allowed.test", "denied.test") == [None, None], r
    assert policy_route(server, sandbox).json()["policy"] == {"egress": [], "defaultAction": "deny"}


@pytest.mark.parametrize("policy, told", [
    ({"defaultAction": "maybe"}, 'networkPolicy: defaultAction is allow or deny, not "maybe"'),
    ({"egress": [{"action": "drop", "target": "a.test"}]}, 'networkPolicy: egress[0]: unsupported action "drop"'),
    ({"egress": [{"action": "allow", "target": "http://a.test"}]}, 'egress[0]: target "http://a.test": neither'),
    ({"egress": [{"action": "allow", "target": "ä.test"}]}, "egress[0]"),
    ({"egres": []}, 'unknown field "egres"')])
def test_refused(server, policy, told):
    reply = server.create(expect=400, networkPolicy=policy)
    assert reply["code"] == "SANDBOX::INVALID_PARAMETER" and told in reply["message"], reply
    assert server.sandboxes() == []


def test_wrong_types(server):
    r = server.request("POST", "/v1/sandboxes", {"image": {"uri": harness.IMAGE}, "entrypoint": ["x"], "resourceLimits": {}, "networkPolicy": {
        "egress": [{"action": "allow", "target": ""}, {"target": 5}]}})
    assert r.status == 422 and [d["loc"][-2:] for d in r.json()["detail"]] == [[0, "target"], [1, "action"], [1, "target"]], r


def test_endpoint(server, engine, make):
    sandbox = make()
    endpoint = server.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/18080").json()
    token = endpoint["headers"]["OPENSANDBOX-EGRESS-AUTH"]
    ask = lambda method="GET", path="/policy", **headers: server.request(
        method, f"/v1/sandboxes/{sandbox}/proxy/18080{path}", headers=headers, key=None)
    assert ask().status == ask(**{"OPENSANDBOX-EGRESS-AUTH": token[:-1]}).status == 401
    assert ask(**{"OPENSANDBOX-EGRESS-AUTH": token}).json()["mode"] == "enforcing"
    assert ask(path="/policy/explain?target=x.test", **{"OPENSANDBOX-EGRESS-AUTH": token}).json()["verdict"] == "deny"
    assert "OPENSANDBOX-EGRESS-AUTH" not in server.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/8000").json().get("headers", {})
    if engine:  # the sandbox is in the same network: it meets a closed door
        ask_inside = "python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:18080/policy')\""
        assert "401" in server.run(sandbox, ask_inside)[2]
    else:  # the sandbox itself has no way to it
        assert connect(server, sandbox, ("127.0.0.1", 18080)) != [0]
    for line in (server.log(), server.run(sandbox, "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")[1]):
        assert token not in line


def test_no_policy(server):
    sandbox = server.create()["id"]
    try:
        for r in (policy_route(server, sandbox), policy_route(server, sandbox, "PUT", {}),
                  server.request("GET", f"/v1/sandboxes/{sandbox}/proxy/18080/policy")):
            assert r.status == 502 and r.json()["code"] == "BACKEND_CONNECTION_FAILED" and "networkPolicy" in r.json()["message"], r
        assert "headers" not in server.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/18080").json()
    finally:
        server.delete(sandbox)


def test_diagnostics(server, make):
    sandbox = make()
    resolve(server, sandbox, "denied.test", "denied.test")
    connect(server, sandbox, DENIED)
    wait_until(lambda: f"egress refused address {DENIED}" in server.request("GET", f"/v1/sandboxes/{sandbox}/diagnostics/events").body.decode(),
               "the packet's event")
    scoped = server.request("GET", f"/v1/sandboxes/{sandbox}/diagnostics/events?scope=runtime").json()["content"]
    assert "egress refused name denied.test by default (2 times since " in scoped, scoped


# ---- telemetry of execd (docs/telemetry.md) ----

@pytest.fixture
def collector(far):
    """On the far side, at the port that a bare address means."""
    with far.outside(lambda: Collector(address=(ALLOWED, 4318))) as c:
        yield c


def sent_by(collector, sandbox):
    return [body for _, _, body in list(collector.requests) if resource(body)["sandbox_id"] == sandbox]


@pytest.mark.parametrize("variable,value", [("HOST_IP", ALLOWED), ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{ALLOWED}:4318")])
def test_env_of_a_create_turns_telemetry_on(server, collector, variable, value):
    quiet, sandbox = server.create()["id"], server.create(env={variable: value, "OTEL_METRIC_EXPORT_INTERVAL": "100",
                                                               "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS": "team=red"})["id"]
    try:
        assert server.run(sandbox, "echo hi")[:2] == (0, "hi\n") and server.run(quiet, "echo hi")[:2] == (0, "hi\n")
        success = (("operation", "run_command"), ("result", "success"))
        wait_until(lambda: any(counts(b, "execd.execution.duration") == {success: 1} for b in sent_by(collector, sandbox)), "the command is told of")
        assert resource(sent_by(collector, sandbox)[-1])["team"] == "red"
        (memory,) = points(sent_by(collector, sandbox)[-1], "execd.system.memory.usage_bytes").values()
        assert 0 < int(memory["asInt"]) <= 512 << 20
        assert {resource(body)["sandbox_id"] for _, _, body in collector.requests} == {sandbox}
    finally:
        server.delete(sandbox)
        server.delete(quiet)


def test_a_policy_decides_about_telemetry(server, collector, make):
    """Deny all keeps it in, like everything else; the same sandbox sends once its policy lets it."""
    sandbox = make({}, env={"HOST_IP": ALLOWED, "OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_METRIC_EXPORT_TIMEOUT": "300"})
    wait_until(lambda: f"egress refused address {ALLOWED}" in server.request("GET", f"/v1/sandboxes/{sandbox}/diagnostics/events").body.decode(),
               "the refusal's event")
    assert server.run(sandbox, "echo hi")[:2] == (0, "hi\n") and not collector.connections
    r = policy_route(server, sandbox, "PATCH", [{"action": "allow", "target": ALLOWED}])
    assert r.status == 200, r
    wait_until(lambda: sent_by(collector, sandbox), "an export", 20)


# ---- official clients ----

def rules(policy):
    return [(r.action, r.target) for r in policy.egress]


def test_python_sync(server, far):
    config = ConnectionConfigSync(domain=f"127.0.0.1:{server.port}", api_key=server.key)
    policy = NetworkPolicy(default_action="deny", egress=[NetworkRule(action="allow", target="allowed.test")])
    sb = SandboxSync.create(harness.IMAGE, network_policy=policy, connection_config=config)
    try:
        assert reaches(server, sb.id, far) and resolve(server, sb.id, "denied.test") == [None]
        assert rules(sb.get_egress_policy()) == [("allow", "allowed.test")]
        sb.patch_egress_rules([NetworkRule(action="allow", target="other.test"), NetworkRule(action="deny", target="allowed.test")])
        assert rules(sb.get_egress_policy()) == [("allow", "other.test"), ("deny", "allowed.test")]
        assert resolve(server, sb.id, "other.test", "allowed.test") == [SHARED, None]
    finally:
        sb.kill()
        sb.close()


def test_python_async(server, far):
    async def flow():
        config = ConnectionConfig(domain=f"127.0.0.1:{server.port}", api_key=server.key, use_server_proxy=True)
        policy = NetworkPolicy(egress=[NetworkRule(action="allow", target="allowed.test")])
        sb = await Sandbox.create(harness.IMAGE, network_policy=policy, connection_config=config)
        try:
            await sb.patch_egress_rules([NetworkRule(action="allow", target="*.wild.test")])
            return rules(await sb.get_egress_policy())
        finally:
            await sb.kill()
            await sb.close()
    assert asyncio.run(flow()) == [("allow", "*.wild.test"), ("allow", "allowed.test")]


def test_cli(server, far, make):
    sandbox = make()
    env = dict(os.environ, OPEN_SANDBOX_API_KEY=server.key, OPEN_SANDBOX_DOMAIN=f"127.0.0.1:{server.port}", NO_COLOR="1")
    osb = pathlib.Path(os.environ["OPENSANDBOX_BUILD"]) / "venv/bin/osb" if "OPENSANDBOX_BUILD" in os.environ else harness.BUILD / "venv/bin/osb"

    def run(*args):
        done = subprocess.run([str(osb), *args], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    assert "allowed.test" in run("egress", "get", sandbox, "-o", "json")
    run("egress", "patch", sandbox, "--rule", "allow=other.test")
    assert "other.test" in run("egress", "get", sandbox, "-o", "json")
    assert reaches(server, sandbox, far, "other.test", SHARED)
