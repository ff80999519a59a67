"""api/execd.yaml against the route table and against what execd really answers, both ways: a route, code or field that is served and not
documented fails, and so does one that is documented and not served."""
import json
import os
import pathlib
import re
import socket

import pytest
import yaml

from execd_files import MULTIPART, file, meta, multipart, query
from execd_follow import Following
from execd_peer import Execd, wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DOCUMENT = yaml.safe_load((ROOT / "api/execd.yaml").read_text())
METHODS = ("get", "post", "put", "delete", "patch")


# ---- the document ----

def resolve(schema):
    while "$ref" in schema:
        target = DOCUMENT
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def documented():
    """{(method, pattern as the table writes it): operation}"""
    found = {}
    for path, item in DOCUMENT["paths"].items():
        pattern = path.replace("/{rest}", "/*")
        for method in METHODS:
            if method in item:
                found["*" if item.get("x-any-method") else method.upper(), pattern] = item[method]
    return found


OPERATIONS = documented()


# ---- the route table ----

def table():
    """{(method, pattern): (set of codes, open to all)}, read from the source."""
    defines = dict(re.findall(r'#define (CODE_\w+)\s+("[^"]*")', (ROOT / "src/execd/execd.h").read_text()))
    text = (ROOT / "src/execd/routes.c").read_text()
    start = text.index("static const struct http_route routes[]")
    prefix = re.search(r'"(/v1/filesystem/[^"]*)" path', text).group(1)
    body = re.sub(r"//[^\n]*", "", text[start:text.index("\n};", start)])
    body = re.sub(r"CODE_\w+", lambda m: defines[m.group(0)], body)
    body = re.sub(r'"[^"]*"(?:\s+"[^"]*")+', lambda m: '"' + "".join(re.findall(r'"([^"]*)"', m.group(0))) + '"', body)
    rows = {}
    for method, path, codes in re.findall(r'FILES\("(\w+)", "([^"]*)", \w+, \w+,\s*"([^"]*)"\)', body):
        common = set(codes.split()) | {"RUNTIME_ERROR", "SERVICE_UNAVAILABLE"}
        rows[method, path] = common, False
        rows[method, prefix + path] = common | {"INVALID_REQUEST_BODY", "FILESYSTEM_IDENTITY_UNAVAILABLE"}, False
    for method, path, flags, codes in re.findall(r'\{"([^"]+)", "([^"]*)", \w+, \w+, (\w+),\s*"([^"]*)"\}', body):
        rows[method, path] = set(codes.split()), flags == "OPEN"
    assert len(rows) == body.count("handle_") + body.count("FILES("), "a row that this test cannot read"
    return rows


TABLE = table()


def test_routes():
    assert set(TABLE) == set(OPERATIONS), f"only served or only documented: {set(TABLE) ^ set(OPERATIONS)}"


@pytest.mark.parametrize("route", sorted(TABLE), ids=" ".join)
def test_codes_and_token(route):
    codes, is_open = TABLE[route]
    operation = OPERATIONS[route]
    told = [c for r in operation["responses"].values() for c in r.get("x-codes", [])]
    assert set(told) == codes
    assert (operation.get("security") == []) == is_open
    assert is_open or "401" in operation["responses"]


def test_transport_codes():
    text = (ROOT / "src/http/exchange.c").read_text()
    text = text[text.index("codes[] = {"):]
    text = text[:text.index("};")]
    assert set(DOCUMENT["x-transport-codes"]) == set(re.findall(r'\{\d{3}, "([A-Z_]+)"\}', text))


def test_operation_ids_are_unique():
    ids = [o["operationId"] for o in OPERATIONS.values()]
    assert len(ids) == len(set(ids))


# ---- replies ----

SEEN = set()  # ("status", method, pattern, status), ("field", schema path), ("value", schema path, value)
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}


def matches(value, schema):
    try:
        validate(value, schema, "", set())
        return True
    except AssertionError:
        return False


def validate(value, schema, where, seen):
    where = schema.get("$ref", where)
    schema = resolve(schema)
    if "oneOf" in schema:
        fitting = [s for s in schema["oneOf"] if matches(value, s)]
        assert len(fitting) == 1, f"{where}: {len(fitting)} alternatives fit {value}"
        return validate(value, fitting[0], where, seen)
    kind = schema["type"]
    assert isinstance(value, TYPES[kind]) and not (kind != "boolean" and isinstance(value, bool)), f"{where}: {value!r} is no {kind}"
    assert "enum" not in schema or value in schema["enum"], f"{where}: {value!r}"
    if "enum" in schema:
        seen.add(("value", where, value))
    assert schema.get("minimum", value) <= value <= schema.get("maximum", value) if kind in ("integer", "number") else True
    if kind == "array":
        for item in value:
            validate(item, schema["items"], where + "[]", seen)
    if kind == "object":
        missing = set(schema.get("required", [])) - set(value)
        assert not missing, f"{where}: without {missing}"
        for name, member in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            assert inner, f"{where}: {name} is not documented"
            if name in schema.get("properties", {}):
                seen.add(("field", where, name))
            validate(member, inner, f"{where}.{name}", seen)


def check(route, status, headers, body):
    responses = OPERATIONS[route]["responses"]
    assert str(status) in responses, f"{route}: {status} is not documented: {body[:200]!r}"
    SEEN.add(("status", *route, str(status)))
    response = responses[str(status)]
    content = response.get("content", {})
    kind = (headers.get("Content-Type") or "").split(";")[0]
    for name in response.get("headers", {}):
        if headers.get(name) is not None:
            SEEN.add(("header", *route, str(status), name))
    if not body:
        return
    assert kind in content or not content, f"{route} {status}: {kind} is not documented"
    if kind == "application/json":
        value = json.loads(body)
        validate(value, content[kind]["schema"], f"{route}", SEEN)
        if "x-codes" in response:
            assert value["code"] in response["x-codes"], value
            SEEN.add(("code", *route, value["code"]))
    if kind == "text/event-stream":
        for frame in body.decode().split("\n\n"):
            if frame:
                validate(json.loads(frame), content[kind]["schema"], f"{route}", SEEN)


@pytest.fixture(scope="module")
def execd():
    with Execd(token="") as e:
        yield e


class Examples:
    """One request after the other; each reply is checked."""

    def __init__(self, execd):
        self.execd = execd
        self.work = execd.tmp / "contract"
        self.work.mkdir()

    def __call__(self, method, pattern, path, body=None, headers=None, any_method=False):
        r = self.execd.request(method, path, body, headers)
        check(("*" if any_method else method, pattern), r.status, r.headers, r.body)
        return r

    def events(self, pattern, path, count, act=lambda: None):
        """The first `count` events of an endless stream."""
        f = Following(*self.execd.open("GET", path))
        got = []
        for e in f:
            got.append(e)
            if len(got) == 1:
                act()
            if len(got) == count:
                break
        check(("GET", pattern), f.response.status, f.response.headers, b"".join(json.dumps(e).encode() + b"\n\n" for e in got))
        f.close()


@pytest.fixture(scope="module")
def x(execd):
    return Examples(execd)


def files_examples(x, prefix=""):
    p = "/v1/filesystem/{uid}/{gid}" if prefix else ""
    d = x.work / ("as" if prefix else "own")
    d.mkdir()
    d.chmod(0o777)
    f, none, undefined = d / "f", d / "none", "$UNDEFINED_NAME"
    do = lambda method, route, q=None, body=None, headers=None: x(
        method, p + route, query(prefix + route, **q) if q else prefix + route, body, headers)
    up = lambda *parts: do("POST", "/files/upload", body=multipart(*parts), headers=MULTIPART)
    up(meta(f, mode=644), file(b"one two\n"))
    bad = d / "bad"
    for parts in [[file(b"")], [meta(bad)], [("metadata", "m", b"{"), file(b"")], [meta(bad), file(b""), file(b"")], [meta(d), file(b"")]]:
        up(*parts)
    do("GET", "/files/info", {"path": str(f)})
    do("GET", "/files/info", {"path": str(none)})
    do("GET", "/files/info", {"path": undefined})
    do("GET", "/files/download", {"path": str(f)})
    do("GET", "/files/download", {"path": str(f), "limit": 1})
    modified = do("GET", "/files/download", {"path": str(f)}, headers={"Range": "bytes="}).headers["Last-Modified"]
    for h in [{"Range": "bytes=0-1"}, {"Range": "bytes=90-"}, {"If-Modified-Since": modified},
              {"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}]:
        do("GET", "/files/download", {"path": str(f)}, headers=h)
    do("GET", "/files/download")
    for q in [{"path": str(f), "limit": 0}, {"path": str(d)}, {"path": str(none)}, {"path": undefined}]:
        do("GET", "/files/download", q)
    (d / "link").symlink_to("f")
    os.mkfifo(d / "fifo")
    do("GET", "/files/search", {"path": str(d), "pattern": "*"})
    do("GET", "/files/search", {"path": str(none)})
    do("GET", "/files/search", {"path": str(d), "pattern": "["})
    do("GET", "/files/search")
    do("POST", "/files/replace", {"verbose": "true"}, {str(f): {"old": "one", "new": "1"}})
    for body in [{str(f): {"old": ""}}, {str(none): {"old": "a"}}, {undefined: {"old": "a"}}]:
        do("POST", "/files/replace", body=body)
    for body in [{str(f): {"mode": 600}}, [], {str(none): {"mode": 600}}, {str(f): {"mode": 888}}]:
        do("POST", "/files/permissions", body=body)
    for body in [[{"src": str(f), "dest": str(d / "g")}], {}, [{"src": str(none), "dest": str(f)}], [{"src": str(d / "g"), "dest": str(d)}]]:
        do("POST", "/files/mv", body=body)
    do("GET", "/directories/list", {"path": str(x.work), "depth": 2})
    do("GET", "/directories/list")
    for q in [{"path": str(d), "depth": "x"}, {"path": str(none)}, {"path": undefined}]:
        do("GET", "/directories/list", q)
    for body in [{str(d / "new"): {"mode": 755}}, [], {str(d / "g" / "x"): {}}]:
        do("POST", "/directories", body=body)
    do("DELETE", "/files", {"path": str(d / "g")})
    do("DELETE", "/files", {"path": str(d)})
    do("DELETE", "/directories", {"path": str(d / "new")})
    do("DELETE", "/directories", {"path": "/"})
    do("DELETE", "/directories", {"path": undefined})


def identity_examples(x):
    x.execd.tmp.chmod(0o755)
    files_examples(x, "/v1/filesystem/65534/65534")
    for (method, pattern) in OPERATIONS:
        if pattern.startswith("/v1/filesystem/"):
            x(method, pattern, pattern.replace("{uid}", "x").replace("{gid}", "0"), b"", MULTIPART)


def watch_examples(x):
    d = x.work / "watched"
    d.mkdir()

    def act():
        (d / "a").write_text("x")
        (d / "a").chmod(0o600)
        (d / "a").rename(d / "b")
        (d / "b").unlink()
        d.rmdir()
    x.events("/files/watch", query("/files/watch", path=str(d)), 9, act)
    x("GET", "/files/watch", "/files/watch")
    x("GET", "/files/watch", query("/files/watch", path=str(d)))
    x("GET", "/files/watch", query("/files/watch", path="$UNDEFINED_NAME"))
    x("GET", "/metrics", "/metrics")
    x.events("/metrics/watch", "/metrics/watch", 2)


def command_examples(x):
    run = lambda **body: x("POST", "/command", "/command", body)
    run(command="echo out; echo err >&2; sleep 0.01")
    run(command="exit 3")
    r = run(command="sleep 100", background=True)
    status, logs = "/command/status/{id}", "/command/{id}/logs"
    command = json.loads(r.body.split(b"\n\n")[0])["text"]
    x("GET", status, f"/command/status/{command}")
    x("DELETE", "/command", "/command?id=" + command)
    wait_until(lambda: not x("GET", status, f"/command/status/{command}").json()["running"], "it ends")
    x("GET", status, "/command/status/none")
    x("GET", logs, f"/command/{command}/logs")
    x("GET", logs, "/command/none/logs")
    run()
    x("DELETE", "/command", "/command")
    x("DELETE", "/command", "/command?id=none")
    # a spool that has dropped its beginning
    r = run(command="head -c 20000000 /dev/zero; sleep 0.05", background=True)
    command = json.loads(r.body.split(b"\n\n")[0])["text"]
    wait_until(lambda: not x("GET", status, f"/command/status/{command}").json()["running"], "it ends")
    x("GET", logs, f"/command/{command}/logs?cursor=0")


def session_examples(x):
    created = x("POST", "/session", "/session", {})
    session = created.json()["session_id"]
    x("POST", "/session", "/session", b"{")
    x("POST", "/session", "/session", {"cwd": "/dev/null/x"})
    run = "/session/{id}/run"
    x("POST", run, f"/session/{session}/run", {"command": "echo x"})
    x("POST", run, f"/session/{session}/run", {})
    x("POST", run, "/session/none/run", {"command": "true"})
    x("DELETE", "/session/{id}", f"/session/{session}")
    x("DELETE", "/session/{id}", "/session/none")


def pty_examples(x):
    pty = x("POST", "/pty", "/pty", {}).json()["session_id"]
    x("POST", "/pty", "/pty", b"{")
    x("POST", "/pty", "/pty", {"cwd": "/dev/null/x"})
    x("GET", "/pty/{id}", f"/pty/{pty}")
    x("GET", "/pty/{id}", "/pty/none")
    x("GET", "/pty/{id}/ws", f"/pty/{pty}/ws")
    x("GET", "/pty/{id}/ws", "/pty/none/ws")
    x("GET", "/pty/{id}/ws", f"/pty/{pty}/ws", headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "12",
                                                      "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    x("GET", "/pty/{id}/ws", f"/pty/{pty}/ws?mode=viewer")
    x("DELETE", "/pty/{id}", f"/pty/{pty}")
    x("DELETE", "/pty/{id}", "/pty/none")


def other_examples(x):
    x("PUT", "/environment", "/environment", {"TAKEN": "by"})
    x("PUT", "/environment", "/environment", {"TAKEN": 5})
    x("GET", "/ping", "/ping")
    x("GET", "/start", "/start")
    for method, pattern in [("POST", "/code"), ("POST", "/code/context"), ("GET", "/code/contexts"), ("DELETE", "/code/contexts"),
                            ("GET", "/code/contexts/{id}"), ("DELETE", "/code/contexts/{id}")]:
        x(method, pattern, pattern.replace("{id}", "1"), {})
    r = x.execd.request("POST", "/command", {"command": "sleep 100", "background": True})
    x("DELETE", "/code", "/code?id=" + json.loads(r.body.split(b"\n\n")[0])["text"])
    x("DELETE", "/code", "/code?id=none")
    x("DELETE", "/code", "/code")
    x("GET", "/v1/isolated/capabilities", "/v1/isolated/capabilities")
    x("POST", "/v1/isolated/*", "/v1/isolated/session", {}, any_method=True)
    x("GET", "/v1/isolated/*", "/v1/isolated/session/1/diff", any_method=True)
    x("GET", "/proxy/{port}/*", "/proxy/0/x", any_method=True)
    with socket.socket() as s:  # bound, not listening
        s.bind(("127.0.0.1", 0))
        x("GET", "/proxy/{port}/*", f"/proxy/{s.getsockname()[1]}/x", any_method=True)
    x("GET", "/proxy/", "/proxy/", any_method=True)


@pytest.mark.parametrize("examples", [other_examples, command_examples, session_examples, pty_examples, files_examples,
                                      identity_examples, watch_examples], ids=lambda f: f.__name__)
def test_replies(x, examples):
    examples(x)


def test_without_the_token():
    with Execd(token="") as unguarded:
        assert unguarded.request("GET", "/metrics").status == 200
    with Execd(token="secret") as e:
        e.token = ""
        for (method, pattern), operation in OPERATIONS.items():
            path = re.sub(r"\{\w+\}", "1", pattern).replace("/*", "/x")
            r = e.request("GET" if method == "*" else method, path)
            check((method, pattern), r.status, r.headers, r.body)
            assert (r.status == 401) == (operation.get("security") != []), (method, pattern, r)


# What the examples cannot bring about, and why.
UNSEEN_STATUS = {
    "503": "the queue of file work is full, or memory", "429": "a thousand sessions",
    ("GET", "/pty/{id}/ws", "101"): "test_execd_pty.py", ("GET", "/pty/{id}/ws", "500"): "memory",
    ("*", "/proxy/{port}/*", "500"): "memory", ("*", "/proxy/{port}/*", "504"): "time", ("POST", "/session/{id}/run", "409"): "a long queue", "default": "the service's own",
}
UNSEEN_CODES = {  # as the statuses above; the last one: test_execd_pty.py
    "SERVICE_UNAVAILABLE", "FILESYSTEM_IDENTITY_UNAVAILABLE", "ALREADY_CONNECTED"}
UNSEEN_VALUES = {"ping", "other", "overflow"}  # takes 3 s; test_execd_files.py


def test_everything_documented_was_served():
    """After the examples: every status, code, field and value of the document came once."""
    unseen = []
    for (method, pattern), operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            reason = UNSEEN_STATUS.get(status) or UNSEEN_STATUS.get((method, pattern, status))
            if reason and pattern != "/v1/isolated/*":
                continue
            if ("status", method, pattern, status) not in SEEN:
                unseen.append((method, pattern, status))
            unseen += [(method, pattern, c) for c in response.get("x-codes", [])
                       if c not in UNSEEN_CODES and ("code", method, pattern, c) not in SEEN]
            unseen += [(method, pattern, status, h) for h in response.get("headers", {})
                       if ("header", method, pattern, status, h) not in SEEN]
    requests = {"CommandRequest", "SessionRun", "Permissions", "FileMetadata", "Move", "Replacement"}
    for name, schema in DOCUMENT["components"]["schemas"].items():
        where = "#/components/schemas/" + name
        if name in requests or name == "OverflowEvent":
            continue
        for field, inner in schema.get("properties", {}).items():
            if ("field", where, field) not in SEEN:
                unseen.append((name, field))
            unseen += [(name, field, v) for v in inner.get("enum", [])
                       if v not in UNSEEN_VALUES and ("value", f"{where}.{field}", v) not in SEEN]
    assert not unseen, "\n".join(map(str, unseen))
