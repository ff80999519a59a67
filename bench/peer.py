"""Rows peer.* and docker.create_peer_ratio: ours beside the reference server (tests/reference.py) on one private dockerd, in turns.

Both serve the same 50 containers, made by ours: the reference lists whatever bears the label opensandbox.io/id.
"""
import contextlib
import re
import subprocess
import time

import engines
import harness
import reference

SANDBOXES, PAGE, CONNECTIONS, SECONDS, TURNS, CREATES = 50, 20, 8, 5, 3, 9
TARGETS = {
    "peer.http_get_ratio": ("ratio", {"value": 150}, TURNS, True),
    "peer.http_list_ratio": ("ratio", {"value": 800}, TURNS, True),
    "docker.create_peer_ratio": ("ratio", {"value": 2.5}, CREATES, True),
}


def rate(server, path):
    """Answers per second to one wrk with few connections."""
    script = server.state / "key.lua"
    script.write_text(f'wrk.headers["OPEN-SANDBOX-API-KEY"] = "{server.key}"\n')
    script.chmod(0o600)
    done = subprocess.run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--timeout", "30s", "-s", str(script), server.base + path],
                          capture_output=True, text=True, check=True)
    assert "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout, done.stdout
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1))


def median(values):
    return sorted(values)[len(values) // 2]


def creation(server):
    """Seconds from the request to a ping that is answered at the endpoint that the server names."""
    begun = time.perf_counter()
    made = server.create(resourceLimits={"cpu": "1", "memory": "256Mi"})["id"]
    r = server.request("GET", f"/v1/sandboxes/{made}/endpoints/44772?use_server_proxy=true").json()
    path = r["endpoint"].partition("/")[2]
    harness.wait_until(lambda: server.request("GET", f"/{path}/ping", headers=r.get("headers"), key=None).status == 200, "a ping is answered")
    taken = time.perf_counter() - begun
    server.delete(made)
    return taken


@contextlib.contextmanager
def sides(execd_image=None):
    """A private dockerd, and ours and the reference server on it. `execd_image` makes the image that the reference uses for its execd."""
    reference.install()
    with engines.Dockerd() as engine:
        reference.prepare(engine)
        with (reference.Reference(engine, {"log": {"level": "WARNING"}}) as theirs,
              harness.Server(config={"runtime": {"type": "docker"}, "log": {"level": "WARNING"}}, env={"DOCKER_HOST": engine.host},
                             binary=harness.BUILD / "release/src/server/opensandbox-server") as ours):
            if execd_image:
                theirs.sections["runtime"]["execd_image"] = execd_image(engine)
                theirs.write_config()
            yield engine, ours.start(), theirs.start()


def measure(record):
    with sides() as (_, ours, theirs):
        pairs = [(creation(theirs), creation(ours)) for _ in range(CREATES)]
        record("docker.create_peer_ratio", value=median([a / b for a, b in pairs]), n=CREATES,
               note=f"theirs {median([a for a, _ in pairs]) * 1000:.0f} ms, ours {median([b for _, b in pairs]) * 1000:.0f} ms")
        made = [ours.create(timeout=None, resourceLimits={"cpu": "1", "memory": "64Mi"})["id"] for _ in range(SANDBOXES)]
        total = theirs.request("GET", f"/v1/sandboxes?pageSize={PAGE}").json()["pagination"]["totalItems"]
        assert total == SANDBOXES, f"the reference sees {total}"
        for name, path in (("get", f"/v1/sandboxes/{made[SANDBOXES // 2]}"), ("list", f"/v1/sandboxes?pageSize={PAGE}")):
            pairs = [(rate(theirs, path), rate(ours, path)) for _ in range(TURNS)]
            record(f"peer.http_{name}_ratio", value=median([b / a for a, b in pairs]), n=TURNS,
                   note=f"theirs {median([a for a, _ in pairs]):.1f}, ours {median([b for _, b in pairs]):.0f} per second")
