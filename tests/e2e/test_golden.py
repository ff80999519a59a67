"""What official clients sent, recorded request by request (data/golden/README.md), answered by a real server: the same requests in the same
order, with ids, tokens, images and times of this server in place of the recorded placeholders."""
import json
import re
import time

import pytest

import harness

TRACES = sorted((harness.ROOT / "tests/e2e/data/golden").glob("*.jsonl"))
SANDBOX, SNAPSHOT = "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-9999-aaaaaaaaaaaa"
OWN = {"open-sandbox-api-key", "x-sandbox-token", "opensandbox-egress-auth", "host"}  # what this server gives out itself

# What is answered with other than success, and why: (method or *, end of the path, status).
REFUSED = [
    ("*", r"/proxy/18080/credential-vault.*", 501, "the credential vault is not built"),
    ("*", r"/code(/context.*)?", 500, "there is no code runtime in this sandbox"),
]


UNBUILT = ("credentialProxy",)  # of a create: refused, then left out


class Replay:
    def __init__(self, server):
        self.server = server
        self.names = {SANDBOX: None, SNAPSHOT: "none", "cmd-1": "none", "sess-1": "none"}
        self.made, self.headers, self.gone, self.background = [], {}, False, False

    def fill(self, text):
        for placeholder, value in self.names.items():
            text = text.replace(placeholder, value or placeholder)
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        return text.replace("<time>", soon).replace("<ms>", "12").replace("<boundary>", "golden")

    def body(self, r, without=()):
        text = self.fill(r["body"] or "")
        if r["path"] == "/v1/sandboxes" and r["method"] == "POST":
            body = json.loads(text)
            if "image" in body:
                body |= {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE}
            body["resourceLimits"] = {k: v for k, v in body.get("resourceLimits", {}).items() if k != "gpu"}  # this host has none
            for host in (v["host"] for v in body.get("volumes", []) if "host" in v):
                host["path"] = str(self.server.state / "volumes")
            text = json.dumps({k: v for k, v in body.items() if k not in without})
        return text.encode() or None

    def send(self, r):
        headers = {k: self.fill(v) for k, v in r["headers"].items() if k not in OWN}
        if "x-sandbox-token" in r["headers"]:
            headers |= self.headers
        key = "own" if "open-sandbox-api-key" in r["headers"] else None
        path = self.fill(r["path"]) + ("?" + self.fill(r["query"]) if r["query"] else "")
        ask = lambda body: self.server.request(r["method"], path, raw=body, headers=headers, key=key)
        if r["path"] == "/v1/sandboxes" and any(f'"{m}"' in r["body"] for m in UNBUILT):
            reply = ask(self.body(r))
            assert reply.status == 400 and reply.json()["code"] == "SANDBOX::INVALID_PARAMETER", reply
            return ask(self.body(r, without=UNBUILT))
        return ask(self.body(r))

    def prepare(self):
        """The files that the stub of the recording pretended to have."""
        self.server.run(self.names[SANDBOX], "cd /tmp && mkdir -p d && for f in a b a.txt b.bin; do echo abc > $f; chown 1000:1000 $f; done")

    def learn(self, r, reply):
        """Ids and tokens that later requests name."""
        path = r["path"]
        if r["method"] == "POST" and path == "/v1/sandboxes":
            self.names[SANDBOX], self.gone = reply.json()["id"], False
            self.made.append(self.names[SANDBOX])
            self.headers = self.server.execd_headers(self.names[SANDBOX])
            egress = self.server.request("GET", f"/v1/sandboxes/{self.names[SANDBOX]}/endpoints/18080").json()
            self.headers |= egress.get("headers", {})
            self.prepare()
        elif r["method"] == "POST" and path.endswith("/snapshots"):
            self.names[SNAPSHOT] = reply.json()["id"]
            ready = lambda: self.server.request("GET", f"/v1/snapshots/{self.names[SNAPSHOT]}").json()["status"]["state"] == "Ready"
            harness.wait_until(ready, "the snapshot is ready")
        elif path.endswith("/session"):
            self.names["sess-1"] = reply.json()["session_id"]
        elif path.endswith("/command") and r["method"] == "POST":
            self.background = '"background":true' in r["body"]
            self.names["cmd-1"] = json.loads(reply.body.split(b"\n\n")[0])["text"]
        elif r["method"] == "DELETE" and path.endswith("/files"):
            self.prepare()
        elif r["method"] == "DELETE" and path == f"/v1/sandboxes/{SANDBOX}":
            self.gone = True

    def expected(self, r):
        for method, end, status, _ in REFUSED:
            if method in ("*", r["method"]) and re.search(end + "$", r["path"]):
                return status
        if r["method"] == "POST" and r["path"] == "/v1/sandboxes" and "templateId" in r["body"]:
            return 400
        if r["method"] == "POST" and r["path"] == "/v1/sandboxes" and "snapshotId" in r["body"] and self.names[SNAPSHOT] == "none":
            return 400  # recorded before the snapshot that it names
        if r["method"] == "DELETE" and r["path"].endswith("/command") and not self.background:
            return 500  # it has ended
        if "expires=" in r["query"]:
            return 400  # signed endpoints belong to the ingress gateway
        return 404 if self.gone and SANDBOX in r["path"] else None


@pytest.fixture(scope="module")
def own():
    with harness.Server() as s:
        s.sections["storage"] = {"allowed_host_paths": [str(s.state / "volumes")]}
        s.write_config()
        (s.state / "volumes").mkdir()
        s.import_base()
        yield s.start()


@pytest.mark.parametrize("trace", TRACES, ids=lambda p: p.stem)
def test_replay(own, trace):
    replay = Replay(own)
    try:
        for number, line in enumerate(trace.read_text().splitlines(), 1):
            r = json.loads(line)
            expected, reply = replay.expected(r), replay.send(r)
            told = f"{trace.name}:{number}: {r['method']} {r['path']}: {reply}"
            assert reply.status == expected if expected else reply.status < 300, told
            assert reply.headers["X-Request-ID"], told
            if expected and "proxy" not in r["path"]:
                assert {"code", "message"} <= reply.json().keys(), told
            if reply.status < 300:
                replay.learn(r, reply)
    finally:
        for sandbox_id in replay.made:
            own.request("DELETE", f"/v1/sandboxes/{sandbox_id}")
        own.request("DELETE", f"/v1/snapshots/{replay.names[SNAPSHOT]}")
