"""The examples of packaging/tls, nginx and Caddy, in front of a server: the API, the official client, streams, uploads, an upgrade, and what a
service sees."""
import json
import ssl
import subprocess
import time
import urllib.request

import httpx
import pytest
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.sync.sandbox import SandboxSync
from websockets.sync.client import connect

import harness

ECHO = """
import http.server, json
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", 8000), H).serve_forever()
"""


def example(name, *changes):
    """An example of packaging/tls with its names replaced."""
    text = (harness.ROOT / "packaging/tls" / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(d, server, port):
    text = example("nginx.conf", ("127.0.0.1:8080", f"127.0.0.1:{server.port}"), ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
                   ("server_name sandboxes.example.com", "server_name localhost"),
                   ("/etc/ssl/certs/sandboxes.example.com.pem", str(d / "cert.pem")),
                   ("/etc/ssl/private/sandboxes.example.com.key", str(d / "key.pem")))
    paths = "".join(f"{k}_temp_path {d}/{k};\n" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (d / "nginx.conf").write_text(f"daemon off;\nuser root;\npid {d}/pid;\nerror_log {d}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n"
                                  f"{paths}{text}}}\n")
    return ["nginx", "-p", str(d), "-c", str(d / "nginx.conf")]


def caddy(d, server, port):
    text = example("Caddyfile", ("127.0.0.1:8080", f"127.0.0.1:{server.port}"),
                   ("sandboxes.example.com {", f"https://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {d}/cert.pem {d}/key.pem"))
    (d / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    return ["env", f"HOME={d}", "caddy", "run", "--adapter", "caddyfile", "--config", str(d / "Caddyfile")]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def front(request, tmp_path_factory):
    """(server, port of the front, certificate)"""
    d = tmp_path_factory.mktemp("front")
    port = harness.free_port()
    server = harness.Server(config={"server": {"trusted_proxies": ["127.0.0.1"]}})
    process = None
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost", "-keyout", d / "key.pem", "-out", d / "cert.pem"], check=True, capture_output=True)
        server.import_base()
        server.start()
        with open(d / "log", "wb") as log:
            process = subprocess.Popen(request.param(d, server, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        context = ssl.create_default_context(cafile=d / "cert.pem")

        def answers():
            assert process.poll() is None, (d / "log").read_text()
            try:
                return urllib.request.urlopen(f"https://localhost:{port}/health", context=context, timeout=5).status == 200
            except OSError:
                return False
        harness.wait_until(answers, "the front answers", 20)
        yield server, port, context
    finally:
        if process:
            process.terminate()
            process.wait(20)
        server.remove()


def test_client(front):
    server, port, context = front
    config = ConnectionConfigSync(domain=f"localhost:{port}", protocol="https", api_key=server.key, transport=httpx.HTTPTransport(verify=context))
    sb = SandboxSync.create(harness.IMAGE, entrypoint=["python3", "-c", ECHO], connection_config=config)
    try:
        assert "".join(m.text for m in sb.commands.run("echo over tls").logs.stdout).strip() == "over tls"
        sb.files.write_file("/tmp/x", b"\x00\xff" * 500000)
        assert sb.files.read_bytes("/tmp/x") == b"\x00\xff" * 500000
        endpoint = sb.get_endpoint(8000).endpoint
        assert endpoint == f"localhost:{port}/v1/sandboxes/{sb.id}/proxy/8000"
        ask = lambda: httpx.get(f"https://{endpoint}/a//b?c=%2F", verify=context, headers={"X-Forwarded-For": "6.6.6.6"})
        harness.wait_until(lambda: ask().status_code == 200, "the service listens")
        seen = ask().json()
        headers = {k.lower(): v for k, v in seen["headers"].items()}
        assert seen["path"] == "/a//b?c=%2F" and headers["x-forwarded-proto"] == "https"
        assert headers["x-forwarded-host"] == f"localhost:{port}" and "6.6.6.6" not in headers["x-forwarded-for"]
        # events leave while the command runs
        token = server.execd_headers(sb.id)
        begun = time.monotonic()
        with httpx.stream("POST", f"https://localhost:{port}/v1/sandboxes/{sb.id}/proxy/44772/command", verify=context, headers=token,
                          json={"command": "echo first; sleep 20"}, timeout=10) as r:
            assert any("first" in line for line in r.iter_lines()) and time.monotonic() - begun < 10
        # a terminal
        pty = httpx.post(f"https://localhost:{port}/v1/sandboxes/{sb.id}/proxy/44772/pty", verify=context, headers=token, json={}).json()
        url = f"wss://localhost:{port}/v1/sandboxes/{sb.id}/proxy/44772/pty/{pty['session_id']}/ws"
        with connect(url, ssl=context, additional_headers=token, open_timeout=10, close_timeout=1) as ws:
            assert json.loads(ws.recv(10))["type"] == "connected"
    finally:
        sb.kill()
        sb.close()


def test_refusals(front):
    server, port, context = front
    r = httpx.get(f"https://localhost:{port}/v1/sandboxes", verify=context)
    assert r.status_code == 401 and r.json()["code"] == "MISSING_API_KEY"
    r = httpx.get(f"https://localhost:{port}/v1/sandboxes/", verify=context, headers={"OPEN-SANDBOX-API-KEY": server.key})
    assert r.status_code == 307 and str(r.next_request.url) == f"https://localhost:{port}/v1/sandboxes"
