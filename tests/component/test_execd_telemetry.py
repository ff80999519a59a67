"""execd's metrics at a small collector (execd.md 1.6, docs/telemetry.md), and at collectors that are absent, slow or wrong."""
import http.server
import json
import os
import signal
import socket
import threading
import time

import pytest

from execd_collector import Collector, counts, cut, lines, metrics, points, resource
from execd_peer import Execd, milliseconds, wait_until

HTTP, EXECUTION, FILES = "execd.http.request.duration", "execd.execution.duration", "execd.filesystem.operations.duration"
SYSTEM = {"execd.system.process.count": "gauge", "execd.system.cpu.usage": "gauge", "execd.system.memory.usage_bytes": "gauge",
          "execd.system.network.io.bytes": "sum", "execd.system.network.connections.active": "gauge"}


def key(**attributes):
    return tuple(sorted(attributes.items()))


def route(method, template, status):
    return key(http_method=method, http_route=template, http_status_code=status)


def upload(e, path):
    body = ('--b\r\nContent-Disposition: form-data; name="metadata"; filename="metadata"\r\n\r\n' + json.dumps({"path": path}) +
            '\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nold text\r\n--b--\r\n').encode()
    return e.request("POST", "/files/upload", body, {"Content-Type": "multipart/form-data; boundary=b"}).status


def waits(e):
    """Time-outs of the epoll calls that its threads are in; -1: it waits for events alone."""
    out = []
    for task in os.listdir(f"/proc/{e.pid}/task"):
        words = e.proc(f"task/{task}/syscall").split()
        if words[0] in ("281", "232", "22"):  # epoll_pwait, epoll_wait; epoll_pwait of arm64
            timeout = int(words[4], 16) & 0xffffffff
            out.append(timeout - (1 << 32) if timeout >= 1 << 31 else timeout)
    return out


def test_off_there_is_no_timer_and_no_thread():
    """And the look itself can fail: on, there is one."""
    with Execd() as off, Execd(env={"HOST_IP": "127.0.0.1"}) as on:
        assert wait_until(lambda: waits(off), "it waits", 5) == [-1]
        assert 0 < wait_until(lambda: waits(on), "it waits", 5)[0] <= 60000
        assert lines(off) == [] and lines(on) == ["telemetry: metrics go to 127.0.0.1 port 4318 every 60000 ms"]
        assert off.threads() == on.threads()


def test_values_are_what_was_done():
    with Collector() as c, Execd(env=c.environment(OPENSANDBOX_ID="sb-1", OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS="team=red,bad,zone = b ")) as e:
        d = e.dir.name
        for _ in range(3):
            assert e.stdout("sleep 0.03; echo hi") == "hi\n"
        e.run("exit 3"), e.run("kill -9 $$"), e.run(["/no/such"])
        e.wait_end(e.background("true"))
        session = e.request("POST", "/session", {}).json()["session_id"]
        for command in ("true", "exit 4", "true"):
            e.request("POST", f"/session/{session}/run", {"command": command})
        e.request("POST", f"/session/{session}/run", {"command": "sleep 9", "timeout": 20})
        done = [upload(e, f"{d}/f"), e.request("GET", f"/files/info?path={d}/f").status,
                e.request("GET", f"/files/download?path={d}/f").status,
                e.request("POST", "/files/replace", {f"{d}/f": {"old": "old", "new": "x"}}).status,
                e.request("POST", "/files/permissions", {f"{d}/f": {"mode": 600}}).status,
                e.request("GET", f"/files/search?path={d}&pattern=f").status,
                e.request("POST", "/files/mv", [{"src": f"{d}/f", "dest": f"{d}/g"}]).status,
                e.request("POST", "/directories", {f"{d}/dir": {"mode": 755}}).status,
                e.request("GET", f"/directories/list?path={d}").status,
                e.request("DELETE", f"/directories?path={d}/dir").status,
                e.request("DELETE", f"/v1/filesystem/{os.getuid()}/{os.getgid()}/files?path={d}/g").status]
        assert done == [200] * 11
        assert e.request("GET", f"/files/info?path={d}/none").status == 404
        assert e.request("GET", "/files/info?path=/", headers={"X-EXECD-ACCESS-TOKEN": "wrong"}).status == 401
        assert e.request("GET", "/nowhere").status == 404
        assert e.request("GET", "/proxy/44772/ping").status == 200
        path, headers, body = c.wait_next()

        assert path == "/v1/metrics" and headers["Content-Type"] == "application/json" and headers["Host"] == f"127.0.0.1:{c.port}"
        assert resource(body) == {"service.name": "opensandbox-execd-0.1.0", "service.version": "0.1.0", "sandbox_id": "sb-1",
                                  "team": "red", "zone": "b"}
        assert counts(body, EXECUTION) == {key(operation="run_command", result="success"): 4, key(operation="run_command", result="failure"): 3,
                                           key(operation="run_in_session", result="success"): 2,
                                           key(operation="run_in_session", result="failure"): 2}
        slow = points(body, EXECUTION)[key(operation="run_command", result="success")]
        assert slow["max"] >= 30 and slow["sum"] >= 90 and sum(map(int, slow["bucketCounts"][3:])) >= 3
        every = "info delete chmod rename mkdir rmdir listdir search replace upload download".split()
        assert counts(body, FILES) == {**{key(operation=o, result="success"): 1 for o in every}, key(operation="info", result="failure"): 1}
        seen = counts(body, HTTP)
        assert seen[route("POST", "/command", 200)] == 7 and seen[route("POST", "/session/{id}/run", 200)] == 4
        assert seen[route("GET", "/files/info", 200)] == 1 and seen[route("GET", "/files/info", 404)] == 1
        assert seen[route("GET", "/files/info", 401)] == 1 and seen[route("GET", "unknown", 404)] == 1
        assert seen[route("DELETE", "/v1/filesystem/{uid}/{gid}/files", 200)] == 1
        assert seen[route("GET", "/ping", 200)] == 1  # through the proxy to ourselves: one request
        for name, kind in SYSTEM.items():
            assert kind in metrics(body)[name], name
        assert lines(e, "left out") == ["telemetry: entry 2 of OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS is left out: it has no '='"]


def test_every_point_is_well_formed():
    with Collector() as c, Execd(env=c.environment()) as e:
        e.run("true")
        before = time.time_ns()
        first, second = c.wait_next()[2], c.wait_next()[2]
        for name, m in metrics(second).items():
            assert m["unit"] and m["description"]
            for p in points(second, name).values():
                assert before < int(p["timeUnixNano"]) < time.time_ns()
                if "histogram" in m or "sum" in m:
                    assert int(p["startTimeUnixNano"]) < before
                if "histogram" in m:
                    assert len(p["bucketCounts"]) == len(p["explicitBounds"]) + 1 and p["explicitBounds"] == sorted(p["explicitBounds"])
                    assert sum(map(int, p["bucketCounts"])) == int(p["count"]) and p["min"] <= p["sum"] / int(p["count"]) <= p["max"]
            if "histogram" in m or "sum" in m:
                assert m.get("histogram", m.get("sum"))["aggregationTemporality"] == 2
        assert counts(first, EXECUTION) == counts(second, EXECUTION)  # cumulative: nothing begins anew
        start = [points(b, EXECUTION)[key(operation="run_command", result="success")]["startTimeUnixNano"] for b in (first, second)]
        assert start[0] == start[1]


def test_what_is_observed_follows_the_sandbox():
    with Collector() as c, Execd(env=c.environment()) as e:
        def tcp():
            return int(points(c.wait_next()[2], "execd.system.network.connections.active")[key(protocol="tcp")]["asInt"])

        before, pairs = tcp(), []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(200):
                pairs.append(socket.create_connection(listener.getsockname()))
                pairs.append(listener.accept()[0])
        # of the whole machine, where others come and go
        wait_until(lambda: tcp() - before > 350, "connections are seen", 20)
        for s in pairs:
            s.close()
        wait_until(lambda: tcp() - before < 350, "their end is seen", 20)
        (cpu,), (memory,) = points(c.requests[-1][2], "execd.system.cpu.usage").values(), points(c.requests[-1][2], "execd.system.memory.usage_bytes").values()
        assert 0 <= cpu["asDouble"] <= 100 and int(memory["asInt"]) > 0


def test_processes_are_those_of_the_sandbox():
    def count(c):
        (p,) = points(c.wait_next()[2], "execd.system.process.count").values()
        return int(p["asInt"])
    with Collector() as c, Execd(init=["tail", "-f", "/dev/null"], pid1=True, env=c.environment()) as e:
        wait_until(lambda: count(c) == 1, "execd alone", 10)
        for _ in range(20):
            e.background(["sleep", "60"])
        wait_until(lambda: count(c) == 21, "twenty more", 10)


def test_the_endpoint_as_it_is_and_headers():
    with Collector() as c, Execd(env=c.environment(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{c.url}/in/here?tenant=7",
                                                   OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20s3cret,X-A=1")) as e:
        path, headers, _ = c.wait_next()
        assert path == "/in/here?tenant=7" and headers["Authorization"] == "Bearer s3cret" and headers["X-A"] == "1"
        assert "s3cret" not in e.output() and "tenant" not in e.output()


@pytest.mark.parametrize("endpoint,word", [("http://collector:4318", "not supported: name in endpoint"), ("https://127.0.0.1", "not supported: https"),
                                           ("127.0.0.1:4318", "must begin with http://")])
def test_what_cannot_be_is_said_once_and_execd_works(endpoint, word):
    with Execd(env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) as e:
        (line,) = lines(e)
        assert line.startswith("telemetry is off: OTEL_EXPORTER_OTLP_ENDPOINT: ") and word in line
        assert e.stdout("echo hi") == "hi\n"
        assert wait_until(lambda: waits(e), "it waits", 5)


def test_nothing_of_the_users_gets_out():
    class Echo(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as web, Collector() as c, Execd(token="t0psecret-t0ken", env=c.environment()) as e:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        e.run("echo n0body; export N0BODY=1", envs={"N0BODY": "n0body"}, cwd="/")
        e.request("GET", "/files/info?path=/n0body"), e.request("GET", "/n0body?n0body=1"), e.request("PROPFIND", "/n0body")
        e.request("GET", f"/proxy/{web.server_address[1]}/n0body", headers={"n0body": "n0body"})
        e.request("GET", "/command/status/n0body"), e.request("N0BODY", "/ping")  # the last is no method at all
        body = c.wait_next()[2]
        text = json.dumps(body)
        assert "n0body" not in text.lower() and "t0psecret" not in text and e.dir.name not in text
        seen = counts(body, HTTP)
        assert seen[route("_OTHER", "unknown", 404)] == 1 and seen[route("_OTHER", "unknown", 400)] == 1 and seen[route("GET", "unknown", 200)] == 1
        web.shutdown()


def test_attributes_are_bounded():
    """A program in the sandbox that answers with every status there is."""
    class Every(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.send_header("Content-Length", "0")
            self.end_headers()
        do_POST = do_GET

        def log_message(self, *_):
            pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Every) as web, Collector() as c, Execd(env=c.environment()) as e:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        sent = 0
        for method in ("GET", "POST"):
            for status in range(200, 600):
                e.request(method, f"/proxy/{web.server_address[1]}/{status}")
                sent += 1
        seen = counts(c.wait_next()[2], HTTP)
        assert len(seen) == 257 and sum(seen.values()) == sent and seen[(("otel.metric.overflow", True),)] == sent - 256
        web.shutdown()


# ---- collectors that fail ----

def works(e):
    """Requests are answered as fast as ever."""
    for _ in range(20):
        took, reply = milliseconds(lambda: e.request("GET", "/ping"))
        assert reply.status == 200 and took < 500
    assert e.stdout("echo hi") == "hi\n"


def hang(connection):
    connection.settimeout(30)
    try:
        connection.recv(1)
    except OSError:
        pass


def drip(connection):
    """A head that never ends, a byte at a time."""
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        pass


def flood(connection):
    """Interim answers without end."""
    try:
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
    except OSError:
        pass


def garbage(connection):
    connection.sendall(os.urandom(2000))


def upgrade(connection):
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    hang(connection)


@pytest.mark.parametrize("answer,word", [(429, "status 429"), (503, "status 503"), (404, "status 404"), (302, "status 302"), (hang, "no answer"),
                                         (drip, "no answer"), (flood, "answer"), (cut, "answer"), (garbage, "answer"), (upgrade, "answer")])
def test_a_collector_that_does_not_take_it_harms_nobody(answer, word):
    limit = {"OTEL_METRIC_EXPORT_TIMEOUT": "200"} if answer in (hang, drip, flood) else {}
    with Collector(answer) as c, Execd(env=c.environment(20, **limit)) as e:
        wait_until(lambda: len(c.requests) >= 5, "tries", 20)
        works(e)
        wait_until(lambda: len(c.requests) >= 10, "tries", 20)
        told = lines(e)
        assert len(told) == 2 and told[1].startswith("telemetry: no metrics are taken (") and word in told[1], told
        c.answer = 200
        wait_until(lambda: len(lines(e)) == 3, "the line", 10)
        c.wait_next(5)
        assert lines(e)[2] == "telemetry: the collector takes metrics"


def test_retry_after_is_kept():
    with Collector(503, {"Retry-After": "2"}) as c, Execd(env=c.environment(20)):
        wait_until(lambda: c.requests, "a try", 10)
        c.fields = {}
        wait_until(lambda: len(c.requests) >= 2, "the next", 10)
        assert c.times[1] - c.times[0] >= 2


# ---- the end ----

def test_the_last_figures_leave_at_the_end():
    with Collector() as c, Execd(env=c.environment(60000)) as e:
        e.run("true")
        took, code = milliseconds(e.stop)
        assert code == 0 and took < 1500
        (one,) = c.requests
        assert counts(one[2], EXECUTION) == {key(operation="run_command", result="success"): 1}


@pytest.mark.parametrize("stop", ["entrypoint", "signal"])
def test_the_last_figures_leave_at_the_end_of_an_init(stop):
    entrypoint = ["sh", "-c", "exit 5"] if stop == "entrypoint" else ["tail", "-f", "/dev/null"]
    with Collector() as c, Execd(init=entrypoint, env=c.environment(60000)) as e:
        if stop == "signal":
            e.run("true")
            assert e.stop() == 0
        else:
            assert e.wait() == 5
        assert len(c.requests) == 1 and (e.record()["code"], e.record()["signal"]) == (0 if stop == "signal" else 5, 0)


def test_an_export_on_its_way_is_followed_by_the_last_one():
    release = threading.Event()

    def late(connection):
        release.wait(5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with Collector(late) as c, Execd(env=c.environment(20)) as e:
        wait_until(lambda: len(c.requests) == 1, "one is on its way", 10)
        e.run("true")
        os.kill(e.pid, signal.SIGTERM)
        wait_until(lambda: "stopping" in e.output(), "it stops", 5)
        release.set()
        assert e.wait() == 0
        assert counts(c.requests[-1][2], EXECUTION) == {key(operation="run_command", result="success"): 1}


@pytest.mark.parametrize("answer,most_ms", [(hang, 1500), (503, 700)])
def test_a_collector_does_not_hold_up_the_end(answer, most_ms):
    """One that says nothing costs a second; one that had failed before, nothing."""
    with Collector(answer) as c, Execd(env=c.environment(60000 if callable(answer) else 20)) as e:
        if not callable(answer):
            wait_until(lambda: len(lines(e)) == 2, "it has failed", 10)
        took, code = milliseconds(e.stop)
        assert code == 0 and took < most_ms
        assert "handle was left open" not in e.output()
