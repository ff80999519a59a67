"""A real execd process and a raw HTTP client for it, for component tests and the soak.

`Execd()` starts the plain daemon on a port of its own; `Execd(init=[...])` starts `execd init` with the server's three
descriptors, as src/server/runtime/oci does, in a PID namespace when `pid1` is set.
"""
import hashlib
import http.client
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
BINARY = pathlib.Path(os.environ.get("OPENSANDBOX_EXECD", BUILD / "test/src/execd/execd"))

INSTRUMENTED = "OPENSANDBOX_EXECD" in os.environ

sys.path.insert(0, str(ROOT / "tests"))
from harness import wait_until  # noqa: E402,F401

LOG_HEADER = 16


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("sandbox", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)

    def events(self):
        return parse_events(self.body)


def parse_events(body):
    """Exact framing: each event one bare JSON object and an empty line, nothing else in the body."""
    assert body.endswith(b"\n\n"), body[-80:]
    frames = body[:-2].split(b"\n\n")
    assert all(f.startswith(b"{") and b"\n" not in f for f in frames), frames
    return [json.loads(f) for f in frames]


def texts(events, kind):
    return [e["text"] for e in events if e["type"] == kind]


class Execd:
    def __init__(self, *flags, token="t" * 16, env=None, init=None, start=None, pid1=False, cwd="/", binary=BINARY, wrap=()):
        self.token = token
        self.dir = tempfile.TemporaryDirectory(prefix="osb-execd-")
        self.tmp = pathlib.Path(self.dir.name)
        self.passed = []
        self.socket = None
        plain = {"PATH": os.environ["PATH"], "HOME": self.dir.name, "TMPDIR": self.dir.name}
        plain.update({k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")})
        plain.update(env or {})
        command = [*wrap, str(binary), "--port", "0", *flags]
        self.log = open(self.tmp / "execd.log", "w+")
        if init is None:
            if token:
                plain["EXECD_ACCESS_TOKEN"] = token
        else:
            plain = {"OPENSANDBOX_HANDOFF_FD": str(self._hand_over(init, plain, start))}
            command += ["init"]
        if pid1:
            command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
        self.process = subprocess.Popen(command, env=plain if not pid1 else dict(plain, PATH=os.environ["PATH"]), cwd=cwd,
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=self.passed)
        for fd in self.passed:
            os.close(fd)
        self.port = None
        self.pid1 = pid1
        if init is None:
            self.port = int(self._wait_log(r"listening on port (\d+)"))

    def _hand_over(self, entrypoint, env, start):
        """The three descriptors in a row; returns the first."""
        self.socket = str(self.tmp / "s")
        self.record_path, self.ring_path = self.tmp / "record", self.tmp / "ring"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.socket)
        listener.listen(128)
        idle = not entrypoint
        text = json.dumps({"token_sha256": hashlib.sha256(self.token.encode()).hexdigest(), "entrypoint": entrypoint, "idle": idle,
                           "cwd": "/", "env": env, **(start or {})})
        self.record_path.write_text(text)
        files = [listener.detach(), os.open(self.record_path, os.O_RDWR), os.open(self.ring_path, os.O_RDWR | os.O_CREAT, 0o600)]
        first = 500 + secrets.randbelow(60) * 8
        for i, fd in enumerate(files):
            os.dup2(fd, first + i)
            os.close(fd)
            self.passed.append(first + i)
        return first

    def _wait_log(self, pattern):
        def found():
            assert self.process.poll() is None, self.output()
            return re.search(pattern, self.output())
        return wait_until(found, pattern, 10).group(1)

    def output(self):
        return (self.tmp / "execd.log").read_text()

    @property
    def pid(self):
        """Of execd itself, also behind unshare."""
        if not self.pid1:
            return self.process.pid
        return int(pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def connection(self, timeout=30):
        if self.socket:
            return UnixConnection(self.socket, timeout)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def headers(self, extra=None):
        return {**({"X-EXECD-ACCESS-TOKEN": self.token} if self.token else {}), **(extra or {})}

    def open(self, method, path, body=None, headers=None, timeout=30):
        """(connection, response) of a reply that is still to be read."""
        c = self.connection(timeout)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        c.request(method, path, body, self.headers(headers))
        return c, c.getresponse()

    def request(self, method, path, body=None, headers=None, timeout=30):
        c, response = self.open(method, path, body, headers, timeout)
        try:
            return Reply(response)
        finally:
            c.close()

    def run(self, command, **members):
        """Events of a command in the foreground."""
        program = {"argv": command} if isinstance(command, list) else {"command": command}
        r = self.request("POST", "/command", {**program, **members})
        assert r.status == 200, r.body
        return r.events()

    def stdout(self, command, **members):
        return "".join(texts(self.run(command, **members), "stdout"))

    def background(self, command, **members):
        events = self.run(command, background=True, **members)
        assert [e["type"] for e in events] == ["init", "ping", "execution_complete"], events
        return events[0]["text"]

    def status(self, command_id):
        return self.request("GET", f"/command/status/{command_id}").json()

    def wait_end(self, command_id, seconds=10):
        return wait_until(lambda: (s := self.status(command_id)) and not s["running"] and s, f"end of {command_id}", seconds)

    def logs(self, command_id, cursor=None):
        return self.request("GET", f"/command/{command_id}/logs" + (f"?cursor={cursor}" if cursor is not None else ""))

    # ---- the init's files ----

    def record(self):
        text = self.record_path.read_text()
        return json.loads(text) if text else None

    def ring(self):
        data = self.ring_path.read_bytes()
        assert data[:8] == b"OSBLOG1\n"
        total = int.from_bytes(data[8:16], "little")
        ring, size = data[LOG_HEADER:], 1024 * 1024
        return ring if total <= size else ring[total % size:] + ring[:total % size]

    # ---- what /proc says ----

    def proc(self, name):
        return pathlib.Path(f"/proc/{self.pid}/{name}").read_text()

    def rss_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", self.proc("status")).group(1))

    def threads(self):
        return int(re.search(r"Threads:\s+(\d+)", self.proc("status")).group(1))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self):
        """Of all its threads: orphans belong to the first one, commands to the loop's."""
        return [int(p) for t in os.listdir(f"/proc/{self.pid}/task") for p in self.proc(f"task/{t}/children").split()]

    def zombies(self):
        def state(p):
            try:
                return pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                return ""
        return [p for p in self.children() if state(p) == "Z"]

    def stop(self, seconds=15):
        """Ends it; the exit code."""
        if self.process.poll() is None:
            os.kill(self.pid if self.pid1 else self.process.pid, signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds=15):
        return self.process.wait(seconds)

    def close(self):
        if self.process.poll() is None and INSTRUMENTED and not self.passed:
            self.stop()  # its end tells of leaks
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert "Sanitizer" not in self.output(), self.output()
        self.log.close()
        self.dir.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def milliseconds(work):
    begin = time.monotonic()
    result = work()
    return (time.monotonic() - begin) * 1000, result
