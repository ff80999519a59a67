"""Renewal on access over a real proxy, with the cool-down, the skip header and across a restart."""
import datetime
import time

import pytest

import harness

EXTEND = {"access.renew.extend.seconds": "300"}


@pytest.fixture(scope="module")
def renewing():
    s = harness.Server({"renew_intent": {"enabled": True, "min_interval_seconds": 1}})
    try:
        s.import_base()
        s.start()
        yield s
    finally:
        s.remove()


def left(server, sb):
    at = datetime.datetime.fromisoformat(server.get(sb)["expiresAt"].replace("Z", "+00:00"))
    return (at - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


def test_access_renews(renewing):
    sb = renewing.create(timeout=60, extensions=EXTEND)["id"]
    other = renewing.create(timeout=60)["id"]
    path = f"/v1/sandboxes/{sb}/proxy/44772"
    skip = {"OpenSandbox-Access-Renew": "Skip"}
    assert renewing.request("GET", path + "/ping", key=None).status == 200  # says who it is to nobody
    assert renewing.request("GET", path + "/metrics", key=None).status == 401
    assert renewing.execd("GET", sb, "/metrics", headers=skip).status == 200
    assert left(renewing, sb) < 61
    assert renewing.execd("GET", sb, "/metrics").status == 200
    harness.wait_until(lambda: 295 < left(renewing, sb) <= 300, "the renewal")
    renewing.execd("GET", other, "/metrics")
    assert left(renewing, other) < 61
    renewing.kill()
    renewing.start()
    first = renewing.get(sb)["expiresAt"]
    assert left(renewing, sb) > 280
    end = time.monotonic() + 20
    while renewing.get(sb)["expiresAt"] == first:  # at once: the cool-down does not outlive the server
        assert time.monotonic() < end
        renewing.execd("GET", sb, "/metrics")
    assert renewing.log().count("renew_event=renew_succeeded") == 2
    assert f"renew_sandbox_id={sb} renew_source=server_proxy" in renewing.log()


def test_off_by_default(server):
    sb = server.create(timeout=60, extensions=EXTEND)["id"]
    server.execd("GET", sb, "/metrics")
    assert left(server, sb) < 61
    server.delete(sb)
    assert server.create(expect=400, extensions={"access.renew.extend.seconds": "299"})["code"] == "SANDBOX::INVALID_PARAMETER"
