"""Private container engines for tests: a dockerd, and a Podman, each with directories and sockets of its own.

Nothing of the host's own engine is touched: data, state, socket and pid file are private, no firewall rule is made (--iptables=false),
and what Podman needs changed is changed in namespaces of its own.
"""
import contextlib
import json
import os
import pathlib
import pwd
import resource
import shutil
import socket
import sqlite3
import subprocess
import tempfile

import harness


class Engine:
    """Base: a process that serves the Docker API on `socket`."""
    name = "?"
    settings = {}  # [docker] of a server on it
    parent = "/var/lib"

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ose-", dir=self.parent))
        # in memory: the removal of an unpacked image from a busy disk takes longer than the tests
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=711", "tmpfs", str(self.dir)], check=True)
        self.socket = self.dir / "engine.sock"
        self.process, self.served = None, False

    @property
    def host(self):
        return f"unix://{self.socket}"

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)

    def start(self):
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(),
                                            start_new_session=True, cwd=self.dir)  # conmon writes a file "oom" where it stands
        harness.wait_until(self.answers, f"{self.name} answers: {self.log()[-2000:]}", 60)
        self.served = True
        return self

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_):
        self.remove()

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.log()[-3000:]}")
        try:
            return self.call("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def log(self):
        path = self.dir / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def remove(self):
        try:
            if self.served and self.process.poll() is not None:
                self.start()  # nobody else takes its bridges away
            if self.process and self.process.poll() is None:
                for c in self.containers():
                    self.call("DELETE", f"/containers/{c['Id']}?force=1&v=1")
                for n in self.call("GET", "/networks")[1]:
                    if n["Name"] not in ("bridge", "host", "none", "podman"):
                        bridge = (n.get("Options") or {}).get("com.docker.network.bridge.name", "")
                        for family in ("inet", "bridge"):
                            subprocess.run(["nft", "delete", "table", family, f"opensandbox_docker_{bridge[4:]}"], check=False,
                                           stderr=subprocess.DEVNULL)
                        self.call("DELETE", f"/networks/{n['Id']}")
        finally:
            self.stop()
            self.end_shims()
            with open("/proc/self/mounts") as f:
                mounts = [line.split()[1] for line in f if line.split()[1].startswith(str(self.dir))]
            for m in sorted(mounts, reverse=True):
                subprocess.run(["umount", "-l", m], check=False)
            self.dir.rmdir()

    def end_shims(self):
        """Ends what an engine that was killed in the middle of a start left behind: shims of its containerd, and their children."""
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.dir).encode() not in path.read_bytes() or path.parent.name == str(os.getpid()):
                    continue
                children = [c for t in path.parent.glob("task/*/children") for c in t.read_text().split()]
                for pid in [*children, path.parent.name]:
                    os.kill(int(pid), 9)
            except OSError:
                pass  # it has ended meanwhile

    def call(self, method, path, body=None):
        """One call of the engine's API by hand: status and JSON (or text)."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(str(self.socket))
            data = json.dumps(body).encode() if body is not None else b""
            s.sendall(f"{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
                      f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
            reply = b""
            while chunk := s.recv(65536):
                reply += chunk
        head, _, rest = reply.partition(b"\r\n\r\n")
        try:
            return int(head.split()[1]), json.loads(rest) if rest.strip() else None
        except ValueError:
            return int(head.split()[1]), rest.decode(errors="replace")

    def containers(self):
        return self.call("GET", "/containers/json?all=1")[1]

    def inspect(self, sandbox_id):
        return self.call("GET", f"/containers/sandbox-{sandbox_id}/json")

    def import_base(self):
        """The base image, from its tarball, by the engine's own import."""
        if self.call("GET", f"/images/{harness.IMAGE}/json")[0] == 200:
            return
        done = subprocess.run(["curl", "-sS", "--fail-with-body", "--unix-socket", str(self.socket), "-X", "POST", "-T", str(harness.base_tar()), "-H",
                               "Content-Type: application/x-tar", f"http://x/images/create?fromSrc=-&repo={harness.IMAGE}"],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.call("GET", f"/images/{harness.IMAGE}/json")[0] == 200, done.stdout

    def build_images(self):
        """What `make images` builds, of the programs under test."""
        build = harness.BUILD / "test/src"
        done = subprocess.run([str(harness.ROOT / "packaging/images/build.sh"), str(build / "execd/execd"), str(build / "egress/egress")],
                              env=dict(os.environ, DOCKER_HOST=self.host), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


class Dockerd(Engine):
    name = "dockerd"

    def __init__(self, *options, **config):
        super().__init__()
        self.options, self.config = options, config

    def command(self):
        return ["dockerd", "--data-root", f"{self.dir}/data", "--exec-root", f"{self.dir}/exec", "--pidfile", f"{self.dir}/pid",
                "--config-file", f"{self.dir}/daemon.json", "-H", self.host, "--bridge=none", "--iptables=false", "--ip6tables=false",
                *self.options]

    def start(self):
        (self.dir / "daemon.json").write_text(json.dumps(self.config))
        for pid in ("pid", "exec/containerd/containerd.pid"):  # of one that was killed: the number may be another's by now
            (self.dir / pid).unlink(missing_ok=True)
        return super().start()


# crun refuses hybrid control groups: it is to see version 1 alone
HIDE_UNIFIED = "if [ -d /sys/fs/cgroup/unified ]; then mount -t tmpfs -o size=1m tmpfs /sys/fs/cgroup/unified; fi"


class Podman(Engine):
    name = "podman"

    def command(self):
        conf = self.dir / "containers.conf"
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # more takes CAP_SYS_RESOURCE; Podman 4.3 mixes up soft and hard
        conf.write_text(f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
                        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        serve = ["podman", "--root", f"{self.dir}/root", "--runroot", f"{self.dir}/run", "--tmpdir", f"{self.dir}/tmp",
                 "--storage-driver", "overlay", "--network-config-dir", f"{self.dir}/net", "system", "service", "--time", "0", self.host]
        # the firewall rules go with the network that they are in
        return ["unshare", "-m", "-n", "sh", "-c", f'ip link set lo up; {HIDE_UNIFIED}; exec "$@"', "sh", *serve]

    def environment(self):
        return dict(os.environ, CONTAINERS_CONF=f"{self.dir}/containers.conf")


class RootlessPodman(Podman):
    """Podman as a user of its own, made for it and removed with it."""
    name = "podman-rootless"
    settings = {"limits": "best_effort"}  # without root, control groups of version 1 limit nothing
    parent = "/srv"  # over /var/lib it mounts a directory of its own
    TUN = pathlib.Path("/dev/net/tun")  # slirp4netns opens it as that user

    def __init__(self):
        super().__init__()
        self.user = f"ose{os.getpid()}"
        self.home = self.dir / "home"
        self.socket = self.home / "engine.sock"
        subprocess.run(["useradd", "--no-create-home", "--home-dir", str(self.home), "--shell", "/bin/sh", self.user], check=True)
        first = 200000 + os.getpid() % 10000 * 65536
        subprocess.run(["usermod", "--add-subuids", f"{first}-{first + 65535}", "--add-subgids", f"{first}-{first + 65535}", self.user], check=True)
        self.uid = pwd.getpwnam(self.user).pw_uid
        self.run_dir = pathlib.Path(f"/run/{self.user}")  # Podman needs it below /run
        for d in (self.home, self.run_dir):
            d.mkdir(mode=0o700)
            os.chown(d, self.uid, self.uid)
        self.tun_mode = self.TUN.stat().st_mode
        self.TUN.chmod(0o666)

    def command(self):
        conf = self.home / "containers.conf"
        conf.write_text('[containers]\ndefault_ulimits = ["nofile=1024:20000", "nproc=4096:4096"]\n'
                        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        serve = ["podman", "--root", f"{self.home}/root", "--runroot", f"{self.home}/run", "--tmpdir", f"{self.home}/tmp",
                 "--storage-driver", "vfs", "--network-config-dir", f"{self.home}/net", "system", "service", "--time", "0", self.host]
        return ["unshare", "-m", "sh", "-c", f'{HIDE_UNIFIED}; exec setpriv --reuid {self.uid} --regid {self.uid} --clear-groups "$@"', "sh", *serve]

    def environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.run_dir), "CONTAINERS_CONF": f"{self.home}/containers.conf"}

    def end_shims(self):
        """All of the user's processes: that of the pause, network helpers, and what they watched."""
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if path.stat().st_uid == self.uid or f"\nUid:\t{self.uid}\t" in (path / "status").read_text():
                    os.kill(int(path.name), 9)
            except OSError:
                pass  # it has ended meanwhile
        super().end_shims()

    def remove(self):
        try:
            super().remove()
        finally:
            self.TUN.chmod(self.tun_mode)
            shutil.rmtree(self.run_dir)
            subprocess.run(["userdel", self.user], check=False)


class OnEngine:
    """What harness.Oci is for the built-in runtime."""
    prefix, kind = "DOCKER", "docker"

    def __init__(self, engine):
        self.engine, self.name, self.env = engine, engine.name, {"DOCKER_HOST": engine.host}
        self.sections = {"docker": engine.settings, "egress": {"image": "opensandbox/egress:local"}}

    def import_base(self, server):
        self.engine.import_base()

    def sandboxes(self, server):
        with contextlib.closing(sqlite3.connect(f"file:{server.sections['store']['path']}?mode=ro", uri=True)) as store:
            instance = store.execute("SELECT value FROM meta WHERE name = 'instance'").fetchone()[0]
        labels = [c["Labels"] or {} for c in self.engine.containers()]
        return sorted(x["opensandbox.io/id"] for x in labels if x.get("opensandbox.io/server") == instance and "opensandbox.io/id" in x)

    def snapshots(self, server):
        tags = [t for i in self.engine.call("GET", "/images/json")[1] for t in i["RepoTags"] or []]
        return sorted(t.partition(":")[2] for t in tags if "opensandbox-snapshots:" in t)


PAUSE = "no pause without control groups"
SNAPSHOTS = {"test_sparse_files_stay_sparse": "a commit writes out what is a hole in a file",
             "test_what_others_stand_on_stays": "the engine keeps the layers, whatever becomes of the snapshot's name"}
# Tests that fail on an engine for a reason that is the engine's (docs/runtimes.md): at most five each.
EXPECTED = {
    "dockerd": SNAPSHOTS,
    "podman": {**SNAPSHOTS,
               "test_inside": "its seccomp profile allows user namespaces"},
    "podman-rootless": {"test_container_is_as_asked": "no limits on control groups v1, and execd's port is published",
                        "test_python_sdk": PAUSE, "test_restart_of_the_server": PAUSE,
                        "test_host_volumes": "what the server makes belongs to root, whom the engine's user namespace does not have"},
}

ENGINES = {e.name: e for e in (Dockerd, Podman, RootlessPodman)}


def docker_server(engine, egress=None, **docker):
    """A server on an engine; keyword arguments are of [docker], egress those of [egress]."""
    return harness.Server(config={"runtime": {"type": "docker"}, "docker": {**engine.settings, **docker}, "egress": egress or {}},
                          env={"DOCKER_HOST": engine.host})


__all__ = ["ENGINES", "EXPECTED", "Engine", "Dockerd", "OnEngine", "Podman", "RootlessPodman", "docker_server"]
