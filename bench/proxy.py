"""The rows proxy.*: our proxy and nginx in turns, in front of the same upstream."""
import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import harness

PROGRAM = harness.BUILD / "bench/bench/proxy"
STREAM_BYTES = 1 << 30
ROUNDS = 9  # short and in turns: other load on the machine meets both


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def cpu_ms(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 10


class Peers:
    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="osb-bench-proxy-"))
        self.directory.chmod(0o755)  # workers of nginx are another user
        self.processes = []
        self.ports = {name: harness.free_port() for name in ("source", "ours", "plain", "tuned")}
        self.pids = {}
        try:
            self.start("source", PROGRAM, "source", self.ports["source"])
            self.start("ours", PROGRAM, "relay", self.ports["ours"], self.ports["source"])
            text = (pathlib.Path(__file__).parent / "nginx.conf").read_text().replace("@DIR@", str(self.directory))
            for name, port in self.ports.items():
                text = text.replace(f"@{name.upper()}@", str(port))
            conf = self.directory / "nginx.conf"
            conf.write_text(text)
            nginx = self.start("plain", "/usr/sbin/nginx", "-p", self.directory, "-c", conf)
            worker = pathlib.Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()[0]
            self.pids["plain"] = self.pids["tuned"] = int(worker)
        except BaseException:
            self.close()
            raise

    def start(self, name, *command):
        process = subprocess.Popen([str(c) for c in command])
        self.processes.append(process)
        self.pids[name] = process.pid
        deadline = time.monotonic() + 10
        while not listens(self.ports[name]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not answer")
            time.sleep(0.02)
        return process

    def close(self):
        for p in reversed(self.processes):
            p.terminate()
            p.wait()
        shutil.rmtree(self.directory)

    def stream(self, name):
        """MiB per second of one stream."""
        before = cpu_ms(self.pids[name])
        out = json.loads(subprocess.run([PROGRAM, "drain", str(self.ports[name]), str(STREAM_BYTES)], check=True, capture_output=True).stdout)
        rate = STREAM_BYTES / 1048576 / out["wall_ms"] * 1000
        print(f"  stream {name}: {rate:.0f} MiB/s, proxy {cpu_ms(self.pids[name]) - before} ms CPU, "
              f"driver {out['cpu_ms']:.0f} ms CPU of {out['wall_ms']:.0f} ms", flush=True)
        return rate

    def requests(self, name):
        """Small requests per second, 8 connections."""
        before = cpu_ms(self.pids[name])
        out = subprocess.run(["wrk", "-t1", "-c8", "-d3s", f"http://127.0.0.1:{self.ports[name]}/"], check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in out or "Socket errors" in out:
            raise SystemExit(out)
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
        print(f"  requests {name}: {rate:.0f} per second, proxy {cpu_ms(self.pids[name]) - before} ms CPU of 3000", flush=True)
        return rate


def median(values):
    return sorted(values)[len(values) // 2]


def measure(record):
    peers = Peers()
    try:
        for name in ("ours", "plain", "tuned"):  # warm
            peers.stream(name)
        plain, tuned, small = [], [], []
        for _ in range(ROUNDS):
            ours = peers.stream("ours")
            plain.append(ours / peers.stream("plain"))
            tuned.append(peers.stream("ours") / peers.stream("tuned"))
        for _ in range(ROUNDS):
            small.append(peers.requests("ours") / peers.requests("plain"))
    finally:
        peers.close()
    for name, values in (("proxy.stream_ratio", plain), ("proxy.stream_ratio_tuned", tuned), ("proxy.request_ratio", small)):
        record(name, value=median(values), note=f"runs {[round(v, 2) for v in values]}", n=len(values))
