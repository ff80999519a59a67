"""A real execd process on a port and a directory of its own, for component tests."""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
BINARY = pathlib.Path(os.environ.get("OPENSANDBOX_EXECD", BUILD / "test/src/execd/execd"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(condition, what, seconds=20.0):
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


class Run:
    """The events of one reply, as they come. Cut it with close()."""

    def __init__(self, connection, response):
        self.connection, self.response = connection, response
        self.status = response.status

    def __iter__(self):
        frame = b""
        while True:
            line = self.response.readline()
            if not line:
                return
            if line == b"\n":
                yield json.loads(frame)
                frame = b""
            else:
                frame += line

    def until(self, event_type):
        for event in self:
            if event["type"] == event_type:
                return event
        raise AssertionError(f"no {event_type} event")

    def close(self):
        self.response.close()
        self.connection.close()


class Execd:
    def __init__(self, env=None, args=(), cwd=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="execd-", dir="/tmp"))
        self.port = free_port()
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": str(self.directory)}
        self.log_path = self.directory / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([str(BINARY), "--port", str(self.port), *args], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env={**base, **(env or {})}, cwd=cwd or self.directory)
        wait_until(self.alive, "execd answers")

    def alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"execd ended with {self.process.returncode}: {self.log()}")
        try:
            return self.request("GET", "/ping").status == 200
        except OSError:
            return False

    def log(self):
        return self.log_path.read_text(errors="replace")

    def stop(self):
        """Ends it; it must go by itself, with nothing left open."""
        try:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(20)
            assert code == 0, f"execd ended with {code}: {self.log()}"
            assert "left open" not in self.log(), self.log()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self, method, path, body=None, headers=None, timeout=30):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        c.request(method, path, body=data, headers=headers or {})
        return c, c.getresponse()

    def request(self, method, path, body=None, headers=None, timeout=30):
        c, r = self.connect(method, path, body, headers, timeout)
        try:
            return Reply(r.status, r.headers, r.read())
        finally:
            c.close()

    def stream(self, path, body, timeout=30):
        return Run(*self.connect("POST", path, body, timeout=timeout))

    def children(self):
        """Processes below execd, whatever their group."""
        parents = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
        found, grew = {self.process.pid}, True
        while grew:
            more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
            grew = bool(more)
            found |= more
        return found - {self.process.pid}

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def text_of(events, kind="stdout"):
    return "".join(e["text"] for e in events if e["type"] == kind)


def outcome(events):
    """(exit code or evalue, traceback) of the one terminal event, which comes last."""
    terminal = [e for e in events if e["type"] in ("execution_complete", "error")]
    assert len(terminal) == 1, events
    assert [e for e in events if e["type"] != "ping"][-1] == terminal[0], events
    if terminal[0]["type"] == "execution_complete":
        return "0", []
    return terminal[0]["error"]["evalue"], terminal[0]["error"]["traceback"]


class Together(threading.Thread):
    """Runs a function beside the test; result() joins and re-raises."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args, self.value, self.error = function, args, None, None
        self.start()

    def run(self):
        try:
            self.value = self.function(*self.args)
        except BaseException as e:  # told by result()
            self.error = e

    def result(self, seconds=30):
        self.join(seconds)
        assert not self.is_alive(), "still running"
        if self.error:
            raise self.error
        return self.value
