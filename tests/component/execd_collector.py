"""A small OTLP/HTTP collector: keeps what it is sent, strictly read, and answers as told."""
import http.server
import json
import socket
import threading
import time

from execd_peer import wait_until


class Collector:
    """`answer`: a status, or a function of the raw socket that does anything else."""

    def __init__(self, answer=200, headers=None, address=("127.0.0.1", 0)):
        self.answer, self.fields = answer, headers or {}
        self.requests = []  # (path, headers, body)
        self.times = []  # when each had come, monotonic
        self.connections = 0
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                collector.connections += 1
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer, fields = collector.answer, collector.fields
                collector.times.append(time.monotonic())
                collector.requests.append((self.path, self.headers, json.loads(body)))
                if callable(answer):
                    self.close_connection = True
                    answer(self.connection)
                    return
                self.send_response(answer)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a peer that ends in the middle

        self.server = Server(address, Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def environment(self, interval_ms=100, **more):
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_METRIC_EXPORT_INTERVAL": str(interval_ms), **more}

    def wait_next(self, count=2):
        """The newest export that began after now: the second from now on."""
        seen = len(self.requests)
        wait_until(lambda: len(self.requests) >= seen + count, "an export", 20)
        return self.requests[-1]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def cut(connection):
    """An answer of a collector: none."""
    connection.shutdown(socket.SHUT_RDWR)


def lines(e, word="telemetry"):
    """What execd's log says with this word."""
    found = [json.loads(line) for line in e.output().splitlines() if line.startswith("{")]
    return [f["msg"] for f in found if word in f["msg"]]


def dead_port():
    """A port of the loopback that refuses: bound, not listened on. Keep the socket."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s, s.getsockname()[1]


def values(attributes):
    """Plain ones of a list of KeyValue; each has exactly one kind of value."""
    out = {}
    for a in attributes:
        (kind, value), = a["value"].items()
        assert kind in ("stringValue", "intValue", "boolValue") and a["key"] not in out
        out[a["key"]] = int(value) if kind == "intValue" else value
    return out


def resource(body):
    (r,) = body["resourceMetrics"]
    return values(r["resource"]["attributes"])


def metrics(body):
    (r,) = body["resourceMetrics"]
    (scope,) = r["scopeMetrics"]
    assert scope["scope"]["name"] == "opensandbox/execd"
    names = [m["name"] for m in scope["metrics"]]
    assert len(set(names)) == len(names)
    return {m["name"]: m for m in scope["metrics"]}


def points(body, name):
    """{attributes as a sorted tuple: point} of one metric; {} when it is not there."""
    m = metrics(body).get(name)
    if not m:
        return {}
    data = next(m[k] for k in ("histogram", "gauge", "sum") if k in m)
    out = {tuple(sorted(values(p["attributes"]).items())): p for p in data["dataPoints"]}
    assert len(out) == len(data["dataPoints"])
    return out


def counts(body, name):
    return {k: int(p["count"]) for k, p in points(body, name).items()}
