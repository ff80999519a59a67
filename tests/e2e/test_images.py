"""Images from every source, kept and let go: registries on loopback, layouts, archives, tarballs; limits, disk full, crash."""
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time

import pytest

import harness
import images

USER, PASSWORD = "alice", "s3cret-" + "x" * 20


@pytest.fixture
def plain(tmp_path):
    """A server that was not started; its command line works all the same."""
    with harness.Server() as s:
        yield s


@pytest.fixture
def registry(tmp_path):
    r = images.Registry(tmp_path / "registry")
    try:
        yield r
    finally:
        r.close()


@pytest.fixture
def locked(tmp_path):
    r = images.Registry(tmp_path / "locked", users={USER: PASSWORD})
    try:
        yield r
    finally:
        r.close()


def configure(server, **oci):
    server.sections["oci"].update(oci)
    server.write_config()


def store(server):
    return server.state / "oci" / "oci"


def published(server):
    return sorted(p.name for p in (store(server) / "images").iterdir())


def root(server, image_id):
    return store(server) / "images" / image_id / "rootfs"


def imported(server, *args, timeout=120):
    done = server.cli("image", *args, check=False, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[0]


def refused(server, *args, code, text):
    done = server.cli("image", *args, check=False, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"OCI::{code}:" in last if "::" not in code else code in last, last
    assert re.search(text, last), last
    left = [n for n in published(server) if n.startswith(".")]
    assert not left, left
    return last


def small(**kw):
    return images.Image([images.small_root()], **kw)


# ---- archives, layouts, tarballs ----

def test_tarballs_in_every_compression(plain, tmp_path):
    data = images.tar_bytes(images.small_root())
    zst = subprocess.run(["zstd", "-q"], input=data, check=True, capture_output=True).stdout
    for name, content in (("r.tar", data), ("r.tar.gz", gzip.compress(data)), ("r.tar.xz", lzma.compress(data)), ("r.tar.zst", zst)):
        (tmp_path / name).write_bytes(content)
        image_id = imported(plain, "import", str(tmp_path / name), "made/root:" + name.split(".")[-1])
        assert image_id == "sha256-" + hashlib.sha256(content).hexdigest()
        r = root(plain, image_id)
        assert (r / "bin/busybox").read_bytes() == images.BUSYBOX.read_bytes()
        assert oct((r / "tmp").stat().st_mode) == "0o41777"
        assert (r / "opt/opensandbox/bin/execd").is_file()
    assert len(published(plain)) == 4


def test_layout_archive_and_docker_archive(plain, tmp_path):
    made = small(config={"User": "app:staff", "WorkingDir": "/srv//app/", "Cmd": ["sh"], "Volumes": {"/data/": {}}, "ExposedPorts": {"80/tcp": {}}})
    digest = made.layout(tmp_path / "layout")
    made.archive(tmp_path / "a.tar")
    made.docker_archive(tmp_path / "d.tar")
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress((tmp_path / "d.tar").read_bytes()))
    ids = [imported(plain, "import", str(tmp_path / n), f"made/{n.replace('.', '-')}:1") for n in ("layout", "a.tar", "d.tar", "d.tar.gz")]
    assert ids[0] == ids[1] == "sha256-" + digest[7:]
    assert ids[2] == ids[3]
    for image_id in ids:
        record = json.loads((store(plain) / "images" / image_id / "image.json").read_text())
        assert record["config"]["config"] == {"Env": ["PATH=/bin:/usr/bin"], "Entrypoint": [], "Cmd": ["sh"], "User": "app:staff",
                                              "WorkingDir": "/srv/app", "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}}
        assert (root(plain, image_id) / "bin/sh").is_symlink()


def restyle(image, path, layer_type, compress, manifest_type=None, config_type=None):
    """Writes the layout with other layers or media types; returns the manifest's digest."""
    blobs, digest = image.blobs()
    manifest = json.loads(blobs[digest])
    out = {manifest["config"]["digest"]: blobs[manifest["config"]["digest"]]}
    manifest["layers"] = []
    for layer in image.layers:
        data = compress(layer)
        out[images.sha(data)] = data
        manifest["layers"].append({"mediaType": layer_type, "digest": images.sha(data), "size": len(data)})
    manifest["mediaType"] = manifest_type or manifest["mediaType"]
    manifest["config"]["mediaType"] = config_type or manifest["config"]["mediaType"]
    data = json.dumps(manifest).encode()
    out[images.sha(data)] = data
    images.write_layout(path, {"schemaVersion": 2, "manifests": [{"mediaType": manifest["mediaType"], "digest": images.sha(data), "size": len(data),
                                                                 "annotations": {"org.opencontainers.image.ref.name": "x"}}]}, out)
    return images.sha(data)


def test_layers_and_types_that_umoci_does_not_know(plain, registry, tmp_path):
    def zstd(data):
        return subprocess.run(["zstd", "-q"], input=data, check=True, capture_output=True).stdout
    D = images.DOCKER
    styles = {"zstd": (images.OCI + "layer.v1.tar+zstd", zstd), "plain": (images.OCI + "layer.v1.tar", bytes),
              "docker": (D + "image.rootfs.diff.tar.gzip", gzip.compress, D + "distribution.manifest.v2+json", D + "container.image.v1+json")}
    configure(plain, insecure_registries=[registry.host])
    for name, style in styles.items():
        digest = restyle(small(config={"Cmd": [name]}), tmp_path / name, *style)
        image_id = imported(plain, "import", str(tmp_path / name), f"made/{name}:1")
        assert image_id == "sha256-" + digest[7:]
        assert (root(plain, image_id) / "bin/busybox").is_file()
        plain.cli("image", "rm", image_id)
        registry.push(tmp_path / name, f"team/{name}:1", "--preserve-digests")
        assert imported(plain, "pull", f"{registry.host}/team/{name}:1") == image_id
        assert (root(plain, image_id) / "bin/busybox").is_file()


def test_layers_in_order_with_whiteouts(plain, tmp_path):
    e = images
    made = e.Image([e.small_root() + [e.directory("d"), e.entry("d/old", "1"), e.entry("gone", "1"), e.entry("owned", "1", uid=1234, gid=4321, mode=0o4755)],
                    [e.entry(".wh.gone", ""), e.entry("d/.wh..wh..opq", ""), e.entry("d/new", "2")]])
    made.layout(tmp_path / "l")
    r = root(plain, imported(plain, "import", str(tmp_path / "l"), "made/two:1"))
    assert sorted(p.name for p in (r / "d").iterdir()) == ["new"]
    assert not (r / "gone").exists() and not list(r.rglob(".wh.*"))
    st = (r / "owned").stat()
    assert (st.st_uid, st.st_gid, oct(st.st_mode)) == (1234, 4321, "0o104755")


def test_the_platform_is_chosen_from_an_index(plain, tmp_path):
    mine, other = small(), small(arch="s390x", config={"Cmd": ["other"]})
    index, blobs = images.index_of([(other, {"os": "linux", "architecture": "s390x"}), (mine, {"os": "linux", "architecture": images.ARCH})])
    images.write_layout(tmp_path / "l", index, blobs)
    image_id = imported(plain, "import", str(tmp_path / "l"), "made/index:1")
    assert image_id == "sha256-" + mine.blobs()[1][7:]


def test_names_list_and_rm(plain, tmp_path):
    small().layout(tmp_path / "l")
    first = imported(plain, "import", str(tmp_path / "l"), "made/a:1")
    assert imported(plain, "import", str(tmp_path / "l"), "localhost/b") == first
    listing = plain.cli("image", "list").stdout
    assert "docker.io/made/a:1" in listing and "localhost/b:latest" in listing and first[:19] in listing
    plain.cli("image", "rm", "made/a:1")  # only the name: the image has another
    assert published(plain) == [first]
    refused(plain, "rm", "made/a:1", code="IMAGE_NOT_FOUND", text="made/a:1")
    plain.cli("image", "rm", first[7:17])
    assert published(plain) == [] and not list((store(plain) / "image-names").iterdir()) and not list((store(plain) / "trash").iterdir())


def test_bad_command_lines_say_how(plain):
    for args in (["image"], ["image", "fly"], ["image", "import", "x"], ["image", "rm"], ["image", "pull"], ["image", "pull", "a", "--username", "x"]):
        done = plain.cli(*args, check=False)
        assert done.returncode == 2 and "image import" in done.stderr, args
    refused(plain, "import", "/etc/hostname", "made/UPPER:1", code="IMAGE_NOT_FOUND", text="lower-case")
    refused(plain, "import", "/proc/version", "made/x:1", code="IMAGE_INVALID", text="")
    done = plain.cli("image", "import", "/nowhere/x.tar", "made/x:1", check=False)
    assert done.returncode == 1 and "/nowhere/x.tar" in done.stderr


# ---- registries ----

def test_pull_by_tag_and_digest(plain, registry, tmp_path):
    digest = small().layout(tmp_path / "l")
    registry.push(tmp_path / "l", "team/app:1")
    configure(plain, insecure_registries=[registry.host])
    done = plain.cli("image", "pull", f"{registry.host}/team/app:1")
    assert done.stdout.split()[0] == "sha256-" + digest[7:]
    assert "fetching" in done.stderr and "files, after" in done.stderr
    assert imported(plain, "pull", f"{registry.host}/team/app:1@{digest}") == "sha256-" + digest[7:]
    registry.close()  # what is here needs no registry
    assert imported(plain, "pull", f"{registry.host}/team/app:1")


def test_docker_manifests_are_pulled(plain, registry, tmp_path):
    small(config={"User": "app"}).layout(tmp_path / "l")
    registry.push(tmp_path / "l", "team/docker:1", "--format", "v2s2")
    configure(plain, insecure_registries=[registry.host])
    image_id = imported(plain, "pull", f"{registry.host}/team/docker:1")
    record = json.loads((store(plain) / "images" / image_id / "image.json").read_text())
    assert record["config"]["config"]["User"] == "app"


def test_always_follows_a_moved_tag(plain, registry, tmp_path):
    one, two = small(), small(config={"Cmd": ["two"]})
    a, b = one.layout(tmp_path / "1"), two.layout(tmp_path / "2")
    configure(plain, insecure_registries=[registry.host])
    name = f"{registry.host}/team/moving:1"
    registry.push(tmp_path / "1", "team/moving:1")
    assert imported(plain, "pull", name) == "sha256-" + a[7:]
    registry.push(tmp_path / "2", "team/moving:1")
    assert imported(plain, "pull", name) == "sha256-" + a[7:]
    assert imported(plain, "pull", "--always", name) == "sha256-" + b[7:]


def test_registry_errors_by_name(plain, registry, tmp_path):
    small().layout(tmp_path / "l")
    registry.push(tmp_path / "l", "team/app:1")
    host = registry.host
    refused(plain, "pull", f"{host}/team/app:1", code="SANDBOX::INVALID_PARAMETER", text="oci.registries")
    configure(plain, registries=[host])
    refused(plain, "pull", f"{host}/team/app:1", code="IMAGE_PULL_FAILED", text="HTTPS client.*insecure_registries")
    configure(plain, insecure_registries=[host])
    refused(plain, "pull", f"{host}/team/app:none", code="IMAGE_NOT_FOUND", text="manifest unknown")
    refused(plain, "pull", f"{host}/team/nothing:1", code="IMAGE_NOT_FOUND", text="unknown")
    refused(plain, "pull", f"{host}/team/app@sha256:{'0' * 64}", code="IMAGE_NOT_FOUND", text="unknown")
    registry.close()
    refused(plain, "pull", f"{host}/team/other:1", code="IMAGE_PULL_FAILED", text="refused")


def test_a_wrong_platform_is_refused_by_name(plain, registry, tmp_path):
    small(arch="s390x").layout(tmp_path / "l")
    registry.push(tmp_path / "l", "team/foreign:1")
    configure(plain, insecure_registries=[registry.host])
    refused(plain, "pull", f"{registry.host}/team/foreign:1", code="IMAGE_INVALID", text=f"linux/s390x, not for linux/{images.ARCH}")


def test_credentials(plain, locked, tmp_path):
    small().layout(tmp_path / "l")
    locked.push(tmp_path / "l", "private/app:1")
    configure(plain, insecure_registries=[locked.host])
    name = f"{locked.host}/private/app:1"
    refused(plain, "pull", name, code="IMAGE_UNAUTHORIZED", text="unauthorized")

    def pull(password):
        return subprocess.run([plain.binary, "--config", str(plain.config), "image", "pull", "--always", "--username", USER, "--password-stdin",
                               name], input=password + "\n", capture_output=True, text=True, timeout=60)
    wrong = pull("wrong")
    assert wrong.returncode == 1 and "IMAGE_UNAUTHORIZED" in wrong.stderr
    seen, stop = set(), threading.Event()

    def watch():  # every command line on the machine, as fast as we can
        while not stop.is_set():
            for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = p.read_bytes()
                except OSError:
                    continue
                if b"skopeo" in text:
                    seen.add(text)
    t = threading.Thread(target=watch)
    t.start()
    try:
        for _ in range(20):  # a quick one may begin and end between two looks
            good = pull(PASSWORD)
            assert good.returncode == 0, good.stderr
            if any(locked.host.encode() in s for s in seen.copy()):
                break
    finally:
        stop.set()
        t.join()
    assert any(locked.host.encode() in s for s in seen), "skopeo was seen"
    import base64
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for text in [s.decode(errors="replace") for s in seen] + [good.stderr, good.stdout, wrong.stderr]:
        assert PASSWORD not in text and secret not in text
    for p in plain.state.rglob("*"):  # nothing is kept
        if p.is_file() and not p.is_symlink() and p.stat().st_size < 1 << 20 and "rootfs" not in p.parts:
            assert PASSWORD.encode() not in p.read_bytes() and secret.encode() not in p.read_bytes(), p


def test_private_authority(plain, tmp_path):
    cert, key = tmp_path / "ca/ca.crt", tmp_path / "key.pem"
    cert.parent.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    r = images.Registry(tmp_path / "tls", tls=(cert, key))
    try:
        small().layout(tmp_path / "l")
        r.push(tmp_path / "l", "team/tls:1")
        configure(plain, registries=[r.host])
        refused(plain, "pull", f"{r.host}/team/tls:1", code="IMAGE_PULL_FAILED", text="x509.*registry_ca_dir")
        configure(plain, registry_ca_dir=str(cert.parent))
        imported(plain, "pull", f"{r.host}/team/tls:1")
    finally:
        r.close()


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "10.1.2.3", "169.254.169.254", "[::1]:5000", "[fe80::1]:5000", "192.168.7.7:1",
                                  "[::ffff:7f00:1]:80", "0.0.0.0:80", "100.64.0.1"])
def test_private_registries_are_not_asked(plain, host):
    refused(plain, "pull", f"{host}/team/app:1", code="SANDBOX::INVALID_PARAMETER", text="private, loopback or link-local")


@pytest.mark.parametrize("status", [200, 404, 500, 302])
def test_what_a_registry_answers_is_not_passed_on(plain, status):
    """A registry may redirect us to a server that only we can reach; its words are not for the user."""
    import http.server

    class Fake(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path.startswith("/v2/team") else 200)
            if status == 302 and self.path.startswith("/v2/team"):
                self.send_header("Location", "/inner")
            body = b"INNER-SECRET line\n" if self.path != "/v2/" else b"{}"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    fake = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    t = threading.Thread(target=fake.serve_forever)
    t.start()
    try:
        host = f"127.0.0.1:{fake.server_port}"
        configure(plain, insecure_registries=[host])
        done = plain.cli("image", "pull", f"{host}/team/app:1", check=False)
        assert done.returncode == 1 and "OCI::IMAGE_" in done.stderr and "INNER" not in done.stderr, done.stderr
    finally:
        fake.shutdown()
        t.join()
        fake.server_close()


# ---- limits, disk, crash ----

def test_limits_of_bytes_and_entries(plain, tmp_path):
    many = images.small_root() + [images.entry(f"usr/f{i}", "") for i in range(3000)]
    bomb = images.small_root() + [images.entry("usr/zeros", bytes(64 << 20))]
    configure(plain, image_max_bytes=32 << 20, image_max_entries=1000)
    for name, entries in (("many", many), ("bomb", bomb)):
        images.Image([entries]).layout(tmp_path / name)
        (tmp_path / (name + ".tar.gz")).write_bytes(gzip.compress(images.tar_bytes(entries), 1))
        for path in (tmp_path / name, tmp_path / (name + ".tar.gz")):
            refused(plain, "import", str(path), "made/large:1", code="IMAGE_INVALID", text="larger than 33554432 bytes or 1000 files")
    assert published(plain) == []


@pytest.mark.parametrize("source", ["tar", "layout", "registry"])
def test_full_disk_is_said_and_leaves_nothing(plain, registry, tmp_path, source):
    noise = os.urandom(12 << 20)
    entries = images.small_root() + [images.entry("usr/a", noise), images.entry("usr/b", noise[::-1])]
    made = images.Image([entries])
    made.layout(tmp_path / "l")
    (tmp_path / "r.tar").write_bytes(images.tar_bytes(entries))
    registry.push(tmp_path / "l", "team/large:1")
    with images.small_disk(tmp_path / "disk", 20) as disk:
        configure(plain, state_dir=str(disk / "state"), insecure_registries=[registry.host])
        before = shutil.disk_usage(disk).used
        args = {"tar": ["import", str(tmp_path / "r.tar"), "made/large:1"], "layout": ["import", str(tmp_path / "l"), "made/large:1"],
                "registry": ["pull", f"{registry.host}/team/large:1"]}[source]
        done = plain.cli("image", *args, check=False)
        assert done.returncode == 1 and "OCI::DISK_FULL" in done.stderr, done.stderr
        assert "no space" in done.stderr
        at = disk / "state/oci"
        assert [list((at / d).iterdir()) for d in ("images", "image-names", "trash")] == [[], [], []]
        assert shutil.disk_usage(disk).used - before < 1 << 20


def test_no_inodes_left_is_a_full_disk(plain, tmp_path):
    (tmp_path / "r.tar").write_bytes(images.tar_bytes(images.small_root() + [images.entry(f"usr/f{i}", "") for i in range(500)]))
    with images.small_disk(tmp_path / "disk", 64, inodes=300) as disk:
        configure(plain, state_dir=str(disk / "state"))
        done = plain.cli("image", "import", str(tmp_path / "r.tar"), "made/many:1", check=False)
        assert done.returncode == 1 and "OCI::DISK_FULL" in done.stderr, done.stderr
        assert list((disk / "state/oci/images").iterdir()) == []


def test_killed_in_the_middle(plain, tmp_path):
    entries = images.small_root() + [images.entry(f"usr/f{i}", bytes(100)) for i in range(4000)] + [images.entry("usr/last", bytes(64 << 20))]
    (tmp_path / "r.tar").write_bytes(images.tar_bytes(entries))
    p = subprocess.Popen([plain.binary, "--config", str(plain.config), "image", "import", str(tmp_path / "r.tar"), "made/r:1"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    at = store(plain) / "images"
    harness.wait_until(lambda: list(at.glob(".tmp-*/rootfs/usr/last")), "unpacking begins")
    p.kill()
    p.wait()
    assert list(at.glob(".tmp-*"))
    harness.wait_until(lambda: not works_below(at), "tar ended with its parent")
    assert "made/r" not in plain.cli("image", "list").stdout  # opening sweeps
    assert list(at.iterdir()) == []
    imported(plain, "import", str(tmp_path / "r.tar"), "made/r:1")


def works_below(path):
    """Whether any process was started with this path on its command line."""
    for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(path).encode() in p.read_bytes():
                return True
        except OSError:
            continue  # it ended meanwhile
    return False


def test_others_do_not_sweep_a_running_import(plain, tmp_path):
    entries = images.small_root() + [images.entry(f"usr/f{i}", bytes(100)) for i in range(4000)] + [images.entry("usr/last", bytes(64 << 20))]
    (tmp_path / "r.tar").write_bytes(images.tar_bytes(entries))
    p = subprocess.Popen([plain.binary, "--config", str(plain.config), "image", "import", str(tmp_path / "r.tar"), "made/r:1"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    harness.wait_until(lambda: list((store(plain) / "images").glob(".tmp-*/rootfs/usr")), "unpacking begins")
    for _ in range(5):
        plain.cli("image", "list")
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0, err


# ---- age and size ----

def age(server, image_id, days):
    then = time.time() - days * 86400
    os.utime(store(server) / "images" / image_id, (then, then))


def test_prune_by_size_takes_the_least_used(plain, tmp_path):
    ids = []
    for i in range(3):
        images.Image([images.small_root() + [images.entry("usr/pad", bytes([i]) * (8 << 20))]]).layout(tmp_path / str(i))
        ids.append(imported(plain, "import", str(tmp_path / str(i)), f"made/n{i}:1"))
        age(plain, ids[-1], 10 - i)
    age(plain, ids[0], 1)  # used again
    configure(plain, image_store_max_bytes=25 << 20)
    small().layout(tmp_path / "new")
    new = imported(plain, "import", str(tmp_path / "new"), "made/new:1")
    assert published(plain) == sorted([ids[0], ids[2], new]) or published(plain) == sorted([ids[0], new])
    assert ids[1] not in published(plain)


def test_prune_by_age_keeps_what_is_used(plain, tmp_path):
    ids = []
    for i in range(3):
        small(config={"Cmd": [str(i)]}).layout(tmp_path / str(i))
        ids.append(imported(plain, "import", str(tmp_path / str(i)), f"made/n{i}:1"))
    age(plain, ids[0], 40)
    age(plain, ids[1], 40)
    os.symlink(ids[0], store(plain) / "image-refs" / "some-sandbox")
    configure(plain, image_max_age_days=30)
    small(config={"Cmd": ["new"]}).layout(tmp_path / "new")
    new = imported(plain, "import", str(tmp_path / "new"), "made/new:1")
    assert published(plain) == sorted([ids[0], ids[2], new])
    done = plain.cli("image", "rm", "made/n0:1", check=False)
    assert done.returncode == 1 and "used by 1 sandbox" in done.stderr


# ---- through the API of a running server ----

@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """A server with a locked registry beside it, and an image in that."""
    d = tmp_path_factory.mktemp("api")
    r = images.Registry(d / "registry", users={USER: PASSWORD}, access_log=True)
    s = harness.Server({"oci": {"insecure_registries": [r.host]}})
    s.registry, s.made = r, d
    try:
        yield s.start()
    finally:
        s.remove()
        r.close()


def push(server, name, pad=0, **kw):
    path = server.made / name.replace("/", "_").replace(":", "_")
    images.Image([images.small_root() + [images.entry("usr/pad", os.urandom(pad))]], **kw).layout(path)
    server.registry.push(path, name)
    return f"{server.registry.host}/{name}"


def create(server, uri, auth=True, **members):
    image = {"uri": uri}
    if auth:
        image["auth"] = {"username": USER, "password": PASSWORD if auth is True else auth}
    return server.request("POST", "/v1/sandboxes", {"image": image, "entrypoint": harness.IDLE, "timeout": 600, "resourceLimits": {"cpu": "1", "memory": "128Mi"},
                                                    **members})


def test_create_pulls_with_credentials(api):
    uri = push(api, "private/one:1", config={"User": "app"})
    for auth, code in ((False, "OCI::IMAGE_UNAUTHORIZED"), ("wrong", "OCI::IMAGE_UNAUTHORIZED")):
        r = create(api, uri, auth)
        assert r.status == 400 and r.json()["code"] == code, r
    r = create(api, uri)
    assert r.status == 202 and r.json()["status"]["state"] == "Running", r
    assert api.run(r.json()["id"], "id -u")[:2] == (0, "1000\n")
    assert "auth" not in json.dumps(api.get(r.json()["id"]))
    again = create(api, uri, auth=False)  # it is here now
    assert again.status == 202, again
    for sb in (r, again):
        api.delete(sb.json()["id"])
    assert PASSWORD not in api.log() and "wrong" not in api.log()


def test_image_errors_have_their_codes(api):
    host = api.registry.host
    for uri, status, code in ((f"{host}/private/none:1", 400, "OCI::IMAGE_NOT_FOUND"), ("Not An Image", 400, "OCI::IMAGE_NOT_FOUND"),
                              ("10.9.8.7/a:1", 400, "SANDBOX::INVALID_PARAMETER")):
        r = create(api, uri)
        assert (r.status, r.json()["code"]) == (status, code), r


def test_one_pull_for_all_who_wait(api):
    uri = push(api, "private/crowd:1", pad=8 << 20)
    before = api.registry.requests().count("GET /v2/private/crowd/blobs/")
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(create(api, uri))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [r.status for r in replies] == [202] * 8, replies
    gets = api.registry.requests().count("GET /v2/private/crowd/blobs/") - before
    assert gets == 2, f"{gets} blobs were fetched; the image has a layer and a config"
    for r in replies:
        api.delete(r.json()["id"])
    log = api.log()
    assert log.count("private/crowd:1: asking its registry") == 1 and re.search(r"private/crowd:1: fetching \d+ MiB in 1 layers", log)


def test_an_image_in_use_stays(api):
    uri = push(api, "private/used:1")
    sandbox = create(api, uri).json()["id"]
    done = api.cli("image", "rm", uri, check=False)
    assert done.returncode == 1 and "used by 1 sandbox" in done.stderr
    api.delete(sandbox)
    api.cli("image", "rm", uri)
    r = create(api, uri, auth=False)  # gone: the registry would have to be asked
    assert r.status == 400 and r.json()["code"] == "OCI::IMAGE_UNAUTHORIZED", r


def test_imports_beside_the_server_are_found(api, tmp_path):
    (tmp_path / "r.tar").write_bytes(images.tar_bytes(images.small_root()))
    assert create(api, "localhost/made/beside:1", auth=False).status == 400
    api.cli("image", "import", str(tmp_path / "r.tar"), "localhost/made/beside:1")
    r = create(api, "localhost/made/beside:1", auth=False)
    assert r.status == 202, r
    api.delete(r.json()["id"])


def test_a_killed_server_leaves_no_half_image(api):
    uri = push(api, "private/killed:1", pad=48 << 20)
    t = threading.Thread(target=lambda: pytest.raises(Exception, create, api, uri))
    t.start()
    at = store(api) / "images"
    harness.wait_until(lambda: list(at.glob(".tmp-*/fetch/layout/*")), "the pull begins")
    api.kill()
    t.join()
    assert list(at.glob(".tmp-*"))
    harness.wait_until(lambda: not works_below(at), "skopeo ended with the server")
    api.start()
    assert not list(at.glob(".tmp-*"))
    r = create(api, uri)
    assert r.status == 202, r
    api.delete(r.json()["id"])


def test_a_full_disk_fails_the_create(tmp_path, registry):
    images.Image([images.small_root() + [images.entry("usr/pad", os.urandom(24 << 20))]]).layout(tmp_path / "l")
    registry.push(tmp_path / "l", "team/large:1")
    with harness.Server({"oci": {"insecure_registries": [registry.host]}}) as s:
        with images.small_disk(s.state / "disk", 30) as disk:
            configure(s, state_dir=str(disk / "state"))
            s.start()
            try:
                for _ in range(2):
                    r = create(s, f"{registry.host}/team/large:1", auth=False)
                    assert r.status == 500 and r.json()["code"] == "OCI::DISK_FULL" and "space" in r.json()["message"], r
                    assert list((disk / "state/oci/images").iterdir()) == []
                assert s.sandboxes() == []
            finally:
                s.stop()
