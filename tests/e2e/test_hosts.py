"""Sandboxes by host name: an origin of their own, the same rules as the path form."""
import pytest

import harness

SERVICE = r"""
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Set-Cookie", "a=b; Path=/app; Domain=.sbx.test; HttpOnly")
        self.send_header("Service-Worker-Allowed", "/")
        body = (self.path + " " + self.headers["Host"] + " " + str(self.headers["X-Forwarded-Host"])
                + " " + str(self.headers["OPEN-SANDBOX-API-KEY"])).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        n = int(self.headers["Content-Length"])
        data = self.rfile.read(n)
        self.send_response(303)
        self.send_header("Location", "/after/%d" % len(data))
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("0.0.0.0", 8000), H).serve_forever()
"""


@pytest.fixture(scope="module")
def named():
    with harness.Server({"server": {"sandbox_domain": "sbx.test"}}) as s:
        s.import_base()
        yield s.start()


def ask(server, host, path="/", method="GET", **kw):
    return server.request(method, path, headers={"Host": host, **kw.pop("headers", {})}, **kw)


def test_serves_the_root(named):
    sb = named.create(entrypoint=["python3", "-c", SERVICE])["id"]
    host = f"8000-{sb}.sbx.test"
    harness.wait_until(lambda: ask(named, host, key=None).status == 200, "the service")
    r = ask(named, host, "/v1/sandboxes?a=%20b&a=", key="own")  # nothing of it is ours, and no key passes
    assert r.body.decode() == f"/v1/sandboxes?a=%20b&a= {host} {host} None", r
    assert r.headers["Set-Cookie"] == "a=b; Path=/app; HttpOnly" and r.headers["Service-Worker-Allowed"] == "/"
    assert ask(named, host.upper() + ".:8080", "/health", key=None).body.startswith(b"/health ")
    r = ask(named, host, "/submit", "POST", raw=b"x" * 100000, key=None)
    assert r.status == 303 and r.headers["Location"] == "/after/100000"
    r = named.request("GET", f"/v1/sandboxes/{sb}/proxy/8000/", key=None)  # the path form is as it was
    assert r.headers["Service-Worker-Allowed"] is None and f"Path=/v1/sandboxes/{sb}/proxy/8000" in r.headers["Set-Cookie"]
    execd = f"44772-{sb}.sbx.test"
    assert ask(named, execd, "/ping", key=None).status == 200
    assert ask(named, execd, "/metrics", key="own").status == 401
    assert ask(named, execd, "/metrics", headers=named.execd_headers(sb), key=None).status == 200
    assert ask(named, f"9-{sb}.sbx.test", key=None).status == 502
    named.delete(sb)
    assert ask(named, host, key=None).status == 404


def test_other_hosts(named):
    for host in ("sbx.test", "x.sbx.test", "8000-nobody.sbx.test", "70000-11111111-2222-4333-8444-555555555555.sbx.test"):
        r = ask(named, host, "/v1/sandboxes")
        assert r.status in (400, 404) and "items" not in r.body.decode(), (host, r)
    assert ask(named, "notsbx.test", "/v1/sandboxes").status == 200
    assert ask(named, "8000-11111111-2222-4333-8444-555555555555.sbx.test", "/a/../b", key=None).status in (400, 401)
    with harness.Server({"server": {"sandbox_domain": "*.sbx"}}) as bad:
        done = bad.cli("check-config", check=False)
        assert done.returncode and "server.sandbox_domain" in done.stdout + done.stderr
