"""What the docker runtime asks an engine for where we have no hardware (GPUs, Windows guests) or no such engine (Engine 29): the real server against fake_engine.py."""
import fake_engine
import harness
import pytest

WINDOWS = {"image": {"uri": "windows:11"}, "platform": {"os": "windows", "arch": "amd64"}, "resourceLimits": {}}
ROOM = """#!/bin/sh
# a /dev of its own, so that its devices are the test's choice
exec unshare -m sh -ec '
mount -t tmpfs -o mode=755 tmpfs /dev
mkdir /dev/net /dev/shm; mknod /dev/null c 1 3; mknod /dev/zero c 1 5; mknod /dev/urandom c 1 9; mknod /dev/random c 1 8
chmod 666 /dev/null /dev/zero /dev/urandom /dev/random
for device in {devices}; do mknod $device c 10 200; done
exec "$@"' sh {program} "$@"
"""


@pytest.fixture
def engine():
    with fake_engine.FakeEngine() as e:
        e.add_image("foreign/execd:1", execd=b"\x7fELF execd", bootstrap_sh=b"#!/bin/sh\n", install_bat=b"start execd\r\n", execd_exe=b"MZ execd" * 1000)
        e.add_image("windows:11")
        e.add_image(harness.IMAGE)
        yield e


@pytest.fixture
def serve(engine, tmp_path):
    made = []

    def start(devices="/dev/kvm /dev/net/tun", execd_image="foreign/execd:1", state=None, **docker):
        room = tmp_path / f"server{len(made)}.sh"
        room.write_text(ROOM.format(devices=devices, program=harness.BUILD / "test/src/server/opensandbox-server"))
        room.chmod(0o755)
        s = harness.Server(config={"runtime": {"type": "docker", **({"execd_image": execd_image} if execd_image else {})}, "docker": docker},
                           env={"DOCKER_HOST": engine.host}, binary=room, state=state)
        made.append(s)
        return s.start()

    yield start
    for s in made:
        s.remove()


def created(engine):
    return [r[3] for r in engine.asked("POST", "/containers/create") if r[2]["name"][:14] != "sandbox-execd-"][-1]


def refused(s, status=400, code="SANDBOX::INVALID_PARAMETER", **members):
    j = s.create(expect=status, **members)
    assert j["code"] == code, j
    return j["message"]


# ---- GPUs and Engine 29 ----

def test_gpu(engine, serve):
    s = serve(publish_ports="always")
    for gpu, count in (("2", 2), ("all", -1), ("ALL", -1), (None, None)):
        i = s.create(resourceLimits={"cpu": "1", "memory": "512Mi", **({"gpu": gpu} if gpu else {})})["id"]
        asked = created(engine)["HostConfig"].get("DeviceRequests")
        assert asked == (count and [{"Driver": "", "Count": count, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}])
        s.delete(i)
    for gpu in ("0", "-1", "some", "1.5", ""):
        assert "resourceLimits.gpu" in refused(s, resourceLimits={"gpu": gpu})


def test_engine_29(engine, serve):
    """At least 1.44, at most 1.52: everything is asked in one version between them."""
    s = serve(publish_ports="always")
    i = s.create()["id"]
    assert s.get(i)["status"]["state"] == "Running"
    s.delete(i)
    assert len(engine.versions) == 1 and 44 <= int(engine.versions.pop().split(".")[1]) <= 52


# ---- Windows guests ----

def test_windows_guest(engine, serve):
    s = serve(drop_capabilities=["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "MKNOD"])
    sb = s.create(**WINDOWS | {"resourceLimits": {"cpu": "2500m", "memory": "8192Mi", "disk": "100Gi"}, "entrypoint": ["/run/entry.sh", "x y"], "metadata": {"a": "b"},
                               "env": {"VERSION": "11", "RAM_SIZE": "1G", "USER_PORTS": "9000,8080", "CPU_CORES": "64"}})
    i = sb["id"]
    assert sb["platform"] == WINDOWS["platform"] and sb["status"]["state"] == "Running"  # its execd answers later
    body, query = created(engine), engine.asked("POST", "/containers/create")[-2][2]
    host = body["HostConfig"]
    assert query == {"name": f"sandbox-{i}"}  # no platform
    assert "Entrypoint" not in body and body["Cmd"] == ["/run/entry.sh", "x y"] and body["Image"] == "windows:11"
    ports = ["44772/tcp", "8080/tcp", "3389/tcp", "3389/udp", "8006/tcp"]
    assert sorted(body["ExposedPorts"]) == sorted(ports)
    assert host["PortBindings"] == {p: [{"HostIp": "127.0.0.1", "HostPort": ""}] for p in ports}
    assert host["Binds"] == [f"opensandbox-win-oem-{i}:/oem:rw"]
    assert host["Devices"] == [{"PathOnHost": d, "PathInContainer": d, "CgroupPermissions": "rwm"} for d in ("/dev/kvm", "/dev/net/tun")]
    assert host["CapAdd"] == ["NET_ADMIN", "NET_RAW"] and host["CapDrop"] == ["SYS_ADMIN", "MKNOD"]
    assert not {"Memory", "NanoCpus", "DeviceRequests"} & set(host)
    env = dict(v.split("=", 1) for v in body["Env"])
    assert len(env) == len(body["Env"])
    assert env == {"VERSION": "11", "OPENSANDBOX_ID": i, "CPU_CORES": "3", "RAM_SIZE": "8G", "DISK_SIZE": "100G", "USER_PORTS": "9000,8080,44772,3389,8006"}
    assert body["Labels"]["opensandbox.io/platform-os"] == "windows" and body["Labels"]["a"] == "b"
    oem = engine.volumes[f"opensandbox-win-oem-{i}"]
    assert oem["files"] == {"install.bat": b"start execd\r\n", "execd.exe": b"MZ execd" * 1000}
    assert oem["labels"] == {k: body["Labels"][k] for k in ("opensandbox.io/id", "opensandbox.io/server")}
    names = [c.name for c in engine.containers.values()]
    assert names == [f"sandbox-{i}"], "the helper is gone"
    steps = [p for m, p, *_ in engine.requests if m in ("PUT", "POST") and p.startswith(("/volumes/create", "/containers/")) and not p.endswith("/create") or m == "PUT"]
    assert steps[-2].endswith("/archive") and steps[-1].endswith("/start")  # the files first
    s.delete(i)
    assert not engine.containers and f"opensandbox-win-oem-{i}" not in engine.volumes


def test_windows_guest_without_limits(engine, serve):
    s = serve()
    i = s.create(**WINDOWS | {"resourceLimits": {"gpu": "2"}})["id"]
    env = dict(v.split("=", 1) for v in created(engine)["Env"])
    assert env == {"OPENSANDBOX_ID": i, "USER_PORTS": "44772,8080,3389,8006"}
    assert "DeviceRequests" not in created(engine)["HostConfig"]
    assert "GPU" in s.get(i)["status"]["message"]  # never silent


def test_ports_of_a_guest(engine, serve):
    """By what is published, wherever the engine is; other ports through the guest's execd. Also after a restart."""
    s = serve()
    i = s.create(**WINDOWS)["id"]
    container = engine.find(f"sandbox-{i}")

    def get(port, path="/x?y=1"):
        headers = s.execd_headers(i) if port == 44772 else {}
        return s.request("GET", f"/v1/sandboxes/{i}/proxy/{port}{path}", headers=headers, key=None)

    assert get(44772).status == 502  # it boots
    for p, at in container.ports.items():
        if p.endswith("/tcp"):
            at.open()
    for _ in range(2):
        for port in (44772, 8080, 3389, 8006):
            assert get(port).body == f"{port} /x?y=1".encode()
        assert get(9000).body == b"44772 /proxy/9000/x?y=1"
        assert s.request("GET", f"/v1/sandboxes/{i}/proxy/44772/files", key=None).status == 401  # its execd knows no token, the proxy does
        s.kill()
        s.start()
        assert s.get(i)["status"]["state"] == "Running"


def test_pause_and_snapshot_of_a_guest(engine, serve):
    s = serve()
    i = s.create(**WINDOWS)["id"]
    for step, state in (("pause", "Paused"), ("resume", "Running")):
        assert s.request("POST", f"/v1/sandboxes/{i}/{step}").status == 202
        harness.wait_until(lambda w=state: s.get(i)["status"]["state"] == w, state, 5)
    r = s.request("POST", f"/v1/sandboxes/{i}/snapshots", {})
    assert r.status == 409 and "volume" in r.json()["message"], r


def test_windows_minimums(engine, serve):
    s = serve()
    for name, bad in (("cpu", ["1", "1999m", "x"]), ("memory", ["3G", "3072Mi", "8", "8Ki", "8PB", "1.5Ti", "", "0G"]), ("disk", ["63G", "65536K"]),
                      ("storage", ["63G"]), ("ephemeral-storage", ["64"])):
        for value in bad:
            assert f"resourceLimits.{name}" in refused(s, **WINDOWS | {"resourceLimits": {name: value}})
    for limits, expected in (({"cpu": "2", "memory": "4g", "disk": "64GB"}, ("2", "4G", "64G")), ({"memory": "4097 Mi"}, (None, "5G", None)),
                             ({"storage": "1Tb", "cpu": "2.001"}, ("3", None, "1024G")), ({"disk": "70G", "storage": "80G"}, (None, None, "70G"))):
        i = s.create(**WINDOWS | {"resourceLimits": limits})["id"]
        env = dict(v.split("=", 1) for v in created(engine)["Env"])
        assert tuple(env.get(k) for k in ("CPU_CORES", "RAM_SIZE", "DISK_SIZE")) == expected
        s.delete(i)
    assert "disk" in refused(s, resourceLimits={"disk": "64G"})  # Linux sandboxes have none
    assert "NET_ADMIN" in refused(s, **WINDOWS, networkPolicy={"defaultAction": "deny", "egress": []})


def test_windows_needs_devices(engine, serve):
    for there, absent in (("/dev/kvm", "/dev/net/tun"), ("/dev/net/tun", "/dev/kvm")):
        s = serve(devices=there)
        assert absent in refused(s, **WINDOWS | {"image": {"uri": "not/there:1"}})
    assert not engine.asked("POST", "/images/create") or all("repo" in r[2] for r in engine.asked("POST", "/images/create"))  # before a pull
    s = serve()
    engine.fail("POST", "/containers/.*/start", 500, 'error gathering device information while adding custom device "/dev/kvm": no such file or directory')
    assert "/dev/kvm" in refused(s, **WINDOWS)  # an engine elsewhere says so itself
    assert not engine.containers and not [v for v in engine.volumes if "win-oem" in v]


def test_where_windows_is_refused(engine, serve):
    assert "runtime.execd_image" in refused(serve(execd_image=None), **WINDOWS)
    assert "docker.network_mode" in refused(serve(network_mode="host"), **WINDOWS)
    assert "docker.publish_host" in refused(serve(publish_host="0.0.0.0"), **WINDOWS)  # its execd knows no token
    engine.images["foreign/execd:1"].pop("install.bat")
    s = serve()
    assert "/install.bat" in refused(s, 500, "DOCKER::SANDBOX_START_FAILED", **WINDOWS)
    assert not engine.containers and not [v for v in engine.volumes if "win-oem" in v]
    r = s.request("POST", "/v1/pools", {"name": "w", "template": WINDOWS, "capacitySpec": {"bufferMin": 0, "bufferMax": 1, "poolMin": 0, "poolMax": 1}})
    assert r.status == 400 and "Windows" in r.json()["message"], r


@pytest.mark.parametrize("step", ["POST /volumes/create", "POST /containers/create", "PUT /containers/.*/archive", "POST /containers/.*/start"])
def test_a_failed_create_leaves_no_volume(engine, serve, step):
    """Defect B5 of the reference."""
    s = serve()
    method, path = step.split()
    engine.fail(method, path, 500, "no space left on device")
    s.create(expect=500, **WINDOWS)
    assert not engine.containers and not [v for v in engine.volumes if "win-oem" in v]
    s.delete(s.create(**WINDOWS)["id"])


def test_leftovers_of_a_crash_are_swept(engine, serve):
    s = serve()
    made = s.create(**WINDOWS)["id"]
    labels = engine.volumes[f"opensandbox-win-oem-{made}"]["labels"]
    gone = "11111111-2222-4333-8444-555555555555"
    s.kill()
    engine.volumes[f"opensandbox-win-oem-{gone}"] = {"labels": {**labels, "opensandbox.io/id": gone}, "files": {}}
    s.start()
    assert [v for v in engine.volumes if "win-oem" in v] == [f"opensandbox-win-oem-{made}"]
    assert s.get(made)["status"]["state"] == "Running"


def test_a_guest_of_the_reference_is_taken_over(engine, serve):
    """As that server leaves it (docker-runtime.md 1.4, section 8): the volume has no label at all."""
    i, oem = "11111111-2222-4333-8444-555555555555", "opensandbox-win-oem-11111111-2222-4333-8444-555555555555"
    ports = {p: [{"HostIp": "0.0.0.0", "HostPort": "45000"}] for p in ("44772/tcp", "8080/tcp", "3389/tcp", "8006/tcp")}
    engine.call("POST", "/volumes/create", {"Name": oem})
    made = engine.call("POST", f"/containers/create?name=sandbox-{i}", {
        "Image": "windows:11", "Cmd": ["x"], "Labels": {f"opensandbox.io/{k}": v for k, v in (("id", i), ("manual-cleanup", "true"), ("platform-os", "windows"),
                                                                                             ("platform-arch", "amd64"), ("embedding-proxy-port", "45000"))},
        "HostConfig": {"NetworkMode": "bridge", "Binds": [f"{oem}:/oem:rw"], "PortBindings": ports}})["Id"]
    engine.call("POST", f"/containers/{made}/start")
    s = serve()
    assert s.sandboxes() == []
    s.stop()
    done = s.cli("adopt", check=False)
    assert "1 taken over, 0 left alone" in done.stdout, done
    s.start()
    harness.wait_until(lambda: [b["id"] for b in s.sandboxes()] == [i], "it is here")
    assert s.get(i)["platform"] == WINDOWS["platform"]
    engine.find(made).ports["8006/tcp"].open()
    assert s.request("GET", f"/v1/sandboxes/{i}/proxy/8006/", key=None).body == b"8006 /"
    s.delete(i)
    assert not engine.containers and oem not in engine.volumes
