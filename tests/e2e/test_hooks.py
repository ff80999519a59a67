"""Lifecycle hooks of a create: preStart before the sandbox is Running, periodic ones while it is (compat-1.1.1.md L10, E21)."""
import asyncio
import contextlib
import http.client
import json
import select
import threading
import time
from datetime import timedelta

import pytest
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.sandboxes import LifecycleHook, PeriodicLifecycleHook, SandboxLifecycle

import harness
from harness import wait_until

VARIABLE = "OPENSANDBOX_LIFECYCLE"
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A server whose creates wait for 1 s, with a directory that sandboxes may mount."""
    shared = tmp_path_factory.mktemp("shared")
    shared.chmod(0o777)
    with harness.Server({"server": {"create_wait_seconds": 1}, "storage": {"allowed_host_paths": [str(shared)]}}) as s:
        s.shared = shared
        s.import_base()
        yield s.start()


def sh(script, **members):
    return {"preStart": {"command": ["sh", "-c", script], **members}}


def body(**members):
    return {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "resourceLimits": {}, "timeout": 600, **members}


def create_async(server, **members):
    r = server.request("POST", "/v1/sandboxes", body(**members), headers=ASYNC)
    assert r.status == 202 and r.json()["status"]["state"] == "Pending", r
    return r.json()["id"]


def state(server, sandbox):
    return server.get(sandbox)["status"]


def gate(server, name, then="true"):
    """Members of a create whose hook waits, and the directory in which it tells that it has begun and looks for leave to go on."""
    at = server.shared / name
    at.mkdir(mode=0o777)
    at.chmod(0o777)
    return {"volumes": [{"name": "gate", "mountPath": "/gate", "host": {"path": str(at)}}],
            "lifecycle": sh(f"touch /gate/begun; until [ -e /gate/go ]; do sleep 0.02; done; {then}", timeoutSeconds=600)}, at


def wait_running_hook(server, sb):
    wait_until(lambda: state(server, sb)["message"] == "The preStart hook is running.", "the server knows that the hook runs")


def gated(server, name, then="true"):
    """A hook that has begun, and what lets it go on."""
    members, at = gate(server, name, then)
    sb = create_async(server, **members)
    wait_until((at / "begun").exists, "the hook runs")
    wait_running_hook(server, sb)
    return sb, (at / "go").touch


# ---- preStart ----

def test_prestart_comes_first(server):
    made = server.create(env={"A": "b"}, entrypoint=["sh", "-c", "cat /tmp/made >/tmp/seen; exec sleep 600"],
                         lifecycle=sh("echo $A >/tmp/made; echo MADE=by-hook >>$EXECD_ENVS; echo from the hook"))
    assert made["status"]["state"] == "Running" and "lifecycle" not in made
    sb = made["id"]
    wait_until(lambda: server.run(sb, "cat /tmp/seen; echo $MADE")[1] == "b\nby-hook\n", "what the hook left")
    assert VARIABLE not in server.run(sb, "env; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")[1]
    assert "lifecycle" not in server.get(sb) and "from the hook" not in json.dumps(server.get(sb))
    assert "from the hook" in server.request("GET", f"/v1/sandboxes/{sb}/diagnostics/logs").body.decode()
    server.delete(sb)


@pytest.mark.parametrize("lifecycle,message", [
    (sh("echo last words; exit 3"), "preStart hook: exit status 3"),
    (sh("kill -KILL $$"), "preStart hook: signal: killed"),
    (sh("sleep 600", timeoutSeconds=1), "preStart hook: timed out after 1 s"),
    ({"preStart": {"command": ["/no/such/program"]}}, "preStart hook: could not be started: /no/such/program: No such file or directory"),
])
def test_its_failure_is_told_by_the_create(server, lifecycle, message):
    before = server.sandboxes()
    r = server.request("POST", "/v1/sandboxes", body(lifecycle=lifecycle))
    assert r.status == 500 and r.json()["code"].endswith("::SANDBOX_START_FAILED") and r.json()["message"] == message, r
    assert server.sandboxes() == before


def test_its_failure_behind_a_pending_answer_stays(server):
    sb = create_async(server, lifecycle=sh("echo last words; exit 3"))
    status = wait_until(lambda: (s := state(server, sb)) and s["state"] == "Failed" and s, "Failed")
    assert status["reason"].endswith("::SANDBOX_START_FAILED") and status["message"] == "preStart hook: exit status 3"
    server.delete(sb)


def test_an_entrypoint_that_fails_behind_it(server):
    r = server.request("POST", "/v1/sandboxes", body(entrypoint=["/no/such"], lifecycle=sh("true")))
    assert r.status == 500 and "entrypoint: /no/such: No such file" in r.json()["message"], r


def test_a_long_one_is_answered_pending(own):
    members, at = gate(own, "long", "touch /tmp/done")
    begin = time.monotonic()
    r = own.request("POST", "/v1/sandboxes", body(**members))  # no answer waits for the hook's end: there is none yet
    assert r.status == 202 and r.json()["status"]["state"] == "Pending" and time.monotonic() - begin > 0.9, r
    sb = r.json()["id"]
    wait_running_hook(own, sb)
    with contextlib.closing(http.client.HTTPConnection(own.address, own.port, timeout=60)) as ping:
        ping.request("GET", f"/v1/sandboxes/{sb}/proxy/44772/ping")
        assert state(own, sb)["message"] == "The preStart hook is running."
        assert not select.select([ping.sock], [], [], 0.1)[0]  # held until it runs
        (at / "go").touch()
        assert ping.getresponse().status in (200, 401)
    assert state(own, sb)["state"] == "Running" and own.run(sb, "ls /tmp/done")[1] == "/tmp/done\n"
    own.delete(sb)


def test_others_are_made_meanwhile(own):
    """A hook holds no worker and no turn: with more of them than workers, creates and deletes go on."""
    waiting = [create_async(own, lifecycle=sh("sleep 600", timeoutSeconds=600)) for _ in range(40)]
    wait_until(lambda: all(state(own, w)["message"] == "The preStart hook is running." for w in waiting), "all of them run", 60)
    sb = own.create()["id"]
    wait_until(lambda: state(own, sb)["state"] == "Running", "Running")  # Pending after 1 s, when the stock is empty
    for one in waiting + [sb]:
        own.delete(one)
    assert own.sandboxes() == []


def test_delete_while_it_runs(own):
    sb, _ = gated(own, "delete")
    begin = time.monotonic()
    own.delete(sb)
    assert time.monotonic() - begin < 2
    assert own.request("GET", f"/v1/sandboxes/{sb}").status == 404


def test_a_client_that_leaves_takes_it_along(own):
    assert own.sandboxes() == []
    with pytest.raises(TimeoutError):
        own.request("POST", "/v1/sandboxes", body(lifecycle=sh("sleep 600", timeoutSeconds=600)), timeout=0.6)
    wait_until(lambda: own.sandboxes() == [], "nothing is left")


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_that_ends_while_it_runs(own, end):
    sb, go = gated(own, end, "touch /gate/done")
    other, fail = gated(own, end + "-failing", "exit 7")
    begin = time.monotonic()
    getattr(own, end)()
    assert time.monotonic() - begin < 5
    own.start()
    assert state(own, sb)["state"] == "Pending"
    go()
    fail()
    wait_until(lambda: state(own, sb)["state"] == "Running", "Running")
    assert (own.shared / end / "done").exists() and own.run(sb, "echo hi") == (0, "hi\n", "")
    status = wait_until(lambda: (s := state(own, other)) and s["state"] == "Failed" and s, "Failed")
    assert status["message"] == "preStart hook: exit status 7"
    own.delete(sb)
    own.delete(other)


@pytest.mark.slow
def test_it_ends_while_no_server_is_there(own):
    sb, go = gated(own, "alone")
    failing, fail = gated(own, "alone-failing", "echo last words; exit 7")
    own.kill()
    go()
    fail()
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() > begin + 7, "execd does not wait for ever")
    own.start()
    wait_until(lambda: state(own, sb)["state"] == "Running", "Running")
    status = wait_until(lambda: (s := state(own, failing)) and s["state"] == "Failed" and s, "Failed")
    assert "last words" in status["message"] and "preStart hook: exit status 7" in status["message"]
    own.delete(sb)
    own.delete(failing)


def test_what_is_asked_while_it_runs(own):
    sb, go = gated(own, "asked")
    r = own.request("POST", f"/v1/sandboxes/{sb}/renew-expiration", {"expiresAt": "2030-01-01T00:00:00Z"})
    assert r.status == 200 and own.get(sb)["expiresAt"].startswith("2030-01-01"), r
    assert own.request("PATCH", f"/v1/sandboxes/{sb}/metadata", {"asked": "meanwhile"}).status == 200
    assert own.request("POST", f"/v1/sandboxes/{sb}/pause").status == 409
    assert own.request("POST", f"/v1/sandboxes/{sb}/snapshots").status == 409
    assert state(own, sb)["message"] == "The preStart hook is running."
    own.kill()
    own.start()
    assert own.get(sb)["expiresAt"].startswith("2030-01-01") and own.get(sb)["metadata"] == {"asked": "meanwhile"}
    go()
    wait_until(lambda: state(own, sb)["state"] == "Running", "Running")
    own.delete(sb)


def test_expiry_while_it_runs(own):
    sb, _ = gated(own, "expiry")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    r = own.request("POST", f"/v1/sandboxes/{sb}/renew-expiration", {"expiresAt": soon})
    if r.status == 200:  # else only later than now it is
        wait_until(lambda: own.request("GET", f"/v1/sandboxes/{sb}").status == 404, "its end")
    else:
        own.delete(sb)


def test_one_key_one_sandbox(own):
    """The idempotency key stands for the create while the hook runs."""
    answers = []
    headers = {"Idempotency-Key": "hooks-1"}
    request = body(lifecycle=sh("sleep 2"))
    threads = [threading.Thread(target=lambda: answers.append(own.request("POST", "/v1/sandboxes", request, headers=headers))) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [a.status for a in answers] == [202, 202] and answers[0].json()["id"] == answers[1].json()["id"]
    wait_until(lambda: state(own, answers[0].json()["id"])["state"] == "Running", "Running")
    own.delete(answers[0].json()["id"])


# ---- periodic hooks ----

def periodic(script, schedule="@every 1s", name="tick", **members):
    return {"periodic": [{"name": name, "schedule": schedule, "command": ["sh", "-c", script], **members}]}


def count(server, sandbox):
    return int(server.run(sandbox, "wc -l </tmp/ticks 2>/dev/null || echo 0")[1])


def test_periodic_hooks(server):
    sb = server.create(lifecycle=periodic("echo tick >>/tmp/ticks; echo out"))["id"]
    wait_until(lambda: count(server, sb) >= 3, "three ticks")
    assert "out\nout\n" in server.request("GET", f"/v1/sandboxes/{sb}/diagnostics/logs").body.decode()
    server.delete(sb)


@pytest.mark.slow
def test_not_while_paused(server):
    sb = server.create(lifecycle=periodic("echo tick >>/tmp/ticks"))["id"]
    wait_until(lambda: count(server, sb) >= 1, "a tick")
    assert server.request("POST", f"/v1/sandboxes/{sb}/pause").status == 202
    wait_until(lambda: state(server, sb)["state"] == "Paused", "Paused")
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() > begin + 7, "several ticks")
    assert server.request("POST", f"/v1/sandboxes/{sb}/resume").status == 202
    wait_until(lambda: state(server, sb)["state"] == "Running", "Running")
    ran = count(server, sb)
    assert ran <= 4, ran
    wait_until(lambda: count(server, sb) > ran, "it goes on")
    server.delete(sb)


def test_a_snapshot_keeps_no_hooks(server):
    sb = server.create(lifecycle={**sh("touch /tmp/prepared"), **periodic("echo tick >>/tmp/ticks")})["id"]
    wait_until(lambda: count(server, sb) >= 1, "a tick")
    r = server.request("POST", f"/v1/sandboxes/{sb}/snapshots")
    assert r.status == 202, r
    snapshot = r.json()["id"]
    wait_until(lambda: server.request("GET", f"/v1/snapshots/{snapshot}").json()["status"]["state"] == "Ready", "Ready")
    server.delete(sb)
    restored = {"image": None, "entrypoint": None, "snapshotId": snapshot, "resourceLimits": {}}
    plain = server.create(**restored)["id"]
    before = count(server, plain)
    hooked = server.create(**restored, lifecycle=periodic("echo again >>/tmp/again"))["id"]
    wait_until(lambda: server.run(hooked, "cat /tmp/again 2>/dev/null")[1] != "", "its own hook runs")
    assert count(server, plain) == before and before >= 1
    for one in plain, hooked:
        server.delete(one)
    wait_until(lambda: server.request("DELETE", f"/v1/snapshots/{snapshot}").status == 204, "the snapshot goes")


# ---- what is refused ----

def word(name="a", schedule="@daily", **members):
    return {"periodic": [{"name": name, "schedule": schedule, "command": ["true"], **members}]}


@pytest.mark.parametrize("lifecycle,loc,kind,text", [
    ([], ["lifecycle"], "model_attributes_type", "dictionary"),
    ({"x": 1}, ["lifecycle", "x"], "extra_forbidden", "Extra inputs"),
    ({"preStart": {}}, ["lifecycle", "preStart", "command"], "missing", "Field required"),
    ({"preStart": {"command": []}}, ["lifecycle", "preStart", "command"], "too_short", "at least 1 item"),
    ({"preStart": {"command": [" "]}}, ["lifecycle", "preStart"], "value_error", "blank"),
    ({"preStart": {"command": ["a"], "timeoutSeconds": 10801}}, ["lifecycle", "preStart", "timeoutSeconds"], "less_than_equal", "10800"),
    ({"preStart": {"command": ["a"], "timeoutSeconds": 0}}, ["lifecycle", "preStart", "timeoutSeconds"], "greater_than_equal", "1"),
    (word(timeoutSeconds=301), ["lifecycle", "periodic", 0, "timeoutSeconds"], "less_than_equal", "300"),
    (word(name=" "), ["lifecycle", "periodic", 0], "value_error", "blank"),
    ({"periodic": word()["periodic"] + word(name=" a ")["periodic"]}, ["lifecycle"], "value_error", "one name"),
    (word(schedule="* * * *"), ["lifecycle", "periodic", 0, "schedule"], "value_error", "4 fields instead of five"),
    (word(schedule="61 * * * *"), ["lifecycle", "periodic", 0, "schedule"], "value_error", 'minute "61"'),
    (word(schedule="@reboot"), ["lifecycle", "periodic", 0, "schedule"], "value_error", "@reboot"),
    (word(schedule="0 0 31 2 *"), ["lifecycle", "periodic", 0, "schedule"], "value_error", "no day is like that"),
    ({"periodic": [w for i in range(101) for w in word(name=str(i))["periodic"]]}, ["lifecycle", "periodic"], "too_long", "at most 100"),
    (sh("x" * 70000), ["lifecycle"], "value_error", "65536 bytes"),
])
def test_what_is_malformed_is_422(server, lifecycle, loc, kind, text):
    r = server.request("POST", "/v1/sandboxes", body(lifecycle=lifecycle))
    assert r.status == 422, r
    first = r.json()["detail"][0]
    assert first["loc"] == ["body", *loc] and first["type"] == kind and text in first["msg"], first


def test_what_does_not_go_together(server):
    def refused(status, text, **members):
        r = server.request("POST", "/v1/sandboxes", {k: v for k, v in body(**members).items() if v is not None})
        assert r.status == status and text in r.body.decode(), r
    refused(422, "env may not set " + VARIABLE, env={VARIABLE: "{}"}, templateId="t")
    refused(422, "lifecycle cannot be combined with extensions.poolRef", extensions={"poolRef": "p"}, lifecycle={})
    refused(422, "templateId cannot be combined with entrypoint, image, lifecycle", templateId="t", lifecycle=sh("true"))
    r = server.request("POST", "/v1/pools", {"name": "hooked", "template": {"image": {"uri": harness.IMAGE}, "lifecycle": sh("true")},
                                             "capacitySpec": {"bufferMin": 0, "bufferMax": 0, "poolMin": 0, "poolMax": 1}})
    assert r.status == 400 and "lifecycle is not supported in a pool" in r.json()["message"], r


def test_snake_case_and_nothing(server):
    sb = server.create(lifecycle={"pre_start": {"command": ["touch", "/tmp/made"], "timeout_seconds": 5}, "periodic": None})["id"]
    assert server.run(sb, "ls /tmp/made")[0] == 0
    server.delete(sb)
    server.delete(server.create(lifecycle={})["id"])
    server.delete(server.create(lifecycle=None)["id"])


# ---- the official client ----

def test_python_client(server):
    async def main():
        config = ConnectionConfig(domain=f"127.0.0.1:{server.port}", api_key=server.key)
        hooks = SandboxLifecycle(pre_start=LifecycleHook(command=["sh", "-c", "echo ready >/tmp/ready"], timeout_seconds=30),
                                 periodic=[PeriodicLifecycleHook(name="tick", schedule="@every 1s", command=["touch", "/tmp/tick"])])
        sb = await Sandbox.create(harness.IMAGE, lifecycle=hooks, timeout=timedelta(minutes=5), connection_config=config)
        try:
            assert (await sb.files.read_file("/tmp/ready")) == "ready\n"
            done = await sb.commands.run("until [ -e /tmp/tick ]; do sleep 0.05; done; echo ticked")
            assert "".join(m.text for m in done.logs.stdout) == "ticked\n"
        finally:
            await sb.kill()
            await sb.close()
        with pytest.raises(SandboxApiException, match="preStart hook: exit status 9"):
            await Sandbox.create(harness.IMAGE, lifecycle=SandboxLifecycle(pre_start=LifecycleHook(command=["sh", "-c", "exit 9"])),
                                 connection_config=config)
    asyncio.run(main())
