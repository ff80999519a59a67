"""The requests of `make differential`, in the order in which they are sent: a table of routes, and tables of what each is asked.

A case is a dict: id, method, path (with the prefix; {names} of objects that earlier cases made), and what harness.Server.request() takes.
`save`: the name that the id of the reply gets. `state`: waited for afterwards. A sandbox that a case without `save` made goes at once.
"""
import json

import harness

IMAGE, IDLE = harness.IMAGE, harness.IDLE
BODY = {"image": {"uri": IMAGE}, "entrypoint": IDLE, "resourceLimits": {}, "timeout": 600}
NOBODY = "11111111-2222-4333-8444-555555555555"  # the id of nothing
JSON = {"Content-Type": "application/json"}
S = "/sandboxes/{id}"
ROUTES = {  # path: methods; all below /v1 and at the root
    "/sandboxes": "GET POST", S: "GET DELETE", S + "/metadata": "PATCH", S + "/pause": "POST", S + "/resume": "POST",
    S + "/renew-expiration": "POST", S + "/snapshots": "POST", "/snapshots": "GET", "/snapshots/{id}": "GET DELETE",
    S + "/networkpolicy": "GET PUT PATCH DELETE", S + "/endpoints/8000": "GET", S + "/diagnostics/logs": "GET", S + "/diagnostics/inspect": "GET", S + "/diagnostics/events": "GET",
    S + "/diagnostics/summary": "GET", "/pools": "GET POST", "/pools/{id}": "GET PUT DELETE", "/templates": "GET POST",
    "/templates/{id}": "GET DELETE",
}
METHODS = "GET POST PUT PATCH DELETE HEAD OPTIONS"
ROOT_ONLY = ["/health", "/version", "/docs", "/redoc", "/openapi.json"]
# An echo, and replies that a proxy may get wrong.
SERVICE = r'''
import http.server, json
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if "chunked" in (self.headers.get("transfer-encoding") or ""):
            while (n := int(self.rfile.readline(), 16)):
                body += self.rfile.read(n); self.rfile.readline()
            self.rfile.readline()
        if self.path.startswith("/close"):
            self.close_connection = True
            return self.connection.close()
        out = json.dumps({"method": self.command, "path": self.path, "body": body.decode(),
                          "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        status = int(self.path.split("/")[2]) if self.path.startswith("/status/") else 200
        self.send_response(status)
        if self.path.startswith("/headers"):
            for k, v in (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Request-ID", "theirs"), ("Location", "/there"),
                         ("Deprecation", "theirs"), ("Access-Control-Allow-Origin", "http://theirs")):
                self.send_header(k, v)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(0 if status == 204 else len(out)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(out)
    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), H).serve_forever()
'''


def case(id, method, path, **kw):
    return {"id": id, "method": method, "path": path, **kw}


def both(id, method, path, **kw):
    """Below /v1 and at the root."""
    return [case(id, method, "/v1" + path, **kw), case(id + "@root", method, path, **kw)]


def changed(**changes):
    return {k: v for k, v in {**BODY, **changes}.items() if v is not None}


def named(group, method, path, key, table, **more):
    """A case for each row {name: value}; the value becomes `key` of the request."""
    return [case(f"{group}.{name}", method, path, **{key: value}, **more) for name, value in table.items()]


# ---- what needs no object ----

def surface():
    for path in [*ROOT_ONLY, "/", "/nosuch", "/v1", "/v1/", "/v1/nosuch", "/v1/health", "/v1/version", "/healthzz", "/versionzz", "/docszz",
                 "/health/", "/version/", "/V1/sandboxes", "//v1/sandboxes", "/v1//sandboxes", "/v1/metrics/events/", "/metrics/events"]:
        yield case(f"path.{path}", "GET", path)
        yield case(f"path.{path}.nokey", "GET", path, key=None)
    for path, methods in ROUTES.items():
        path = path.replace("{id}", NOBODY)
        for method in METHODS.split():
            if method not in methods.split():
                yield from both(f"method.{method}.{path}", method, path)
        first = methods.split()[0]
        yield case(f"slash.{first}.{path}", first, f"/v1{path}/")
        yield case(f"slash.query.{first}.{path}", first, f"/v1{path}/?a=b")
        for name, key in (("none", None), ("wrong", "wrong"), ("blank", " ")):
            for method in methods.split():
                yield case(f"key.{name}.{method}.{path}", method, "/v1" + path, key=key)
    yield case("key.root", "GET", "/sandboxes", key=None)
    yield case("method.GET./metrics/events", "GET", "/v1/metrics/events")
    yield case("key.none./metrics/events", "POST", "/v1/metrics/events", key=None)


def cross_origin():
    """CORS, request ids."""
    origin, ask = {"Origin": "http://page.example"}, "Access-Control-Request-Method"
    for name, path in (("list", "/v1/sandboxes"), ("health", "/health"), ("none", "/v1/nosuch"), ("one", f"/v1/sandboxes/{NOBODY}")):
        yield case(f"cors.simple.{name}", "GET", path, headers=origin)
        yield case(f"cors.nokey.{name}", "GET", path, headers=origin, key=None)
        for method in ("GET", "PATCH", "QUERY", "TRACE"):
            yield case(f"cors.preflight.{method}.{name}", "OPTIONS", path, key=None, headers={**origin, ask: method})
        yield case(f"cors.preflight.headers.{name}", "OPTIONS", path, key=None,
                   headers={**origin, ask: "POST", "Access-Control-Request-Headers": "x-a, open-sandbox-api-key"})
        yield case(f"cors.options.{name}", "OPTIONS", path, headers=origin)
    for name, value in {"plain": "abc-1.2_3", "spaced": "  abc  ", "blank": "  ", "long": "a" * 200, "odd": "a b", "uuid": NOBODY}.items():
        yield case(f"request-id.{name}", "GET", "/v1/sandboxes", headers={"X-Request-ID": value})
        yield case(f"request-id.{name}.nokey", "GET", "/v1/sandboxes", headers={"X-Request-ID": value}, key=None)


RAW = {"none": {}, "empty": {"raw": b"", "headers": JSON}, "null": {"raw": b"null", "headers": JSON}, "list": {"raw": b"[]", "headers": JSON},
       "text": {"raw": b'"text"', "headers": JSON}, "number": {"raw": b"1", "headers": JSON}, "broken": {"raw": b'{"a"', "headers": JSON},
       "trailing": {"raw": b"{} x", "headers": JSON}, "not-utf8": {"raw": b'{"name":"\xff"}', "headers": JSON},
       "bare": {"raw": b"{}"}, "as-text": {"raw": b"{}", "headers": {"Content-Type": "text/plain"}},
       "plus-json": {"raw": b"{}", "headers": {"Content-Type": "application/merge-patch+json"}},
       "charset": {"raw": b"{}", "headers": {"Content-Type": "application/json; charset=utf-8"}},
       "nan": {"raw": b'{"name": NaN}', "headers": JSON}}


def bodies():
    """Every route that takes a body, and what is no good one."""
    for method, path in (("POST", "/sandboxes"), ("PATCH", "/sandboxes/{running}/metadata"), ("POST", "/sandboxes/{running}/renew-expiration"),
                         ("POST", "/pools"), ("PUT", "/pools/none"), ("POST", "/templates"), ("POST", "/metrics/events")):
        for name, kw in RAW.items():
            yield case(f"body.{name}.{method}.{path}", method, "/v1" + path, **kw)
    for name in ("list", "text", "broken", "not-utf8", "as-text", "nan"):  # the others make a snapshot
        yield case(f"body.{name}.snapshots", "POST", "/v1/sandboxes/{running}/snapshots", **RAW[name])


# ---- create ----

CREATE = {
    "image.none": changed(image=None), "image.object": changed(image={}), "image.text": changed(image="x"), "image.list": changed(image=[]),
    "image.uri.empty": changed(image={"uri": ""}), "image.uri.blank": changed(image={"uri": " "}), "image.uri.number": changed(image={"uri": 1}),
    "image.malformed": changed(image={"uri": "Not A Reference"}), "image.unreachable": changed(image={"uri": "127.0.0.1:1/none:x"}),
    "image.auth.text": changed(image={"uri": IMAGE, "auth": "x"}), "image.auth.half": changed(image={"uri": IMAGE, "auth": {"username": "u"}}),
    "entrypoint.none": changed(entrypoint=None), "entrypoint.empty": changed(entrypoint=[]), "entrypoint.text": changed(entrypoint="sh"),
    "entrypoint.number": changed(entrypoint=[1]), "entrypoint.missing": changed(entrypoint=["/no/such/program"]),
    "limits.none": changed(resourceLimits=None), "limits.list": changed(resourceLimits=[]), "limits.number": changed(resourceLimits={"cpu": 1}),
    "limits.null": changed(resourceLimits={"cpu": None}), "limits.unknown": changed(resourceLimits={"foo": "bar"}),
    **{f"limits.cpu.{v or 'empty'}": changed(resourceLimits={"cpu": v}) for v in ("", "0", "-1", "x", "500m", "0.5", " 1 ", "0m", "1e1", "nan")},
    **{f"limits.memory.{v or 'empty'}": changed(resourceLimits={"memory": v})
       for v in ("", "0", "-1", "x", "512Mi", "512MiB", "1.5Gi", "1g", "1GB", " 512mi ", "1")},
    **{f"limits.gpu.{v or 'empty'}": changed(resourceLimits={"gpu": v}) for v in ("", "0", "-1", "x")},
    "requests.list": changed(resourceRequests=[]), "requests.any": changed(resourceRequests={"cpu": "x"}),
    **{f"timeout.{n}": changed(timeout=v) for n, v in {
        "59": 59, "60": 60, "60.0": 60.0, "60.5": 60.5, "text": "600", "word": "x", "true": True, "-1": -1, "0": 0, "list": [], "huge": 10**12,
        "spaced": " 600 ", "underscore": "6_00", "exponent": 1e3}.items()},
    "timeout.none": changed(timeout=None), "timeout.null": {**BODY, "timeout": None},
    "env.list": changed(env=[]), "env.number": changed(env={"A": 1}), "env.null": changed(env={"A": None}), "env.lifecycle": changed(env={"OPENSANDBOX_LIFECYCLE": "x"}),
    "env.egress": changed(env={"OPENSANDBOX_EGRESS_X": "y"}),
    "metadata.number": changed(metadata={"a": 1}), "metadata.text": changed(metadata="x"), "metadata.null": changed(metadata={"a": None}),
    "metadata.empty": changed(metadata={}),
    **{f"metadata.key.{n}": changed(metadata={k: "v"}) for n, k in {
        "dots": "A.b_c-d", "dash-first": "-a", "dash-last": "a-", "space": "a b", "empty": "", "63": "x" * 63, "64": "x" * 64, "prefix": "p.q/x",
        "no-prefix": "/x", "capital-prefix": "P/x", "no-name": "p/", "two-slashes": "a/b/c", "reserved": "opensandbox.io/x",
        "newline": "a\n", "long-prefix": "p" * 254 + "/x"}.items()},
    **{f"metadata.value.{n}": changed(metadata={"a": v}) for n, v in {
        "empty": "", "dash-first": "-x", "63": "x" * 63, "64": "x" * 64, "space": "a b", "newline": "v\n", "accent": "é"}.items()},
    "extensions.list": changed(extensions=[]), "extensions.number": changed(extensions={"a": 1}), "extensions.any": changed(extensions={"a": "b"}),
    **{f"renew.{n}": changed(extensions={"access.renew.extend.seconds": v}) for n, v in {
        "300": "300", "299": "299", "86401": "86401", "empty": "", "word": "x", "fraction": "300.5", "spaced": " 300 ", "plus": "+300",
        "underscore": "1_000"}.items()},
    "platform.object": changed(platform={}), "platform.os": changed(platform={"os": "linux"}), "platform.text": changed(platform="x"),
    "platform.case": changed(platform={"os": " LINUX", "arch": "AMD64"}), "platform.other": changed(platform={"os": "plan9", "arch": "amd64"}),
    "platform.arch": changed(platform={"os": "linux", "arch": "mips"}), "platform.windows": changed(platform={"os": "windows", "arch": "amd64"}),
    "secure.true": changed(secureAccess=True), "secure.word": changed(secureAccess="x"), "secure.null": {**BODY, "secureAccess": None},
    "credential.true": changed(credentialProxy={"enabled": True}), "credential.word": changed(credentialProxy={"enabled": "x"}),
    "credential.false": changed(credentialProxy={"enabled": False}), "credential.list": changed(credentialProxy=[]),
    "snapshot.none": changed(image=None, snapshotId="none"), "snapshot.and-image": changed(snapshotId="x"), "snapshot.blank": changed(snapshotId=" "),
    "snapshot.blank-alone": changed(image=None, snapshotId=" "), "snapshot.number": changed(image=None, snapshotId=1),
    "snapshot.pool": {"snapshotId": "x", "extensions": {"poolRef": "p"}},
    "pool.none": {"extensions": {"poolRef": "nosuch"}, "timeout": 600}, "pool.blank": changed(extensions={"poolRef": " "}),
    "pool.number": changed(extensions={"poolRef": 1}), "pool.policy": {"extensions": {"poolRef": "p"}, "credentialProxy": {"enabled": True}},
    "pool.lifecycle": {"extensions": {"poolRef": "p"}, "lifecycle": {}},
    "template.good": {"templateId": "t", "timeout": 600}, "template.timeless": {"templateId": "t"}, "template.empty": {"templateId": "", "timeout": 600},
    "template.blank": changed(templateId=" "), "template.image": changed(templateId="t"), "template.number": {"templateId": 1, "timeout": 600},
    "template.secure": {"templateId": "t", "timeout": 600, "secureAccess": False},
    "template.all": {**BODY, "templateId": "t", "env": {}, "resourceRequests": {}, "volumes": [], "platform": {"os": "linux", "arch": "amd64"},
                     "snapshotId": "x", "secureAccess": True, "lifecycle": {}},
    "lifecycle.object": changed(lifecycle={}), "lifecycle.good": changed(lifecycle={"preStart": {"command": ["true"]}}),
    "lifecycle.unknown": changed(lifecycle={"x": 1}), "lifecycle.list": changed(lifecycle=[]),
    "lifecycle.no-command": changed(lifecycle={"preStart": {"command": []}}), "lifecycle.blank": changed(lifecycle={"preStart": {"command": [" "]}}),
    "lifecycle.long": changed(lifecycle={"preStart": {"command": ["a"], "timeoutSeconds": 10801}}),
    "lifecycle.periodic": changed(lifecycle={"periodic": [{"name": "a", "schedule": "* * * * *", "command": ["a"]}]}),
    "lifecycle.twice": changed(lifecycle={"periodic": [{"name": "a", "schedule": "x", "command": ["a"]}] * 2}),
    "lifecycle.schedule": changed(lifecycle={"periodic": [{"name": "a", "schedule": "x", "command": ["a"]}]}),
    "lifecycle.nameless": changed(lifecycle={"periodic": [{"name": " ", "schedule": " ", "command": ["a"], "timeoutSeconds": 301}]}),
    "snake": {"image": {"uri": IMAGE}, "entrypoint": IDLE, "resource_limits": {}, "timeout": 600, "secure_access": False},
    "unknown": changed(nosuch=1), "several": {"image": 1, "entrypoint": [], "timeout": 1, "env": 1, "metadata": 1},
}


def volume(**kw):
    return changed(volumes=[{"name": "a", "mountPath": "/a", **kw}])


OSS = {"bucket": "abc", "endpoint": "oss.example", "accessKeyId": "a", "accessKeySecret": "b"}
VOLUMES = {
    "object": changed(volumes={}), "empty": changed(volumes=[]), "number": changed(volumes=[1]), "bare": changed(volumes=[{}]),
    "no-backend": volume(), "two": volume(host={"path": "@volumes"}, pvc={"claimName": "claim"}), "name.capital": volume(name="A", host={"path": "@volumes"}),
    "name.64": volume(name="x" * 64, host={"path": "@volumes"}), "name.empty": volume(name="", host={"path": "@volumes"}),
    "mount.relative": volume(mountPath="a", host={"path": "@volumes"}), "host.good": volume(host={"path": "@volumes"}),
    "host.read-only": volume(host={"path": "@volumes"}, readOnly=True), "read-only.word": volume(host={"path": "@volumes"}, readOnly="x"),
    "host.relative": volume(host={"path": "a"}), "host.not-allowed": volume(host={"path": "/etc"}), "host.dots": volume(host={"path": "@volumes/../x"}),
    "host.double": volume(host={"path": "//a"}), "host.trailing": volume(host={"path": "@volumes/"}), "host.list": volume(host=[]),
    "host.empty": volume(host={"path": ""}), "host.no-path": volume(host={}),
    "sub.dots": volume(host={"path": "@volumes"}, subPath="../x"), "sub.absolute": volume(host={"path": "@volumes"}, subPath="/x"),
    "sub.empty": volume(host={"path": "@volumes"}, subPath=""), "sub.good": volume(host={"path": "@volumes"}, subPath="s/t"),
    "duplicate": changed(volumes=[{"name": "a", "mountPath": p, "host": {"path": "@volumes"}} for p in ("/a", "/b")]),
    "pvc.none": volume(pvc={"claimName": "none", "createIfNotExists": False}), "pvc.capital": volume(pvc={"claimName": "A"}),
    "pvc.one-letter": volume(pvc={"claimName": "p"}), "pvc.no-name": volume(pvc={}), "pvc.storage": volume(pvc={"claimName": "claim", "storage": "x"}),
    "pvc.modes": volume(pvc={"claimName": "claim", "accessModes": "x"}),
    "pvc.good": volume(pvc={"claimName": "made", "deleteOnSandboxTermination": True, "storage": "1Gi", "accessModes": ["ReadWriteOnce"]}),
    "ossfs.bucket": volume(ossfs={**OSS, "bucket": "ab"}), "ossfs.no-key": volume(ossfs={"bucket": "abc", "endpoint": "e"}),
    "ossfs.version": volume(ossfs={**OSS, "version": "3.0"}), "ossfs.option": volume(ossfs={**OSS, "options": ["-x"]}),
    "ossfs.blank-option": volume(ossfs={**OSS, "options": [" "]}), "ossfs.endpoint": volume(ossfs={**OSS, "endpoint": ""}),
}


def creates():
    yield from named("create", "POST", "/v1/sandboxes", "body", CREATE)
    yield from named("volume", "POST", "/v1/sandboxes", "body", VOLUMES)
    yield case("create.root", "POST", "/sandboxes", body=BODY)
    yield case("create.full", "POST", "/v1/sandboxes", body=changed(
        env={"A": "1"}, metadata={"team": "blue"}, platform={"os": "linux", "arch": "amd64"}, resourceLimits={"cpu": "500m", "memory": "256Mi"},
        resourceRequests={"cpu": "1"}, extensions={"opensandbox.extensions.a": "b", "other": "c"}))


# ---- objects in known states ----

def objects():
    make = lambda name, state="Running", **kw: case(f"make.{name}", "POST", "/v1/sandboxes", body=changed(**kw), save=name, state=state)
    yield case("empty.list", "GET", "/v1/sandboxes")
    yield case("empty.snapshots", "GET", "/v1/snapshots")
    yield make("running", metadata={"team": "blue", "tier": "1"}, extensions={"opensandbox.extensions.a": "b", "x": "y"}, timeout=3600)
    yield make("forever", timeout=None, metadata={"team": "red", "empty": ""})
    yield make("paused", metadata={})
    yield case("pause", "POST", "/v1/sandboxes/{paused}/pause", of="paused", state="Paused")
    yield make("ended", "Terminated", entrypoint=["sh", "-c", "echo first words; echo last words; sleep 2"])
    yield make("failed", "Failed", entrypoint=["sh", "-c", "sleep 2; exit 3"])
    yield make("service", entrypoint=["python3", "-c", SERVICE])


def snapshots():
    make = "/v1/sandboxes/{running}/snapshots"
    yield case("snapshot.named", "POST", make, body={"name": "one"}, save="snapshot", ready=True)
    yield case("snapshot.root", "POST", "/sandboxes/{running}/snapshots", save="second", ready=True)
    for name, kw in {"null": RAW["null"], "object": {"body": {}}, "empty": RAW["empty"]}.items():
        yield case(f"snapshot.body.{name}", "POST", make, save=f"s-{name}", ready=True, **kw)
    for name, body in {"empty": {"name": ""}, "number": {"name": 1}, "null": {"name": None}, "unknown": {"x": 1}}.items():
        yield case(f"snapshot.name.{name}", "POST", make, body=body, **({"save": f"t-{name}", "ready": True} if name in ("null", "unknown") else {}))
    for name in ("paused", "ended", "failed", "none"):
        yield case(f"snapshot.of.{name}", "POST", f"/v1/sandboxes/{{{name}}}/snapshots")
    for name in ("snapshot", "second", "none"):
        yield from both(f"snapshot.get.{name}", "GET", f"/snapshots/{{{name}}}")
    for name, query in {"sandbox": "sandboxId={running}", "sandbox.none": "sandboxId=x", "sandbox.empty": "sandboxId=", "state": "state=Ready",
                        "state.lower": "state=ready", "state.two": "state=Ready&state=Failed", "state.other": "state=x", "name": "name=one",
                        "name.none": "name=x", "name.empty": "name=", "page": "page=2&pageSize=1", "page.past": "page=99", "page.0": "page=0",
                        "size.201": "pageSize=201", "size.word": "pageSize=x", "both": "name=one&state=Failed"}.items():
        yield from both(f"snapshot.list.{name}", "GET", f"/snapshots?{query}")
    yield case("snapshot.restore", "POST", "/v1/sandboxes", body=lambda ids: {"snapshotId": ids["snapshot"], "resourceLimits": {}, "timeout": 600},
               save="restored", state="Running")
    yield case("snapshot.restored", "GET", "/v1/sandboxes/{restored}")
    yield case("snapshot.restore.spaced", "POST", "/v1/sandboxes", body=lambda ids: {"snapshotId": f" {ids['snapshot']} ", "resourceLimits": {}, "entrypoint": IDLE})
    yield case("snapshot.restore.limitless", "POST", "/v1/sandboxes", body=lambda ids: {"snapshotId": ids["snapshot"]})
    yield case("snapshot.delete.used", "DELETE", "/v1/snapshots/{snapshot}")
    yield case("snapshot.delete.used.get", "GET", "/v1/snapshots/{snapshot}")
    yield case("restored.delete", "DELETE", "/v1/sandboxes/{restored}")
    yield case("snapshot.delete", "DELETE", "/v1/snapshots/{second}")
    yield case("snapshot.delete.twice", "DELETE", "/v1/snapshots/{second}")
    yield case("snapshot.delete.root", "DELETE", "/snapshots/{s-object}")


# ---- reads and changes of them ----

def lists():
    for name, query in {
            "all": "", "state": "state=Running", "state.case": "state=rUNNing", "state.two": "state=Paused&state=Failed", "state.comma": "state=Paused,Failed",
            "state.empty": "state=", "state.other": "state=x", "metadata": "metadata=team%3Dblue", "metadata.two": "metadata=team%3Dblue%26tier%3D1",
            "metadata.none": "metadata=team%3Dx", "metadata.blank": "metadata=empty%3D", "metadata.empty": "metadata=", "metadata.bad": "metadata=x",
            "metadata.trailing": "metadata=a%3Db%26", "metadata.double": "metadata=team%3Dred%26team%3Dblue", "metadata.encoded": "metadata=team%253Dblue",
            "metadata.plus": "metadata=team%3Db%2Blue", "page": "page=2&pageSize=2", "page.past": "page=99", "page.0": "page=0", "page.-1": "page=-1",
            "page.word": "page=x", "page.empty": "page=", "page.plus": "page=%2B1", "page.zeros": "page=001", "page.float": "page=1.0", "page.half": "page=1.5",
            "page.underscore": "page=1_0", "page.spaced": "page=%201", "page.twice": "page=9&page=1", "page.huge": "page=99999999999999999999",
            "size.0": "pageSize=0", "size.200": "pageSize=200", "size.201": "pageSize=201", "unknown": "nosuch=1", "two-bad": "page=0&pageSize=0"}.items():
        yield from both(f"list.{name}", "GET", f"/sandboxes?{query}" if query else "/sandboxes")


def reads():
    for name in ("running", "forever", "paused", "ended", "failed", "service", "none"):
        yield from both(f"get.{name}", "GET", f"/sandboxes/{{{name}}}")
    for name, path in {"percent": "%20", "slash": "a%2Fb", "dots": "..", "capital": NOBODY.upper(), "long": "x" * 300, "odd": "a:b", "utf8": "%C3%A9", "byte": "%FF"}.items():
        yield case(f"get.{name}", "GET", f"/v1/sandboxes/{path}")


def metadata():
    path = "/v1/sandboxes/{forever}/metadata"
    for name, body in {"add": {"new": "1"}, "replace": {"team": "green"}, "delete": {"team": None}, "deleted-stays": {}, "delete-absent": {"nosuch": None},
                       "empty-value": {"e": ""}, "number": {"a": 1}, "object": {"a": {}}, "reserved": {"opensandbox.io/a": "b"},
                       "reserved.delete": {"opensandbox.io/a": None}, "bad-key": {"a b": "c"}, "bad-key.delete": {"a b": None}, "bad-value": {"a": "b c"},
                       "long-value": {"a": "x" * 64}, "newline": {"a": "v\n"}, "two-bad": {"a": 1, "b": 2}, "docker-key": {"com.docker.x": "1"}}.items():
        yield case(f"metadata.{name}", "PATCH", path, body=body)
        if name in ("delete", "deleted-stays", "reserved"):
            yield case(f"metadata.{name}.get", "GET", "/v1/sandboxes/{forever}")
    for name in ("paused", "ended", "none"):
        yield case(f"metadata.of.{name}", "PATCH", f"/v1/sandboxes/{{{name}}}/metadata", body={"a": "b"})
    yield case("metadata.root", "PATCH", "/sandboxes/{forever}/metadata", body={"a": "b"})
    yield case("metadata.none.reserved", "PATCH", f"/v1/sandboxes/{NOBODY}/metadata", body={"opensandbox.io/a": "b"})


TIMES = {
    "utc": "2097-01-02T03:04:05Z", "offset": "2097-01-02T03:04:05+08:00", "zoneless": "2097-01-02T03:04:05", "space": "2097-01-02 03:04:05Z",
    "micro": "2097-01-02T03:04:05.123456Z", "milli": "2097-01-02T03:04:05.12Z", "nano": "2097-01-02T03:04:05.123456789Z", "no-seconds": "2097-01-02T03:04Z",
    "date": "2097-01-02", "seconds": 4007995445, "milliseconds": 4007995445000, "text-seconds": "4007995445", "fraction": 4007995445.25,
    "lower": "2097-01-02t03:04:05z", "short-offset": "2097-01-02T03:04:05+0800", "year-9999": "9999-12-31T23:59:59Z", "past": "2001-01-01T00:00:00Z", "zero": 0,
    "word": "x", "empty": "", "null": None, "true": True, "list": [], "month-13": "2097-13-02T03:04:05Z", "feb-30": "2097-02-30T03:04:05Z",
    "hour-24": "2097-01-02T24:00:00Z", "leap": "2097-01-02T03:04:60Z", "offset-25": "2097-01-02T03:04:05+25:00", "huge": 1e300, "negative": -1,
}


def renewals():
    yield from named("renew", "POST", "/v1/sandboxes/{running}/renew-expiration", "body", {n: {"expiresAt": v} for n, v in TIMES.items()})
    yield case("renew.snake", "POST", "/v1/sandboxes/{running}/renew-expiration", body={"expires_at": TIMES["utc"]})
    yield case("renew.root", "POST", "/sandboxes/{running}/renew-expiration", body={"expiresAt": TIMES["utc"]})
    yield case("renew.get", "GET", "/v1/sandboxes/{running}")
    for name in ("forever", "paused", "ended", "failed", "none"):
        for when in ("utc", "past"):
            yield case(f"renew.of.{name}.{when}", "POST", f"/v1/sandboxes/{{{name}}}/renew-expiration", body={"expiresAt": TIMES[when]})


def endpoints():
    for port in ("8000", "8080", "44772", "18080", "0", "65536", "-1", "80x", "08080", "+80", "80.0", "1_0", "%2080", "99999999999999999999", "1", "65535"):
        yield from both(f"endpoint.{port}", "GET", f"/sandboxes/{{running}}/endpoints/{port}")
    for name, query in {"proxy": "use_server_proxy=true", "proxy.yes": "use_server_proxy=YES", "proxy.word": "use_server_proxy=x",
                        "proxy.empty": "use_server_proxy=", "proxy.false": "use_server_proxy=0", "expires": "expires=4000000000", "expires.0": "expires=0",
                        "expires.past": "expires=1", "expires.word": "expires=x", "expires.-1": "expires=-1", "two": "use_server_proxy=true&expires=4000000000",
                        "unknown": "a=b"}.items():
        yield from both(f"endpoint.query.{name}", "GET", f"/sandboxes/{{running}}/endpoints/8000?{query}")
    for name in ("paused", "ended", "failed", "none"):
        yield case(f"endpoint.of.{name}", "GET", f"/v1/sandboxes/{{{name}}}/endpoints/8000")
    yield case("endpoint.none.0", "GET", f"/v1/sandboxes/{NOBODY}/endpoints/0")
    yield case("endpoint.host", "GET", "/v1/sandboxes/{running}/endpoints/8000?use_server_proxy=1", headers={"Host": "box.example:99"})
    yield case("endpoint.slash", "GET", "/v1/sandboxes/{running}/endpoints/")


def diagnostics():
    for kind in ("logs", "inspect", "events", "summary"):
        for name in ("running", "paused", "ended", "none"):
            yield from both(f"diagnostics.{kind}.{name}", "GET", f"/sandboxes/{{{name}}}/diagnostics/{kind}")
    for kind, queries in {
            "logs": ["tail=1", "tail=0", "tail=10000", "tail=10001", "tail=x", "since=10m", "since=x", "since=", "container=x", "scope=container", "scope=all",
                     "scope=%20ALL%20", "scope=", "scope=lifecycle", "scope=runtime", "scope=container&tail=1", "scope=x&tail=0"],
            "events": ["limit=1", "limit=0", "limit=500", "limit=501", "limit=x", "scope=runtime", "scope=all", "scope=", "scope=container", "scope=lifecycle",
                       "scope=x&limit=0"],
            "summary": ["tail=1&event_limit=1", "tail=0", "tail=10001", "event_limit=0", "event_limit=501", "scope=all"], "inspect": ["scope=all"]}.items():
        for query in queries:
            yield case(f"diagnostics.{kind}.{query.replace('%20', '_')}", "GET", f"/v1/sandboxes/{{ended}}/diagnostics/{kind}?{query}")
    for query in ("scope=container", "scope=x"):
        yield case(f"diagnostics.logs.none.{query}", "GET", f"/v1/sandboxes/{NOBODY}/diagnostics/logs?{query}")
    yield case("diagnostics.nosuch", "GET", "/v1/sandboxes/{running}/diagnostics/nosuch")


POLICIES = {
    "object": {}, "empty": {"egress": []}, "list": [], "text": "x", "rule": {"egress": [{"action": "allow", "target": "a.test"}]},
    "bare": {"egress": [{}]}, "targetless": {"egress": [{"action": "allow"}]}, "target.empty": {"egress": [{"action": "allow", "target": ""}]},
    "target.number": {"egress": [{"action": "allow", "target": 1}]}, "rules.object": {"egress": {}}, "default": {"defaultAction": "deny"},
    "default.number": {"defaultAction": 1}, "snake": {"default_action": "allow"}, "unknown": {"x": 1},
}


def policies():
    path = "/sandboxes/{%s}/networkpolicy"
    good = {"GET": None, "PUT": POLICIES["rule"], "PATCH": POLICIES["rule"]["egress"], "DELETE": ["a.test"]}
    for name in ("running", "paused", "ended", "none"):
        for method, body in good.items():
            yield from both(f"policy.{method}.{name}", method, path % name, **({} if body is None else {"body": body}))
    for name, body in POLICIES.items():
        yield case(f"policy.put.{name}", "PUT", "/v1" + path % "none", body=body)
        yield case(f"create.policy.{name}", "POST", "/v1/sandboxes", body=changed(networkPolicy=body))
    for name, body in {"object": {}, "bare": [{}], "number": [1], "target": [{"target": "x"}], "action": [{"action": "x", "target": "a.test"}], "empty": []}.items():
        yield case(f"policy.patch.{name}", "PATCH", "/v1" + path % "none", body=body)
        yield case(f"policy.delete.{name}", "DELETE", "/v1" + path % "none", body=body)


CAPACITY = {"bufferMax": 1, "bufferMin": 0, "poolMax": 1, "poolMin": 0}


def pools():
    pool = {"name": "p", "template": {"image": {"uri": IMAGE}, "resourceLimits": {}, "entrypoint": IDLE}, "capacitySpec": CAPACITY}
    for name, body in {"good": pool, "nameless": {**pool, "name": None}, "empty": {**pool, "name": ""}, "capital": {**pool, "name": "P"},
                       "long": {**pool, "name": "x" * 254}, "template.none": {**pool, "template": None}, "template.list": {**pool, "template": []},
                       "capacity.none": {**pool, "capacitySpec": None}, "capacity.empty": {**pool, "capacitySpec": {}},
                       "capacity.negative": {**pool, "capacitySpec": {**CAPACITY, "poolMin": -1}}, "capacity.word": {**pool, "capacitySpec": {**CAPACITY, "poolMin": "x"}},
                       "snake": {"name": "p", "template": pool["template"], "capacity_spec": CAPACITY}}.items():
        yield case(f"pool.create.{name}", "POST", "/v1/pools", body={k: v for k, v in body.items() if v is not None})
    for name, body in {"good": {"capacitySpec": CAPACITY}, "empty": {}, "word": {"capacitySpec": "x"}}.items():
        yield case(f"pool.update.{name}", "PUT", "/v1/pools/p", body=body)
    for path in ("", "/p", "/none"):
        yield from both(f"pool.get{path}", "GET", "/pools" + path)
    for path in ("/p", "/none"):
        yield case(f"pool.delete{path}", "DELETE", "/v1/pools" + path)


def templates_and_events():
    good = {"image": "x", "publish": "s3://b/k"}
    for name, body in {"good": good, "unknown": {**good, "x": 1}, "empty": {}, "format": {**good, "format": "x"}, "full": {**good, "format": "native", "env": {"A": "b"}}}.items():
        yield case(f"template.create.{name}", "POST", "/v1/templates", body=body)
    yield from both("template.list", "GET", "/templates?page=1")
    yield from both("template.list.page", "GET", "/templates?page=0")
    yield from both("template.get", "GET", "/templates/x")
    yield from both("template.delete", "DELETE", "/templates/x")
    event = {"eventType": "sandbox.create", "createDurationMs": 1, "success": True}
    for name, body in {"good": event, "full": {**event, "sandboxId": "x", "image": "y"}, "type": {**event, "eventType": "x"}, "negative": {**event, "createDurationMs": -1},
                       "half": {**event, "createDurationMs": 1.5}, "word": {**event, "success": "maybe"}, "yes": {**event, "success": "yes"}, "id": {**event, "sandboxId": 1},
                       "unknown": {**event, "x": 1}}.items():
        yield case(f"event.{name}", "POST", "/v1/metrics/events", body=body)


def proxied():
    base = "/sandboxes/{service}/proxy/8000"
    yield case("proxy.up", "GET", "/v1" + base + "/up", key=None, until=200)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
        body = {"raw": b"hello", "headers": {"Content-Type": "text/plain"}} if method in ("POST", "PUT", "PATCH") else {}
        yield from both(f"proxy.method.{method}", method, base + "/m", key=None, **body)
    for name, path in {"root": "", "slash": "/", "double": "//a", "encoded-slash": "/a%2Fb", "encoded-question": "/a%3Fb", "space": "/a%20b", "utf8": "/%C3%A9",
                       "plus": "/a+b", "query": "/q?a=1&b=2&a=3", "query.flag": "/q?x", "query.space": "/q?a=%20b+c", "query.percent": "/q?a=%", "query.empty": "/q?",
                       "deep": "/a/b/c/", "dotted": "/a..b.js", "semicolon": "/a;b=c", "status.404": "/status/404", "status.500": "/status/500",
                       "status.204": "/status/204", "status.302": "/status/302", "headers": "/headers", "close": "/close"}.items():
        yield case(f"proxy.path.{name}", "GET", "/v1" + base + path, key=None)
    for name, headers in {
            "cookie": {"Cookie": "a=1"}, "authorization": {"Authorization": "Bearer x"}, "forwarded": {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"},
            "origin": {"Origin": "http://page.example"}, "connection": {"Connection": "X-Drop", "X-Drop": "1"}, "te": {"TE": "trailers"}, "custom": {"X-Custom": "1"},
            "request-id": {"X-Request-ID": "mine"}, "upgrade": {"Upgrade": "websocket"}, "expect": {"X-A": "é".encode().decode("latin-1")},
            "renew": {"OpenSandbox-Access-Renew": "skip"}, "secure": {"OpenSandbox-Secure-Access": "x"}, "egress": {"OPENSANDBOX-EGRESS-AUTH": "x"},
            "encoding": {"Accept-Encoding": "br"}, "agent": {"User-Agent": "me"}}.items():
        yield case(f"proxy.header.{name}", "GET", "/v1" + base + "/h", key=None, headers=headers)
    yield case("proxy.key", "GET", "/v1" + base + "/h")
    for name, path in {"refused": "/sandboxes/{service}/proxy/8001/", "port.0": "/sandboxes/{service}/proxy/0/", "port.big": "/sandboxes/{service}/proxy/65536/",
                       "port.word": "/sandboxes/{service}/proxy/x/", "portless": "/sandboxes/{service}/proxy/", "none": "/sandboxes/{none}/proxy/8000/",
                       "ended": "/sandboxes/{ended}/proxy/8000/", "paused": "/sandboxes/{paused}/proxy/18/", "dots": base + "/../x", "encoded-dots": base + "/%2e%2e/x",
                       "execd.ping": "/sandboxes/{service}/proxy/44772/ping", "execd.files": "/sandboxes/{service}/proxy/44772/files/info?path=/"}.items():
        yield case(f"proxy.{name}", "GET", "/v1" + path, key=None)
        yield case(f"proxy.{name}.key", "GET", "/v1" + path)


def transitions():
    for name in ("paused", "ended", "failed", "none"):
        yield from both(f"pause.{name}", "POST", f"/sandboxes/{{{name}}}/pause")
    for name in ("running", "ended", "failed", "none"):
        yield from both(f"resume.{name}", "POST", f"/sandboxes/{{{name}}}/resume")
    yield case("resume.paused", "POST", "/v1/sandboxes/{paused}/resume", of="paused", state="Running")
    yield case("resume.get", "GET", "/v1/sandboxes/{paused}")
    yield case("pause.body", "POST", "/v1/sandboxes/{paused}/pause", body={"a": 1}, of="paused", state="Paused")
    for name in ("running", "forever", "paused", "ended", "failed", "service"):
        yield case(f"delete.{name}", "DELETE", f"/v1/sandboxes/{{{name}}}")
        yield case(f"delete.{name}.twice", "DELETE", f"/v1/sandboxes/{{{name}}}")
        yield case(f"delete.{name}.get", "GET", f"/sandboxes/{{{name}}}")
    yield from both("delete.none", "DELETE", f"/sandboxes/{NOBODY}")


def cases():
    out = [{**c, "id": c["id"].replace(" ", "_")} for part in (surface, cross_origin, objects, lists, reads, bodies, endpoints, diagnostics, snapshots, metadata, renewals, proxied, creates,
                          policies, pools, templates_and_events, transitions) for c in part()]
    ids = [c["id"] for c in out]
    assert len(ids) == len(set(ids)), sorted({i for i in ids if ids.count(i) > 1})
    return out


if __name__ == "__main__":
    print(json.dumps([[c["id"], c["method"], c["path"]] for c in cases()], indent=0))
