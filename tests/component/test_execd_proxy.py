"""/proxy/{port} of a real execd: execd.md section 8, fact 2 of section 0."""
import base64
import hashlib
import http.client
import http.server
import json
import os
import socket
import socketserver
import threading
import time

import pytest

from execd_follow import Together
from execd_peer import Execd
from harness import free_port


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = json.dumps({"method": self.command, "path": self.path, "headers": self.headers.items(), "body": body.decode("latin-1"),
                            "peer": self.client_address[1]}).encode()
        self.send_response(403 if "_active" in self.path else 302 if "moved" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "a=1; Path=/x")
        self.send_header("Set-Cookie", "b=2")
        if "moved" in self.path:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_PROPFIND = answer

    def do_GET(self):
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            for i in range(3):
                self.wfile.write(f"data: {i}\n\n".encode())
                self.server.turn.wait(10)
                self.server.turn.clear()
        elif self.headers.get("Upgrade") == "websocket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.wfile.write((f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n").encode())
            while data := self.connection.recv(65536):
                self.connection.sendall(data[::-1])
            self.close_connection = True
        else:
            self.answer()


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    turn = threading.Event()


class Server6(Server):
    address_family = socket.AF_INET6


@pytest.fixture(scope="module")
def execd():
    with Execd(token="") as e:
        yield e


def serve(kind, host):
    s = kind((host, 0), Backend)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s


@pytest.fixture(scope="module")
def backend():
    s = serve(Server, "127.0.0.1")
    yield s
    s.shutdown()
    s.server_close()


def port(server):
    return server.server_address[1]


def test_bytes_pass_as_they_are(execd, backend):
    path = "/a%2Fb/../c//d?q=%20+;x&q=2"
    r = execd.request("POST", f"/proxy/{port(backend)}{path}", b"body \xff".decode("latin-1").encode("latin-1"), headers={
        "Host": "client.example", "Authorization": "Bearer t", "Cookie": "c=1", "X-EXECD-ACCESS-TOKEN": "secret",
        "X-Forwarded-For": "10.9.8.7", "X-Forwarded-Host": "evil", "Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-Odd": "2"})
    seen = r.json()
    headers = {k.lower(): v for k, v in seen["headers"]}
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", path, "body \xff")
    assert headers["host"] == "client.example" and headers["authorization"] == "Bearer t" and headers["cookie"] == "c=1"
    assert headers["x-forwarded-for"] == "10.9.8.7, 127.0.0.1" and headers["x-forwarded-proto"] == "http"
    assert headers["x-odd"] == "2"
    assert not {"x-forwarded-host", "x-hop", "x-execd-access-token"} & set(headers)
    assert r.headers.get_all("Set-Cookie") == ["a=1; Path=/x", "b=2"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_any_method(execd, backend, method):
    r = execd.request(method, f"/proxy/{port(backend)}")
    assert r.status == 200
    if method != "HEAD":
        assert (r.json()["method"], r.json()["path"]) == (method, "/")


def test_replies_pass_untouched(execd, backend):
    assert execd.request("GET", f"/proxy/{port(backend)}/credential-vault/_active").status == 403
    r = execd.request("GET", f"/proxy/{port(backend)}/moved")
    assert (r.status, r.headers["Location"]) == (302, "/elsewhere")


def test_chunked_bodies(execd, backend):
    c = http.client.HTTPConnection("127.0.0.1", execd.port, timeout=10)
    c.request("POST", f"/proxy/{port(backend)}/up", body=iter([b"one", b"two" * 100000]), encode_chunked=True)
    assert len(json.loads(c.getresponse().read())["body"]) == 300003
    c.close()


def test_connections_are_kept(execd, backend):
    peers = {execd.request("GET", f"/proxy/{port(backend)}/").json()["peer"] for _ in range(5)}
    assert len(peers) == 1


def test_streams_come_at_once(execd, backend):
    c, r = execd.open("GET", f"/proxy/{port(backend)}/events")
    for i in range(3):
        assert r.readline() == f"data: {i}\n".encode()
        assert r.readline() == b"\n"
        backend.turn.set()
    assert r.read() == b""
    c.close()


def test_upgrades_become_tunnels(execd, backend):
    s = socket.create_connection(("127.0.0.1", execd.port), timeout=10)
    s.sendall((f"GET /proxy/{port(backend)}/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
               "Sec-WebSocket-Protocol: chat, other\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += s.recv(1)
    assert b"101 " in head and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head and b"chat" in head
    for data in (b"abc", bytes(range(256)) * 100):
        s.sendall(data)
        got = b""
        while len(got) < len(data):
            got += s.recv(65536)
        assert sorted(got) == sorted(data)
    s.close()


def test_ipv6_loopback_only(execd):
    s = serve(Server6, "::1")
    try:
        assert execd.request("GET", f"/proxy/{port(s)}/x").json()["path"] == "/x"
    finally:
        s.shutdown()
        s.server_close()


def test_nobody_listens(execd):
    r = execd.request("GET", f"/proxy/{free_port()}/")
    assert r.status == 502 and r.json()["code"] and r.json()["message"]


@pytest.mark.parametrize("path,status", [("/proxy/", 400), ("/proxy//x", 400), ("/proxy", 404), ("/proxy/0/", 400), ("/proxy/65536/x", 400),
                                         ("/proxy/abc/x", 400), ("/proxy/-1/", 400)])
def test_bad_ports(execd, path, status):
    assert execd.request("GET", path).status == status


def test_our_own_port_in_process(execd, tmp_path):
    for prefix in ("/proxy/44772", f"/proxy/{execd.port}", "/proxy/44772/proxy/44772"):
        assert execd.request("GET", f"{prefix}/ping").status == 200
        r = execd.request("POST", f"{prefix}/command", {"command": "echo hi"})
        assert b'"text":"hi\\n"' in r.body and b"execution_complete" in r.body
        assert execd.request("GET", f"{prefix}/no/such").status == 404
        execd.request("POST", f"{prefix}/directories", {str(tmp_path / "made"): {"mode": 755}})
        assert (tmp_path / "made").is_dir()
    r = execd.request("GET", "/proxy/44772" * 100 + "/ping")
    assert r.status in (200, 414, 508)


def test_upload_through_our_own_port(execd, tmp_path):
    content = os.urandom(3_000_000)
    meta = json.dumps({"path": str(tmp_path / "up"), "mode": 644}).encode()
    body = (b"--B\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"metadata\"\r\nContent-Type: application/json\r\n\r\n"
            + meta + b"\r\n--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"up\"\r\n\r\n" + content + b"\r\n--B--\r\n")
    r = execd.request("POST", "/proxy/44772/files/upload", body, {"Content-Type": "multipart/form-data; boundary=B"})
    assert r.status == 200, r
    assert (tmp_path / "up").read_bytes() == content


def test_the_token_is_asked_once(backend):
    with Execd(token="secret") as e:
        ours, e.token = {"X-EXECD-ACCESS-TOKEN": "secret"}, ""
        for path in ("/proxy/44772/metrics", f"/proxy/{port(backend)}/", "/proxy/44772/proxy/44772/metrics"):
            assert e.request("GET", path).status == 401, path
            assert e.request("GET", path, headers={"X-EXECD-ACCESS-TOKEN": "wrong"}).status == 401
            assert e.request("GET", path, headers=ours).status == 200, path
        seen = e.request("GET", f"/proxy/{port(backend)}/", headers=ours).json()
        assert "secret" not in json.dumps(seen)


def test_many_at_once(execd, backend):
    def one(i):
        r = execd.request("POST", f"/proxy/{port(backend)}/{i}", b"x" * 1000)
        return r.json()["path"]
    workers = [Together(lambda k=k: [one(k * 10 + i) for i in range(10)]) for k in range(20)]
    for k, w in enumerate(workers):
        assert w.result(60) == [f"/{k * 10 + i}" for i in range(10)]


def test_a_slow_client_costs_little_memory(execd, backend):
    listener = socket.create_server(("127.0.0.1", 0))

    def endless():
        peer, _ = listener.accept()
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                peer.sendall(b"x" * 65536)
        except OSError:
            return
    source = Together(endless)

    def rss():
        with open(f"/proc/{execd.process.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096
    before = rss()
    c, r = execd.open("GET", f"/proxy/{listener.getsockname()[1]}/")
    r.read(100)
    time.sleep(0.5)
    assert rss() - before < 4 << 20
    c.close()
    r.close()
    source.result()
    listener.close()
