"""Hostile images (oci-runtime.md section 6, rows 2, 5, 7, 8, 11, 15 and the device row): each beside a canary tree that is hashed
before and after, on crun and on runc. A row passes when the image is refused by name or its sandbox runs and the host is unchanged."""
import gzip
import json
import os
import pathlib
import re
import tarfile

import pytest

import harness
import images
from images import Image, device, directory, entry, fifo, hardlink, small_root, symlink

CANARY_FILES = ("fd", "ptmx", "stdin", "null", "passwd", "hosts", "x", "execd")


class Range:
    """A server on one OCI runtime, a canary beside its state directory, and names for images."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.server = harness.Server({"oci": {"runtime": runtime}})
        self.canary = self.server.state / "canary"
        self.canary.mkdir(mode=0o777)
        self.canary.chmod(0o777)
        for name in CANARY_FILES[3:]:
            (self.canary / name).write_text("untouched\n")
            (self.canary / name).chmod(0o666)
        (self.canary / "dir").mkdir()
        (self.canary / "dir/x").write_text("untouched\n")
        self.count = 0
        self.server.start()

    def close(self):
        self.server.remove()

    def seen(self):
        """What must not change: the canary, and the host's own files that images aim at. Others on a host may install packages
        meanwhile, so of what those touch only kind, mode and owner are compared."""
        host = []
        for path in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc", "/etc/passwd", "/etc/group", "/bin/sh", "/dev/null"):
            if os.path.lexists(path):
                st = os.lstat(path)
                host.append((path, st.st_mode, st.st_uid, st.st_gid, st.st_rdev, st.st_mtime_ns if path.startswith("/etc/host") else 0))
        return images.tree_hash(self.canary), host

    def load(self, image, tmp_path, change=None, form="layout"):
        """(image name, None) or (None, error line)."""
        self.count += 1
        name, path = f"hostile/n{self.count}:1", tmp_path / f"i{self.count}"
        if form == "layout":
            image.layout(path, change)
        else:
            path.write_bytes(image.layers[0])
        done = self.server.cli("image", "import", str(path), name, check=False, timeout=120)
        left = [p.name for p in (self.server.state / "oci/oci/images").iterdir() if p.name.startswith(".")]
        assert not left, left
        if done.returncode == 0:
            return name, None
        assert done.returncode == 1, done.stderr
        return None, done.stderr.strip().splitlines()[-1]

    def root_of(self, name):
        listing = self.server.cli("image", "list").stdout
        short = next(line.split()[0] for line in listing.splitlines() if name in line.split()[4:] or f"docker.io/{name}" in line)
        return next(p for p in (self.server.state / "oci/oci/images").iterdir() if p.name.startswith(short)) / "rootfs"

    def create(self, name, **members):
        """(sandbox id, None) or (None, reply)."""
        r = self.server.request("POST", "/v1/sandboxes", {"image": {"uri": name}, "entrypoint": harness.IDLE, "timeout": 600,
                                                          "resourceLimits": {"cpu": "1", "memory": "128Mi"}, **members})
        if r.status == 202:
            return r.json()["id"], None
        assert r.status in (400, 500) and r.json()["code"], r
        return None, r

    def run(self, sandbox, command):
        code, out, err = self.server.run(sandbox, command)
        return code, out.strip(), err

    def live(self, image, tmp_path, commands=(), form="layout", **members):
        """Imports, creates, runs commands that poke at what the image prepared, deletes. Returns what happened."""
        name, error = self.load(image, tmp_path, form=form)
        if error:
            return {"import": error}
        sandbox, reply = self.create(name, **members)
        if reply:
            return {"create": reply}
        outputs = [self.run(sandbox, c) for c in commands]
        self.server.delete(sandbox)
        return {"run": outputs, "name": name}


@pytest.fixture(scope="module", params=["crun", "runc"])
def hostile(request):
    r = Range(request.param)
    try:
        yield r
    finally:
        r.close()


@pytest.fixture
def guarded(hostile):
    """The range, with the canary compared around the test."""
    before = hostile.seen()
    yield hostile
    assert hostile.seen() == before, "HOST CHANGED"


def without(entries, *names):
    return [e for e in entries if e[0].name not in names and not any(e[0].name.startswith(n + "/") for n in names)]


# ---- control: the range can tell ----

def test_the_canary_can_change(hostile):
    before = images.tree_hash(hostile.canary)
    (hostile.canary / "null").write_text("changed")
    assert images.tree_hash(hostile.canary) != before
    (hostile.canary / "null").write_text("untouched\n")


def test_a_good_image_runs(guarded, tmp_path):
    got = guarded.live(Image([small_root()]), tmp_path, ["id -u", "ls /opt/opensandbox/bin", "cat /etc/hostname"])
    assert got["run"][0][:2] == (0, "0") and got["run"][1][:2] == (0, "execd"), got


# ---- row 2: directories and files that we or the runtime write to, as links, files, FIFOs ----

ROW2_PATHS = ["dev", "proc", "sys", "etc", "run", "tmp", "opt", "opt/opensandbox", "opt/opensandbox/bin"]
POKE = ["echo x > /dev/null; echo x > /tmp/x; echo x > /run/x; ls /dev /proc /sys > /dev/null; cat /etc/hosts", "ls -ld / /dev /etc"]


@pytest.mark.parametrize("path", ROW2_PATHS)
@pytest.mark.parametrize("how", ["absolute", "dots", "chain", "file", "fifo", "dangling"])
def test_directories_as_something_else(guarded, tmp_path, path, how):
    canary = str(guarded.canary)
    up = "../" * 12
    base = without(small_root(), path)
    if path.startswith("opt/"):
        parts = path.split("/")
        base += [directory("/".join(parts[:i])) for i in range(1, len(parts))]
    made = {"absolute": [symlink(path, canary)], "dots": [symlink(path, up + canary[1:])],
            "chain": [symlink("hop1", up), symlink("hop2", "hop1" + canary), symlink(path, "/hop2")],
            "file": [entry(path, "a file")], "fifo": [fifo(path)], "dangling": [symlink(path, "/nowhere/at/all")]}[how]
    got = guarded.live(Image([base + made]), tmp_path, POKE)
    assert "run" in got or "create" in got or "import" in got
    if path in ("dev", "proc", "sys", "etc", "run", "tmp"):  # made real directories at publish: the sandbox works
        assert "run" in got and got["run"][0][0] == 0, got
        assert (guarded.root_of(got["name"]) / path).is_dir() and not (guarded.root_of(got["name"]) / path).is_symlink()


@pytest.mark.parametrize("path", ["etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/passwd", "etc/group", "dev/null", "dev/pts", "dev/shm",
                                  "dev/mqueue", "proc/self", "sys/fs", "opt/opensandbox/bin/execd", "opt/opensandbox/.env"])
@pytest.mark.parametrize("how", ["absolute", "dots", "fifo", "dir"])
def test_files_and_mount_points_as_something_else(guarded, tmp_path, path, how):
    target = str(guarded.canary / (path.rsplit("/", 1)[1] if path.rsplit("/", 1)[1] in CANARY_FILES else "x"))
    base = without(small_root(), path)
    if path.startswith("opt/"):
        base += [directory("opt"), directory("opt/opensandbox"), directory("opt/opensandbox/bin")]
    made = {"absolute": symlink(path, target), "dots": symlink(path, "../" * 12 + target[1:]), "fifo": fifo(path), "dir": directory(path)}[how]
    got = guarded.live(Image([base + [made]]), tmp_path, POKE)
    assert got
    if path in ("etc/hosts", "etc/resolv.conf", "etc/hostname"):
        assert "run" in got and "localhost" in got["run"][0][1], got  # ours lie above


# ---- row 5: users ----

@pytest.mark.parametrize("user", ["4294967295", "4294967296", "2147483648", "-1", "0x0", "1000:", ":0", "0:", " 0", "0 ", "nobody", "app:nogroup",
                                  "99999999999", "app:app:app", "../app", "app\nroot"])
def test_users_that_are_refused(guarded, tmp_path, user):
    got = guarded.live(Image([small_root()], config={"User": user}), tmp_path)
    assert "create" in got, got
    reply = got["create"]
    assert reply.status == 400 and reply.json()["code"] == "SANDBOX::INVALID_PARAMETER" and "user" in reply.json()["message"] or \
        "group" in reply.json()["message"], reply


@pytest.mark.parametrize("user,ids", [("", "0 0"), ("0", "0 0"), ("app", "1000 1000"), ("1000", "1000 1000"), ("app:staff", "1000 50"), ("77", "77 0"),
                                      ("77:78", "77 78")])
def test_users_that_run(guarded, tmp_path, user, ids):
    got = guarded.live(Image([small_root()], config={"User": user}), tmp_path, ["echo $(id -u) $(id -g)"])
    assert got["run"][0][:2] == (0, ids), got


def test_user_numbers_as_json_strings_or_absurd_types(guarded, tmp_path):
    for user in (1000, ["0"], {"uid": 0}, True):
        got = guarded.live(Image([small_root()], config={"User": user}), tmp_path)
        assert "OCI::IMAGE_INVALID" in got["import"] and "User" in got["import"], got


# ---- row 7: layers that try to leave their root ----

def traversals(canary):
    c, up = str(canary), "../" * 12
    return {
        "dotdot file": [entry(up + c[1:] + "/x", "evil")],
        "absolute file": [entry(c + "/x", "evil")],
        "inner dotdot": [entry("usr/../../../../../../../.." + c + "/x", "evil")],
        "link then file": [symlink("out", c), entry("out/x", "evil")],
        "relative link then file": [symlink("out", up + c[1:]), entry("out/x", "evil")],
        "link chain": [symlink("a", ".."), symlink("b", "a/" + up), symlink("out", "b" + c), entry("out/x", "evil")],
        "link then directory": [symlink("out", c + "/dir"), directory("out", mode=0o700)],
        "link then device": [symlink("out", c), device("out/node")],
        "link then fifo": [symlink("out", c), fifo("out/pipe")],
        "hard link out": [hardlink("stolen", c + "/x"), entry("stolen", "evil")],
        "hard link dots": [hardlink("stolen", up + c[1:] + "/x"), entry("stolen", "evil")],
        "hard link through link": [symlink("out", c), hardlink("stolen", "out/x"), entry("stolen", "evil")],
        "symlink over file": [symlink("f", c + "/x"), entry("f", "evil")],
        "root is a link": [symlink(".", c), entry("x", "evil")],
        "root is a file": [entry(".", "evil")],
        "dot name": [entry("./", "evil")],
        "whiteout dots": [entry(".wh...", "")],
        "whiteout dot": [entry(".wh.", "")],
        "whiteout through link": [symlink("out", c), entry("out/.wh.x", "")],
        "opaque through link": [symlink("out", c), entry("out/.wh..wh..opq", "")],
        "whiteout of dotdot": [entry("usr/.wh..", "")],
        "directory, link, file": [directory("out"), symlink("out", c), entry("out/x", "evil")],
        "pax path": [entry("plain", "evil", pax={"path": up + c[1:] + "/x"})],
        "pax linkpath": [entry("plain", kind=tarfile.SYMTYPE, link="short", pax={"linkpath": c}), entry("plain/x", "evil")],
        "long name": [entry("n" * 5000, "evil")],
        "deep": [directory("/".join(["d"] * 1000))],
        "trusted xattr": [entry("usr/odd", "x", pax={"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y"})],
    }


@pytest.mark.parametrize("case", sorted(traversals("/c")))
def test_layers_stay_in_their_root(guarded, tmp_path, case):
    evil = traversals(guarded.canary)[case]
    forms = {"two layers": [small_root() + evil[:1], evil[1:] or [entry("second", "x")]]}
    if guarded.runtime == "crun":  # unpacking knows nothing of the runtime: the other forms once are enough
        forms.update({"one layer": [small_root() + evil], "tarball": [small_root() + evil]})
    for form, layers in forms.items():
        got = guarded.live(Image(layers), tmp_path, ["ls / > /dev/null", "cat /out/x /stolen /f 2>&1"], form="tarball" if form == "tarball" else "layout")
        if "run" in got:
            assert "untouched" not in got["run"][1][1], (form, got)  # nothing of the host was brought in either
        elif "import" in got:
            assert "OCI::IMAGE_INVALID" in got["import"], (form, got)


def test_modes_and_owners_through_links(guarded, tmp_path):
    c = str(guarded.canary)
    layer = small_root() + [symlink("out", c)]
    second = [directory("out/dir", mode=0o000, uid=4242), entry("out", "x", mode=0o777, uid=4242)]
    guarded.live(Image([layer, second]), tmp_path, ["chmod 000 /out/dir /out/x; echo evil > /out/x"])
    assert (guarded.canary / "dir").stat().st_uid == 0


# ---- row 8: bombs ----

@pytest.fixture
def narrow(hostile):
    """The same server with small limits for what its command line imports."""
    s = hostile.server
    s.sections["oci"].update(image_max_bytes=64 << 20, image_max_entries=5000)
    s.write_config()
    yield hostile
    del s.sections["oci"]["image_max_bytes"], s.sections["oci"]["image_max_entries"]
    s.write_config()


@pytest.mark.slow
def test_bombs(narrow, guarded, tmp_path):
    zeros = small_root() + [entry("usr/zeros", bytes(256 << 20))]
    files = small_root() + [entry(f"usr/f{i}", "") for i in range(20000)]
    dirs = small_root() + [directory("/".join(["usr"] + ["d"] * n)) for n in range(1, 400)]
    for what in (zeros, files, dirs):
        name, error = narrow.load(Image([what]), tmp_path)
        assert error and "OCI::IMAGE_INVALID" in error, error
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(images.tar_bytes(zeros), 9))
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 4 << 20
    done = narrow.server.cli("image", "import", str(tmp_path / "bomb.tar.gz"), "hostile/bomb:1", check=False)
    assert done.returncode == 1 and "OCI::IMAGE_INVALID" in done.stderr and "larger than" in done.stderr, done.stderr


def test_documents_without_end(guarded, tmp_path):
    name, error = guarded.load(Image([small_root()], config={"Env": ["A=" + "x" * 1000] * 2000}), tmp_path)
    assert error and "OCI::IMAGE_INVALID" in error and "Env" in error, error
    name, error = guarded.load(Image([small_root()], config={"User": "x" * 100000}), tmp_path)
    assert error and "OCI::IMAGE_INVALID" in error and "User" in error, error
    name, error = guarded.load(Image([small_root()]), tmp_path, change=lambda m: m.update(annotations={"a": "x" * (5 << 20)}))
    assert error and "OCI::IMAGE_INVALID" in error and "bytes" in error, error
    name, error = guarded.load(Image([small_root()]), tmp_path, change=lambda m: m.update(layers=m["layers"] * 1000))
    assert error and "OCI::IMAGE_INVALID" in error and "layers" in error, error


# ---- row 11: VOLUME ----

def test_volumes_that_point_out(guarded, tmp_path):
    c = str(guarded.canary)
    config = {"Volumes": {"/../../etc": {}, "/../../.." + c: {}, "relative": {}, c: {}, "/etc": {}}}
    got = guarded.live(Image([small_root()], config=config), tmp_path, [f"cat {c}/x /etc/shadow /etc/machine-id 2>/dev/null | grep -c .", "cat /etc/passwd"])
    assert got["run"][0][1] == "0", got
    assert got["run"][1][1].splitlines()[1].startswith("app:"), got


@pytest.mark.parametrize("workdir", ["/../../etc", "relative", "/proc/self/fd/3", "/proc/self/cwd", "/out"])
def test_working_directories_that_point_out(guarded, tmp_path, workdir):
    got = guarded.live(Image([small_root() + [symlink("out", str(guarded.canary))]], config={"WorkingDir": workdir}), tmp_path,
                       ["echo evil > x; echo evil > null; pwd"])
    if workdir in ("/../../etc", "relative"):
        assert "OCI::IMAGE_INVALID" in got["import"] and "WorkingDir" in got["import"], got


# ---- row 15: passwd and group files of a stranger ----

def passwd_cases(canary):
    return {
        "fifo": fifo("etc/passwd"), "directory": directory("etc/passwd"), "link to the host": symlink("etc/passwd", "/etc/passwd"),
        "link to the canary": symlink("etc/passwd", str(canary / "passwd")), "link to zero": symlink("etc/passwd", "/dev/zero"),
        "huge": entry("etc/passwd", "app:x:1000:1000::/:/bin/sh\n" + "x:x:1:1::/:/bin/sh\n" * 400000), "long line": entry("etc/passwd", "app:x:" + "1" * 9000 + ":0::/:\n"),
        "minus one": entry("etc/passwd", "app:x:-1:-1::/:\n"), "wraps to root": entry("etc/passwd", "app:x:4294967296:0::/:\n"),
        "absurd uid": entry("etc/passwd", "app:x:4294967295:4294967295::/:\n"), "bytes": entry("etc/passwd", bytes(range(256)) * 16),
        "empty": entry("etc/passwd", ""),
    }


@pytest.mark.parametrize("case", sorted(passwd_cases(pathlib.Path("/c"))))
def test_hostile_passwd(guarded, tmp_path, case):
    root = without(small_root(), "etc/passwd") + [passwd_cases(guarded.canary)[case]]
    by_name = guarded.live(Image([root], config={"User": "app"}), tmp_path, ["id -u"])
    if case == "huge":
        assert by_name["run"][0][1] == "1000", by_name
    else:
        assert by_name["create"].status == 400 and "app" in by_name["create"].json()["message"], by_name
    by_number = guarded.live(Image([root], config={"User": "1234"}), tmp_path, ["id -u"])
    assert by_number["run"][0][1] == "1234", by_number


def test_a_line_without_end(guarded, tmp_path):
    """runc's own reader gives up on it: refused is fine, waiting or running as somebody else is not."""
    root = without(small_root(), "etc/passwd") + [entry("etc/passwd", "app:x:1000:1000::/:/bin/sh\n" + "x" * (8 << 20))]
    got = guarded.live(Image([root], config={"User": "app"}), tmp_path, ["id -u"])
    if guarded.runtime == "crun" or "run" in got:
        assert got["run"][0][1] == "1000", got
    else:
        assert got["create"].json()["code"] == "OCI::SANDBOX_START_FAILED", got


# ---- the device row ----

def test_device_nodes_are_removed(guarded, tmp_path):
    nodes = [device("dev/console", numbers=(5, 1)), device("sda", block=True, numbers=(8, 0)), device("usr/null", numbers=(1, 3)),
             device("usr/mem", numbers=(1, 1)), device("bin/vda", block=True, numbers=(254, 0)), device("usr/whiteout", numbers=(0, 0))]
    for form in ("layout", "tarball"):
        got = guarded.live(Image([small_root() + nodes]), tmp_path, ["find / -xdev -type b -o -xdev -type c", "dd if=/sda of=/dev/null count=1 2>&1"],
                           form=form)
        assert got["run"][0][1] == "", got
        assert "No such file" in got["run"][1][1], got
        assert not [p for p in guarded.root_of(got["name"]).rglob("*") if p.is_block_device() or p.is_char_device()]


# ---- documents: ambiguous, foreign, corrupt ----

def second_kind(manifest):
    manifest["manifests"] = [dict(manifest["config"], mediaType=images.OCI + "manifest.v1+json")]


DOCUMENTS = {
    "both kinds": (second_kind, "ambiguous manifest"),
    "media type of an index": (lambda m: m.update(mediaType=images.OCI + "index.v1+json"), "ambiguous manifest"),
    "another case": (lambda m: m.update(Layers=m["layers"][:0]), "ambiguous"),
    "schema 1": (lambda m: m.update(schemaVersion=1), "schema version"),
    "no layers": (lambda m: m.update(layers=[]), "no layers"),
    "foreign layer": (lambda m: m["layers"][0].update(urls=["http://169.254.169.254/"]), "elsewhere"),
    "path for a digest": (lambda m: m["layers"][0].update(digest="sha256:../../../../etc/passwd"), "digest"),
    "other algorithm": (lambda m: m["layers"][0].update(digest="md5:00"), "digest"),
    "wrong size": (lambda m: m["layers"][0].update(size=1), "instead of 1"),
    "an artifact": (lambda m: m["config"].update(mediaType="application/vnd.oci.empty.v1+json"), "not an image"),
}


@pytest.mark.parametrize("case", sorted(DOCUMENTS))
def test_documents_are_refused_by_name(guarded, tmp_path, case):
    change, text = DOCUMENTS[case]
    name, error = guarded.load(Image([small_root()]), tmp_path, change=change)
    assert error and "OCI::IMAGE_INVALID" in error and text in error, error


def test_a_wrong_platform_is_refused_by_name(guarded, tmp_path):
    for arch, os_name in (("s390x", "linux"), (images.ARCH, "windows")):
        name, error = guarded.load(Image([small_root()], arch=arch, os_name=os_name), tmp_path)
        assert error and "OCI::IMAGE_INVALID" in error and f"{os_name}/{arch}, not for linux/{images.ARCH}" in error, error


def test_ambiguous_indexes_are_refused_by_name(guarded, tmp_path):
    one, two = Image([small_root()]), Image([small_root()], config={"Cmd": ["other"]})
    index, blobs = images.index_of([(one, {"os": "linux", "architecture": images.ARCH}), (two, {"os": "linux", "architecture": images.ARCH})])
    images.write_layout(tmp_path / "twice", index, blobs)
    done = guarded.server.cli("image", "import", str(tmp_path / "twice"), "hostile/twice:1", check=False)
    assert done.returncode == 1 and re.search("OCI::IMAGE_INVALID.*ambiguous index", done.stderr), done.stderr


def test_corrupt_layouts_are_refused_by_name(guarded, tmp_path):
    image = Image([small_root()])
    digest = image.layout(tmp_path / "l")
    blobs = tmp_path / "l/blobs/sha256"
    manifest = json.loads((blobs / digest[7:]).read_text())
    for victim in (manifest["layers"][0]["digest"], manifest["config"]["digest"], digest):
        good = (blobs / victim[7:]).read_bytes()
        (blobs / victim[7:]).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        done = guarded.server.cli("image", "import", str(tmp_path / "l"), "hostile/corrupt:1", check=False)
        assert done.returncode == 1 and re.search("OCI::IMAGE_INVALID.*corrupt", done.stderr), done.stderr
        (blobs / victim[7:]).write_bytes(good)
    layer = blobs / manifest["layers"][0]["digest"][7:]
    layer.unlink()
    layer.symlink_to("/etc/passwd")
    done = guarded.server.cli("image", "import", str(tmp_path / "l"), "hostile/corrupt:1", check=False)
    assert done.returncode == 1 and "OCI::IMAGE_INVALID" in done.stderr, done.stderr


def test_labels_of_ours_mean_nothing(guarded, tmp_path):
    got = guarded.live(Image([small_root()], config={"Labels": {"opensandbox.io/id": "spoof", "opensandbox.io/execd-init": "true"}}), tmp_path, ["id -u"])
    assert got["run"][0][1] == "0", got
