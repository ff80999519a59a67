"""Rows of what happens inside a sandbox, through the server's proxy, for bench.py.

execd.lines_200k       seconds for 200,000 lines of a command to a raw HTTP client
execd.first_byte       ms from a byte's being written by the command to its being read by the client (one clock: both on this host)
execd.upload_ratio     upload of SIZE synced to disk, beside `dd conv=fsync` of the same size in the same sandbox: dd's time / ours
execd.download_ratio   download of it, beside nginx in the sandbox's network, through the same proxy: nginx's time / ours
execd.commands_1000    commands that failed of 1,000 at once in one sandbox
Ratios are medians of ROUNDS alternating rounds. Memory that a virtual machine uses for the first time costs its host a fault a page,
1.5 s a GiB here; TOUCHED bytes are used once before, so that neither side of a ratio pays for it.
"""
import concurrent.futures
import json
import mmap
import re
import shutil
import socket
import statistics
import subprocess
import time

import harness

SIZE, ROUNDS = 1 << 30, 9
TOUCHED = 6 << 30
BLOCK = memoryview(bytes(1 << 20))
TARGETS = {
    "execd.lines_200k": ("s", {"value": 0.3}, 3, False),
    "execd.first_byte": ("ms", {"p50": 2}, 100, False),
    "execd.upload_ratio": ("ratio", {"value": 0.8}, ROUNDS, True),
    "execd.download_ratio": ("ratio", {"value": 0.8}, ROUNDS, True),
    "execd.commands_1000": ("failures", {"value": 0}, 1, False),
}


class Inside:
    def __init__(self, server):
        self.server = server
        self.id = server.create(resourceLimits={"memory": "4Gi", "pids": "4000"})["id"]
        self.headers = server.execd_headers(self.id)

    def begin(self, method, path, headers=(), body=None, port=44772):
        """A raw connection with its request sent, for replies that are read as they come."""
        s = socket.create_connection(("127.0.0.1", self.server.port))
        fields = {"Host": "bench", **(self.headers if port == 44772 else {}), **dict(headers)}
        if body is not None:
            fields["Content-Length"] = len(body)
        head = f"{method} /v1/sandboxes/{self.id}/proxy/{port}{path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        s.sendall(head.encode() + b"\r\n" + (body or b""))
        return s

    def command(self, **members):
        return self.begin("POST", "/command", {"Content-Type": "application/json"}, json.dumps(members).encode())

    def lines(self):
        begin, got = time.monotonic(), 0
        with self.command(command="seq 200000") as s:
            tail = b""
            while not tail.endswith(b"0\r\n\r\n"):
                data = s.recv(1 << 20)
                assert data, "the stream was cut"
                got += data.count(b'"stdout"')
                tail = (tail + data)[-16:]
        assert got >= 199000, got  # a name cut between two reads is not counted
        return time.monotonic() - begin

    def first_byte(self, n):
        """The command prints the time at which it writes."""
        code = "import time,sys\nfor i in range(%d):\n time.sleep(.01); print(time.monotonic_ns(),flush=True)" % n
        samples = []
        with self.command(argv=["python3", "-c", code]) as s:
            while True:
                data = s.recv(65536)
                now = time.monotonic_ns()
                samples += [(now - int(x)) / 1e6 for x in re.findall(rb'"text":"(\d{9,})', data)]
                if data.endswith(b"0\r\n\r\n") or not data:
                    return samples

    def upload(self, path):
        boundary = "bench"
        head = (f'--{boundary}\r\nContent-Disposition: form-data; name="metadata"; filename="metadata"\r\nContent-Type: application/json\r\n\r\n{json.dumps({"path": path})}\r\n'
                f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n').encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        begin = time.monotonic()
        with self.begin("POST", "/files/upload", {"Content-Type": f"multipart/form-data; boundary={boundary}",
                                                  "Content-Length": len(head) + SIZE + len(tail)}) as s:
            s.sendall(head)
            for _ in range(SIZE // len(BLOCK)):
                s.sendall(BLOCK)
            s.sendall(tail)
            reply = s.recv(4096)
        assert b" 200 " in reply.split(b"\r\n")[0], reply
        return time.monotonic() - begin

    def dd(self, path):
        begin = time.monotonic()
        code, _, err = self.server.run(self.id, f"dd if=/dev/zero of={path} bs=1M count={SIZE >> 20} conv=fsync")
        assert code == 0, err
        return time.monotonic() - begin

    def download(self, path, port):
        begin, got, buffer = time.monotonic(), 0, bytearray(1 << 20)
        with self.begin("GET", path, port=port) as s:
            head = b""
            while b"\r\n\r\n" not in head:
                head += s.recv(4096)
            assert b" 200 " in head.split(b"\r\n")[0], head
            got = len(head) - head.index(b"\r\n\r\n") - 4
            while got < SIZE:
                n = s.recv_into(buffer)
                assert n, "the body was cut"
                got += n
        return time.monotonic() - begin

    def nginx(self, root, port):
        """nginx in the sandbox's network namespace, serving the host's view of one of its directories."""
        home = self.server.state / "nginx"
        home.mkdir()
        conf = home / "nginx.conf"
        conf.write_text(f"daemon off; master_process off; user root; pid {home}/pid; error_log {home}/error.log; events {{}}\n"
                        f"http {{ access_log off; sendfile on; client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};"
                        f" uwsgi_temp_path {home}; scgi_temp_path {home}; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n")
        return subprocess.Popen(["nsenter", "-t", str(self.server.first_process(self.id)), "-n", shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf), "-p", str(home)])

    def failures(self, n):
        def one(i):
            code, out, _ = self.server.run(self.id, f"sleep 1; echo {i}")
            return code != 0 or out.strip() != str(i)
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            return sum(pool.map(one, range(n)))


def touch_memory(size):
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def ratio(ours, theirs):
    pairs = [(theirs(), ours()) for _ in range(ROUNDS)]
    ratios = sorted(a / b for a, b in pairs)
    return statistics.median(ratios), f"rounds {[round(r, 2) for r in ratios]}"


def measure(server, record):
    box = Inside(server)
    nginx = None
    try:
        record("execd.lines_200k", value=statistics.median(box.lines() for _ in range(3)), n=3)
        record("execd.first_byte", box.first_byte(200))
        touch_memory(TOUCHED)
        value, note = ratio(lambda: box.upload("/root/up"), lambda: box.dd("/root/dd"))
        record("execd.upload_ratio", value=value, note=note, n=ROUNDS)
        upper = server.state / "oci/oci/sandboxes" / box.id / "upper/root"
        nginx = box.nginx(upper, 18081)
        harness.wait_until(lambda: server.request("GET", f"/v1/sandboxes/{box.id}/proxy/18081/none", key=None).status == 404, "nginx answers")
        value, note = ratio(lambda: box.download("/files/download?path=/root/up", 44772), lambda: box.download("/up", 18081))
        record("execd.download_ratio", value=value, note=note, n=ROUNDS)
        record("execd.commands_1000", value=box.failures(1000))
    finally:
        if nginx:
            nginx.terminate()
            nginx.wait()
        server.delete(box.id)
