"""The docker runtime where the engine makes the difference: networks, published ports, registries, an engine that goes away."""
import concurrent.futures
import os
import shutil
import socket
import subprocess
import tempfile

import pytest

import engines
import harness


@pytest.fixture(scope="module")
def engine():
    with engines.Dockerd("--live-restore") as e:
        e.import_base()
        yield e


def run_server(engine, **docker):
    s = engines.docker_server(engine, **docker)
    try:
        return s.start()
    except BaseException:
        s.remove()
        raise


def published(engine, sandbox_id):
    ports = engine.inspect(sandbox_id)[1]["NetworkSettings"]["Ports"] or {}
    return {k: v for k, v in ports.items() if v}


# In a sandbox: what was asked comes back as the answer, or byte for byte after an upgrade.
ECHO = """
import socket
l = socket.create_server(("127.0.0.1", 8001))
while True:
    c = l.accept()[0]
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += c.recv(1)
    if b"pgrade: websocket" in head:
        c.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
        while data := c.recv(100):
            c.sendall(data.upper())
    else:
        c.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(head), head))
    c.close()
"""


def other_ports_are_reached(s, sandbox_id):
    """HTTP and upgrades to a port that is published nowhere; it gets no token of execd."""
    path = f"/v1/sandboxes/{sandbox_id}/proxy/8001/a%20b?c=%2F"
    assert s.request("GET", path).status == 502  # nobody listens yet
    s.events(sandbox_id, command=f"python3 -c '{ECHO}'", background=True)
    r = harness.wait_until(lambda: (r := s.request("GET", path)).status == 200 and r, "the service answers", 10)
    assert r.body.startswith(b"GET /a%20b?c=%2F HTTP/1.1\r\n") and b"TOKEN" not in r.body.upper()
    with socket.create_connection((s.address, s.port), timeout=10) as c:
        c.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nOPEN-SANDBOX-API-KEY: {s.key}\r\nConnection: Upgrade\r\n"
                  "Upgrade: websocket\r\n\r\n".encode())
        f = c.makefile("rb")
        assert b" 101 " in f.readline()
        while f.readline().strip():
            pass
        c.sendall(b"hello")
        assert f.read(5) == b"HELLO"


def test_published_ports(engine):
    """`always`: execd's port alone, on the loopback, on a port that the engine chose."""
    s = run_server(engine, publish_ports="always")
    try:
        made = [s.create()["id"] for _ in range(2)]
        for i in made:
            ports = published(engine, i)
            assert list(ports) == ["44772/tcp"] and ports["44772/tcp"][0]["HostIp"] == "127.0.0.1"
            assert s.run(i, "echo here")[1] == "here\n"
        other_ports_are_reached(s, made[0])
    finally:
        s.remove()


def test_foreign_execd_image(engine, tmp_path):
    """An image that is nothing but /execd and /bootstrap.sh, of another make: sandboxes start by its script."""
    (tmp_path / "bootstrap.sh").write_text('#!/bin/sh\n$EXECD &\nFOREIGN=yes exec "$@"\n')
    (tmp_path / "bootstrap.sh").chmod(0o755)
    shutil.copy(harness.BUILD / "test/src/execd/execd", tmp_path / "execd")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "execd", "bootstrap.sh"], check=True)
    subprocess.run(["curl", "-sS", "--fail", "--unix-socket", str(engine.socket), "-X", "POST", "-T", str(tmp_path / "a.tar"),
                    "http://x/images/create?fromSrc=-&repo=foreign/execd&tag=1"], check=True, capture_output=True)
    s = engines.docker_server(engine)
    s.sections["runtime"]["execd_image"] = "foreign/execd:1"
    s.write_config()
    try:
        s.start()
        i = s.create()["id"]
        assert engine.inspect(i)[1]["Config"]["Entrypoint"] == ["/opt/opensandbox/bin/bootstrap.sh"]
        assert s.run(i, "tr '\\0' '\\n' </proc/1/environ | grep FOREIGN")[1] == "FOREIGN=yes\n"
        assert "knows no token" in s.log()
        s.kill()
        s.start()
        assert s.run(i, "echo again")[1] == "again\n"
    finally:
        s.remove()


# Stands for ossfs and ossfs2: mounts a tmpfs that shows what it was asked for.
MOUNT_PROGRAM = """#!/bin/sh
set -e
if [ "$(basename "$0")" = ossfs2 ]; then at=$2 file=$4; else at=$2 file=$(echo "$*" | sed 's/.*passwd_file=\\([^ ]*\\).*/\\1/'); fi
grep -q refuse-me $file && { echo "no such bucket" >&2; exit 3; }
grep -q mount-nothing $file && exit 0
mode=$(stat -c %a $file)
mount -t tmpfs -o size=1m tmpfs $at
{ echo "$(basename "$0") $mode"; cat $file; echo; echo "$@"; } >$at/asked
"""


def bucket(name="photos", mount="/data", **more):
    keys = {"bucket": "photos", "endpoint": "oss.example.com", "accessKeyId": "ID", "accessKeySecret": "s3cret/+="}
    sub = {"subPath": more.pop("subPath")} if "subPath" in more else {}
    return {"name": name, "mountPath": mount, "ossfs": {**keys, **more}, **sub}


def test_ossfs(engine, tmp_path):
    """Buckets by a stand-in for the mount programs; no name of a client makes a path (B10), no mount is shared (B11)."""
    for program in ("ossfs", "ossfs2"):
        (tmp_path / program).write_text(MOUNT_PROGRAM)
        (tmp_path / program).chmod(0o755)
    root = engine.dir / "ossfs"
    s = engines.docker_server(engine)
    s.env["PATH"] = f"{tmp_path}:{s.env['PATH']}"
    s.sections["storage"] = {"ossfs_mount_root": str(root)}
    s.write_config()

    def mounts():
        with open("/proc/self/mounts") as f:
            return [line.split()[1] for line in f if line.split()[1].startswith(f"{root}/")]
    try:
        s.start()
        a = s.create(volumes=[bucket(options=["log_level=debug"], subPath="a/b"), bucket("old", "/old", version="1.0", options=["uid=1000"])])["id"]
        asked = s.run(a, "cat /data/asked")[1]
        assert asked.startswith("ossfs2 600\n--oss_endpoint=https://oss.example.com\n--oss_bucket=photos\n--oss_access_key_id=ID\n"
                                "--oss_access_key_secret=s3cret/+=\n--oss_bucket_prefix=a/b/\n--log_level=debug\n"), asked
        asked = s.run(a, "cat /old/asked")[1]
        assert "ossfs 600\nphotos:ID:s3cret/+=\n" in asked and "-o url=https://oss.example.com" in asked and "-o uid=1000" in asked, asked
        b = s.create(volumes=[{**bucket(accessKeySecret="another"), "readOnly": True}])["id"]
        assert "another" in s.run(b, "cat /data/asked")[1]  # B11: not the other's mount
        assert s.run(b, "touch /data/x")[0] != 0 and s.run(a, "touch /data/x")[0] == 0
        assert len(mounts()) == 3
        for wrong, code in (({"bucket": "../../"}, "BUCKET"), ({"bucket": "UPPER"}, "BUCKET"), ({"options": ["passwd_file=/etc/shadow"]}, "OPTION"),
                            ({"options": ["oss_endpoint=x"]}, "OPTION"), ({"options": ["-x"]}, "OPTION"), ({"options": ["a\n--b"]}, "OPTION"),
                            ({"options": ["log_dir=/etc"]}, "OPTION"), ({"options": ["log_dir=etc"]}, "OPTION"), ({"endpoint": "a b"}, "ENDPOINT"), ({"accessKeyId": "a:b"}, "CREDENTIALS")):
            assert s.create(expect=400, volumes=[bucket(**wrong)])["code"] == f"VOLUME::INVALID_OSSFS_{code}", wrong
        for wrong in ({"version": "3.0"}, {"accessKeySecret": None}, {"bucket": "ab"}):
            s.create(expect=422, volumes=[bucket(**wrong)])
        for wrong in ("../..", "a\nb"):
            assert s.create(expect=400, volumes=[bucket(subPath=wrong)])["code"] == "VOLUME::INVALID_SUB_PATH"
        r = s.create(expect=500, volumes=[bucket("one", "/one"), bucket(accessKeySecret="refuse-me")])
        assert r["code"] == "VOLUME::OSSFS_MOUNT_FAILED" and "no such bucket" in r["message"] and "refuse-me" not in r["message"]
        r = s.create(expect=500, volumes=[bucket(accessKeySecret="mount-nothing")])
        assert "nothing is mounted" in r["message"]
        assert len(mounts()) == 3  # what failed left none
        s.kill()
        s.start()
        assert "photos" in s.run(a, "cat /data/asked")[1]
        s.delete(a)
        s.delete(b)
        harness.wait_until(lambda: not mounts() and not list(root.glob("*/*")), "the mounts and their directories are gone")
        assert "s3cret" not in s.log()
        assert not any(b"s3cret" in p.read_bytes() for p in (s.state / "store").iterdir())
    finally:
        s.remove()


def test_host_network(engine):
    """Two sandboxes on the host's network: each execd has a port of its own."""
    s = run_server(engine, network_mode="host")
    try:
        a, b = s.create()["id"], s.create()["id"]
        assert s.run(a, "echo $OPENSANDBOX_ID")[1].strip() == a
        assert s.run(b, "echo $OPENSANDBOX_ID")[1].strip() == b
        s.kill()
        s.start()
        assert s.run(b, "echo $OPENSANDBOX_ID")[1].strip() == b
    finally:
        s.remove()


def test_user_defined_network(engine):
    assert engine.call("POST", "/networks/create", {"Name": "MixedCase", "Driver": "bridge"})[0] == 201
    s = run_server(engine, network_mode="MixedCase")
    try:
        i = s.create()["id"]
        assert list(engine.inspect(i)[1]["NetworkSettings"]["Networks"]) == ["MixedCase"]
        assert s.run(i, "echo here")[1] == "here\n"
    finally:
        s.remove()
    for mode, told in (("absent", "docker network create absent"), ("none", "need a network of their own"), ("container:x", "need a network of their own")):
        with engines.docker_server(engine, network_mode=mode) as s:
            with pytest.raises(AssertionError, match=told):
                s.start()


def test_pull_with_and_without_credentials(engine):
    port = harness.free_port()
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["htpasswd", "-Bbc", f"{d}/users", "me", "s3cret"], check=True, capture_output=True)
        with open(f"{d}/config.yml", "w") as f:
            f.write(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {d}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
                    f"auth: {{htpasswd: {{realm: test, path: {d}/users}}}}\n")
        registry = subprocess.Popen(["docker-registry", "serve", f"{d}/config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        s = None
        try:
            subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "me:s3cret", "--retry-times", "5",
                            "--src-daemon-host", engine.host, f"docker-daemon:{harness.IMAGE}", f"docker://127.0.0.1:{port}/team/base:1"], check=True, timeout=120)
            s = run_server(engine)
            uri = f"127.0.0.1:{port}/team/base:1"
            assert s.create(expect=400, image={"uri": uri})["code"] == "DOCKER::IMAGE_UNAUTHORIZED"
            good = {"username": "me", "password": "s3cret"}
            assert s.create(expect=400, image={"uri": uri + "9", "auth": good})["code"] == "DOCKER::IMAGE_NOT_FOUND"
            i = s.create(image={"uri": uri, "auth": good})["id"]
            assert s.run(i, "echo pulled")[1] == "pulled\n"
            assert s.get(i)["image"]["uri"] == uri
            assert "s3cret" not in s.log()
        finally:
            if s:
                s.remove()
            registry.terminate()
            registry.wait()


@pytest.mark.slow
def test_the_engine_goes_away(engine):
    """Killed under load, it comes back with its sandboxes (live restore): none is lost, none is immortal, and nobody waits for it."""
    s = run_server(engine)
    try:
        kept, doomed, late = [s.create()["id"] for _ in range(3)]
        pid = engine.inspect(doomed)[1]["State"]["Pid"]
        body = {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "timeout": 600,
                "resourceLimits": {"cpu": "1", "memory": "64Mi"}}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            creates = [pool.submit(s.request, "POST", "/v1/sandboxes", body) for _ in range(4)]
            engine.kill()
            os.kill(pid, 9)  # it dies while nobody looks
            refused = pool.submit(s.request, "POST", "/v1/sandboxes", body)
            pool.submit(s.request, "DELETE", f"/v1/sandboxes/{late}")  # accepted; done when the engine is back
            assert s.get(kept)["status"]["state"] == "Running"
            assert s.run(kept, "echo still here")[1] == "still here\n"
            for r in [c.result() for c in creates]:
                assert r.status in (202, 500), r
            r = refused.result()
            assert r.status == 500 and r.json()["code"] == "DOCKER::UNAVAILABLE", r
            r = s.request("POST", "/v1/sandboxes", {**body, "image": {"uri": "nowhere.example/unknown:1"}})  # the image is asked for first
            assert r.status == 500 and r.json()["code"] == "DOCKER::UNAVAILABLE", r
        engine.start()
        harness.wait_until(lambda: s.get(doomed)["status"]["state"] == "Failed", "the dead one is seen", 10)
        assert s.get(kept)["status"]["state"] == "Running"
        harness.wait_until(lambda: engine.inspect(late)[0] == 404, "the deleted one is gone", 30)
        known = {b["id"] for b in s.sandboxes()}
        harness.wait_until(lambda: {c["Labels"]["opensandbox.io/id"] for c in engine.containers()
                                    if "opensandbox.io/id" in c["Labels"]} <= known, "no orphan", 30)
        assert s.run(s.create()["id"], "echo new")[1] == "new\n"
    finally:
        s.remove()
