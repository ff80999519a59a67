"""The docker runtime on real engines: a private dockerd, a private Podman, and one without root; the same tests on all."""
import concurrent.futures
import json
import time

import pytest
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.sync.sandbox import SandboxSync

import engines
import harness


@pytest.fixture(scope="module", params=["dockerd", "podman", pytest.param("podman-rootless", marks=pytest.mark.long)])
def engine(request):
    with engines.ENGINES[request.param]() as e:
        e.import_base()
        yield e


@pytest.fixture(scope="module")
def server(engine, tmp_path_factory):
    volumes = engine.dir / "volumes"
    volumes.mkdir()
    with engines.docker_server(engine, sandbox_env=["EVERY=where"]) as s:
        s.sections["storage"] = {"allowed_host_paths": [str(volumes)]}
        s.write_config()
        yield s.start()


@pytest.fixture
def sandbox(server):
    sb = server.create()
    yield sb["id"]
    server.request("DELETE", f"/v1/sandboxes/{sb['id']}")


def state(server, sandbox_id):
    return server.get(sandbox_id)["status"]["state"]


def wait_state(server, sandbox_id, wanted, seconds=5.0):
    harness.wait_until(lambda: state(server, sandbox_id) == wanted, f"{sandbox_id} is {wanted}", seconds)


def test_container_is_as_asked(server, engine):
    sb = server.create(env={"A": "1", "EMPTY": ""}, metadata={"team": "blue"},
                       resourceLimits={"cpu": "500m", "memory": "256Mi"})
    try:
        status, c = engine.inspect(sb["id"])
        assert status == 200
        host, config = c["HostConfig"], c["Config"]
        assert host["Memory"] == 256 << 20 and host["NanoCpus"] == 500_000_000 and host["PidsLimit"] == 4096
        assert any("no-new-privileges" in o for o in host["SecurityOpt"])
        assert "A=1" in config["Env"] and "EMPTY=" in config["Env"] and "EVERY=where" in config["Env"]
        assert f"OPENSANDBOX_ID={sb['id']}" in config["Env"]
        assert config["Labels"]["team"] == "blue" and config["Labels"]["opensandbox.io/id"] == sb["id"]
        # no secret is in the engine's hands: the token of the endpoint is not in the container's configuration
        token = server.execd_headers(sb["id"])["X-EXECD-ACCESS-TOKEN"]
        assert token and token not in json.dumps(c)
        # no port is published where the network can be entered
        assert not any(v for v in (c["NetworkSettings"]["Ports"] or {}).values())
        code, out, _ = server.run(sb["id"], "echo $A-$EVERY; cat /proc/1/environ 2>/dev/null | tr '\\0' '\\n' | grep -c TOKEN")
        assert out.split() == ["1-where", "0"], (code, out)
        assert server.run(sb["id"], "touch /opt/opensandbox/bin/x")[0] != 0  # execd is read-only
        facts = server.request("GET", f"/v1/sandboxes/{sb['id']}/diagnostics/inspect").body.decode()
        assert f"Container ID:   {c['Id'][:12]}\n" in facts and "Network:        opensandbox " in facts and token not in facts
    finally:
        server.delete(sb["id"])
    assert engine.inspect(sb["id"])[0] == 404


def test_hooks(server, engine):
    """preStart before Running, its failure told, periodic ones; nothing of them in what a command or a snapshot has."""
    sh = lambda script, **kw: {"command": ["sh", "-c", script], **kw}
    sb = server.create(env={"A": "b"}, lifecycle={"preStart": sh("echo $A >/tmp/made; echo hooked"),
                                                  "periodic": [{"name": "tick", "schedule": "@every 1s", **sh("echo tick >>/tmp/ticks")}]})["id"]
    assert state(server, sb) == "Running" and server.run(sb, "cat /tmp/made")[1] == "b\n"
    harness.wait_until(lambda: server.run(sb, "cat /tmp/ticks 2>/dev/null")[1].startswith("tick\ntick\n"), "two ticks")
    assert "OPENSANDBOX_LIFECYCLE" not in server.run(sb, "env")[1]
    assert "hooked" in server.request("GET", f"/v1/sandboxes/{sb}/diagnostics/logs").body.decode()
    snapshot = server.request("POST", f"/v1/sandboxes/{sb}/snapshots").json()["id"]
    harness.wait_until(lambda: server.request("GET", f"/v1/snapshots/{snapshot}").json()["status"]["state"] == "Ready", "Ready")
    server.delete(sb)
    restored = server.create(image=None, entrypoint=None, snapshotId=snapshot, resourceLimits={})["id"]
    env = engine.inspect(restored)[1]["Config"]["Env"]
    assert not [v for v in env if v.startswith("OPENSANDBOX_LIFECYCLE=") and len(v) > len("OPENSANDBOX_LIFECYCLE=")], env
    server.delete(restored)
    server.request("DELETE", f"/v1/snapshots/{snapshot}")
    for hook, why in (sh("exit 3"), "exit status 3"), (sh("sleep 600", timeoutSeconds=1), "timed out after 1 s"), ({"command": ["/no/such"]}, "could not be started"):
        body = {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "resourceLimits": {}, "timeout": 600, "lifecycle": {"preStart": hook}}
        r = server.request("POST", "/v1/sandboxes", body)
        assert r.status == 500 and f"preStart hook: {why}" in r.json()["message"], r
    assert server.sandboxes() == []


def test_hooks_outlive_the_server(server, engine):
    script = "until [ -e /tmp/go ]; do sleep 0.05; done"
    body = {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "resourceLimits": {}, "timeout": 600,
            "lifecycle": {"preStart": {"command": ["sh", "-c", script], "timeoutSeconds": 600}}}
    made = [server.request("POST", "/v1/sandboxes", body, headers={"Prefer": "respond-async"}).json()["id"] for _ in range(2)]
    for sb in made:
        harness.wait_until(lambda: server.get(sb)["status"]["message"] == "The preStart hook is running.", "the hook runs", 30)
    server.kill()
    server.start()
    assert [state(server, sb) for sb in made] == ["Pending", "Pending"]
    exec_in(engine, made[0], ["touch", "/tmp/go"])
    wait_state(server, made[0], "Running", 15)
    begin = time.monotonic()
    for sb in made:
        server.delete(sb)
    assert time.monotonic() - begin < 10 and server.sandboxes() == []


def exec_in(engine, sandbox_id, argv):
    status, e = engine.call("POST", f"/containers/sandbox-{sandbox_id}/exec", {"Cmd": argv})
    assert status == 201, e
    status, reply = engine.call("POST", f"/exec/{e['Id']}/start", {"Detach": True})
    assert status in (200, 204), reply


def test_doctor(server, engine):
    done = server.cli("doctor", check=False)
    said = {line[6:23].strip(): line[:5].strip() for line in done.stdout.splitlines()}
    limits = "warn" if "limits" in engine.settings else "ok"
    assert [said[check] for check in ("engine", "limits", "foreign sandboxes")] == ["ok", limits, "ok"], done.stdout
    foreign = engine.call("POST", "/containers/create?name=foreign", {"Image": harness.IMAGE, "Cmd": ["true"], "Labels": {"opensandbox.io/id": "ffffffff-0000-4000-8000-ffffffffffff"}})[1]["Id"]
    try:
        done = server.cli("doctor", check=False)
        assert done.returncode == 0 and "foreign sandboxes 1 of another server" in done.stdout and "opensandbox-server adopt" in done.stdout, done.stdout
    finally:
        engine.call("DELETE", f"/containers/{foreign}?force=1")
    server.env, kept = {**server.env, "DOCKER_HOST": "unix:///nonexistent"}, server.env
    try:
        done = server.cli("doctor", check=False)
        assert done.returncode == 1 and "FAIL  engine" in done.stdout and "DOCKER_HOST" in done.stdout, done.stdout
    finally:
        server.env = kept


def test_python_sdk(server):
    config = ConnectionConfigSync(domain=f"127.0.0.1:{server.port}", api_key=server.key)
    sb = SandboxSync.create(harness.IMAGE, env={"GREETING": "salut"}, metadata={"suite": "docker"}, connection_config=config)
    try:
        run = sb.commands.run("echo $GREETING; python3 -c 'print(6*7)'")
        assert "".join(m.text for m in run.logs.stdout).split() == ["salut", "42"]
        sb.files.write_file("/tmp/a.txt", "line\n")
        assert sb.files.read_file("/tmp/a.txt") == "line\n"
        sb.pause()
        assert sb.get_info().status.state == "Paused"
        sb = SandboxSync.resume(sb.id, connection_config=config)
        assert sb.files.read_file("/tmp/a.txt") == "line\n"
    finally:
        sb.kill()
        sb.close()


def test_ports_inside_are_reached(server, sandbox):
    for port, address in ((8001, "127.0.0.1"), (8002, "0.0.0.0")):
        server.run(sandbox, f"cd /etc && (python3 -m http.server -b {address} {port} >/dev/null 2>&1 &)", background=True)
        harness.wait_until(lambda p=port: server.request("GET", f"/v1/sandboxes/{sandbox}/proxy/{p}/hostname").status == 200,
                           f"port {port}", 10)
    r = server.request("GET", f"/v1/sandboxes/{sandbox}/proxy/8009/")
    assert r.status == 502, r


def test_death_behind_our_back_is_seen(server, engine):
    killed, removed, alive = [server.create()["id"] for _ in range(3)]
    engine.call("POST", f"/containers/sandbox-{killed}/kill")
    wait_state(server, killed, "Failed")
    assert "137" in server.get(killed)["status"]["message"]
    engine.call("DELETE", f"/containers/sandbox-{removed}?force=1")
    wait_state(server, removed, "Failed")
    assert state(server, alive) == "Running"
    for i in (killed, removed, alive):
        server.delete(i)
        assert engine.inspect(i)[0] == 404


def test_the_entrypoint_ends_the_sandbox(server):
    sb = server.create(entrypoint=["sh", "-c", "echo the last words; sleep 0.3; exit 7"])
    wait_state(server, sb["id"], "Failed")
    assert "code 7" in server.get(sb["id"])["status"]["message"]
    server.delete(sb["id"])
    sb = server.create(entrypoint=["true"])
    wait_state(server, sb["id"], "Terminated")
    server.delete(sb["id"])


def test_user_errors_are_4xx(server):
    assert server.create(expect=400, resourceLimits={"cpu": "1", "memory": "1Mi"})["code"] == "SANDBOX::INVALID_PARAMETER"
    assert server.create(expect=400, volumes=[{"name": "a", "mountPath": "/data", "host": {"path": "/etc"}}])["code"] \
        == "VOLUME::HOST_PATH_NOT_ALLOWED"


def test_host_volumes(server, engine):
    base = engine.dir / "volumes"
    (base / "link").symlink_to("/etc")
    (base / "file").write_text("one file\n")
    sb = server.create(volumes=[{"name": "rw", "mountPath": "/rw", "host": {"path": f"{base}/new"}, "subPath": "deep/er"},
                                {"name": "ro", "mountPath": "/ro", "host": {"path": f"{base}/new"}, "readOnly": True},
                                {"name": "one", "mountPath": "/etc/one", "host": {"path": f"{base}/file"}, "readOnly": True}])
    try:
        assert server.run(sb["id"], "echo kept > /rw/x && cat /ro/deep/er/x /etc/one")[1].split() == ["kept", "one", "file"]
        assert server.run(sb["id"], "touch /ro/y")[0] != 0
    finally:
        server.delete(sb["id"])
    assert (base / "new/deep/er/x").read_text() == "kept\n"
    r = server.create(expect=400, volumes=[{"name": "a", "mountPath": "/data", "host": {"path": f"{base}/link"}}])
    assert r["code"] == "VOLUME::HOST_PATH_NOT_ALLOWED", r


def volume_names(engine):
    return {v["Name"] for v in engine.call("GET", "/volumes")[1]["Volumes"] or []}


def test_named_volumes(server, engine):
    def pvc(claim, **more):
        return {"name": claim, "mountPath": f"/{claim}", "pvc": {"claimName": claim, **more}}
    sb = server.create(volumes=[pvc("kept"), pvc("gone", deleteOnSandboxTermination=True)])
    assert server.run(sb["id"], "mkdir -p /kept/sub && echo data > /kept/sub/x && touch /gone/y")[0] == 0
    server.delete(sb["id"])
    assert "kept" in volume_names(engine) and "gone" not in volume_names(engine)
    assert server.create(expect=400, volumes=[pvc("absent", createIfNotExists=False)])["code"] == "VOLUME::PVC_NOT_FOUND"
    assert "absent" not in volume_names(engine)
    sb = server.create(volumes=[{**pvc("kept"), "subPath": "sub", "readOnly": True}])
    try:
        assert server.run(sb["id"], "cat /kept/x")[1] == "data\n"
        assert server.run(sb["id"], "touch /kept/z")[0] != 0
    finally:
        server.delete(sb["id"])
    # a link that a sandbox left in a volume leads nowhere
    sb = server.create(volumes=[pvc("kept")])
    server.run(sb["id"], "ln -s /etc /kept/evil")
    server.delete(sb["id"])
    r = server.create(expect=400, volumes=[{**pvc("kept"), "subPath": "evil"}])
    assert r["code"] == "VOLUME::INVALID_SUB_PATH", r


def test_creates_run_side_by_side(server):
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda _: server.create()["id"], range(12)))
    assert time.monotonic() - begun < 60
    assert len(set(made)) == 12
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(server.delete, made))


def test_reads_ask_nothing_of_the_engine(server, engine, sandbox):
    before = len(engine.log())
    engine.process.send_signal(19)  # SIGSTOP: an engine that does not answer
    try:
        begun = time.monotonic()
        for _ in range(50):
            assert state(server, sandbox) == "Running"
            assert server.request("GET", "/health").status == 200
            assert server.execd("GET", sandbox, "/ping").status == 200
            assert server.request("GET", "/v1/sandboxes").status == 200
        assert time.monotonic() - begun < 5
    finally:
        engine.process.send_signal(18)
    assert len(engine.log()) >= before


def test_restart_of_the_server(server, engine):
    kept, paused, dead = [server.create()["id"] for _ in range(3)]
    server.run(kept, "echo here > /tmp/x")
    assert server.request("POST", f"/v1/sandboxes/{paused}/pause").status == 202
    wait_state(server, paused, "Paused")
    headers = server.execd_headers(kept)
    server.kill()
    engine.call("POST", f"/containers/sandbox-{dead}/kill")
    server.start()
    assert state(server, kept) == "Running" and state(server, paused) == "Paused"
    wait_state(server, dead, "Failed")
    assert server.execd_headers(kept) == headers
    assert server.run(kept, "cat /tmp/x")[1] == "here\n"
    assert server.request("POST", f"/v1/sandboxes/{paused}/resume").status == 202
    wait_state(server, paused, "Running")
    for i in (kept, paused, dead):
        server.delete(i)
    assert not [c for c in engine.containers() if "opensandbox.io/id" in c["Labels"]]


def test_snapshot_and_restore(server, engine):
    source = server.create(env={"SECRET": "of the source"}, metadata={"owner": "source"})["id"]
    server.run(source, "echo kept > /root/file")
    r = server.request("POST", f"/v1/sandboxes/{source}/snapshots", body={"name": "one"})
    assert r.status == 202, r
    snapshot = r.json()["id"]

    def ready():
        got = server.request("GET", f"/v1/snapshots/{snapshot}").json()["status"]
        assert got["state"] != "Failed", got
        return got["state"] == "Ready"
    harness.wait_until(ready, "snapshot ready", 20)
    assert state(server, source) == "Running"
    made = server.create(image=None, snapshotId=snapshot, env={"OWN": "1"}, timeout=None)["id"]
    assert server.run(made, "cat /root/file; echo ${SECRET:-none} $OWN")[1].split() == ["kept", "none", "1"]
    c = engine.inspect(made)[1]["Config"]
    assert c["Labels"]["opensandbox.io/id"] == made and not c["Labels"].get("opensandbox.io/expires-at")
    assert "of the source" not in json.dumps([e for e in c["Env"] if "=" in e])
    # a snapshot of what was restored keeps nothing of the first source either
    assert server.request("DELETE", f"/v1/snapshots/{snapshot}").status == 409  # it is in use
    server.delete(made)
    server.delete(source)
    assert server.request("DELETE", f"/v1/snapshots/{snapshot}").status == 204
    assert engine.call("GET", f"/images/opensandbox-snapshots:{snapshot}/json")[0] == 404
