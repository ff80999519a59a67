"""The metrics page: Prometheus text that counts what was done, for whoever has the key."""
import re

import harness

LINE = re.compile(r'^([a-z_]+)(\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})? (-?[0-9.e+]+)$')


def scrape(server):
    r = server.request("GET", "/metrics")
    assert r.status == 200 and r.headers["Content-Type"].startswith("text/plain; version=0.0.4"), r
    series, typed = {}, set()
    for line in r.body.decode().splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in typed, line
            typed.add(name)
        elif not line.startswith("#"):
            name, labels, value = LINE.match(line).groups()
            assert re.sub("_(bucket|sum|count)$", "", name) in typed or name in typed, line
            assert name + (labels or "") not in series, line
            series[name + (labels or "")] = float(value)
    return series


def test_counts(server):
    before = scrape(server)
    sb = server.create()["id"]
    server.run(sb, "true")
    during = scrape(server)
    server.delete(sb)
    server.get("no-such", expect=404)
    after = scrape(server)

    def grown(name, a=before, b=after):
        return b.get(name, 0) - a.get(name, 0)
    assert during['opensandbox_sandboxes{state="Running"}'] == before['opensandbox_sandboxes{state="Running"}'] + 1
    assert grown("opensandbox_creates_total") == 1 == grown("opensandbox_removed_total") == grown("opensandbox_create_seconds_count")
    assert grown('opensandbox_create_seconds_bucket{le="+Inf"}') == 1
    assert grown('opensandbox_http_requests_total{route="/sandboxes",method="POST",code="202"}') == 1
    assert grown('opensandbox_http_requests_total{route="/sandboxes/{sandbox_id}",method="GET",code="404"}') == 1
    assert grown('opensandbox_create_phase_seconds_count{phase="answer"}') == 1
    assert grown("opensandbox_store_commits_total") >= 4
    assert grown("opensandbox_proxy_upstreams", before, during) == 1 and grown("opensandbox_proxy_upstreams") == 0
    assert grown("opensandbox_dials_total") >= 1 and grown("opensandbox_dials_failed_total") == 0
    phases = sum(v - before.get(k, 0) for k, v in after.items() if k.startswith("opensandbox_create_phase_seconds_sum"))
    assert 0 < phases <= grown("opensandbox_create_seconds_sum")
    assert 'opensandbox_build_info{version=' in str(after) and after["process_resident_memory_bytes"] > 1e6


def test_needs_the_key(server):
    assert server.request("GET", "/metrics", key=None).status == 401
    assert server.request("GET", "/metrics", key=None, headers={"Authorization": "Bearer wrong"}).status == 401
    assert server.request("GET", "/metrics", key=None, headers={"Authorization": f"Bearer {server.key}"}).status == 200
    assert server.request("GET", "/v1/sandboxes", key=None, headers={"Authorization": f"Bearer {server.key}"}).status == 401
    assert server.request("GET", "/v1/metrics").status == 404
    assert server.key not in server.request("GET", "/metrics").body.decode()
    assert harness.IMAGE not in server.request("GET", "/metrics").body.decode()
