"""Container images made by hand, good and hostile: layers, OCI layouts, archives, and a registry on loopback to serve them."""
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
import time

import harness

BUSYBOX = pathlib.Path("/usr/bin/busybox")  # busybox-static
APPLETS = ["sh", "ls", "cat", "echo", "stat", "id", "sleep", "tail", "mkdir", "chmod", "find", "touch", "test", "dd", "grep"]
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


def entry(name, data=None, kind=tarfile.REGTYPE, mode=0o755, link="", uid=0, gid=0, device=(0, 0), size=None, pax=None):
    """One member of a layer: (TarInfo, bytes)."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.uid, info.gid = kind, mode, link, uid, gid
    info.devmajor, info.devminor = device
    data = data.encode() if isinstance(data, str) else data or b""
    info.size = len(data) if size is None else size
    info.pax_headers = pax or {}
    return info, data


def directory(name, mode=0o755, **kw):
    return entry(name, kind=tarfile.DIRTYPE, mode=mode, **kw)


def symlink(name, target):
    return entry(name, kind=tarfile.SYMTYPE, link=target, mode=0o777)


def hardlink(name, target):
    return entry(name, kind=tarfile.LNKTYPE, link=target)


def fifo(name):
    return entry(name, kind=tarfile.FIFOTYPE, mode=0o666)


def device(name, block=False, numbers=(1, 3)):
    return entry(name, kind=tarfile.BLKTYPE if block else tarfile.CHRTYPE, mode=0o666, device=numbers)


def small_root():
    """Busybox and what a system has: enough to run a shell."""
    out = [directory(d) for d in ("bin", "dev", "etc", "proc", "root", "run", "sys", "usr", "usr/bin")]
    out.append(directory("tmp", mode=0o1777))
    out.append(entry("bin/busybox", BUSYBOX.read_bytes()))
    out += [symlink("bin/" + a, "busybox") for a in APPLETS]
    out.append(entry("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n", mode=0o644))
    out.append(entry("etc/group", "root:x:0:\napp:x:1000:\nstaff:x:50:app\n", mode=0o644))
    return out


def tar_bytes(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as t:
        for info, data in entries:
            t.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@functools.lru_cache(maxsize=64)
def packed(layer):
    return gzip.compress(layer, 1, mtime=0)


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Image:
    """Layers (lists of entries, or ready tar bytes) and a config; `change` may spoil the documents before they are written."""

    def __init__(self, layers, config=None, arch=ARCH, os_name="linux", platform=None):
        self.layers = [layer if isinstance(layer, bytes) else tar_bytes(layer) for layer in layers]
        self.config = {"os": os_name, "architecture": arch, "config": {"Env": ["PATH=/bin:/usr/bin"], **(config or {})},
                       "rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in self.layers]}}
        self.platform = platform

    def blobs(self, change=None):
        """{digest: bytes} and the manifest's digest."""
        out = {}

        def add(data, media):
            out[sha(data)] = data
            return {"mediaType": media, "digest": sha(data), "size": len(data)}

        layers = [add(packed(layer), OCI + "layer.v1.tar+gzip") for layer in self.layers]
        manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
                    "config": add(json.dumps(self.config).encode(), OCI + "config.v1+json"), "layers": layers}
        if change:
            change(manifest)
        data = json.dumps(manifest).encode()
        out[sha(data)] = data
        return out, sha(data)

    def layout(self, path, change=None, change_index=None):
        """Writes an OCI layout directory; returns the manifest's digest."""
        blobs, digest = self.blobs(change)
        index = {"schemaVersion": 2, "manifests": [{"mediaType": OCI + "manifest.v1+json", "digest": digest, "size": len(blobs[digest]),
                                                    "annotations": {"org.opencontainers.image.ref.name": "x"}}]}
        if change_index:
            change_index(index, blobs)
        write_layout(path, index, blobs)
        return digest

    def archive(self, path):
        """OCI archive."""
        directory_path = pathlib.Path(str(path) + ".d")
        self.layout(directory_path)
        subprocess.run(["tar", "-C", str(directory_path), "-cf", str(path), "."], check=True)

    def docker_archive(self, path, name="made/by-hand:1"):
        """What `docker save` of old wrote."""
        config = json.dumps(self.config).encode()
        entries = [entry(f"l{i}.tar", layer, mode=0o644) for i, layer in enumerate(self.layers)]
        cfg = sha(config)[7:] + ".json"
        entries.append(entry(cfg, config, mode=0o644))
        entries.append(entry("manifest.json", json.dumps([{"Config": cfg, "RepoTags": [name],
                                                           "Layers": [f"l{i}.tar" for i in range(len(self.layers))]}]), mode=0o644))
        pathlib.Path(path).write_bytes(tar_bytes(entries))


def write_layout(path, index, blobs):
    path = pathlib.Path(path)
    (path / "blobs/sha256").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps(index))
    for name, data in blobs.items():
        (path / "blobs/sha256" / name[7:]).write_bytes(data)


def index_of(images):
    """A layout index of several images: [(Image, platform)]. Returns (index, blobs)."""
    blobs, manifests = {}, []
    for image, platform in images:
        own, digest = image.blobs()
        blobs.update(own)
        manifests.append({"mediaType": OCI + "manifest.v1+json", "digest": digest, "size": len(own[digest]), "platform": platform})
    return {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": manifests}, blobs


class Registry:
    """Debian's docker-registry on loopback; with `users` it wants htpasswd, with `tls` = (cert, key) it speaks https."""

    def __init__(self, directory, users=None, tls=None, access_log=False):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = harness.free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.users, self.tls = users or {}, tls
        auth = tls_text = ""
        if users:
            lines = [subprocess.run(["htpasswd", "-niBC4", u], input=p, check=True, capture_output=True, text=True).stdout.strip()
                     for u, p in users.items()]
            (self.directory / "htpasswd").write_text("\n".join(lines) + "\n")
            auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {self.directory}/htpasswd\n"
        if tls:
            tls_text = f"  tls:\n    certificate: {tls[0]}\n    key: {tls[1]}\n"
        (self.directory / "config.yml").write_text(
            f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: {str(not access_log).lower()}\nstorage:\n  filesystem:\n    rootdirectory: {self.directory}/data\n"
            f"http:\n  addr: {self.host}\n{tls_text}{auth}")
        self.log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(["docker-registry", "serve", str(self.directory / "config.yml")], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        harness.wait_until(self.answers, "registry answers")

    def answers(self):
        import socket
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def push(self, layout, name, *options):
        creds = ["--dest-creds", ":".join(next(iter(self.users.items())))] if self.users else []
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *creds, *options, f"oci:{layout}",
                        f"docker://{self.host}/{name}"], check=True, capture_output=True, text=True)

    def requests(self):
        return (self.directory / "log").read_text()

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


def tree_hash(path):
    """Names, types, modes, owners, contents of a tree, as one digest: a canary."""
    h = hashlib.sha256()
    root = pathlib.Path(path)
    for p in sorted([root, *root.rglob("*")]):
        st = p.lstat()
        h.update(f"{p.relative_to(root)} {st.st_mode:o} {st.st_uid} {st.st_gid} {st.st_rdev} {st.st_nlink} {st.st_mtime_ns}\n".encode())
        if p.is_symlink():
            h.update(os.readlink(p).encode())
        elif p.is_file():
            h.update(p.read_bytes())
    return h.hexdigest()


@contextlib.contextmanager
def small_disk(path, megabytes, inodes=None):
    """A tmpfs of its own size."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=0711" + (f",nr_inodes={inodes}" if inodes else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(path)], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
