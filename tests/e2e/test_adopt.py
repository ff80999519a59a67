"""`opensandbox-server adopt`: what a reference server (Python) left on an engine is found, left alone, and taken over when asked.

The containers are made as that server makes them (docker-runtime.md 1.4 to 1.7): same names, same labels, execd without a token.
"""
import datetime
import json
import sqlite3
import uuid

import pytest

import engines
import harness

LABEL = "opensandbox.io/"
SCHEMA = ("CREATE TABLE snapshots (id TEXT PRIMARY KEY, source_sandbox_id TEXT NOT NULL, name TEXT, description TEXT, restore_config TEXT NOT NULL,"
          " state TEXT NOT NULL, reason TEXT, message TEXT, last_transition_at TEXT, created_at TEXT NOT NULL, updated_at TEXT NOT NULL)")


def when(seconds):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).isoformat()


class Reference:
    """The other server's traces on an engine."""

    def __init__(self, engine):
        self.engine = engine
        self.dir = engine.dir / "reference"
        (self.dir / "metadata").mkdir(parents=True)
        assert engine.call("POST", "/networks/create", {"Name": "reference", "Driver": "bridge"})[0] == 201

    def container(self, name, labels, command=("tail", "-f", "/dev/null"), **host):
        execd = harness.BUILD / "test/src/execd/execd"
        status, made = self.engine.call("POST", f"/containers/create?name={name}", {
            "Image": harness.IMAGE, "Labels": labels, "Cmd": list(command),
            "Entrypoint": ["/bin/sh", "-c", '/opt/opensandbox/execd & exec "$@"', "bootstrap"],
            "HostConfig": {"NetworkMode": "reference", "Binds": [f"{execd}:/opt/opensandbox/execd:ro", *host.pop("Binds", [])], **host}})
        assert status == 201, made
        assert self.engine.call("POST", f"/containers/{made['Id']}/start")[0] == 204
        return made["Id"]

    def sandbox(self, labels, **more):
        sandbox_id = str(uuid.uuid4())
        self.container(f"sandbox-{sandbox_id}", {LABEL + "id": sandbox_id, LABEL + "embedding-proxy-port": "45000", **labels}, **more)
        return sandbox_id

    def snapshot(self, source, db):
        snapshot_id = str(uuid.uuid4())
        image = f"opensandbox-snapshots:{snapshot_id}"
        assert self.engine.call("POST", f"/commit?container=sandbox-{source}&repo=opensandbox-snapshots&tag={snapshot_id}", {})[0] == 201
        db.execute("INSERT INTO snapshots VALUES (?, ?, 'mine', NULL, ?, 'Ready', 'snapshot_runtime_ready', NULL, ?, ?, ?)",
                   (snapshot_id, source, json.dumps({"image": image}), when(0), when(-60), when(0)))
        return snapshot_id


@pytest.fixture
def engine():
    with engines.Dockerd() as e:
        e.import_base()
        yield e


def test_adopt(engine):
    ref = Reference(engine)
    assert engine.call("POST", "/volumes/create", {"Name": "made", "Labels": {LABEL + "volume-managed-by": "server"}})[0] == 201
    kept = ref.sandbox({LABEL + "expires-at": when(3600), "team": "blue", LABEL + "volume-managed-by": '["made"]'},
                       Binds=["made:/data"], Memory=64 << 20)
    sidecar = ref.container(f"sandbox-egress-{kept}", {LABEL + "egress-sidecar-for": kept})
    manual = ref.sandbox({LABEL + "manual-cleanup": "true", "team": "red"})
    (ref.dir / "metadata" / f"{manual}.json").write_text('{"patched": "yes"}')
    expired = ref.sandbox({LABEL + "expires-at": when(-60)})
    cloudy = ref.sandbox({LABEL + "manual-cleanup": "true", LABEL + "ossfs-mounts": '["/mnt/ossfs/b"]'})
    assert engine.call("POST", f"/containers/sandbox-{manual}/pause")[0] == 204
    with sqlite3.connect(ref.dir / "opensandbox.db") as db:
        db.execute(SCHEMA)
        taken = ref.snapshot(kept, db)
    s = engines.docker_server(engine)
    s.sections["store"] = {"path": str(ref.dir / "opensandbox.db")}  # the other server's configuration, as it stands
    s.write_config()
    try:
        s.start()
        harness.wait_until(lambda: "4 sandboxes of another server" in s.log(), "they are counted")
        assert s.sandboxes() == []
        refused = s.cli("adopt", check=False)
        assert refused.returncode == 3 and "in use by another opensandbox-server" in refused.stderr
        s.stop()
        assert len(engine.containers()) == 5  # nothing of another server's was touched
        planned = s.cli("adopt", "--dry-run", "--metadata", str(ref.dir / "metadata"), check=False)
        assert planned.returncode == 1 and "would be: 4 taken over, 1 left alone" in planned.stdout, planned
        done = s.cli("adopt", "--metadata", str(ref.dir / "metadata"), check=False)
        assert done.returncode == 1 and f"sandbox {cloudy}: left alone: it has ossfs mounts" in done.stdout, done
        again = s.cli("adopt", check=False)
        assert "0 taken over, 1 left alone" in again.stdout, again
        s.start()
        harness.wait_until(lambda: {b["id"] for b in s.sandboxes()} == {kept, manual}, "all but the expired one and the one left alone are here")
        assert engine.inspect(expired)[0] == 404 and engine.inspect(cloudy)[0] == 200
        box = s.get(kept)
        assert box["metadata"] == {"team": "blue"} and box["status"]["state"] == "Running" and box["expiresAt"]
        assert box["image"]["uri"] == harness.IMAGE and box["entrypoint"] == harness.IDLE
        assert s.run(kept, "echo here")[1] == "here\n"
        box = s.get(manual)
        assert box["metadata"] == {"patched": "yes"} and box["status"]["state"] == "Paused" and "expiresAt" not in box
        assert s.request("POST", f"/v1/sandboxes/{manual}/resume").status == 202
        assert s.run(manual, "echo resumed")[1] == "resumed\n"
        assert engine.call("POST", f"/containers/sandbox-{manual}/kill")[0] == 204
        harness.wait_until(lambda: s.get(manual)["status"]["state"] in ("Failed", "Terminated"), "its end is seen")
        r = s.request("GET", f"/v1/snapshots/{taken}").json()
        assert r["status"]["state"] == "Ready" and r["sandboxId"] == kept and r["name"] == "mine", r
        restored = s.create(image=None, snapshotId=taken)["id"]
        assert s.run(restored, "echo restored")[1] == "restored\n"
        for i in (kept, manual, restored):
            s.delete(i)
        harness.wait_until(lambda: [c["Names"] for c in engine.containers()] == [[f"/sandbox-{cloudy}"]], "all is gone, the sidecar too", 20)
        assert engine.call("GET", f"/containers/{sidecar}/json")[0] == 404
        volumes = engine.call("GET", "/volumes")[1]["Volumes"] or []
        assert [v["Name"] for v in volumes if not v["Name"].startswith("opensandbox-execd-")] == []
        with sqlite3.connect(ref.dir / "opensandbox.db") as db:  # the other server's file is as it was
            assert db.execute("SELECT count(*) FROM snapshots").fetchone() == (1,)
    finally:
        s.remove()
