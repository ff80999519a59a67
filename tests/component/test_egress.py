"""Names, addresses and the API of egress between two network namespaces: what is denied is never seen on the far side."""
import errno
import ipaddress
import json
import random
import signal
import socket

import pytest

import egress_net as net
from egress_net import ALLOWED, DENIED, RESOLVER, SHARED

POLICY = {"defaultAction": "deny", "egress": [{"action": "allow", "target": "allowed.test"}, {"action": "allow", "target": "*.wild.test"},
                                              {"action": "allow", "target": "alias.test"}, {"action": "deny", "target": "denied.test"},
                                              {"action": "allow", "target": "big.test"}]}


@pytest.fixture(scope="module")
def bed():
    with net.Bed() as b:
        b.start_egress(POLICY)
        yield b


@pytest.fixture(autouse=True)
def policy(bed):
    assert bed.api("PUT", "/policy", POLICY)[0] == 200
    yield
    assert bed.frames_to(DENIED) == []


def test_allowed_name_admits_its_address(bed):
    assert bed.connect(ALLOWED) != 0
    r = bed.ask("allowed.test")
    assert (r.rcode, r.addresses, r.ra, r.opt) == (0, [ALLOWED], True, True)
    assert bed.connect(ALLOWED) == 0
    assert bed.has_element("dyn_allow_v4", ALLOWED)


def test_ipv6_is_learned_and_neighbours_are_found(bed):
    assert bed.ask("allowed.test", "AAAA").addresses == ["2001:db8::1"]
    assert bed.connect("2001:db8::1", 9000) == 0


def test_denied_name(bed):
    r = bed.ask("denied.test")
    assert (r.rcode, r.ra, r.opt, r.ede, r.addresses) == (3, True, True, 15, [])
    assert bed.ask("denied.test", edns=False).opt is False
    assert bed.ask("unknown.test").rcode == 3
    assert bed.connect(DENIED) in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES)


def test_wildcard_has_no_apex(bed):
    assert bed.ask("a.b.wild.test").addresses == [SHARED]
    assert bed.ask("wild.test").rcode == 3


def test_alias_of_a_denied_name(bed):
    r = bed.ask("alias.test")
    assert (r.rcode, r.addresses) == (3, [])
    assert not bed.has_element("dyn_allow_v4", DENIED)


def test_events_and_explain(bed):
    bed.ask("why.test")
    status, found = bed.api("GET", "/events?since=0")
    event = [e for e in found["events"] if e["target"] == "why.test"][0]
    assert (event["kind"], event["by"], event["count"]) == ("name", "default", 1)
    assert bed.api("GET", f"/events?since={found['next']}")[1]["events"] == []
    status, why = bed.api("GET", "/policy/explain?target=x.WILD.test.")
    assert (why["verdict"], why["by"], why["rule"]["target"]) == ("allow", "policy", "*.wild.test")
    assert bed.api("GET", "/policy/explain?target=*.x.test")[0] == 400


def test_refused_packets_are_events(bed):
    assert bed.api("PATCH", "/policy", [{"action": "deny", "target": "203.0.113.64/30"}])[0] == 200
    assert bed.connect(DENIED, 81) != 0 and bed.connect("198.51.100.12", 82) != 0 and bed.connect("198.51.100.12", 853) != 0

    def found():
        events = {e["target"]: e for e in bed.api("GET", "/events")[1]["events"] if e["kind"] == "address"}
        return events if {f"{DENIED} tcp/81", "198.51.100.12 tcp/82", "198.51.100.12 tcp/853"} <= set(events) else None
    events = net.wait_until(found, "three events")
    assert (events[f"{DENIED} tcp/81"]["by"], events[f"{DENIED} tcp/81"]["rule"]) == ("policy", "203.0.113.64/30")
    assert events["198.51.100.12 tcp/82"]["by"] == "default"
    assert "DNS over TLS" in events["198.51.100.12 tcp/853"]["reason"]


def test_policy_shapes(bed):
    assert bed.api("GET", "/policy") == (200, {"status": "ok", "mode": "enforcing", "enforcementMode": "dns+nft", "policy": POLICY | {
        "egress": POLICY["egress"]}})
    assert bed.api("POST", "/policy")[1] == {"status": "ok", "mode": "deny_all", "reason": "policy reset to default deny-all"}
    assert bed.api("GET", "/policy")[1]["policy"] == {"defaultAction": "deny", "egress": []}
    assert bed.api("PATCH", "/policy", [{"action": "allow", "target": "Allowed.Test."}])[1] == {
        "status": "ok", "mode": "enforcing", "enforcementMode": "dns+nft"}
    assert bed.ask("allowed.test").rcode == 0
    assert bed.api("DELETE", "/policy", ["nothing.test"])[1]["reason"] == "no matching targets found"
    assert bed.api("DELETE", "/policy", ["ALLOWED.test"])[1]["mode"] == "deny_all"
    assert bed.ask("allowed.test").rcode == 3


@pytest.mark.parametrize("method,body,status,text", [
    ("POST", '{"defaultAction":"alow"}', 400, "invalid policy: "), ("POST", "{", 400, "invalid policy: "),
    ("PATCH", "", 400, "empty body"), ("PATCH", "[]", 400, "invalid patch rules: empty array"),
    ("PATCH", '[{"action":"x","target":"a.b"}]', 400, "invalid patch rules: "),
    ("DELETE", "", 400, "empty body"), ("DELETE", "[]", 400, "invalid delete targets: empty array"),
    ("DELETE", "[1]", 400, "invalid delete targets: "), ("HEAD", None, 405, ""), ("OPTIONS", None, 405, "method not allowed"),
])
def test_refusals(bed, method, body, status, text):
    got = bed.api(method, "/policy", body, raw=True)
    assert got[0] == status and got[1].startswith(text)
    if status == 405:
        assert bed.headers["Allow"] == "GET, POST, PUT, PATCH, DELETE"
    elif method != "HEAD":
        assert bed.headers["X-Content-Type-Options"] == "nosniff" and got[1].endswith("\n")


def test_limits_and_token(bed):
    many = {"egress": [{"action": "allow", "target": f"h{i}.test"} for i in range(4097)]}
    assert bed.api("POST", "/policy", many) == (413, "egress rule total count 4097 exceeds limit 4096\n")
    assert bed.api("POST", "/policy", " " * (1024 * 1024 + 1), raw=True)[0] == 413
    for token in (None, net.TOKEN[:-1], net.TOKEN + "x"):
        assert bed.api("GET", "/policy", token=token) == (401, "unauthorized\n")
    assert bed.api("GET", "/healthz", token=None) == (200, "ok")
    assert bed.api("GET", "/none", token=None) == (404, "404 page not found\n")
    assert bed.api("POST", "/credential-vault", {})[0] == 501
    assert bed.api("GET", "/credential-vault/_active", token=None)[0] == 403


def test_addresses_deny_beats_allow(bed):
    status, body = bed.api("PUT", "/policy", {"egress": [{"action": "allow", "target": "198.51.100.0/24"},
                                                         {"action": "deny", "target": SHARED}]})
    assert status == 200 and "deny beats" in body["reason"]
    assert bed.connect(ALLOWED) == 0
    assert bed.connect(SHARED) != 0
    assert bed.connect("198.51.100.11") == 0


def test_neighbouring_prefixes(bed):
    rules = [{"action": "allow", "target": t} for t in ("198.51.100.10", "198.51.100.11", "198.51.100.12/31", "2001:db8::/64", "::/1",
                                                         "255.255.255.255", "0.0.0.0")]
    assert bed.api("PUT", "/policy", {"egress": rules})[0] == 200
    assert [bed.connect(f"198.51.100.{i}") for i in (10, 11, 12)] == [0, 0, 0]
    assert bed.connect(SHARED) != 0


def test_default_allow(bed):
    assert bed.api("PUT", "/policy", {"defaultAction": "allow", "egress": [{"action": "deny", "target": DENIED},
                                                                           {"action": "deny", "target": "denied.test"}]})[0] == 200
    assert bed.connect(SHARED) == 0
    assert bed.connect(DENIED) != 0
    assert bed.ask("other.test").addresses == [SHARED]
    assert bed.ask("denied.test").rcode == 3


def test_large_policy_in_force_at_once(bed):
    rules = [{"action": "allow", "target": f"10.{i // 250}.{i % 250}.1"} for i in range(4000)]
    assert bed.api("PUT", "/policy", {"egress": rules + [{"action": "allow", "target": SHARED}]})[0] == 200
    assert bed.connect(SHARED) == 0


def test_learned_survives_a_change(bed):
    bed.ask("allowed.test")
    bed.ask("x.wild.test")
    assert bed.api("PATCH", "/policy", [{"action": "deny", "target": "*.wild.test"}])[0] == 200
    assert bed.connect(ALLOWED) == 0
    assert bed.connect(SHARED) != 0


def test_live_flow_is_cut(bed):
    bed.ask("allowed.test")
    s = bed.open(ALLOWED)
    s.send(b"one")
    assert s.recv(10) == b"one"
    assert bed.api("PATCH", "/policy", [{"action": "allow", "target": "new.test"}])[0] == 200
    s.send(b"two")
    assert s.recv(10) == b"two"  # still allowed: goes on
    assert bed.api("PATCH", "/policy", [{"action": "deny", "target": "allowed.test"}])[0] == 200
    before = len(bed.frames_to(ALLOWED))
    with pytest.raises(OSError):
        s.send(b"three")
        s.recv(10)
    assert not any(b"three" in f for f in bed.frames_to(ALLOWED)[before:])
    s.close()


def test_metrics(bed):
    text = bed.api("GET", "/metrics")[1]
    assert "egress_policy_denied_total" in text and f'egress_upstream_healthy{{server="{RESOLVER}:53"}} 1' in text


def test_files_of_the_operator():
    with net.Bed() as b:
        (b.dir / "rules").mkdir()
        (b.dir / "rules/deny.always").write_text("# no\n*.wild.test\n 198.51.100.12 \n")
        (b.dir / "rules/allow.always").write_text("other.test\nx.wild.test\n")
        (b.dir / "rules/log_skip.always").write_text("allowed.test\n")
        b.start_egress(POLICY, LOG_LEVEL="info", SANDBOX_ID="sb-7", METRICS_EXTRA_ATTRS="team=a,=x,y=")
        assert b.ask("other.test").rcode == 0 and b.ask("x.wild.test").rcode == 3
        assert b.ask_tcp([net.query("allowed.test")])[0].rcode == 0
        assert b.api("GET", "/policy")[1]["policy"] == POLICY
        assert b.api("GET", "/policy/explain?target=x.wild.test")[1]["by"] == "deny.always"
        lines = [json.loads(line) for line in (b.dir / "egress.log").read_text().splitlines()]
        out = [line for line in lines if line.get("opensandbox.event") == "egress.outbound"]
        assert [(line["target.host"], line["target.ips"], line["peer"]) for line in out] == [("other.test", [SHARED], net.SANDBOX)]
        assert all(line["sandbox_id"] == "sb-7" and line["team"] == "a" and "y" not in line for line in out)


@pytest.mark.parametrize("name,text,message", [("deny.always", "a.b\nhttp://x\n", "deny.always:2: "),
                                               ("log_skip.always", "10.0.0.1\n", "is not a domain pattern")])
def test_wrong_files_of_the_operator(name, text, message):
    with net.Bed() as b:
        (b.dir / "rules").mkdir()
        (b.dir / "rules" / name).write_text(text)
        assert b.start_egress(POLICY, wait=False, supervisor=True).wait(10) == 2
        assert message in (b.dir / "egress.log").read_text()
        assert b.connect(ALLOWED) != 0  # closed


def ranges(nets):
    """Disjoint, sorted (first, last) of networks or of elements as nft tells them, neighbours joined."""
    joined = []
    for first, last in sorted(nets):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(last, joined[-1][1])
        else:
            joined.append([first, last])
    return joined


def in_kernel(bed, name):
    out = bed.nft("-j", "list", "set", "inet", "opensandbox", name)
    found = []
    for e in json.loads(out.stdout)["nftables"][1]["set"].get("elem", []):
        if isinstance(e, dict) and "prefix" in e:
            n = ipaddress.ip_network(f"{e['prefix']['addr']}/{e['prefix']['len']}")
            found.append((int(n[0]), int(n[-1])))
        else:
            first, last = e["range"] if isinstance(e, dict) else (e, e)
            found.append((int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))))
    return ranges(found)


def test_only_the_difference_is_sent(bed):
    """Prefixes come and go at random, nested, touching, at the ends of the address space: the sets are what the last policy says."""
    rng = random.Random(7)

    def prefix(version):
        bits, size = (32, rng.choice([0, 1, 8, 24, 30, 31, 32])) if version == 4 else (128, rng.choice([0, 16, 64, 127, 128]))
        base = rng.choice([0, (1 << bits) - 1, (20 << (bits - 8)) + rng.randrange(16)])
        return ipaddress.ip_network((base, size), strict=False)
    held = set()
    for _ in range(60):
        held = {p for p in held if rng.random() < 0.6} | {(rng.choice(["allow", "deny"]), prefix(rng.choice([4, 6]))) for _ in range(6)}
        rules = [{"action": a, "target": str(p)} for a, p in held]
        assert bed.api("PUT", "/policy", {"egress": rules})[0] == 200
        for action in ("allow", "deny"):
            for version in (4, 6):
                wanted = ranges((int(p[0]), int(p[-1])) for a, p in held if a == action and p.version == version)
                assert in_kernel(bed, f"{action}_v{version}") == wanted, rules
    text = bed.api("GET", "/metrics")[1]
    assert "egress_nftables_failures_total 0\n" in text


def test_a_change_mends_what_a_stranger_took_out(bed):
    rules = [{"action": "allow", "target": SHARED}]
    assert bed.api("PUT", "/policy", {"egress": rules})[0] == 200
    assert bed.nft("flush", "set", "inet", "opensandbox", "allow_v4").returncode == 0
    assert bed.api("PUT", "/policy", {"egress": rules + [{"action": "deny", "target": "203.0.113.9"}]})[0] == 200
    assert bed.connect(SHARED) == 0


def test_answers_and_a_change_in_one_turn(bed):
    """An answer, a change of the policy, another answer, all found by one look at the sockets."""
    v4, v6 = bed.udp(), bed.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    v6.settimeout(5)
    api = bed.inside(socket.create_connection, ("127.0.0.1", 18080), 5)
    ask = f"GET /policy HTTP/1.1\r\nHost: x\r\nOPENSANDBOX-EGRESS-AUTH: {net.TOKEN}\r\n\r\n"
    api.sendall(ask.encode())
    assert api.recv(65536).startswith(b"HTTP/1.1 200")
    body = json.dumps(POLICY)
    for _ in range(3):
        bed.egress.send_signal(signal.SIGSTOP)
        net.wait_until(lambda: open(f"/proc/{bed.egress.pid}/stat").read().split(") ")[1][0] == "T", "it is stopped")
        v4.sendto(net.query("denied.test"), (RESOLVER, 53))
        api.sendall(ask.replace("GET", "PUT").replace("\r\n\r\n", f"\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
        v6.sendto(net.query("denied.test"), ("2001:db8::1", 53))
        bed.egress.send_signal(signal.SIGCONT)
        assert net.Reply(v4.recv(4096)).rcode == net.Reply(v6.recv(4096)).rcode == 3
        assert api.recv(65536).startswith(b"HTTP/1.1 200")
        assert bed.ask("allowed.test").addresses == [ALLOWED]
    for s in (v4, v6, api):
        s.close()
