"""A registry with a public address may redirect, or name a token server, wherever it likes: what fetches for strangers does not get
there. In two network namespaces of the test's own: the server's, and one that is the rest of the world. Each target is tried twice:
with the registry listed in oci.registries (the control: the target is reached) and unlisted (its listener counts nothing)."""
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import types

import pytest

import harness
import images

CLONE_NEWNET = 0x40000000
OURS, REGISTRY = "203.0.113.1", "203.0.113.2"  # documentation addresses: public, and nobody's
PRIVATE, METADATA = "10.9.9.9", "169.254.169.254"
PORT = 8080
TARGETS = [PRIVATE, METADATA, OURS, "127.0.0.1"]
FIRST = {"redirect": 9000, "token": 9100}  # port of the registry that leads to TARGETS[0]
libc = ctypes.CDLL(None, use_errno=True)

FAR = r'''
import http.server, json, socketserver, ssl, sys, threading
cert, key, hits, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
REGISTRY = sys.argv[5]

class Base(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body=b"{}", **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a):
        pass

class Redirecting(Base):
    def do_GET(self):
        if self.path == "/v2/":
            return self.answer(200)
        self.answer(302, b"", Location=self.server.target)
    do_HEAD = do_GET

class Asking(Base):
    def do_GET(self):
        self.answer(401, b"{}", WWW_Authenticate='Bearer realm="%s",service="x"' % self.server.target)
    do_HEAD = do_GET

class Inner(Base):
    def do_GET(self):
        with open(hits, "a") as f:
            f.write(self.connection.getsockname()[0] + "\n")
        self.answer(200, b"INNER-SECRET")
    do_HEAD = do_GET

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
for number, target in enumerate(sys.argv[6:]):
    for first, handler in ((9000, Redirecting), (9100, Asking)):
        tls = Server((REGISTRY, first + number), handler)
        tls.target = "http://%s:%d/inner" % (target, port)
        tls.socket = context.wrap_socket(tls.socket, server_side=True)
        threading.Thread(target=tls.serve_forever, daemon=True).start()
plain = Server(("0.0.0.0", port), Inner)
print("up", flush=True)
plain.serve_forever()
'''


def sh(*args):
    subprocess.run(args, check=True, capture_output=True, text=True)


def near(hits):
    """The server's own side: a listener on every address of it."""
    import http.server

    class Inner(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with open(hits, "a") as f:
                f.write(self.connection.getsockname()[0] + "\n")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Inner)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    d = tmp_path_factory.mktemp("redirects")
    hits, cert, key = d / "hits", d / "ca.crt", d / "key.pem"
    hits.write_text("")
    sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=test", "-addext",
       f"subjectAltName=IP:{REGISTRY}")
    certs = pathlib.Path(tempfile.mkdtemp(prefix="osb-ca-", dir="/var/lib"))
    certs.chmod(0o755)
    (certs / "ca.crt").write_bytes(cert.read_bytes())
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    inner, far, local, servers = subprocess.Popen(["unshare", "-n", "sleep", "600"]), None, None, []
    try:
        harness.wait_until(lambda: os.readlink(f"/proc/{inner.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "second namespace")
        n = ["nsenter", "-t", str(inner.pid), "-n"]
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "outer", "type", "veth", "peer", "name", "net0", "netns", str(inner.pid))
        sh("ip", "addr", "add", OURS + "/24", "dev", "outer")
        sh("ip", "link", "set", "outer", "up")
        for address in (REGISTRY + "/24", PRIVATE + "/32", METADATA + "/32"):
            sh(*n, "ip", "addr", "add", address, "dev", "net0")
        sh(*n, "ip", "link", "set", "net0", "up")
        sh(*n, "ip", "link", "set", "lo", "up")
        sh("ip", "route", "add", "default", "via", REGISTRY)
        far = subprocess.Popen([*n, "python3", "-c", FAR, str(cert), str(key), str(hits), str(PORT), REGISTRY, *TARGETS], stdout=subprocess.PIPE, text=True)
        assert far.stdout.readline() == "up\n"
        local = near(hits)

        def start(**oci):
            servers.append(harness.Server({"oci": {"registry_ca_dir": str(certs), **oci}}))
            return servers[-1].start()
        yield types.SimpleNamespace(start=start, hits=hits, enter=n, cert=cert, key=key)
    finally:
        for server in servers:
            server.remove()
        if local:
            local.shutdown()
            local.server_close()
        for p in (far, inner):
            if p:
                p.kill()
                p.wait()
        shutil.rmtree(certs, ignore_errors=True)
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


def ask(server, hits, how, target):
    """(addresses that were reached, the reply)"""
    hits.write_text("")
    r = server.request("POST", "/v1/sandboxes", {"image": {"uri": f"{REGISTRY}:{FIRST[how] + TARGETS.index(target)}/team/app:1"}, "entrypoint": harness.IDLE, "timeout": 600, "resourceLimits": {}})
    assert r.status in (400, 500) and r.json()["code"].startswith("OCI::IMAGE_"), r
    assert "INNER" not in r.json()["message"], r
    return set(hits.read_text().split()), r


def test_redirects_and_token_servers(world):
    hits = world.hits
    control = world.start(registries=[REGISTRY])
    for how in ("redirect", "token"):
        for target in TARGETS:
            assert ask(control, hits, how, target)[0] == {target}, (how, target, "control: it must be reached")
    server = world.start()
    for how in ("redirect", "token"):
        for target in TARGETS:
            reached, r = ask(server, hits, how, target)
            assert not reached, (how, target, reached)
            assert r.json()["code"] == "OCI::IMAGE_PULL_FAILED" and "connect: " in r.json()["message"], r


def test_a_public_registry_works_with_an_id_of_its_own(world, tmp_path):
    """The same path that a stranger's pull takes, to its good end: served over TLS from the other namespace."""
    made = images.Image([images.small_root()])
    digest = made.layout(tmp_path / "l")
    blobs = made.blobs()[0]
    (tmp_path / "blobs.json").write_text(json.dumps({k: v.hex() for k, v in blobs.items()}))
    serve = r'''
import http.server, json, os, ssl, sys, time
blobs = {k: bytes.fromhex(v) for k, v in json.load(open(sys.argv[1])).items()}
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        while "/manifests/" in self.path and not os.path.exists(sys.argv[6]):
            time.sleep(0.005)  # until who asks has been seen
        body = blobs[sys.argv[2] if name == "1" else name] if self.path != "/v2/" else b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json" if "/manifests/" in self.path else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer((sys.argv[5], 8443), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[3], sys.argv[4])
s.socket = c.wrap_socket(s.socket, server_side=True)
print("up", flush=True); s.serve_forever()
'''
    far = subprocess.Popen([*world.enter, "python3", "-c", serve, str(tmp_path / "blobs.json"), digest, str(world.cert), str(world.key), REGISTRY,
                            str(tmp_path / "seen")], stdout=subprocess.PIPE, text=True)
    try:
        assert far.stdout.readline() == "up\n"
        server = world.start()
        uids, stop = set(), threading.Event()

        def watch():
            while not stop.is_set():
                for p in pathlib.Path("/proc").glob("[0-9]*"):
                    try:
                        if REGISTRY.encode() in (p / "cmdline").read_bytes() and b"skopeo" in (p / "cmdline").read_bytes():
                            uids.add(p.stat().st_uid)
                            (tmp_path / "seen").touch()
                    except OSError:
                        continue
        t = threading.Thread(target=watch, daemon=True)
        t.start()
        try:
            r = server.request("POST", "/v1/sandboxes", {"image": {"uri": f"{REGISTRY}:8443/team/app:1"}, "entrypoint": harness.IDLE, "timeout": 600,
                                                         "resourceLimits": {}})
        finally:
            stop.set()
            t.join()
        assert r.status == 202, (r, server.log()[-2000:])
        assert uids and 0 not in uids, uids
        assert server.run(r.json()["id"], "id -u")[:2] == (0, "0\n")
        server.delete(r.json()["id"])
    finally:
        far.kill()
        far.wait()
