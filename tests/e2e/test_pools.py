"""Pools: routes, stock, hand-over of variables, restarts, templates, the official client."""
import asyncio
import threading
import time

import pytest

import harness

CAPACITY = {"bufferMin": 2, "bufferMax": 3, "poolMin": 0, "poolMax": 10}
TEMPLATE = {"image": {"uri": harness.IMAGE}, "resourceLimits": {"cpu": "1", "memory": "256Mi"}, "env": {"OF": "template", "BOTH": "template"},
            "metadata": {"made": "early"}}
REF = {"poolRef": "p"}


@pytest.fixture
def pooled():
    s = harness.Server()
    try:
        s.import_base()
        yield s.start()
    finally:
        try:
            for p in s.request("GET", "/v1/pools").json()["items"]:
                s.request("DELETE", f"/v1/pools/{p['name']}")
            harness.wait_until(lambda: not census(s), "the stock is gone") if not s.sandboxes() else None
        finally:
            s.remove()


def census(server):
    return server.runtime.sandboxes(server)


def pool(server, name="p"):
    r = server.request("GET", f"/v1/pools/{name}")
    assert r.status == 200, r
    return r.json()


def make(server, name="p", template=TEMPLATE, capacity=CAPACITY, expect=201):
    r = server.request("POST", "/v1/pools", {"name": name, "template": template, "capacitySpec": capacity})
    assert r.status == expect, r
    return r.json()


def filled(server, n, name="p"):
    harness.wait_until(lambda: pool(server, name)["status"]["available"] == n, f"{n} in stock", 60)


def take(server, expect=202, **members):
    r = server.request("POST", "/v1/sandboxes", {"timeout": 600, "extensions": REF, **members})
    assert r.status == expect, r
    return r.json()


def test_routes(pooled):
    p = make(pooled)
    assert p["name"] == "p" and p["capacitySpec"] == CAPACITY and set(p["status"]) == {"total", "allocated", "available", "revision"}
    assert "template" not in p and p["createdAt"].endswith("Z")
    assert make(pooled, expect=409)["code"] == "POOL::ALREADY_EXISTS"
    assert [x["name"] for x in pooled.request("GET", "/pools").json()["items"]] == ["p"]
    filled(pooled, 3)
    assert pooled.sandboxes() == [] and len(census(pooled)) == 3
    r = pooled.request("PUT", "/v1/pools/p", {"capacitySpec": {**CAPACITY, "bufferMin": 0, "bufferMax": 1}})
    assert r.status == 200 and r.json()["capacitySpec"]["bufferMax"] == 1
    filled(pooled, 1)
    for method in ("GET", "PUT", "DELETE"):
        r = pooled.request(method, "/v1/pools/none", {"capacitySpec": CAPACITY} if method == "PUT" else None)
        assert r.status == 404 and r.json()["code"] == "POOL::NOT_FOUND"
    assert pooled.request("DELETE", "/v1/pools/p").status == 204
    harness.wait_until(lambda: not census(pooled), "the stock is gone")
    assert take(pooled, expect=400)["code"] == "POOL::NOT_FOUND"


@pytest.mark.parametrize("name,template,capacity,loc", [
    ("P", TEMPLATE, CAPACITY, ["body", "name"]),
    ("", TEMPLATE, CAPACITY, ["body", "name"]),
    ("p", None, CAPACITY, ["body", "template"]),
    ("p", {}, CAPACITY, ["body", "template"]),
    ("p", {"image": {"uri": 3}}, CAPACITY, ["body", "template", "image", "uri"]),
    ("p", {"spec": {"containers": []}}, CAPACITY, ["body", "template", "spec", "containers"]),
    ("p", {"spec": {"containers": [{"image": "x", "env": [{"name": "A"}]}]}}, CAPACITY,
     ["body", "template", "spec", "containers", 0, "env", 0, "value"]),
    ("p", TEMPLATE, {**CAPACITY, "bufferMin": -1}, ["body", "capacitySpec", "bufferMin"]),
    ("p", TEMPLATE, {**CAPACITY, "bufferMin": 4}, ["body", "capacitySpec"]),
    ("p", TEMPLATE, {"bufferMin": 0}, ["body", "capacitySpec", "bufferMax"]),
])
def test_bad_bodies(server, name, template, capacity, loc):
    r = server.request("POST", "/v1/pools", {"name": name, "template": template, "capacitySpec": capacity})
    assert r.status == 422 and r.json()["detail"][0]["loc"] == loc, r


def test_refused_templates(server):
    for extra in ({"networkPolicy": {"defaultAction": "maybe"}}, {"resourceLimits": {"cpu": "x"}}, {"image": {"uri": harness.IMAGE, "auth": {
            "username": "u", "password": "secret"}}}, {"env": {"EXECD_ACCESS_TOKEN_SHA256": "x"}}, {"extensions": {"poolRef": "other"}}):
        r = server.request("POST", "/v1/pools", {"name": "p", "template": {**TEMPLATE, **extra}, "capacitySpec": CAPACITY})
        assert r.status == 400 and r.json()["code"] == "SANDBOX::INVALID_PARAMETER" and "secret" not in r.body.decode(), r
    assert server.request("GET", "/v1/pools").json() == {"items": []}


def test_take_hands_over(pooled):
    make(pooled)
    filled(pooled, 3)
    stock = set(census(pooled))
    sb = take(pooled, env={"OWN": "mine 'quoted' \n line", "BOTH": "taker"}, metadata={"owner": "me"})
    assert sb["id"] in stock and sb["status"]["state"] == "Running" and sb["metadata"] == {"made": "early", "owner": "me"}
    got = pooled.get(sb["id"])
    assert got["allocation"] == {"mode": "pool", "poolRef": "p", "state": "allocated"} and got["image"] == {"uri": harness.IMAGE}
    assert [x["id"] for x in pooled.sandboxes()] == [sb["id"]]
    code, out, _ = pooled.run(sb["id"], 'echo "$OF $BOTH $OWN"; echo $OPENSANDBOX_ID; cat /sys/fs/cgroup/memory/memory.limit_in_bytes '
                                        '/sys/fs/cgroup/memory.max 2>/dev/null || true')
    assert code == 0 and out.startswith(f"template taker mine 'quoted' \n line\n{sb['id']}"), out
    other = take(pooled)["id"]
    assert pooled.run(other, 'echo "$OF [$OWN] $BOTH"')[1].strip() == "template [] template"
    assert "mine" not in pooled.run(other, "env; cat /opt/opensandbox/.env 2>/dev/null")[1]
    for member in ({"networkPolicy": {"defaultAction": "deny"}}, {"platform": {"os": "linux", "arch": "amd64"}},
                   {"volumes": [{"name": "v", "mountPath": "/v", "host": {"path": "/tmp"}}]}):
        assert take(pooled, expect=400, **member)["code"] == "SANDBOX::INVALID_PARAMETER"
    own = take(pooled, entrypoint=["sh", "-c", "echo $OWN >/tmp/x; sleep 600"], env={"OWN": "7"})["id"]  # made for it
    harness.wait_until(lambda: pooled.run(own, "cat /tmp/x")[1].strip() == "7", "its entrypoint")
    for x in (sb["id"], other, own):
        pooled.delete(x)
    filled(pooled, 3)
    assert pool(pooled)["status"]["allocated"] == 0


def test_restart_and_template(pooled):
    make(pooled, template={"spec": {"containers": [{"image": harness.IMAGE, "command": ["/opt/task-executor"],
                                                   "env": [{"name": "A", "value": "pod"}], "resources": {"limits": {"cpu": "1"}}}]}})
    filled(pooled, 3)
    stock, revision = set(census(pooled)), pool(pooled)["status"]["revision"]
    sb = take(pooled)["id"]
    assert pooled.run(sb, "echo $A")[1].strip() == "pod"
    pooled.kill()
    pooled.start()
    assert pool(pooled)["status"] == {"total": 3, "allocated": 1, "available": 2, "revision": revision}
    again = take(pooled)["id"]
    assert again in stock and pooled.run(again, "echo alive")[1].strip() == "alive"
    r = pooled.request("PUT", "/v1/pools/p", {"capacitySpec": CAPACITY, "template": {**TEMPLATE, "env": {"A": "second"}}})
    assert r.status == 200 and r.json()["status"]["revision"] != revision
    harness.wait_until(lambda: pool(pooled)["status"]["available"] == 3 and not stock - {sb, again} & set(census(pooled)), "new stock", 60)
    assert pooled.run(take(pooled)["id"], "echo $A")[1].strip() == "second"
    assert pooled.run(sb, "echo $A")[1].strip() == "pod"
    for x in pooled.sandboxes():
        pooled.delete(x["id"])


def test_kill_in_the_middle(pooled):
    """Whatever the moment: stock is whole or gone, and nobody's variables reach another."""
    make(pooled, capacity={**CAPACITY, "bufferMin": 4, "bufferMax": 4, "poolMax": 50})
    for turn in range(6):
        filled(pooled, 4)
        stop, made = threading.Event(), []

        def takers():
            while not stop.is_set():
                try:
                    r = pooled.request("POST", "/v1/sandboxes", {"timeout": 600, "extensions": REF, "env": {"WHO": f"turn-{turn}"}})
                except OSError:
                    return
                if r.status == 202:
                    made.append(r.json()["id"])
        threads = [threading.Thread(target=takers) for _ in range(2)]
        for t in threads:
            t.start()
        time.sleep(0.01 + 0.017 * turn)
        pooled.kill()
        stop.set()
        for t in threads:
            t.join()
        pooled.start()
        known = {x["id"] for x in pooled.sandboxes()}
        assert set(made) <= known  # what was answered is there
        for x in known:
            assert pooled.run(x, "echo $WHO")[1].strip() == f"turn-{turn}"
            pooled.delete(x)
        filled(pooled, 4)
        clean = [take(pooled)["id"] for _ in range(2)]
        for x in clean:
            assert pooled.run(x, "echo [$WHO]")[1].strip() == "[]"
            pooled.delete(x)
    filled(pooled, 4)
    harness.wait_until(lambda: len(census(pooled)) == 4, "nothing but the stock")


def test_official_client(pooled):
    from opensandbox import Sandbox
    from opensandbox.config import ConnectionConfig
    make(pooled)
    filled(pooled, 3)
    stock = set(census(pooled))

    async def main():
        config = ConnectionConfig(domain=f"127.0.0.1:{pooled.port}", api_key=pooled.key)
        sb = await Sandbox.create(harness.IMAGE, extensions=REF, env={"OWN": "sdk"}, connection_config=config)
        try:
            assert sb.id in stock
            done = await sb.commands.run("echo $OWN")
            assert done.logs.stdout[0].text.strip() == "sdk"
        finally:
            await sb.kill()
            await sb.close()
    asyncio.run(main())
