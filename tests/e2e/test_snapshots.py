"""Snapshots: what changed is kept and restored, forks are apart, crashes leave no ruins."""
import asyncio
import time

import pytest

import harness


@pytest.fixture
def own():
    with harness.Server() as s:
        s.import_base()
        yield s.start()


def take(server, sandbox, name=None):
    r = server.request("POST", f"/v1/sandboxes/{sandbox}/snapshots", {"name": name} if name else None)
    assert r.status == 202 and r.headers["Location"] == f"/v1/snapshots/{r.json()['id']}", r
    assert r.json()["status"]["state"] == "Creating", r
    return r.json()["id"]


def state(server, snapshot):
    r = server.request("GET", f"/v1/snapshots/{snapshot}")
    return r.json()["status"]["state"] if r.status == 200 else r.status


def ready(server, sandbox, name=None):
    s = take(server, sandbox, name)
    harness.wait_until(lambda: state(server, s) not in ("Creating",), "the snapshot")
    assert state(server, s) == "Ready", server.request("GET", f"/v1/snapshots/{s}")
    return s


def restore(server, snapshot, expect=202, **members):
    r = server.request("POST", "/v1/sandboxes", {"snapshotId": snapshot, "timeout": 600, "resourceLimits": {}, **members})
    assert r.status == expect, r
    return r.json()["id"] if expect == 202 else r.json()


def drop(server, snapshot, expect=204):
    r = server.request("DELETE", f"/v1/snapshots/{snapshot}")
    assert r.status == expect, r
    return r.json() if expect != 204 else None


def layers(server):
    return server.runtime.snapshots(server)


CHANGE = r"""set -e
mkdir -p /work/deep && echo one >/work/deep/file && chmod 640 /work/deep/file && chown 12:34 /work/deep/file
ln -s deep/file /work/link && ln /work/deep/file /work/hard && mkfifo /work/pipe
rm -r /usr/share/doc && mkdir /usr/share/doc && echo new >/usr/share/doc/only
rm /etc/debian_version && echo changed >>/etc/passwd
"""


def test_restore_sees_what_changed(server):
    sb = server.create()["id"]
    assert server.run(sb, CHANGE)[0] == 0
    snap = ready(server, sb, "mine")
    assert server.run(sb, "echo later >/work/later; rm /work/deep/file; echo two >/work/hard")[0] == 0
    r = server.request("GET", "/v1/snapshots?name=mine").json()["items"]
    assert [x["id"] for x in r] == [snap] and r[0]["sandboxId"] == sb
    forks = [restore(server, snap) for _ in range(2)]
    for f in forks:
        code, out, err = server.run(f, "cat /work/link; stat -c '%a %u %g %h' /work/deep/file; ls /usr/share/doc; test -p /work/pipe && "
                                       "! test -e /etc/debian_version && tail -1 /etc/passwd; ls /work")
        assert (code, out) == (0, "one\n640 12 34 2\nonly\nchanged\ndeep\nhard\nlink\npipe\n"), (out, err)
    server.run(forks[0], "echo first >/work/mine; rm -r /work/deep")
    assert server.run(forks[1], "test -e /work/mine; echo $?; cat /work/deep/file")[1] == "1\none\n"
    assert server.run(sb, "cat /work/later; test -e /work/mine; echo $?")[1] == "later\n1\n"
    got = server.get(forks[0])
    assert got["snapshotId"] == snap and "image" not in got
    second = ready(server, forks[0])  # a snapshot of what was restored
    grand = restore(server, second)
    assert server.run(grand, "cat /work/mine /work/hard; test -e /work/deep; echo $?; ls /usr/share/doc")[1] == "first\none\n1\nonly\n"
    assert drop(server, snap, 409)["code"] == "SNAPSHOT::DELETE_CONFLICT" and state(server, snap) == "Ready"
    for x in (sb, *forks):
        server.delete(x)
    assert drop(server, second, 409)["code"] == "SNAPSHOT::DELETE_CONFLICT"
    server.kill()
    server.start()
    assert server.run(grand, "cat /work/mine")[1] == "first\n"
    assert drop(server, second, 409)["code"] == "SNAPSHOT::DELETE_CONFLICT"
    server.delete(grand)
    drop(server, second)
    drop(server, snap)
    assert layers(server) == [] and state(server, snap) == 404
    assert restore(server, snap, 400)["code"] == "SNAPSHOT::NOT_FOUND"


def test_what_others_stand_on_stays(server):
    a = server.create()["id"]
    first = ready(server, a)
    b = restore(server, first)
    second = ready(server, b)
    server.delete(a)
    server.delete(b)
    try:
        assert drop(server, first, 409)["code"] == "SNAPSHOT::DELETE_CONFLICT"
        server.kill()
        server.start()
        assert drop(server, first, 409)["code"] == "SNAPSHOT::DELETE_CONFLICT"
    finally:
        drop(server, second)
    drop(server, first)


def test_sparse_files_stay_sparse(server):
    sb = server.create()["id"]
    server.run(sb, "truncate -s 100M /sparse")
    snap = ready(server, sb)
    made = restore(server, snap)
    try:
        assert server.run(made, "stat -c %s /sparse; du -k /sparse | cut -f1")[1] == f"{100 << 20}\n0\n"
    finally:
        for x in (sb, made):
            server.delete(x)
        drop(server, snap)


def test_refusals(server):
    sb = server.create()["id"]
    assert server.request("POST", "/v1/sandboxes/none/snapshots").status == 404
    assert server.request("POST", f"/v1/sandboxes/{sb}/pause").status == 202
    r = server.request("POST", f"/v1/sandboxes/{sb}/snapshots")
    assert r.status == 409 and r.json()["code"] == "SNAPSHOT::INVALID_SOURCE_STATE"
    server.request("POST", f"/v1/sandboxes/{sb}/resume")
    assert server.request("POST", f"/v1/sandboxes/{sb}/snapshots", {"name": "x" * 257}).status == 422
    assert drop(server, "none", 404)["code"] == "SNAPSHOT::NOT_FOUND"
    server.delete(sb)


def test_the_source_goes_meanwhile(server):
    sb = server.create()["id"]
    server.run(sb, "dd if=/dev/urandom of=/big bs=1M count=80 2>/dev/null")
    snap = take(server, sb)
    server.delete(sb)
    harness.wait_until(lambda: state(server, snap) != "Creating", "its end")
    if state(server, snap) == "Ready":
        f = restore(server, snap)
        assert server.run(f, "stat -c %s /big")[1] == f"{80 << 20}\n"
        server.delete(f)
    drop(server, snap)
    assert layers(server) == []


def test_kill_in_the_middle(own):
    sb = own.create()["id"]
    own.run(sb, "dd if=/dev/urandom of=/big bs=1M count=60 2>/dev/null; sha256sum /big >/sum")
    for turn in range(6):
        snap = take(own, sb)
        time.sleep(0.004 * 3 ** turn / 9)
        own.kill()
        own.start()
        assert own.run(sb, "sha256sum -c /sum >/dev/null; echo $?")[1] == "0\n"  # thawed, and whole
        assert state(own, snap) in ("Ready", "Failed")
        if state(own, snap) == "Ready":
            f = restore(own, snap)
            assert own.run(f, "sha256sum -c /sum >/dev/null; echo $?")[1] == "0\n"
            own.delete(f)
        else:
            assert restore(own, snap, 409)["code"] == "SNAPSHOT::NOT_READY"
        drop(own, snap)
        assert layers(own) == []
    snap = ready(own, sb)  # and while it is removed
    own.request("DELETE", f"/v1/snapshots/{snap}")
    own.kill()
    own.start()
    harness.wait_until(lambda: state(own, snap) == 404, "its removal")
    assert layers(own) == [] and own.run(sb, "echo alive")[1] == "alive\n"


def test_official_client(server):
    from opensandbox import Sandbox
    from opensandbox.config import ConnectionConfig
    from opensandbox.manager import SandboxManager, SnapshotFilter

    async def main():
        config = ConnectionConfig(domain=f"127.0.0.1:{server.port}", api_key=server.key)
        manager = await SandboxManager.create(config)
        sb = await Sandbox.create(harness.IMAGE, connection_config=config)
        made = []
        try:
            await sb.commands.run("echo kept >/kept")
            snap = await sb.create_snapshot(name="sdk")
            for _ in range(200):
                snap = await manager.get_snapshot(snap.id)
                if snap.status.state != "Creating":
                    break
                await asyncio.sleep(0.05)
            assert snap.status.state == "Ready"
            listed = await manager.list_snapshots(SnapshotFilter(sandbox_id=sb.id))
            assert [x.id for x in listed.snapshot_infos] == [snap.id]
            made.append(await Sandbox.create(snapshot_id=snap.id, connection_config=config))
            done = await made[0].commands.run("cat /kept")
            assert done.logs.stdout[0].text.strip() == "kept"
        finally:
            for x in (*made, sb):
                await x.kill()
                await x.close()
        await manager.delete_snapshot(snap.id)
        await manager.close()
    asyncio.run(main())
    assert layers(server) == []
