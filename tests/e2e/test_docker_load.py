"""The docker runtime when there is much to do: a pull that takes a minute, and two hundred creates at once."""
import concurrent.futures
import contextlib
import os
import socket
import subprocess
import threading
import time

import pytest

import engines
import harness
import images

pytestmark = pytest.mark.long

PULL_SECONDS = 60
PARALLEL, READY_SECONDS = 200, 120


@pytest.fixture(scope="module")
def engine():
    with engines.Dockerd() as e:
        e.import_base()
        yield e


@pytest.fixture(scope="module")
def server(engine):
    with engines.docker_server(engine) as s:
        yield s.start()


class Throttle:
    """Passes connections on to a port of the loopback, and what comes back at so many bytes a second, all of them together."""
    PIECE = 16384

    def __init__(self, target, rate):
        self.target, self.rate = target, rate
        self.lock, self.due = threading.Lock(), 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self.copy, args=(near, far, lambda n: None), daemon=True).start()
                threading.Thread(target=self.copy, args=(far, near, self.pace), daemon=True).start()

    def pace(self, n):
        with self.lock:
            now = time.monotonic()
            self.due = max(self.due, now) + n / self.rate
            wait = self.due - now
        time.sleep(wait)  # what it is there for

    def copy(self, source, target, pace):
        with contextlib.suppress(OSError):
            while data := source.recv(self.PIECE):
                target.sendall(data)
                pace(len(data))
        for s in (source, target):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_health_while_a_pull_takes_a_minute(server, engine, tmp_path):
    """Nobody waits for a pull but who asked for it."""
    (tmp_path / "noise").write_bytes(os.urandom(12 << 20))  # does not get smaller by compression
    registry = images.Registry(tmp_path / "registry")
    throttle = None
    try:
        subprocess.run(f"tar -C {tmp_path} -cf - noise | curl -sS --fail --unix-socket {engine.socket} -X POST -T - "
                       "'http://x/images/create?fromSrc=-&repo=noise&tag=1'", shell=True, check=True, capture_output=True)
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--src-daemon-host", engine.host, "docker-daemon:noise:1",
                        f"docker://{registry.host}/noise:1"], check=True, timeout=120)
        engine.call("DELETE", "/images/noise:1?force=1")
        throttle = Throttle(registry.port, (12 << 20) / PULL_SECONDS)
        running = server.create()["id"]
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pull = pool.submit(server.request, "POST", "/v1/sandboxes", {"image": {"uri": f"127.0.0.1:{throttle.port}/noise:1"}, "timeout": 600,
                               "entrypoint": harness.IDLE, "resourceLimits": {"cpu": "1", "memory": "64Mi"}}, timeout=90)
            taken, more = [], 0
            sandbox = lambda: [b for b in server.sandboxes() if b["id"] != running]
            while not taken or (time.monotonic() - begun < PULL_SECONDS - 5 and (more or not pull.done() or sandbox()[0]["status"]["state"] == "Pending")):
                before = time.perf_counter()
                assert server.request("GET", "/health").status == 200
                taken.append((time.perf_counter() - before) * 1000)
                more = len(taken) % 100  # whether it still pulls is asked now and then
                if not more:
                    assert server.run(running, "echo here")[1] == "here\n"
            assert time.monotonic() - begun >= PULL_SECONDS - 5, f"the pull was over after {time.monotonic() - begun:.0f} s: {pull.result()}"
            assert pull.result().status == 202 and pull.result().json()["status"]["state"] == "Pending"  # server.create_wait_seconds
        new = pull.result().json()["id"]
        harness.wait_until(lambda: server.get(new)["status"]["state"] == "Running", "it runs", 60)
        p99 = sorted(taken)[int(len(taken) * 0.99)]
        print(f"{len(taken)} x /health during a pull of {PULL_SECONDS} s: p99 {p99:.2f} ms, longest {max(taken):.1f} ms")
        assert p99 < 10
        for i in (running, new):
            server.delete(i)
    finally:
        if throttle:
            throttle.close()
        registry.close()


@pytest.mark.timeout(400)
def test_two_hundred_at_once(engine):
    server = harness.Server(config={"runtime": {"type": "docker"}, "server": {"create_wait_seconds": READY_SECONDS}}, env={"DOCKER_HOST": engine.host})

    def one(_):
        begun = time.monotonic()
        made = server.create(resourceLimits={"cpu": "1", "memory": "64Mi"}, timeout=1200, wait=READY_SECONDS)
        assert made["status"]["state"] == "Running", made
        return made["id"], time.monotonic() - begun
    try:
        server.start()
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            made = list(pool.map(one, range(PARALLEL)))
        print(f"{PARALLEL} creates at once: the last ran after {max(t for _, t in made):.1f} s")
        assert len({i for i, _ in made}) == PARALLEL and all(server.execd("GET", i, "/ping").status == 200 for i, _ in made[::20])
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda m: server.delete(m[0]), made))
        assert not server.sandboxes() and not [c for c in engine.containers() if "opensandbox.io/id" in c["Labels"]]
    finally:
        server.remove()
