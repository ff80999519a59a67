"""A container engine that runs nothing: it speaks the REST API over a unix socket as far as the server uses it, remembers each request, and lets tests see what
real hardware would be asked for. A container's published TCP ports are served here; each answers 200 and says which one it is.
"""
import http.server
import io
import itertools
import json
import re
import socket
import socketserver
import tarfile
import tempfile
import threading
import urllib.parse

NO_SUCH = (404, {"message": "no such thing"})


def archive(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        t.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class Port:
    """Published, and refused until somebody listens."""

    def __init__(self, inside):
        self.inside, self.server = inside, None
        self.held = socket.socket()  # keeps the number
        self.held.bind(("127.0.0.1", 0))
        self.number = self.held.getsockname()[1]

    def open(self):
        inside = self.inside

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = f"{inside} {self.path}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.number), Answer, bind_and_activate=False)
        self.server.daemon_threads = True
        self.server.socket.close()
        self.server.socket, self.held = self.held, None
        self.server.server_activate()
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
        if self.held:
            self.held.close()


class Container:
    def __init__(self, number, name, body):
        self.id, self.name, self.body = f"{number:064x}", name, body
        self.labels, self.host = body.get("Labels") or {}, body.get("HostConfig") or {}
        self.running, self.code, self.ports, self.files = False, 0, {}, {}

    def json(self):
        ports = {p: [{"HostIp": "127.0.0.1", "HostPort": str(at.number)}] for p, at in self.ports.items()}
        return {"Id": self.id, "Name": "/" + self.name, "Image": self.body["Image"], "Config": self.body, "HostConfig": self.host, "Created": "2026-01-01T00:00:00Z",
                "State": {"Running": self.running, "Pid": 0, "ExitCode": self.code}, "Mounts": [{"Name": b.split(":")[0]} for b in self.host.get("Binds") or []],
                "NetworkSettings": {"IPAddress": "172.30.0.2", "Ports": ports}}


class FakeEngine:
    """`with FakeEngine() as e`: e.host is its DOCKER_HOST, e.requests what came, as (method, path, query, body)."""

    def __init__(self, api="1.52", least="1.44"):
        self.api, self.least = api, least
        self.directory = tempfile.TemporaryDirectory(prefix="fake-engine-")
        self.socket = f"{self.directory.name}/s"
        self.host = f"unix://{self.socket}"
        self.lock, self.count = threading.RLock(), itertools.count(1)
        self.requests, self.versions, self.faults = [], set(), []
        self.containers, self.images, self.volumes, self.networks = {}, {}, {}, {"host": {"Name": "host", "Driver": "host"}}
        self.closing = threading.Event()

    def add_image(self, reference, **files):
        self.images[reference] = {name.replace("_", "."): data for name, data in files.items()}

    def fail(self, method, pattern, status, message):
        """The next such request, once."""
        self.faults.append((method, pattern, status, message))

    def asked(self, method, pattern):
        return [r for r in self.requests if r[0] == method and re.fullmatch(pattern, r[1])]

    def __enter__(self):
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                engine.serve(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads, request_queue_size = True, 64

        self.server = Server(self.socket, Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        for c in self.containers.values():
            for p in c.ports.values():
                p.close()
        self.directory.cleanup()

    # ---- HTTP ----
    def body(self, h):
        if h.headers.get("Transfer-Encoding") != "chunked":
            return h.rfile.read(int(h.headers.get("Content-Length") or 0))
        data = b""
        while size := int(h.rfile.readline(), 16):
            data += h.rfile.read(size)
            h.rfile.readline()
        h.rfile.readline()
        return data

    def serve(self, h):
        url = urllib.parse.urlsplit(h.path)
        version = re.match(r"/v(\d+\.\d+)(/.*)", url.path)
        path, query = urllib.parse.unquote(version[2] if version else url.path), dict(urllib.parse.parse_qsl(url.query))
        body = self.body(h)
        if path == "/events":
            return self.stream(h)
        with self.lock:
            self.requests.append((h.command, path, query, json.loads(body) if h.headers.get("Content-Type") == "application/json" and body else body))
            if version:
                self.versions.add(version[1])
            status, reply = self.answer(h.command, path, query, self.requests[-1][3])
        data = reply if isinstance(reply, bytes) else b"" if reply is None else json.dumps(reply).encode()
        h.send_response(status)
        h.send_header("Content-Type", "application/x-tar" if isinstance(reply, bytes) else "application/json")
        if status != 204:
            h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        if status != 204:
            h.wfile.write(data)

    def stream(self, h):
        h.send_response(200)
        h.send_header("Connection", "close")
        h.end_headers()
        h.wfile.flush()
        h.close_connection = True
        self.closing.wait()

    def call(self, method, path, body=None):
        """As if a client had asked, unrecorded."""
        url = urllib.parse.urlsplit(path)
        status, reply = self.answer(method, url.path, dict(urllib.parse.parse_qsl(url.query)), body)
        assert status < 300, reply
        return reply

    def answer(self, method, path, query, body):
        for fault in self.faults:
            if fault[0] == method and re.fullmatch(fault[1], path):
                self.faults.remove(fault)
                return fault[2], {"message": fault[3]}
        for want, pattern, handler in self.ROUTES:
            found = re.fullmatch(pattern, path)
            if found and want == method:
                return handler(self, query, body, *found.groups())
        return NO_SUCH

    # ---- what it knows ----
    def find(self, name):
        return next((c for c in self.containers.values() if name in (c.id, c.name)), None)

    def version(self, *_):
        return 200, {"Version": "29.0.0-fake", "ApiVersion": self.api, "MinAPIVersion": self.least}

    def info(self, *_):
        return 200, {"ServerVersion": "29.0.0-fake", "OSType": "linux", "Architecture": "x86_64", "Runtimes": {"runc": {}}}

    def network(self, query, body, name):
        return (200, self.networks[name]) if name in self.networks else NO_SUCH

    def make_network(self, query, body):
        self.networks[body["Name"]] = {"Name": body["Name"], "Options": {}}
        return 201, {"Id": body["Name"]}

    def image(self, query, body, reference):
        if reference not in self.images:
            return NO_SUCH
        return 200, {"Id": reference, "Os": "linux", "Architecture": "amd64", "Size": 1, "Config": {"Labels": {}}}

    def make_image(self, query, body):
        reference = query.get("repo") or f"{query['fromImage']}:{query['tag']}"
        if "repo" not in query:
            return 404, {"message": f"manifest for {reference} not found"}
        self.images[reference] = {}
        return 200, {}

    @staticmethod
    def wanted(query, labels):
        return all(x in [f"{k}={v}" for k, v in labels.items()] + list(labels) for x in json.loads(query.get("filters", "{}")).get("label", []))

    def list_containers(self, query, body):
        return 200, [{"Id": c.id, "Names": ["/" + c.name], "Labels": c.labels} for c in self.containers.values() if self.wanted(query, c.labels)]

    def create(self, query, body):
        if self.find(query["name"]):
            return 409, {"message": "the name is in use"}
        if body["Image"] not in self.images:
            return 404, {"message": f"No such image: {body['Image']}"}
        c = Container(next(self.count), query["name"], body)
        self.containers[c.id] = c
        return 201, {"Id": c.id}

    def inspect(self, query, body, name):
        c = self.find(name)
        return (200, c.json()) if c else NO_SUCH

    def start(self, query, body, name):
        c = self.find(name)
        c.running = True
        for p in c.host.get("PortBindings") or {}:
            c.ports[p] = Port(p.split("/")[0])
            if c.body.get("Entrypoint"):  # of a guest nothing answers before it has booted
                c.ports[p].open()
        return 204, None

    def remove(self, query, body, name):
        c = self.find(name)
        if not c:
            return NO_SUCH
        for p in c.ports.values():
            p.close()
        del self.containers[c.id]
        return 204, None

    def pause(self, query, body, name, how):
        return 204, None

    def place(self, c, path):
        """Where a file is: in one of its volumes, or in itself."""
        for bind in c.host.get("Binds") or []:
            volume, at = bind.split(":")[:2]
            if path == at or path.startswith(at + "/"):
                return self.volumes.setdefault(volume, {"labels": {}, "files": {}})["files"], path[len(at) + 1:]
        return c.files, path.lstrip("/")

    def get_file(self, query, body, name):
        c = self.find(name)
        files, path = self.place(c, query["path"])
        data = files.get(path, self.images[c.body["Image"]].get(path))
        return (200, archive(path, data)) if data is not None else (404, {"message": f"Could not find the file {path}"})

    def put_files(self, query, body, name):
        with tarfile.open(fileobj=io.BytesIO(body)) as t:
            for entry in t:
                if entry.isfile():
                    files, path = self.place(self.find(name), f"{query['path'].rstrip('/')}/{entry.name}")
                    files[path] = t.extractfile(entry).read()
        return 200, None

    def list_volumes(self, query, body):
        return 200, {"Volumes": [{"Name": n, "Labels": v["labels"]} for n, v in self.volumes.items() if self.wanted(query, v["labels"])]}

    def volume(self, query, body, name):
        return (200, {"Name": name, "Labels": self.volumes[name]["labels"]}) if name in self.volumes else NO_SUCH

    def make_volume(self, query, body):
        self.volumes.setdefault(body["Name"], {"labels": body.get("Labels") or {}, "files": {}})
        return 201, {"Name": body["Name"], "Labels": self.volumes[body["Name"]]["labels"]}

    def remove_volume(self, query, body, name):
        return (204, None) if self.volumes.pop(name, None) else NO_SUCH

    ROUTES = [("GET", "/version", version), ("GET", "/info", info), ("GET", "/networks/(.+)", network), ("POST", "/networks/create", make_network),
              ("GET", "/images/(.+)/json", image), ("POST", "/images/create", make_image), ("GET", "/containers/json", list_containers),
              ("POST", "/containers/create", create), ("GET", "/containers/([^/]+)/json", inspect), ("POST", "/containers/([^/]+)/start", start),
              ("POST", "/containers/([^/]+)/(pause|unpause)", pause), ("DELETE", "/containers/([^/]+)", remove),
              ("GET", "/containers/([^/]+)/archive", get_file), ("PUT", "/containers/([^/]+)/archive", put_files), ("GET", "/volumes", list_volumes),
              ("GET", "/volumes/(.+)", volume), ("POST", "/volumes/create", make_volume), ("DELETE", "/volumes/(.+)", remove_volume)]
