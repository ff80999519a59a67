"""api/lifecycle.yaml and api/diagnostics.yaml against the route table, the table of errors, and what a server really answers on each
runtime, both ways: what is served and not documented fails, and so does what is documented and not served."""
import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
import threading
import time

import pytest

import contract
import engines
import faults
import harness

API = harness.ROOT / "api"
FILES = (API / "lifecycle.yaml", API / "diagnostics.yaml")
PREFIX = {"oci": "OCI::", "docker": "DOCKER::"}
GUARD = {"MISSING_API_KEY", "INVALID_API_KEY", "FORBIDDEN_ORIGIN", "NOT_READY", "SANDBOX::INTERNAL_ERROR"}  # of every guarded route
DOCUMENT = contract.Document(*FILES)


# ---- the tables of the source ----

def table():
    """{(method, documented path): (codes, open)} of routes.c."""
    text = (harness.ROOT / "src/server/api/routes.c").read_text()
    literal = r'"[^"]*"(?:\s+"[^"]*")*'
    join = lambda words: "".join(re.findall(r'"([^"]*)"', words))
    names = {n: join(v) for n, v in re.findall(rf"static const char (\w+)\[\] =\s*({literal});", text)}
    body = text[text.index("static const struct http_route routes[]"):]
    body = re.sub(r"//[^\n]*", "", body[:body.index("\n};")]).replace("SANDBOX ", '"/sandboxes/{sandbox_id}" ')
    body = re.sub(r"\bSANDBOX,", '"/sandboxes/{sandbox_id}",', body)
    rows = {}
    for method, pattern, flags, codes in re.findall(
            rf'\{{("[^"]+"), ({literal}), \w+,\s*\w+,\s*([\w| ]+),\s*({literal}|\w+)\}}', body):
        path = ("" if re.search(r"\bROOT\b", flags) else "/v1") + join(pattern).replace("/*", "/{rest}")
        rows[join(method), path] = set((join(codes) if codes[0] == '"' else names[codes]).split()), "OPEN" in flags
    assert len(rows) == len(re.findall(r"\bhandle_\w+,", body)), "a row that this test cannot read"
    return rows


def errors():
    """{code: status} of errors.def."""
    text = (harness.ROOT / "src/server/errors.def").read_text()
    return {c: int(s) for c, s in re.findall(r'^ERROR_CODE\(\w+, "([^"]+)", (\d+),', text, re.M)}


TABLE = table()


def test_routes():
    assert set(TABLE) == set(DOCUMENT.operations), set(TABLE) ^ set(DOCUMENT.operations)
    ids = [o["operationId"] for o in DOCUMENT.operations.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("route", sorted(TABLE), ids=" ".join)
def test_codes_and_key(route):
    codes, is_open = TABLE[route]
    assert DOCUMENT.codes(route) - (set() if is_open else GUARD - codes) == codes
    assert (DOCUMENT.operations[route].get("security") == []) == is_open
    assert is_open or GUARD <= DOCUMENT.codes(route)


def test_every_error_has_a_place():
    """No code is documented that the table of errors lacks, and none of the table is without a route."""
    transport = set(DOCUMENT.tree["x-transport-codes"])
    told = {c for route in TABLE for c in DOCUMENT.codes(route)} | transport
    assert told == set(errors()), told ^ set(errors())
    text = (harness.ROOT / "src/http/exchange.c").read_text()
    text = text[text.index("codes[] = {"):]
    assert transport == set(re.findall(r'\{\d{3}, "([A-Z_]+)"\}', text[:text.index("};")]))


# ---- servers ----

class Example:
    """One request after the other against one server; each reply is checked."""

    def __init__(self, kind, server, relay, preload):
        self.kind, self.server, self.relay, self.preload = kind, server, relay, preload
        self.engine = relay and relay.engine
        self.document = contract.Document(*FILES)

    def code(self, code):
        return code.replace(PREFIX[self.kind], "%::")

    def ask(self, method, path, /, query="", any_method=False, **kw):
        """`path` is the document's, with {names} filled from the keywords that it holds."""
        names = {n: kw.pop(n) for n in re.findall(r"\{(\w+)\}", path)}
        return self.server.request(method, path.format(**names) + query, **kw)

    def __call__(self, method, path, /, query="", any_method=False, **kw):
        r = self.ask(method, path, query, **kw)
        self.document.check(("*" if any_method else method, path), r, self.code)
        assert r.headers["X-Request-ID"], (method, path)
        return r


class Registry(http.server.BaseHTTPRequestHandler):
    """What registries may do: `denied` wants a log-in, `broken` serves what is no image, `silent` does not answer before it may."""
    go_on = threading.Event()
    manifest = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {}, "layers": 7}'

    def do_GET(self):
        name = self.path.split("/")[2]
        if name == "silent":
            self.go_on.wait(60)
        status, body = {"denied": (401, b"{}"), "broken": (200, self.manifest), "": (200, b"{}")}.get(name, (404, b"{}"))
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json" if name == "broken" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def registry():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    Registry.go_on.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    Registry.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module", params=["oci", "docker"])
def x(request, registry):
    engine = relay = None
    config = {"storage": {}, "server": {"sandboxes_max": 8, "queue_max": QUEUE}, "console": {"port": harness.free_port()}}
    try:
        if request.param == "docker":
            engine = engines.Dockerd()
            engine.start()
            engine.import_base()
            engine.build_images()
            relay = faults.Relay(engine)
            server = engines.docker_server(engine, egress={"image": "opensandbox/egress:local"})
            server.env["DOCKER_HOST"] = relay.host
            config["storage"]["ossfs_mount_root"] = str(server.state / "ossfs")
            for section, values in config.items():
                server.sections.setdefault(section, {}).update(values)
        else:
            server = harness.Server(config={**config, "oci": dict.fromkeys(("registries", "insecure_registries"), ["127.0.0.1:1", registry])})
        try:
            volumes = server.state / "volumes"
            volumes.mkdir()
            (volumes / "file").touch()
            server.sections["storage"]["allowed_host_paths"] = [str(volumes)]
            server.write_config()
            if request.param == "oci":
                server.import_base()
            preload = faults.Preload(server)
            server.start()
            example = Example(request.param, server, relay, preload)
            example.registry = registry
            yield example
        finally:
            server.remove()
    finally:
        if relay:
            relay.close()
        if engine:
            engine.remove()


QUEUE = 16
SANDBOX = "/v1/sandboxes/{sandbox_id}"
PROXIES = (SANDBOX + "/proxy/{port}/{rest}", "/v1/route/{sandbox_id}/{port}/{rest}")
BUCKET = {"bucket": "abc", "endpoint": "oss.example", "accessKeyId": "a", "accessKeySecret": "b"}
OSSFS = {"BUCKET": {"bucket": "A_B"}, "ENDPOINT": {"endpoint": "a b"}, "OPTION": {"options": ["passwd_file=/etc/passwd"]}, "CREDENTIALS": {"accessKeyId": "a b"}}
BODY = {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "resourceLimits": {"cpu": "1", "memory": "256Mi"}, "timeout": 600}
CAPACITY = {"bufferMin": 0, "bufferMax": 1, "poolMin": 0, "poolMax": 1}
TEXT = {"raw": b"{\"name\": \"\xff\"}", "headers": {"Content-Type": "application/json"}}  # not UTF-8
TOO_LARGE = {"egress": [{"action": "allow", "target": f"n{i}.test"} for i in range(4097)]}
MANY = "?" + "&".join(f"a{i}=1" for i in range(5000))


def at_once(*calls):
    """Each is a function and its arguments."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [f.result() for f in [pool.submit(*c) for c in calls]]


def wait_state(x, sandbox_id, wanted):
    harness.wait_until(lambda: x("GET", SANDBOX, sandbox_id=sandbox_id).json()["status"]["state"] == wanted, wanted)


def server_examples(x):
    for path in ("/health", "/livez", "/readyz", "/version", "/openapi.json"):
        x("GET", path, key=None)
    document = x("GET", "/openapi.json", key=None).json()
    assert document["paths"].keys() == DOCUMENT.tree["paths"].keys() and document["info"]["title"] == "OpenSandbox Lifecycle API"
    for path in ("/docs", "/redoc"):
        location = x("GET", path, key=None).headers["Location"]
        assert location == f"http://127.0.0.1:{x.server.sections['console']['port']}{path}"
    assert b"opensandbox_sandboxes" in x("GET", "/metrics").body
    event = {"eventType": "sandbox.create", "createDurationMs": 1, "success": True}
    x("POST", "/v1/metrics/events", body=event)
    x("POST", "/v1/metrics/events", body={})
    x("POST", "/v1/metrics/events", **TEXT)
    for method, path in TABLE:
        if path.startswith("/v1/templates"):
            assert x(method, path, body=GOOD.get(path) if method == "POST" else None, **({"template_id": "none"} if "{" in path else {})).status == 501
    template = GOOD["/v1/templates"]
    for body in ({}, {**template, "a": 1}, {**template, "format": "x"}, {**template, "env": {"a": 1}}, {**template, "entrypoint": "a"}, {**template, "readiness": []}):
        assert x("POST", "/v1/templates", body=body).status == 422
    x("POST", "/v1/templates", **TEXT)
    for query, status in (("?page=0", 422), (MANY, 400)):
        assert x("GET", "/v1/templates", query).status == status


def create_examples(x):
    create = lambda expect, **kw: refused(x, expect, {**BODY, **kw})
    volume = lambda **kw: [{"name": "a", "mountPath": "/a", **kw}]
    volumes = x.server.sections["storage"]["allowed_host_paths"][0]
    x("POST", "/v1/sandboxes", **TEXT)
    x("POST", "/v1/sandboxes", body={})
    create("SANDBOX::INVALID_PARAMETER", extensions={"access.renew.extend.seconds": "1"})
    create("SANDBOX::POLICY_TOO_LARGE", networkPolicy=TOO_LARGE)
    create("SANDBOX::API_NOT_SUPPORTED", image=None, entrypoint=None, resourceLimits=None, templateId="t")
    create("SANDBOX::INVALID_METADATA_LABEL", metadata={"a b": "c"})
    create("POOL::NOT_FOUND", extensions={"poolRef": "none"})
    create("SNAPSHOT::NOT_FOUND", image=None, snapshotId="none")
    create("%::INVALID_ENTRYPOINT", entrypoint=[""])
    create("%::IMAGE_NOT_FOUND", image={"uri": "Not A Reference"})
    create("VOLUME::DUPLICATE_NAME", volumes=[{"name": "a", "mountPath": p, "host": {"path": volumes}} for p in ("/a", "/b")])
    create("VOLUME::INVALID_MOUNT_PATH", volumes=volume(mountPath="/proc", host={"path": volumes}))
    create("VOLUME::INVALID_SUB_PATH", volumes=volume(subPath="../x", host={"path": volumes}))
    create("VOLUME::INVALID_HOST_PATH", volumes=volume(host={"path": volumes + "/../x"}))
    create("VOLUME::HOST_PATH_NOT_ALLOWED", volumes=volume(host={"path": "/etc"}))
    if x.kind == "oci":
        create("VOLUME::UNSUPPORTED_BACKEND", volumes=volume(ossfs=BUCKET))
    else:
        for code, bad in OSSFS.items():
            create("VOLUME::INVALID_OSSFS_" + code, volumes=volume(ossfs={**BUCKET, **bad}))
        create("VOLUME::OSSFS_MOUNT_FAILED", volumes=volume(ossfs=BUCKET))  # there is no program for it here
        x.engine.call("POST", "/volumes/create", {"Name": "gone"})
        (x.engine.dir / "data/volumes/gone/_data").rmdir()
        create("VOLUME::PVC_SUBPATH_UNSUPPORTED_DRIVER", volumes=volume(subPath="a", pvc={"claimName": "gone"}))
    create("VOLUME::PVC_NOT_FOUND", volumes=volume(pvc={"claimName": "none", "createIfNotExists": False}))
    create("VOLUME::HOST_PATH_CREATE_FAILED", volumes=volume(host={"path": volumes + "/file/x"}))
    create("%::IMAGE_UNAUTHORIZED", image={"uri": x.registry + "/denied:1"})
    create("%::IMAGE_INVALID", image={"uri": x.registry + "/broken:1"})
    if x.kind == "oci":
        (x.server.state / "oci/oci/volumes/odd").touch()
        create("VOLUME::PVC_INSPECT_FAILED", volumes=volume(pvc={"claimName": "odd"}))
    else:  # engines want two letters
        create("VOLUME::INVALID_PVC_NAME", volumes=volume(pvc={"claimName": "p"}))
    create("%::SANDBOX_START_FAILED", entrypoint=["/no/such/program"])
    create("%::SANDBOX_IMAGE_PULL_FAILED" if x.kind == "docker" else "%::IMAGE_PULL_FAILED", image={"uri": "127.0.0.1:1/none:x"})
    hook = {"command": ["true"], "timeoutSeconds": 60}
    full = {**BODY, "platform": {"os": "linux", "arch": "amd64"}, "metadata": {"team": "blue"},
            "lifecycle": {"preStart": hook, "periodic": [{"name": "a", "schedule": "@daily", **hook}]},
            "extensions": {"opensandbox.extensions.a": "b"}}
    key = {"Idempotency-Key": secrets.token_hex(8)}
    made = x("POST", "/v1/sandboxes", body=full, headers=key).json()
    assert x("POST", "/v1/sandboxes", body=full, headers=key).json()["id"] == made["id"]
    r = x("POST", "/v1/sandboxes", body=BODY, headers=key)
    assert r.json()["code"] == "SANDBOX::IDEMPOTENCY_CONFLICT"
    x("GET", SANDBOX, sandbox_id=made["id"])
    x("DELETE", SANDBOX, sandbox_id=made["id"])


def refused(x, expect, body):
    r = x("POST", "/v1/sandboxes", body={k: v for k, v in body.items() if v is not None})
    assert x.code(r.json()["code"]) == expect, r


def sandbox_examples(x):
    made = x("POST", "/v1/sandboxes", body={**BODY, "metadata": {"team": "blue"}}).json()["id"]
    forever = x("POST", "/v1/sandboxes", body={k: v for k, v in BODY.items() if k != "timeout"}).json()["id"]
    x("GET", "/v1/sandboxes", "?pageSize=1&state=running&metadata=team%3Dblue")
    for query in ("?page=0", "?metadata=x", "?metadata=a%3D%2500", "?a=%00", MANY):
        r = x("GET", "/v1/sandboxes", query)
        assert r.status == (422 if "page" in query else 400), (query[:40], r)
    metadata = SANDBOX + "/metadata"
    for body in ({"a": "b", "team": None}, {"a": 1}, {"opensandbox.io/a": "b"}, {"a b": "c"}):
        x("PATCH", metadata, sandbox_id=made, body=body)
    x("PATCH", metadata, sandbox_id=made, **TEXT)
    renew, ahead = SANDBOX + "/renew-expiration", {"expiresAt": time.time() + 900}
    for sandbox_id, body in ((made, ahead), (made, {}), (made, {"expiresAt": 1}), (forever, ahead)):
        x("POST", renew, sandbox_id=sandbox_id, body=body)
    x("POST", renew, sandbox_id=made, **TEXT)
    x("POST", SANDBOX + "/resume", sandbox_id=made)
    x("POST", SANDBOX + "/pause", sandbox_id=made)
    wait_state(x, made, "Paused")
    x("POST", SANDBOX + "/pause", sandbox_id=made)
    proxy = lambda path, **kw: x("GET", path, any_method=True, key=None, **{"rest": "", **kw})
    for path in PROXIES:
        proxy(path, sandbox_id=made, port=8000)
        proxy(path, sandbox_id="none", port=8000)
        proxy(path, sandbox_id=forever, port=0)
        proxy(path, sandbox_id=forever, port=8000, rest="../x", headers={"OPEN-SANDBOX-API-KEY": x.server.key})
        proxy(path, sandbox_id=forever, port=8000)
        proxy(path, sandbox_id=forever, port=44772, rest="metrics")
    x("POST", SANDBOX + "/resume", sandbox_id=made)
    wait_state(x, made, "Running")
    endpoint = SANDBOX + "/endpoints/{port}"
    for port, query in ((80, ""), (44772, ""), (0, ""), (80, "?expires=1"), (80, "?expires=1&use_server_proxy=1"), ("x", "")):
        x("GET", endpoint, query, sandbox_id=made, port=port)
    for sandbox_id in (made, forever):
        x("DELETE", SANDBOX, sandbox_id=sandbox_id)
    for method, path in TABLE:
        if path.startswith(SANDBOX) and "proxy" not in path and "networkpolicy" not in path:
            names = {"sandbox_id": "none", **({"port": 80} if "{port}" in path else {})}
            body = {"PATCH": {}, "POST": ahead}.get(method)
            x(method, path, body=body, **names)


def pending_examples(x):
    """While the image is on its way."""
    Registry.go_on.clear()
    body = {**BODY, "image": {"uri": x.registry + "/silent:1"}, "networkPolicy": {"defaultAction": "allow"}}
    made = x("POST", "/v1/sandboxes", body=body, headers={"Prefer": "respond-async"}).json()
    assert made["status"]["state"] == "Pending"
    full = "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 8000)); s.listen(0)\n" \
           "c = [socket.socket() for _ in range(4)]\nfor o in c: o.setblocking(0); o.connect_ex(('127.0.0.1', 8000))\ntime.sleep(600)"
    deaf = x("POST", "/v1/sandboxes", body={**BODY, "entrypoint": ["python3", "-c", full]}).json()["id"]
    ask = lambda sandbox_id, path: x("GET", path, any_method=True, key=None, sandbox_id=sandbox_id, port=8000, rest="")
    harness.wait_until(lambda: x.server.run(deaf, "grep -c ' 02 ' /proc/net/tcp")[0] == 0, "nobody takes any more connections")
    for r in at_once(*((ask, made["id"], path) for path in PROXIES), *((ask, deaf, path) for path in PROXIES)):
        assert r.status == 504
    x("DELETE", SANDBOX, sandbox_id=deaf)
    for action in ("pause", "resume", "snapshots"):
        assert x("POST", f"{SANDBOX}/{action}", sandbox_id=made["id"]).status == 409
    for method, body in (("GET", None), ("PUT", {}), ("PATCH", []), ("DELETE", [])):
        x(method, SANDBOX + "/networkpolicy", sandbox_id=made["id"], body=body)
    x("DELETE", SANDBOX, sandbox_id=made["id"])
    Registry.go_on.set()


def service_examples(x):
    """What a service in the sandbox brings about, and a token."""
    broken = "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 8000)); s.listen()\nwhile 1: s.accept()[0].close()"
    body = {**BODY, "secureAccess": True, "entrypoint": ["python3", "-c", broken]}
    made = x("POST", "/v1/sandboxes", body=body).json()["id"]
    ended = x("POST", "/v1/sandboxes", body={**BODY, "entrypoint": ["sh", "-c", "sleep 0.2"]}).json()["id"]
    wait_state(x, ended, "Terminated")
    failed = x("POST", "/v1/sandboxes", body={**BODY, "entrypoint": ["sh", "-c", "sleep 0.2; exit 3"]}).json()["id"]
    wait_state(x, failed, "Failed")
    headers = x("GET", SANDBOX + "/endpoints/{port}", sandbox_id=made, port=8000).json()["headers"]
    for path in PROXIES:
        ask = lambda port, **kw: x("GET", path, any_method=True, key=None, sandbox_id=kw.pop("sandbox_id", made), port=port, rest="", **kw)
        assert ask(8000).json()["code"] == "MISSING_OR_INVALID_SECURE_ACCESS"
        assert ask(8000, headers=headers).json()["code"] in ("BACKEND_RESPONSE_FAILED", "BACKEND_CONNECTION_FAILED")
        harness.wait_until(lambda: ask(8000, headers=headers).json()["code"] == "BACKEND_RESPONSE_FAILED", "the service listens")
        ask(18080, headers=headers)
        assert ask(8000, sandbox_id=ended).json()["code"] == "SANDBOX::NOT_RUNNING"
    r = x("POST", SANDBOX + "/snapshots", sandbox_id=ended)
    assert r.json()["code"] == "SNAPSHOT::INVALID_SOURCE_STATE"
    for sandbox_id in (made, ended, failed):
        x("DELETE", SANDBOX, sandbox_id=sandbox_id)


def dead_execd(server):
    """A first process of a sandbox that nobody has waited for."""
    for task in pathlib.Path(f"/proc/{server}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):  # another, that has gone
                if re.match("Name:\texecd\n(.*\n)*State:\tZ", pathlib.Path(f"/proc/{child}/status").read_text()):
                    return True
    return False


def late_examples(x):
    """A sandbox that has ended when the server comes to look at it has run. An engine's are not looked at."""
    x.preload.set(late=x.kind == "oci")
    try:
        create = lambda: x("POST", "/v1/sandboxes", body={**BODY, "entrypoint": ["sh", "-c", "sleep 0.2; exit 3"]})
        ended = lambda: x.kind == "docker" or harness.wait_until(lambda: dead_execd(x.server.process.pid), "execd has ended") and x.preload.set()
        made = at_once((create,), (ended,))[0]
    finally:
        x.preload.set()
    assert made.status == 202, made
    wait_state(x, made.json()["id"], "Failed")
    assert "code 3" in x("GET", SANDBOX, sandbox_id=made.json()["id"]).json()["status"]["message"]
    x("DELETE", SANDBOX, sandbox_id=made.json()["id"])


def snapshot_examples(x):
    source = x("POST", "/v1/sandboxes", body=BODY).json()["id"]
    create, one = SANDBOX + "/snapshots", "/v1/snapshots/{snapshot_id}"
    for mib in (64, 128, 256):  # until it takes longer than what is asked meanwhile
        assert x.server.run(source, f"head -c {mib}M /dev/urandom >/file")[0] == 0
        r = x("POST", create, sandbox_id=source, body={"name": "n"})
        snapshot = r.json()["id"]
        assert r.headers["Location"] == f"/v1/snapshots/{snapshot}"
        going = x("DELETE", one, snapshot_id=snapshot)
        forked = x("POST", "/v1/sandboxes", body={"snapshotId": snapshot, "resourceLimits": {}})
        if x("GET", one, snapshot_id=snapshot).json().get("status", {}).get("state") == "Creating":
            break
        if forked.status == 202:
            x("DELETE", SANDBOX, sandbox_id=forked.json()["id"])
        harness.wait_until(lambda: x("DELETE", one, snapshot_id=snapshot).status in (204, 404), "the snapshot that came too early goes")
    else:
        pytest.fail("every snapshot was made before it was asked for")
    assert r.json()["status"]["state"] == "Creating"
    assert (going.json()["code"], forked.json()["code"]) == ("SNAPSHOT::INVALID_STATE", "SNAPSHOT::NOT_READY")
    x("POST", create, sandbox_id=source, body={"name": 1})
    x("POST", create, sandbox_id=source, **TEXT)
    harness.wait_until(lambda: x("GET", one, snapshot_id=snapshot).json()["status"]["state"] == "Ready", "the snapshot is ready")
    for query in ("", "?page=0", MANY):
        x("GET", "/v1/snapshots", query)
    if x.kind == "oci":
        for ids in (2097152, None):
            x.server.stop()
            x.server.sections["oci"]["id_base"] = ids or 1048576
            x.server.write_config()
            x.server.start()
            if ids:
                refused(x, "SNAPSHOT::INVALID_RESTORE_CONFIG", {"snapshotId": snapshot, "resourceLimits": {}})
    restored = x("POST", "/v1/sandboxes", body={"snapshotId": snapshot, "resourceLimits": {}}).json()["id"]
    assert x("GET", SANDBOX, sandbox_id=restored).json()["snapshotId"] == snapshot
    assert x("DELETE", one, snapshot_id=snapshot).json()["code"] == "SNAPSHOT::DELETE_CONFLICT"
    for sandbox_id in (restored, source):
        x("DELETE", SANDBOX, sandbox_id=sandbox_id)
    harness.wait_until(lambda: x("DELETE", one, snapshot_id=snapshot).status == 204, "the snapshot can go")
    for method in ("GET", "DELETE"):
        x(method, one, snapshot_id="none")


def diagnostics_examples(x):
    made = x("POST", "/v1/sandboxes", body=BODY).json()["id"]
    for page, queries in {"logs": ["", "?scope=container", "?scope=all", "?scope=x", "?tail=0", MANY], "inspect": ["", MANY],
                          "events": ["", "?scope=runtime", "?scope=x", "?limit=0", MANY], "summary": ["", "?tail=0", MANY]}.items():
        for query in queries:
            x("GET", f"{SANDBOX}/diagnostics/{page}", query, sandbox_id=made)
    x("DELETE", SANDBOX, sandbox_id=made)


def egress_pids(x, sandbox_id):
    """The one that watches over the program, and the program."""
    if x.kind == "oci":
        first = int((x.server.state / "oci/oci/sandboxes" / sandbox_id / "egress.pid").read_text().split()[0])
    else:
        first = x.engine.call("GET", f"/containers/sandbox-egress-{sandbox_id}/json")[1]["State"]["Pid"]
    return [first, *map(int, pathlib.Path(f"/proc/{first}/task/{first}/children").read_text().split())]


def untaken(x, first):
    """Connections that the stopped program of egress has not accepted."""
    if x.kind == "docker":
        out = subprocess.run(["nsenter", "-t", str(first), "-n", "ss", "-Hltn", "sport = :18080"], capture_output=True, text=True, check=True).stdout
        return int(out.split()[1])
    own = {os.readlink(f) for f in pathlib.Path(f"/proc/{first}/fd").iterdir()}
    listening = [line.split() for line in subprocess.run(["ss", "-Hxl"], capture_output=True, text=True, check=True).stdout.splitlines()]
    return sum(int(words[2]) for words in listening if f"socket:[{words[5]}]" in own)


def policy_examples(x):
    path = SANDBOX + "/networkpolicy"
    ask = lambda method, sandbox_id, body=None, **kw: x(method, path, sandbox_id=sandbox_id, body=body, **kw)
    rule = lambda target="a.test": {"action": "allow", "target": target}
    bodies = {"PUT": {"egress": [rule()]}, "PATCH": [rule("b.test")], "DELETE": ["c.test"]}
    plain = x("POST", "/v1/sandboxes", body=BODY).json()["id"]
    for sandbox_id, code in (("none", PREFIX[x.kind] + "SANDBOX_NOT_FOUND"), (plain, "BACKEND_CONNECTION_FAILED")):
        assert ask("GET", sandbox_id).json()["code"] == code
        for method, body in bodies.items():
            assert ask(method, sandbox_id, body).json()["code"] == code
    x("DELETE", SANDBOX, sandbox_id=plain)
    for method, wrong in {"PUT": [], "PATCH": {}, "DELETE": [5]}.items():
        assert ask(method, "none", wrong).status == 422
        ask(method, "none", **TEXT)
    made = x("POST", "/v1/sandboxes", body={**BODY, "networkPolicy": {"defaultAction": "allow"}}).json()["id"]
    assert ask("GET", made).json()["mode"] == "allow_all"
    for method, body in bodies.items():
        assert ask(method, made, body).json()["mode"] == "enforcing"
    assert ask("PUT", made, {}).json()["mode"] == "deny_all"
    assert ask("PUT", made, {"egress": [rule("http://a.test")]}).json()["code"] == "SANDBOX::INVALID_PARAMETER"
    assert ask("PUT", made, TOO_LARGE).status == ask("PATCH", made, TOO_LARGE["egress"]).status == 413
    pids = egress_pids(x, made)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        harness.wait_until(lambda p=pid: "\nState:\tT" in pathlib.Path(f"/proc/{p}/status").read_text(), "it has stopped")

    def kill():
        harness.wait_until(lambda: untaken(x, pids[0]) == 4, "all four wait")
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
    for r in at_once(*((ask, method, made, body) for method, body in {"GET": None, **bodies}.items()), (kill,))[:-1]:
        assert r.json()["code"] == "BACKEND_RESPONSE_FAILED"
    ended = x("POST", "/v1/sandboxes", body={**BODY, "networkPolicy": {}, "entrypoint": ["sh", "-c", "sleep 0.2"]}).json()["id"]
    wait_state(x, ended, "Terminated")
    for method, body in {"GET": None, **bodies}.items():
        assert ask(method, ended, body).json()["code"] == "SANDBOX::NOT_RUNNING"
    for sandbox_id in (made, ended):
        x("DELETE", SANDBOX, sandbox_id=sandbox_id)


def pool_examples(x):
    one = "/v1/pools/{pool_name}"
    create = lambda **kw: x("POST", "/v1/pools", body={"name": "p", "capacitySpec": CAPACITY, "template": {"image": BODY["image"]}, **kw})
    put = lambda name="p", **kw: x("PUT", one, pool_name=name, body={"capacitySpec": CAPACITY, **kw})
    volumes = x.server.sections["storage"]["allowed_host_paths"][0]
    volume = lambda **kw: [{"name": "a", "mountPath": "/a", "host": {"path": volumes}, **kw}]
    bad = [{"lifecycle": {}}, {"metadata": {"a b": "c"}}, {"entrypoint": [""]}, {"volumes": volume() + volume(mountPath="/b")},
           {"volumes": volume(mountPath="/proc")}, {"volumes": volume(subPath="..")}, {"volumes": volume(host={"path": volumes + "/../x"})},
           {"volumes": volume(host={"path": "/etc"})}, {"networkPolicy": TOO_LARGE}, *({"volumes": volume(host=None, ossfs={**BUCKET, **b})} for b in OSSFS.values())]
    assert create().status == 201
    assert create().json()["code"] == "POOL::ALREADY_EXISTS"
    for template in [{"image": BODY["image"], **b} for b in bad]:
        create(name="q", template=template)
        put(template=template)
    create(name="")
    x("POST", "/v1/pools", **TEXT)
    x("PUT", one, pool_name="p", **TEXT)
    x("GET", "/v1/pools")
    x("GET", one, pool_name="p")
    put()
    put(capacitySpec={})
    pooled = {"extensions": {"poolRef": "p"}, "timeout": 600}
    made = x("POST", "/v1/sandboxes", body=pooled).json()["id"]
    assert x("GET", SANDBOX, sandbox_id=made).json()["allocation"]["poolRef"] == "p"
    r = x("POST", "/v1/sandboxes", body=pooled)
    assert r.json()["code"] == "POOL::EMPTY" and int(r.headers["Retry-After"]) > 0, r
    x("DELETE", SANDBOX, sandbox_id=made)
    x("DELETE", one, pool_name="p")
    for method in ("GET", "DELETE"):
        x(method, one, pool_name="none")
    put(name="none")


def full_examples(x):
    """As many as may be, and one more."""
    made = []
    while (r := x("POST", "/v1/sandboxes", body=BODY)).status == 202:
        made.append(r.json()["id"])
        assert len(made) <= 8
    assert r.status == 429 and r.json()["code"] == "SANDBOX::TOO_MANY" and int(r.headers["Retry-After"]) > 0, r
    for sandbox_id in made:
        x("DELETE", SANDBOX, sandbox_id=sandbox_id)
    made = []
    while (r := x("POST", "/v1/pools", body={**GOOD["/v1/pools"], "name": f"p{len(made)}"})).status == 201:
        made.append(r.json()["name"])
    assert len(made) == 1024 and r.json()["code"] == "SANDBOX::TOO_MANY" and int(r.headers["Retry-After"]) > 0, r
    for name in made:
        x("DELETE", "/v1/pools/{pool_name}", pool_name=name)


# ---- faults ----

def begin(x):
    """One that runs, one that is paused, a pool and a snapshot: all that a request can be about."""
    names = {"sandbox_id": x("POST", "/v1/sandboxes", body={**BODY, "networkPolicy": {"defaultAction": "allow"}}).json()["id"],
             "pool_name": "p", "template_id": "none", "port": 8000, "rest": ""}
    paused = x("POST", "/v1/sandboxes", body=BODY).json()["id"]
    x("POST", SANDBOX + "/pause", sandbox_id=paused)
    x("POST", "/v1/pools", body=GOOD["/v1/pools"])
    snapshot = names["snapshot_id"] = x("POST", SANDBOX + "/snapshots", sandbox_id=names["sandbox_id"]).json()["id"]
    harness.wait_until(lambda: x("GET", "/v1/snapshots/{snapshot_id}", snapshot_id=snapshot).json()["status"]["state"] == "Ready", "the snapshot")
    x("PATCH", SANDBOX + "/metadata", body={}, sandbox_id=names["sandbox_id"])  # behind the snapshot's last step, which records that
    return names, paused


def end(x, names, paused):
    for sandbox_id in (names["sandbox_id"], paused):
        assert x("DELETE", SANDBOX, sandbox_id=sandbox_id).status == 204
    for path in ("/v1/snapshots/{snapshot_id}", "/v1/pools/{pool_name}"):
        assert x("DELETE", path, **names_in(path, names)).status == 204


def names_in(path, names):
    return {n: names[n] for n in re.findall(r"\{(\w+)\}", path)}


def ask_any(ask, method, path, names, body=None):
    """A request that is well-formed."""
    if body is None and method not in ("GET", "DELETE", "*"):
        body = next((b() if callable(b) else b for suffix, b in GOOD.items() if path.endswith(suffix)), None)
    if (method, path) in (("PATCH", SANDBOX + "/networkpolicy"), ("DELETE", SANDBOX + "/networkpolicy")):
        body = []
    return ask(method.replace("*", "GET"), path, body=body, any_method=method == "*", **names_in(path, names))


def memory_examples(x):
    """Where it ends, one request fails and nothing else."""
    names, paused = begin(x)
    gone = {**dict.fromkeys(names, "none"), "port": 8000}
    for (method, path), (_, is_open) in TABLE.items():
        if is_open and path not in PROXIES:
            continue
        body = {} if path == "/v1/metrics/events" else None  # its answer has a body then
        about = gone if method == "DELETE" else {**names, "sandbox_id": paused} if path.endswith("resume") else names
        r, n, rounds = None, 0, 0
        while not r or r.status != 500:
            n += 1  # the first few are those of the connection, which may end without a reply
            x.preload.set(starve=n)
            with contextlib.suppress(OSError, http.client.HTTPException):
                r = ask_any(x.ask, method, path, about, body)
            if x.preload.starving():  # it needs no more; what else the loop did was in the way
                n, rounds = 0, rounds + 1
                assert rounds < 10, (method, path)
            x.preload.set()
        x.document.check((method, path), r, x.code)
        assert r.json().get("code") == "SANDBOX::INTERNAL_ERROR", (method, path, n, r)
    end(x, names, paused)


OF_STORE = [("POST", "/v1/sandboxes"), ("POST", "/v1/pools"), ("PUT", "/v1/pools/{pool_name}"), ("DELETE", "/v1/pools/{pool_name}"),
            ("PATCH", SANDBOX + "/metadata"), ("POST", SANDBOX + "/renew-expiration"), ("POST", SANDBOX + "/snapshots"), ("DELETE", "/v1/snapshots/{snapshot_id}")]
OF_BOTH = [("POST", SANDBOX + "/pause"), ("POST", SANDBOX + "/resume")]
OF_WORKERS = [*((m, SANDBOX + "/networkpolicy") for m in ("GET", "PUT", "PATCH", "DELETE")), *(("*", p) for p in PROXIES),
              *(("GET", f"{SANDBOX}/diagnostics/{page}") for page in ("logs", "inspect", "events", "summary"))]


OTHER_POOL = {"name": "q", "capacitySpec": CAPACITY, "template": {"image": BODY["image"]}}


def queue_examples(x):
    """Nobody takes up work, and more comes."""
    names, paused = begin(x)
    x.preload.set(hold=True)
    try:
        with concurrent.futures.ThreadPoolExecutor(4 * QUEUE) as pool:
            waits = []
            for method, path, body in (("POST", "/v1/pools", lambda i: {**GOOD["/v1/pools"], "name": f"w{i}"}),
                                       ("GET", SANDBOX + "/diagnostics/inspect", lambda i: None)):
                these = []
                while not any(f.done() and f.result().status == 503 for f in these):
                    these.append(pool.submit(ask_any, x, method, path, names, body(len(these))))
                    if len(these) > QUEUE:  # else it may wait; a thread that was not at rest takes one more round
                        concurrent.futures.wait(these[-1:], 0.5)
                    assert len(these) < 2 * QUEUE
                waits += these
            for method, path in OF_STORE + OF_BOTH + OF_WORKERS:
                r = ask_any(x, method, path, {**names, "sandbox_id": paused} if path.endswith("resume") else names, OTHER_POOL if path == "/v1/pools" else None)
                assert r.json()["code"] == "OVERLOADED" and int(r.headers["Retry-After"]) > 0, (method, path, r)
            x.preload.set()
    finally:
        x.preload.set()
    assert {f.result().status for f in waits} == {200, 201, 503}
    for i in range(len(waits)):
        x("DELETE", "/v1/pools/{pool_name}", pool_name=f"w{i}")
    end(x, names, paused)


def disk_examples(x):
    """The store has no room."""
    names, paused = begin(x)
    x.preload.set(full=True)
    try:
        for method, path in OF_STORE + OF_BOTH:
            r = ask_any(x, method, path, {**names, "sandbox_id": paused} if path.endswith("resume") else names, OTHER_POOL if path == "/v1/pools" else None)
            assert x.code(r.json()["code"]) == "%::DISK_FULL", (method, path, r)
        doomed = paused
        assert x.code(x("DELETE", SANDBOX, sandbox_id=doomed).json()["code"]) == "%::SANDBOX_DELETE_FAILED"
    finally:
        x.preload.set()
    harness.wait_until(lambda: x("DELETE", SANDBOX, sandbox_id=doomed).status == 404, "it goes when there is room", 40)
    end(x, names, x("POST", "/v1/sandboxes", body=BODY).json()["id"])


@contextlib.contextmanager
def freezer_away(x, sandbox_id):
    if x.kind == "docker":
        x.relay.refused = "POST .*pause"
        yield
        x.relay.refused = None
        return
    found = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-name", sandbox_id], capture_output=True, text=True).stdout.split()
    path = next((p for p in found if "/freezer/" in p), found[0])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def engine_examples(x):
    """What is asked of the engine or the kernel fails."""
    made = x("POST", "/v1/sandboxes", body=BODY).json()["id"]
    act = lambda what: x("POST", f"{SANDBOX}/{what}", sandbox_id=made)
    with freezer_away(x, made):
        assert x.code(act("pause").json()["code"]) == "%::SANDBOX_PAUSE_FAILED"
    assert act("pause").status == 202
    with freezer_away(x, made):
        assert x.code(act("resume").json()["code"]) == "%::SANDBOX_RESUME_FAILED"
    assert act("resume").status == 202
    if x.kind == "docker":
        x.relay.refused = "GET .*/volumes/"
        refused(x, "VOLUME::PVC_INSPECT_FAILED", {**BODY, "volumes": [{"name": "a", "mountPath": "/a", "pvc": {"claimName": "some"}}]})
        x.relay.refused = None
        x.relay.leave()
        try:
            refused(x, "%::UNAVAILABLE", BODY)
            assert x.code(act("pause").json()["code"]) == "%::UNAVAILABLE"
        finally:
            x.relay.away = False
        assert act("pause").status == 202
        x.relay.leave()
        try:
            assert x.code(act("resume").json()["code"]) == "%::UNAVAILABLE"
        finally:
            x.relay.away = False
        own, x.server = x.server, engines.docker_server(x.engine)
        x.server.env["DOCKER_HOST"] = x.relay.far
        try:
            x.server.start()
            refused(x, "VOLUME::UNSUPPORTED_BACKEND", {**BODY, "volumes": [{"name": "a", "mountPath": "/a", "ossfs": BUCKET}]})
        finally:
            x.server.remove()
            x.server = own
    x("DELETE", SANDBOX, sandbox_id=made)


EXAMPLES = [server_examples, create_examples, sandbox_examples, pending_examples, service_examples, late_examples, snapshot_examples,
            diagnostics_examples, policy_examples, pool_examples, full_examples, memory_examples, queue_examples, disk_examples, engine_examples]


@pytest.mark.parametrize("examples", EXAMPLES, ids=lambda f: f.__name__)
def test_replies(x, examples):
    examples(x)


# Bodies that are read before anything else is looked at.
GOOD = {"/metadata": {}, "/renew-expiration": {"expiresAt": "2097-01-01T00:00:00Z"}, "/networkpolicy": {}, "/v1/sandboxes": BODY,
        "/v1/templates": {"image": "x", "publish": "s3://b/k"},
        "/v1/pools": {"name": "p", "capacitySpec": CAPACITY, "template": {"image": BODY["image"]}},
        "/{pool_name}": {"capacitySpec": CAPACITY}}


def names_of(path):
    return {n: "1" for n in re.findall(r"\{(\w+)\}", path)}


def test_without_the_key(x):
    for (method, path), (_, is_open) in TABLE.items():
        if is_open:
            continue
        assert x(method, path, key=None, **names_of(path)).json()["code"] == "MISSING_API_KEY"
        assert x(method, path, key="wrong", **names_of(path)).json()["code"] == "INVALID_API_KEY"


def test_pages_of_others(x):
    """A server without a key refuses what a web page may have sent."""
    own, x.server = x.server, harness.Server(config={"server": {"api_key": ""}}, env={"OPENSANDBOX_INSECURE_SERVER": "YES"})
    try:
        x.server.sections["runtime"] = {"type": "oci"}
        x.server.start()
        for (method, path), (_, is_open) in TABLE.items():
            if not is_open:
                r = x(method, path, key=None, headers={"Origin": "http://evil.example"}, **names_of(path))
                assert r.json()["code"] == "FORBIDDEN_ORIGIN"
        for path in ("/docs", "/redoc"):  # this server has no console
            assert x("GET", path, key=None).status == 404
    finally:
        x.server.remove()
        x.server = own


def listens(server):
    try:
        return server.request("GET", "/livez", key=None).status == 200
    except OSError:
        return False


def test_before_it_is_ready(x, tmp_path):
    """A server whose engine does not answer refuses what needs it."""
    own, path = x.server, tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        engine.listen(16)
        x.server = harness.Server(config={"runtime": {"type": "docker"}}, env={"DOCKER_HOST": f"unix://{path}"})
        try:
            x.server.start(ready=False)
            harness.wait_until(lambda: listens(x.server), "it lives", 20)
            create = concurrent.futures.ThreadPoolExecutor(1).submit(x, "POST", "/v1/sandboxes", body=BODY)  # which waits
            for (method, path) in TABLE:
                if "NOT_READY" not in DOCUMENT.codes((method, path)) or (method, path) == ("POST", "/v1/sandboxes"):
                    continue
                body = next((b for end, b in GOOD.items() if path.endswith(end)), None) if method not in ("GET", "DELETE") else None
                r = x(method.replace("*", "GET"), path, body=body, any_method=method == "*", **names_of(path))
                assert r.json()["code"] == "NOT_READY", r
            assert not create.done()
            x.server.process.terminate()
            r = create.result(5)
            assert (r.status, r.json()["code"]) == (429, "NOT_READY")
        finally:
            x.server.stop(30)  # though the engine still does not answer
            x.server.remove()
            x.server = own


def raw(server, data):
    with socket.create_connection(("127.0.0.1", server.port), 10) as s:
        s.sendall(data)
        reply = b""
        while chunk := s.recv(65536):
            reply += chunk
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]


def test_connection(x):
    """What the connection itself refuses, and the router."""
    s = x.server
    assert raw(s, b"GET / HTTP/1.1\r\n\r\n") == (400, "BAD_REQUEST")
    assert raw(s, b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n") == (414, "TARGET_TOO_LONG")
    assert raw(s, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200000 + b"\r\n\r\n") == (431, "HEAD_TOO_LARGE")
    assert raw(s, b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n") == (501, "NOT_IMPLEMENTED")
    assert raw(s, b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nOPEN-SANDBOX-API-KEY: " + s.key.encode() +
               b"\r\nContent-Length: 99999999999\r\n\r\n") == (413, "BODY_TOO_LARGE")
    r = s.request("GET", "/v1/none")
    assert (r.status, r.json()["code"], r.json()["detail"]) == (404, "NOT_FOUND", "Not Found")
    r = s.request("PUT", "/v1/sandboxes")
    assert (r.status, r.json()["code"], r.headers["Allow"]) == (405, "METHOD_NOT_ALLOWED", "POST, GET")
    for path, to in (("/v1/sandboxes/", "/v1/sandboxes"), ("/sandboxes/a/?b=c", "/sandboxes/a?b=c"), ("/health/", "/health")):
        r = s.request("GET", path)
        assert (r.status, r.headers["Location"], r.body) == (307, to, b""), r
    assert s.request("GET", "/v1/sandboxes/", key=None).status == 401 and s.request("GET", "/v1/none/").status == 404


def test_prefixes(x):
    """Every path below /v1 stands at the root as well, but for one; no other path has both."""
    for method, path in TABLE:
        other = path.removeprefix("/v1") if path.startswith("/v1") else "/v1" + path
        r = x.server.request(method, other.format(**names_of(path)))
        twin = path.startswith("/v1") and path != "/v1/metrics/events"
        assert (r.json().get("detail") == "Not Found") != twin if r.body else twin, (method, other, r)


# What one runtime alone can answer: engines pull and mount by themselves, and name volumes; the ids of files are the built-in one's own.
CREATE, POOLS = ("POST", "/v1/sandboxes"), (("POST", "/v1/pools"), ("PUT", "/v1/pools/{pool_name}"))
ONLY = {"docker": {(CREATE, "%::SANDBOX_IMAGE_PULL_FAILED"), (CREATE, "%::UNAVAILABLE"), (CREATE, "VOLUME::INVALID_PVC_NAME"),
                   (CREATE, "VOLUME::PVC_SUBPATH_UNSUPPORTED_DRIVER"), (CREATE, "VOLUME::OSSFS_MOUNT_FAILED"),
                   *((("POST", f"{SANDBOX}/{what}"), "%::UNAVAILABLE") for what in ("pause", "resume")),
                   *((route, "VOLUME::INVALID_OSSFS_" + name) for route in (CREATE, *POOLS) for name in OSSFS)},
        "oci": {(CREATE, "%::IMAGE_PULL_FAILED"), (CREATE, "SNAPSHOT::INVALID_RESTORE_CONFIG"), *((route, "VOLUME::UNSUPPORTED_BACKEND") for route in POOLS)}}
# What these examples cannot bring about on either: {(route, code): the line that answers it, and the unit test that shows it}.
UNSEEN = {}
UNSEEN_VALUES = {"dns", "Pending", "Pausing", "Resuming", "Stopping", "Deleting", "Failed", "url"}
REQUESTS = {"CreateSandboxRequest", "ImageRequest", "NetworkPolicy", "Volume", "MetadataPatch", "Renewal", "CreateSnapshotRequest",
            "CreatePoolRequest", "UpdatePoolRequest", "ClientEvent", "CreateTemplateRequest", "Lifecycle"}


def test_everything_documented_was_served(x):
    """After the examples: every status, code, header, field and value of the document came once, on a runtime that can answer it."""
    seen = x.document.seen
    pairs = {(route, c) for route in x.document.operations for c in x.document.codes(route)}
    provoked = {(s[1], s[3]) for s in seen if s[0] == "code"}
    others = set.union(*(p for kind, p in ONLY.items() if kind != x.kind))
    assert not others & provoked, "answered here too"
    figures = f"{len(pairs)} pairs of route and error, {len(provoked)} provoked, {len(others)} of the other runtime, {len(UNSEEN)} by unit tests"
    (harness.BUILD / f"contract-{x.kind}.txt").write_text(f"{x.kind}: {figures}\n")
    passed, unseen = others | set(UNSEEN), []
    for route in x.document.operations:
        for status, response in x.document.responses(route).items():
            codes = response.get("x-codes", [])
            if status == "default" or codes and all((route, c) in passed for c in codes):
                continue
            if ("status", route, status) not in seen:
                unseen.append((*route, status))
            unseen += [(*route, status, c) for c in codes if (route, c) not in passed and ("code", route, status, c) not in seen]
            unseen += [(*route, status, h) for h in response.get("headers", {}) if ("header", route, status, h) not in seen]
    for name, schema in x.document.tree["components"]["schemas"].items():
        where = "#/components/schemas/" + name
        if name in REQUESTS:
            continue
        for field, inner in schema.get("properties", {}).items():
            if ("field", where, field) not in seen:
                unseen.append((name, field))
            unseen += [(name, field, v) for v in inner.get("enum", [])
                       if v not in UNSEEN_VALUES and ("value", f"{where}.{field}", v) not in seen]
    assert not unseen, "\n".join(map(str, unseen))


def test_console(x):
    """The page and the document on the console's own port."""
    own, x.server.port = x.server.port, x.server.sections["console"]["port"]
    try:
        for path in ("/docs", "/redoc"):
            r = x.server.request("GET", path, key=None)
            assert r.status == 200 and r.headers["Content-Type"] == "text/html; charset=utf-8" and b"/openapi.json" in r.body
            assert "default-src 'none'" in r.headers["Content-Security-Policy"] and b"http://" not in r.body and b"https://" not in r.body
        assert x.server.request("GET", "/openapi.json", key=None).json()["openapi"] == "3.1.0"
        assert x.server.request("GET", "/v1/sandboxes", key=None).status == 404
    finally:
        x.server.port = own
