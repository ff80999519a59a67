"""A real opensandbox-server on a private state directory, for e2e tests, checks and benchmarks.

Every server gets its own directories, network pool, port and API key, so that several run on one host side by side.
"""
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
BASE_TAR = pathlib.Path("/var/cache/opensandbox/base-bookworm.tar")
IMAGE = "opensandbox/base:bookworm"
IDLE = ["tail", "-f", "/dev/null"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def base_tar():
    """The base image's root tarball, made once per machine from Debian packages."""
    if not BASE_TAR.exists():
        subprocess.run([str(ROOT / "tools/base_image.sh"), str(BASE_TAR)], check=True)
    return BASE_TAR


def environment(name, program, *packages):
    """A virtual environment of its own with packages of PyPI, made once; the path of one of its programs."""
    directory = BUILD / name
    if not (directory / "bin" / program).exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(directory / "bin/pip"), "install", "-q", "--disable-pip-version-check", *packages], check=True)
    return directory / "bin" / program


def wait_until(condition, what, seconds=30.0):
    """Polls a condition of another process; fails loudly, never passes by time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


class Oci:
    """What tests must know of the runtime that their servers use: the built-in one. engines.OnEngine is the other."""
    name, prefix, kind = "oci", "OCI", "oci"
    env, sections = {}, {}

    def import_base(self, server):
        done = server.cli("image", "import", str(base_tar()), IMAGE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def sandboxes(self, server):
        """Ids of all that it holds, stock of pools included."""
        return self._names(server.state / "oci/oci/sandboxes")

    def snapshots(self, server):
        return self._names(server.state / "oci/oci/layers")

    @staticmethod
    def _names(directory):
        return sorted(os.listdir(directory)) if directory.exists() else []


NETWORKS = [f"10.{64 + n // 16}.{n % 16 * 16}.0/20" for n in range(1024)]  # servers of one run do not share one
secrets.SystemRandom().shuffle(NETWORKS)
RUNTIME = Oci()  # of every server that does not name one; `pytest --runtime=...` sets it


class Server:
    """One server process; `config` is a dict of sections laid over the defaults."""

    def __init__(self, config=None, binary=None, state=None, env=None):
        self.runtime = RUNTIME
        self.binary = str(binary or BUILD / "test/src/server/opensandbox-server")
        self.own_state = state is None
        self.state = pathlib.Path(state or tempfile.mkdtemp(prefix="osb-", dir="/var/lib"))
        self.state.chmod(0o711)
        self.address, self.port = "127.0.0.1", free_port()
        self.key = secrets.token_hex(32)
        self.env = {**os.environ, **self.runtime.env, **(env or {})}
        self.process = None
        NETWORKS.append(NETWORKS.pop(0))
        self.sections = {
            "server": {"host": "127.0.0.1", "port": self.port, "api_key": self.key},
            "console": {"port": 0},
            "runtime": {"type": self.runtime.kind},
            "oci": {"state_dir": str(self.state / "oci"), "network": NETWORKS[-1]},
            "store": {"path": str(self.state / "store" / "opensandbox.db")},
            "log": {"level": "DEBUG" if os.environ.get("OPENSANDBOX_TEST_DEBUG") else "INFO"},
        }
        for section, values in [*self.runtime.sections.items(), *(config or {}).items()]:
            self.sections.setdefault(section, {}).update(values)
        self.config = self.state / "config.toml"
        self.write_config()
        self.log_path = self.state / "server.log"

    def write_config(self):
        text = ""
        for section, values in self.sections.items():
            text += f"[{section}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
        fd = os.open(self.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as f:
            f.write(text)

    @property
    def base(self):
        return f"http://{self.address}:{self.port}"

    def cli(self, *args, check=True, timeout=300):
        return subprocess.run([self.binary, "--config", str(self.config), *args], check=check, timeout=timeout,
                              capture_output=True, text=True, env=self.env)

    def import_base(self):
        self.runtime.import_base(self)

    def start(self, ready=True, extra_env=None):
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen([self.binary, "--config", str(self.config)], stdin=subprocess.DEVNULL, stdout=log,
                                        stderr=log, env=dict(self.env, **(extra_env or {})))
        log.close()
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=60):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"server ended with {self.process.returncode}:\n{self.log()}")
            try:
                return self.request("GET", "/readyz", key=None).status == 200
            except OSError:
                return False
        wait_until(ready, "server ready", seconds)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self, seconds=40):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("server did not end after SIGTERM:\n" + self.log()[-3000:])

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def remove(self):
        """Deletes every sandbox, stops, removes the directories."""
        if self.process and self.process.poll() is None:
            try:
                for sb in self.sandboxes():
                    self.request("DELETE", f"/v1/sandboxes/{sb['id']}")
            except (OSError, AssertionError):
                pass
            self.stop()
        if self.own_state:
            shutil.rmtree(self.state, ignore_errors=True)

    def __enter__(self):
        """Ready to be started; removed at the end."""
        return self

    def __exit__(self, *_):
        self.remove()

    # ---- requests -------------------------------------------------------------------------------------------
    def request(self, method, path, body=None, headers=None, key="own", timeout=60, raw=None):
        h = dict(headers or {})
        if key == "own":
            h.setdefault("OPEN-SANDBOX-API-KEY", self.key)
        elif key:
            h["OPEN-SANDBOX-API-KEY"] = key
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
            h.setdefault("Content-Type", "application/json")
        c = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
        try:
            c.request(method, path, body=data, headers=h, encode_chunked="transfer-encoding" in h)
            r = c.getresponse()
            return Reply(r.status, r.headers, r.read())
        finally:
            c.close()

    def sandboxes(self):
        out, page = [], 1
        while True:
            r = self.request("GET", f"/v1/sandboxes?pageSize=200&page={page}")
            assert r.status == 200, r
            j = r.json()
            out += j["items"]
            if not j["pagination"]["hasNextPage"]:
                return out
            page += 1

    def create(self, expect=202, wait=60, **members):
        body = {"image": {"uri": IMAGE}, "entrypoint": IDLE, "resourceLimits": {"cpu": "1", "memory": "512Mi"}, "timeout": 600}
        body.update(members)
        r = self.request("POST", "/v1/sandboxes", {k: v for k, v in body.items() if v is not None}, timeout=wait)
        assert r.status == expect, r
        return r.json()

    def delete(self, sandbox_id, expect=204):
        r = self.request("DELETE", f"/v1/sandboxes/{sandbox_id}")
        assert r.status == expect, r

    def get(self, sandbox_id, expect=200):
        r = self.request("GET", f"/v1/sandboxes/{sandbox_id}")
        assert r.status == expect, r
        return r.json() if expect == 200 else None

    def first_process(self, sandbox_id):
        """The pid, here, of the first process in a sandbox: its execd."""
        space = self.run(sandbox_id, "readlink /proc/self/ns/pid")[1].strip()
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(p / "ns/pid") == space and re.search(r"^NSpid:.*\s1$", (p / "status").read_text(), re.M):
                    return int(p.name)
            except OSError:
                pass  # it ended meanwhile
        raise AssertionError(f"no first process of {sandbox_id}")

    def execd_headers(self, sandbox_id):
        r = self.request("GET", f"/v1/sandboxes/{sandbox_id}/endpoints/44772")
        assert r.status == 200, r
        return r.json()["headers"]

    def execd(self, method, sandbox_id, path, headers=None, **kw):
        return self.request(method, f"/v1/sandboxes/{sandbox_id}/proxy/44772{path}",
                            headers={**self.execd_headers(sandbox_id), **(headers or {})}, key=None, **kw)

    def events(self, sandbox_id, **body):
        r = self.execd("POST", sandbox_id, "/command", body=body)
        assert r.status == 200, r
        return [json.loads(part) for part in r.body.split(b"\n\n") if part.strip()]

    def run(self, sandbox_id, command, **body):
        """(exit code, stdout, stderr) of a foreground command."""
        out, err, code = "", "", None
        for e in self.events(sandbox_id, command=command, **body):
            if e["type"] == "stdout":
                out += e["text"]
            elif e["type"] == "stderr":
                err += e["text"]
            elif e["type"] == "execution_complete":
                code = 0
            elif e["type"] == "error":
                code = int(e["error"]["evalue"]) if e["error"]["evalue"].lstrip("-").isdigit() else e["error"]["evalue"]
        return code, out, err
