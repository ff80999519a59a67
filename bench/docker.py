#!/usr/bin/env python3
"""`make bench-docker`: create to ready on a private dockerd, in turns with the engine's own create and start of the same container (same image,
same HostConfig) and with the reference server (tests/reference.py) on the same engine; and 200 creates at once. Merges the rows docker.* into
build/bench.json."""
import concurrent.futures
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import harness
import peer

OUT = harness.BUILD / "bench.json"
TURNS = int(os.environ.get("BENCH_TURNS", "20"))
PARALLEL = int(os.environ.get("BENCH_PARALLEL", "200"))
READY_SECONDS = 120
EXECD_BYTES = 29_000_000


def merge(new):
    try:
        old = {r["name"]: r for r in json.loads(OUT.read_text())}
    except (OSError, ValueError):
        old = {}
    old.update({r["name"]: r for r in new})
    OUT.write_text(json.dumps(list(old.values()), indent=1))


def median(values):
    return sorted(values)[len(values) // 2]


def engines_own(engine, like, number):
    """What `docker run -d` does: create and start, with the body of one of our containers."""
    config, host = like["Config"], like["HostConfig"]
    body = {k: config[k] for k in ("Image", "Entrypoint", "Cmd", "Env", "Labels")}
    body["HostConfig"] = {k: host[k] for k in ("Binds", "NetworkMode", "CapDrop", "SecurityOpt", "PidsLimit", "Memory", "NanoCpus",
                                               "LogConfig")}
    body["Labels"] = {}
    begun = time.perf_counter()
    made = engine.call("POST", f"/containers/create?name=own-{number}", body)[1]["Id"]
    assert engine.call("POST", f"/containers/{made}/start")[0] == 204
    taken = time.perf_counter() - begun
    engine.call("DELETE", f"/containers/{made}?force=1&v=1")
    return taken


def padded_image(engine):
    """The reference's execd image with our execd made as large as its own, since it copies that into every sandbox."""
    script = re.search("<<'SH'\n(.*?)SH\n", (harness.ROOT / "packaging/images/build.sh").read_text(), re.S).group(1).encode()
    execd = (harness.BUILD / "release/src/execd/execd").read_bytes().ljust(EXECD_BYTES, b"\0")
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in (("execd", execd), ("bootstrap.sh", script), ("bin/tail", pathlib.Path("/bin/busybox").read_bytes())):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o755
                tar.addfile(member, io.BytesIO(data))
        file.flush()
        subprocess.run(["curl", "-sS", "--fail", "--unix-socket", engine.socket, "-X", "POST", "-T", file.name,
                        "http://x/images/create?fromSrc=-&repo=padded/execd&tag=1"], check=True, capture_output=True)
    return "padded/execd:1"


def spread(values):
    """median (first and third quarter) in ms"""
    v = sorted(values)
    return f"{median(v) * 1000:.0f} ms ({v[len(v) // 4] * 1000:.0f} to {v[len(v) * 3 // 4] * 1000:.0f})"


def turns(engine, server, theirs):
    sample = server.create(resourceLimits={"cpu": "1", "memory": "256Mi"})["id"]
    like = engine.inspect(sample)[1]
    server.delete(sample)
    peer.creation(theirs)  # it copies execd out of its image once
    ways = [lambda i: peer.creation(server), lambda i: engines_own(engine, like, i), lambda i: peer.creation(theirs)]
    taken = [[], [], []]
    for i in range(TURNS):
        for k in ((i + j) % 3 for j in range(3)):  # each comes after each: what the one before left is still being cleared away
            taken[k].append(ways[k](i))
    mine, own, other = taken
    ratio, peer_ratio = median(mine) / median(own), median(other) / median(mine)
    print(f"create to ready {spread(mine)}; the engine's own create and start {spread(own)}: {ratio:.2f}; the reference {spread(other)}: {peer_ratio:.2f}")
    return [{"name": "docker.create_ratio", "n": TURNS, "value": round(ratio, 3), "unit": "ratio"},
            {"name": "docker.create_peer_ratio", "n": TURNS, "value": round(peer_ratio, 3), "unit": "ratio"}]


def at_once(server):
    def one(_):
        begun = time.monotonic()
        r = server.request("POST", "/v1/sandboxes", {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "timeout": 600,
                                                     "resourceLimits": {"cpu": "1", "memory": "64Mi"}}, timeout=READY_SECONDS + 30)
        if r.status != 202:
            return None, r
        sb = r.json()["id"]
        while server.get(sb)["status"]["state"] == "Pending" and time.monotonic() - begun < READY_SECONDS:
            time.sleep(0.1)
        return sb if server.get(sb)["status"]["state"] == "Running" else None, time.monotonic() - begun
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        made = list(pool.map(one, range(PARALLEL)))
    failures = [m for m in made if m[0] is None]
    print(f"{PARALLEL} creates at once: {time.monotonic() - begun:.1f} s, {len(failures)} failures {failures[:2]}")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda m: server.delete(m[0]), [m for m in made if m[0]]))
    return {"name": f"docker.parallel{PARALLEL}_failures", "n": PARALLEL, "value": len(failures), "unit": "count"}


def main():
    with peer.sides(padded_image) as (engine, ours, theirs):
        merge([*turns(engine, ours, theirs), at_once(ours)])


if __name__ == "__main__":
    main()
