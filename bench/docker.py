#!/usr/bin/env python3
"""`make bench-docker`: create to ready on a private dockerd, in turns with the engine's own create and start of the same container (same image,
same HostConfig) and with the reference server on the same engine; get and list beside its; and 200 creates at once. Merges the rows docker.* and
peer.* into build/bench.json.

The reference is opensandbox-server 1.1.1 from PyPI in an environment of its own, a black box. Its execd image holds our execd, made as large as the
original (29 MB), since it copies that into every sandbox."""
import concurrent.futures
import io
import json
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import engines
import harness

OUT = harness.BUILD / "bench.json"
TURNS = int(os.environ.get("BENCH_TURNS", "20"))
PARALLEL = int(os.environ.get("BENCH_PARALLEL", "200"))
READY_SECONDS = 120
WARM, LISTED = 2, 50


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


class Reference:
    """opensandbox-server of PyPI on the same engine."""
    PACKAGE, EXECD_BYTES = "opensandbox-server==1.1.1", 29_000_000

    def __init__(self, engine):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="reference-"))
        self.port, self.key = harness.free_port(), secrets.token_hex(16)
        self.venv = harness.BUILD / "reference"
        if not (self.venv / "bin/opensandbox-server").exists():
            subprocess.run([sys.executable, "-m", "venv", self.venv], check=True)
            subprocess.run([self.venv / "bin/pip", "install", "-q", "--disable-pip-version-check", self.PACKAGE], check=True)
        self.make_image(engine)
        assert engine.call("POST", "/networks/create", {"Name": "reference", "Driver": "bridge"})[0] == 201
        (self.dir / "config.toml").write_text(
            f'[server]\nhost = "127.0.0.1"\nport = {self.port}\napi_key = "{self.key}"\n[runtime]\ntype = "docker"\nexecd_image = "reference/execd:1"\n'
            f'[docker]\nnetwork_mode = "reference"\n[store]\npath = "{self.dir}/store.db"\n')
        env = {**os.environ, "DOCKER_HOST": engine.host, "HOME": str(self.dir), "SANDBOX_CONFIG_PATH": str(self.dir / "config.toml")}
        self.log = open(self.dir / "log", "wb")
        self.process = subprocess.Popen([self.venv / "bin/opensandbox-server", "--config", self.dir / "config.toml"], env=env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        harness.wait_until(self.answers, "the reference answers", 60)

    def make_image(self, engine):
        execd = (harness.BUILD / "release/src/execd/execd").read_bytes()
        script = re.search("<<'SH'\n(.*?)SH\n", (harness.ROOT / "packaging/images/build.sh").read_text(), re.S).group(1).encode()
        with tarfile.open(self.dir / "execd.tar", "w") as tar:
            for name, data in (("execd", execd.ljust(self.EXECD_BYTES, b"\0")), ("bootstrap.sh", script),
                               ("bin/tail", pathlib.Path("/bin/busybox").read_bytes())):  # it runs a tail in that image
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o755
                tar.addfile(member, io.BytesIO(data))
        subprocess.run(["curl", "-sS", "--fail", "--unix-socket", engine.socket, "-X", "POST", "-T", self.dir / "execd.tar",
                        "http://x/images/create?fromSrc=-&repo=reference/execd&tag=1"], check=True, capture_output=True)

    def answers(self):
        assert self.process.poll() is None, (self.dir / "log").read_text()[-3000:]
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False

    def request(self, method, path, body=None):
        r = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, data=json.dumps(body).encode() if body else None,
                                   headers={"OPEN-SANDBOX-API-KEY": self.key, "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(r, timeout=120) as reply:
                text = reply.read()
                return reply.status, json.loads(text) if text else None
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{method} {path}: {e.code} {e.read()[:1000]}") from e

    def create(self):
        return self.request("POST", "/v1/sandboxes", {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "timeout": 3600,
                                                      "resourceLimits": {"cpu": "1", "memory": "256Mi"}})[1]["id"]

    def timed(self):
        begun = time.perf_counter()
        sb = self.create()
        endpoint = self.request("GET", f"/v1/sandboxes/{sb}/endpoints/44772")[1]["endpoint"]

        def pings():
            try:
                with urllib.request.urlopen(f"http://{endpoint}/ping", timeout=5) as r:
                    return r.status == 200
            except OSError:
                return False
        harness.wait_until(pings, "/ping", 30)
        return sb, time.perf_counter() - begun

    def delete(self, sb):
        self.request("DELETE", f"/v1/sandboxes/{sb}")

    def remove(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir)


def spread(values):
    """median (first and third quarter) in ms"""
    v = sorted(values)
    return f"{median(v) * 1000:.0f} ms ({v[len(v) // 4] * 1000:.0f} to {v[len(v) * 3 // 4] * 1000:.0f})"


def turns(engine, server, reference):
    mine, own, theirs = [], [], []
    for i in range(TURNS + WARM):
        sb, taken = ours(server)
        like = engine.inspect(sb)[1]
        server.delete(sb)
        own_taken = engines_own(engine, like, i)
        peer, peer_taken = reference.timed()
        reference.delete(peer)
        if i >= WARM:
            mine.append(taken)
            own.append(own_taken)
            theirs.append(peer_taken)
    ratio, peer_ratio = median(mine) / median(own), median(theirs) / median(mine)
    print(f"create to ready {spread(mine)}; the engine's own create and start {spread(own)}: {ratio:.2f}; the reference {spread(theirs)}: {peer_ratio:.2f}")
    return [{"name": "docker.create_ratio", "n": TURNS, "value": round(ratio, 3), "unit": "ratio"},
            {"name": "docker.create_peer_ratio", "n": TURNS, "value": round(peer_ratio, 3), "unit": "ratio"}]


def rate(server, path, seconds):
    """Requests a second by wrk, 8 connections."""
    out = subprocess.run(["wrk", "-t1", "-c8", f"-d{seconds}", "--timeout", "60s", "-H", f"OPEN-SANDBOX-API-KEY: {server.key}", f"http://127.0.0.1:{server.port}{path}"],
                         check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in out, out
    return float(re.search(r"Requests/sec: +([\d.]+)", out).group(1))


def reads(server, reference):
    """GET, and list of 20 of 50, of both in turns."""
    made = [[s.create() for _ in range(LISTED)] for s in (server, reference)]
    made[0] = [m["id"] for m in made[0]]
    rows = []
    for name, path in (("get", "/v1/sandboxes/{}"), ("list", "/v1/sandboxes?pageSize=20")):
        rates = [(rate(server, path.format(made[0][0]), 4), rate(reference, path.format(made[1][0]), 15)) for _ in range(3)]
        mine, theirs = (median(r) for r in zip(*rates))
        print(f"{name}: {mine:.0f} a second, the reference {theirs:.1f}: {mine / theirs:.0f}")
        rows.append({"name": f"peer.http_{name}_ratio", "n": 3, "value": round(mine / theirs, 1), "unit": "ratio"})
    for s, ids in zip((server, reference), made):
        for i in ids:
            s.delete(i)
    return rows


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
            reference = Reference(engine)
            try:
                merge([*turns(engine, server, reference), *reads(server, reference), at_once(server)])
            finally:
                reference.remove()
        finally:
            server.remove()
    finally:
        engine.remove()


if __name__ == "__main__":
    main()
