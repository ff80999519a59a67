#!/usr/bin/env python3
"""`make bench-docker`: create to ready on a private dockerd, in turns with the engine's own create and start of the same container
(same image, same HostConfig); and 200 creates at once. Merges the rows docker.* into build/bench.json."""
import concurrent.futures
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import engines
import harness

OUT = harness.BUILD / "bench.json"
TURNS = int(os.environ.get("BENCH_TURNS", "20"))
PARALLEL = int(os.environ.get("BENCH_PARALLEL", "200"))
READY_SECONDS = 120


def merge(new):
    try:
        old = {r["name"]: r for r in json.loads(OUT.read_text())}
    except (OSError, ValueError):
        old = {}
    old.update({r["name"]: r for r in new})
    OUT.write_text(json.dumps(list(old.values()), indent=1))


def median(values):
    return sorted(values)[len(values) // 2]


def ours(server):
    begun = time.perf_counter()
    sb = server.create(resourceLimits={"cpu": "1", "memory": "256Mi"})["id"]
    assert server.execd("GET", sb, "/ping").status == 200
    taken = time.perf_counter() - begun
    return sb, taken


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


def turns(engine, server):
    mine, own = [], []
    for i in range(TURNS):
        sb, taken = ours(server)
        like = engine.inspect(sb)[1]
        server.delete(sb)
        mine.append(taken)
        own.append(engines_own(engine, like, i))
    ratio = median(mine) / median(own)
    print(f"create to ready {median(mine) * 1000:.0f} ms, the engine's own create and start {median(own) * 1000:.0f} ms: {ratio:.2f}")
    return {"name": "docker.create_ratio", "n": TURNS, "value": round(ratio, 3), "unit": "ratio"}


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
    engine = engines.Dockerd()
    try:
        engine.start()
        engine.import_base()
        release = harness.BUILD / "release/src/server/opensandbox-server"
        server = harness.Server(config={"runtime": {"type": "docker"}}, env={"DOCKER_HOST": engine.host},
                                binary=release if release.exists() else None)
        try:
            server.start()
            merge([turns(engine, server), at_once(server)])
        finally:
            server.remove()
    finally:
        engine.remove()


if __name__ == "__main__":
    main()
