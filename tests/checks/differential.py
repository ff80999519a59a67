#!/usr/bin/env python3
"""The same requests to the reference server and to ours, one after the other on one private dockerd; every difference has its line in
docs/compatibility.md, "Measured differences".

usage: differential.py [show]    `show`: groups of differences without a line, for whoever writes the lines
Fails on a difference without a line and on a line without a difference. Writes build/differential.json. Last line: N passed, N failed
(a pass is a request whose differences, if any, all have lines; a failure is one that has not, or a stale line).
"""
import collections
import datetime
import fnmatch
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import differential_cases  # noqa: E402
import engines  # noqa: E402
import harness  # noqa: E402
import reference  # noqa: E402

OUT = harness.BUILD / "differential.json"
LINES = ROOT / "docs/compatibility.md"
HEADERS = ["content-type", "location", "allow", "retry-after", "deprecation", "www-authenticate", "vary", "access-control-allow-origin",
           "access-control-allow-credentials", "access-control-allow-methods", "access-control-allow-headers", "access-control-max-age",
           "access-control-expose-headers", "set-cookie", "connection"]
ABSENT = "-"


# ---- what one server answers ----

class Subject:
    """A server and the objects that the cases made on it."""

    def __init__(self, server, volumes):
        self.server, self.volumes = server, volumes
        self.ids = collections.defaultdict(lambda: differential_cases.NOBODY)

    def fill(self, value):
        if callable(value):
            return value(self.ids)
        return json.loads(json.dumps(value).replace("@volumes", str(self.volumes)))

    def ask(self, c):
        kw = {k: v for k, v in c.items() if k in ("headers", "key", "raw")}
        if "body" in c:
            kw["body"] = self.fill(c["body"])
        path = re.sub(r"\{([\w-]+)\}", lambda m: self.ids[m[1]], c["path"])
        send = lambda: self.server.request(c["method"], path, **kw)
        r = send()
        if "until" in c:
            harness.wait_until(lambda: send().status == c["until"], c["id"], 30)
            r = send()
        return r

    def state(self, name):
        r = self.server.request("GET", "/v1/sandboxes/" + self.ids[name])
        return r.json()["status"]["state"] if r.status == 200 else r.status

    def run(self, c):
        r = self.ask(c)
        made = r.json().get("id") if r.status == 202 and r.body else None
        name = c.get("save") or c.get("of")
        if made and "save" in c:
            self.ids[c["save"]] = made
        elif made and c["path"].endswith("/sandboxes"):
            self.server.request("DELETE", "/v1/sandboxes/" + made)
        if "state" in c and r.status == 202:
            harness.wait_until(lambda: self.state(name) == c["state"], f"{name} is {c['state']}: {r}", 60)
        if "ready" in c and made:
            harness.wait_until(lambda: self.server.request("GET", "/v1/snapshots/" + made).json()["status"]["state"] == "Ready", name, 60)
        return Answer(self, c, r)


TIME = re.compile(r"\b20[0-8]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


class Answer:
    """A reply with what differs from run to run masked."""

    def __init__(self, subject, c, r):
        self.names = {v: k for k, v in subject.ids.items()}
        self.port = str(subject.server.port)
        self.sent = (c.get("headers") or {}).get("X-Request-ID", "").strip()
        self.status = str(r.status)
        self.facts = {"header.date": str(len(r.headers.get_all("Date") or [])), "header.x-request-id": self.request_id(r.headers.get("X-Request-ID"))}
        for name in HEADERS:
            values = r.headers.get_all(name)
            self.facts["header." + name] = "; ".join(re.sub(r";\s*", "; ", self.mask(v)) for v in values) if values else ABSENT
        if not r.body:
            self.facts["header.content-length"] = r.headers.get("Content-Length") or ABSENT
        self.body = self.read(c, r)

    def request_id(self, value):
        if value is None:
            return ABSENT
        return "echo" if self.sent and value == self.sent else "hex32" if re.fullmatch("[0-9a-f]{32}", value) else value

    def mask(self, text):
        for value, name in self.names.items():
            text = text.replace(value, f"<{name}>") if value != differential_cases.NOBODY else text
        text = text.replace(f"127.0.0.1:{self.port}", "<server>")
        text = TIME.sub("<time>", text)
        text = re.sub(r"\b[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\b", lambda m: m[0] if m[0] == differential_cases.NOBODY else "<id>", text)
        text = re.sub(r"\b\d+\.\d+\.\d+\.\d+(:\d+)?\b", lambda m: m[0] if m[0] == "1.2.3.4" else "<address>", text)
        return re.sub(r"\b[0-9a-f]{12,64}\b", lambda m: m[0] if m[0].isdigit() else "<hex>", text)

    def read(self, c, r):
        kind = (r.headers.get("Content-Type") or "").split(";")[0]
        if c["path"].endswith(("/docs", "/redoc")):
            return None
        if kind == "application/json" and r.body:
            body = json.loads(r.body)
            if c["path"] == "/openapi.json":
                body = {"info": {k: body["info"].get(k) for k in ("title", "version")}, "paths": {p: sorted(m) for p, m in body["paths"].items()}}
            if isinstance(body, dict) and {"expiresAt", "createdAt"} <= set(body) and "2097" not in body["expiresAt"]:
                self.facts["lifetime"] = str(round((instant(body["expiresAt"]) - instant(body["createdAt"])).total_seconds()))
            return self.masked(body)
        text = r.body.decode(errors="replace")
        if "/diagnostics/" in c["path"]:  # free text: its labels
            return sorted(set(re.findall(r"^ *([A-Z][A-Za-z ]+):", text, re.M)))
        return self.mask(text)

    def masked(self, value, key=""):
        if isinstance(value, dict):
            return {self.mask(k): self.masked(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.masked(v) for v in value]
        if isinstance(value, str):
            return "<text>" if key == "message" else self.mask(value)
        return value


def instant(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


# ---- what is different ----

def short(value):
    plain = not value or not isinstance(value, (dict, list)) or all(isinstance(v, (str, int)) for v in value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if plain and not (value and isinstance(value, dict)) else "object"
    return (text if len(text) <= 90 else text[:87] + "...").replace("|", "¦").replace("\n", "\\n").replace("`", "'") or '""'


def unlike(a, b, path="body"):
    """(aspect, the reference's, ours) of two bodies."""
    if isinstance(a, dict) and isinstance(b, dict):
        for k in [*a, *(k for k in b if k not in a)]:
            if k not in a or k not in b:
                yield f"{path}.{k}", short(a[k]) if k in a else ABSENT, short(b[k]) if k in b else ABSENT
            else:
                yield from unlike(a[k], b[k], f"{path}.{k}")
        order = [[k for k in x if k in a and k in b] for x in (a, b)]
        if order[0] != order[1]:
            yield f"{path} order", " ".join(order[0]), " ".join(order[1])
    elif isinstance(a, list) and isinstance(b, list) and all(isinstance(x, dict) for x in a + b):
        if len(a) != len(b):
            yield f"{path} length", str(len(a)), str(len(b))
        for i, (x, y) in enumerate(zip(a, b)):
            yield from unlike(x, y, f"{path}.{i}")
    elif a != b:
        yield path, short(a), short(b)


def compare(theirs, ours):
    code = lambda x: x.body.get("code", ABSENT) if isinstance(x.body, dict) else ABSENT
    if theirs.status != ours.status:  # the rest follows from it
        return [("status", f"{theirs.status} {code(theirs)}".removesuffix(" -"), f"{ours.status} {code(ours)}".removesuffix(" -"))]
    out = [(k, short(theirs.facts.get(k, ABSENT)), short(ours.facts.get(k, ABSENT))) for k in {**theirs.facts, **ours.facts}
           if theirs.facts.get(k, ABSENT) != ours.facts.get(k, ABSENT)]
    return out + list(unlike(theirs.body, ours.body))


# ---- the lines of the document ----

def read_lines():
    """[{id, requests, aspect, reference, here, section, client}] of the table."""
    text = LINES.read_text()
    text = text[text.index("## Measured differences"):] if "## Measured differences" in text else ""
    out = []
    for row in re.findall(r"^\| (M\d+) \|(.*)\|$", text, re.M):
        cells = [c.strip() for c in row[1].split("|")]
        assert len(cells) == 6 and all(cells), f"{row[0]}: {len(cells)} cells, 6 are wanted, none empty"
        out.append(dict(zip(("id", "requests", "aspect", "reference", "here", "section", "client"), [row[0], *(c.strip("`") for c in cells)])))
    assert len({line["id"] for line in out}) == len(out), "an id that two lines have"
    return out


def fits(line, case_id, aspect, theirs, ours):
    match = lambda text, patterns, by: any(fnmatch.fnmatchcase(text, p.replace("[", "[[]")) for p in patterns.split(by))
    return (match(case_id, line["requests"], " ") and match(aspect, line["aspect"], " or ") and match(theirs, line["reference"], " or ")
            and match(ours, line["here"], " or "))


def judge(differences, lines):
    """(differences without a line, ids of lines without a difference); marks each difference with its line."""
    used = set()
    for d in differences:
        d["line"] = next((line["id"] for line in lines if fits(line, d["request"], d["aspect"], d["reference"], d["here"])), None)
        used.add(d["line"])
    return [d for d in differences if not d["line"]], [line["id"] for line in lines if line["id"] not in used]


def can_fail(differences, lines):
    """The judge itself: without its lines the first difference is unexplained, and a line about nothing is stale."""
    copies = [dict(d) for d in differences]
    nothing = {"id": "M0", "requests": "nosuch", "aspect": "x", "reference": "x", "here": "x"}
    return bool(judge(copies, [])[0]) and "M0" in judge(copies, [*lines, nothing])[1]


def show(unexplained):
    groups = collections.defaultdict(list)
    for d in unexplained:
        groups[re.sub(r"\.\d+", ".*", d["aspect"]), d["reference"], d["here"]].append(d["request"])
    for (aspect, theirs, ours), requests in sorted(groups.items()):
        print(f"{aspect} | {theirs} | {ours} | {len(requests)}: {' '.join(sorted(requests)[:12])}")


def answers():
    """Both lists of answers."""
    cases, out = differential_cases.cases(), []
    engine = engines.Dockerd()
    try:
        engine.start()
        reference.prepare(engine)
        volumes = engine.dir / "volumes"
        volumes.mkdir()
        storage = {"storage": {"allowed_host_paths": [str(volumes)]}}
        for make in (lambda: reference.Reference(engine, storage),
                     lambda: harness.Server(config={"runtime": {"type": "docker"}, "console": {"port": harness.free_port()}, **storage}, env={"DOCKER_HOST": engine.host})):
            server = make()
            try:
                server.start()
                subject = Subject(server, volumes)
                out.append([subject.run(c) for c in cases])
            finally:
                if server.process and server.process.poll() is not None:
                    print(server.log()[-3000:])
                server.remove()
    finally:
        engine.remove()
    return cases, out


def main():
    reference.install()
    lines = read_lines()
    cases, (theirs, ours) = answers()
    differences = [{"request": c["id"], "method": c["method"], "path": c["path"], "aspect": aspect, "reference": a, "here": b}
                   for c, t, o in zip(cases, theirs, ours) for aspect, a, b in compare(t, o)]
    unexplained, stale = judge(differences, lines)
    OUT.write_text(json.dumps({"requests": len(cases), "differing": len({d["request"] for d in differences}), "lines": len(lines),
                               "unexplained": unexplained, "stale": stale, "differences": differences}, indent=1, ensure_ascii=False) + "\n")
    if "show" in sys.argv[1:]:
        show(unexplained)
    else:
        for d in unexplained[:60]:
            print(f"without a line: {d['request']} | {d['aspect']} | {d['reference']} | {d['here']}")
    for line in stale:
        print(f"stale line: {line}")
    bad = len({d["request"] for d in unexplained})
    failed = bad + len(stale) + (not can_fail(differences, lines))
    print(f"{len(cases)} requests, {len({d['request'] for d in differences})} differ in {len(differences)} places, {len(lines)} lines explain")
    print(f"{len(cases) - bad} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
