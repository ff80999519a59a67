"""What a sandbox can reach, and what it can do to its neighbour.

Everything runs in a network namespace of the test's own: the server, its sandboxes, listeners on every address that must
be out of reach, and behind a second namespace a listener that must be in reach (through NAT). Each target is tried twice:
with our rules removed (the control: it must be reached) and with them (it must not, and its listener counted nothing).
"""
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading

import pytest

import engines
import harness

CLONE_NEWNET = 0x40000000
PORT = 7077
OUTER, INTERNET = "198.51.100.1", "198.51.100.2"
V6_OUTER = "2001:db8::1"
libc = ctypes.CDLL(None, use_errno=True)
place = None  # where the sandboxes of the test under way are


def sh(*args, check=True):
    return subprocess.run(args, check=check, capture_output=True, text=True).stdout


class Listener:
    """TCP and UDP echo on every address of this namespace; counts by the local address that was reached."""

    def __init__(self, port=PORT):
        self.hits, self.sockets, self.threads = {}, [], []
        for family, kind in [(f, k) for f in (socket.AF_INET, socket.AF_INET6) for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]:
            s = socket.socket(family, kind)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.bind(("", port))
            self.sockets.append(s)
            if kind == socket.SOCK_STREAM:
                s.listen(64)
            self.threads.append(threading.Thread(target=self.tcp if kind == socket.SOCK_STREAM else self.udp, args=(s,), daemon=True))
            self.threads[-1].start()

    def tcp(self, s):
        while True:
            try:
                c, _ = s.accept()
            except OSError:
                return
            self.hits["tcp " + c.getsockname()[0].split("%")[0]] = self.hits.get("tcp " + c.getsockname()[0].split("%")[0], 0) + 1
            c.sendall(b"reached")
            c.close()

    def udp(self, s):
        while True:
            data, peer = s.recvfrom(100)
            if not data:
                return
            key = "udp " + data.decode()
            self.hits[key] = self.hits.get(key, 0) + 1
            s.sendto(b"reached", peer)

    def close(self):
        """No thread is left that would take what comes to the next one's socket of the same number."""
        for s in self.sockets:
            with contextlib.suppress(OSError):  # UDP is not connected, but who receives wakes up
                s.shutdown(socket.SHUT_RDWR)
        for t in self.threads:
            t.join()
        for s in self.sockets:
            s.close()


PROBE = r'''
import json, socket, sys
targets, port = json.loads(sys.argv[1]), int(sys.argv[2])
out = []
for address in targets:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4]
    for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        s = socket.socket(family, kind)
        s.settimeout(0.7)
        try:
            s.connect(where)
            if name == "udp":
                s.send(address.split("%")[0].encode())
            if s.recv(100) == b"reached":
                out.append(name + " " + address.split("%")[0])
        except OSError:
            pass
        s.close()
print(json.dumps(out))
'''


class BuiltIn:
    """What differs between the runtimes for these tests."""
    tables = "osb"

    def __init__(self):
        self.server = harness.Server(config={"server": {"host": "0.0.0.0"}})
        self.server.import_base()
        self.server.start()

    def pid(self, sandbox):
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if f"/{sandbox}\n" in (p / "cgroup").read_text() and b"execd" in (p / "cmdline").read_bytes():
                    return p.name
            except OSError:
                pass
        raise AssertionError(f"no process of {sandbox}")

    def remove(self):
        self.server.remove()


class OnDockerd(BuiltIn):
    tables = "opensandbox_docker_"

    def __init__(self):
        self.engine, self.server = engines.Dockerd(), None
        try:
            self.engine.start()
            self.engine.import_base()
            # what the engine's own firewall would do, were it not off in the tests
            sh("nft", "add table ip nat_of_test; add chain ip nat_of_test out { type nat hook postrouting priority 100; };"
               ' add rule ip nat_of_test out ip saddr 172.16.0.0/12 oifname "outer" masquerade')
            self.server = harness.Server(config={"runtime": {"type": "docker"}, "server": {"host": "0.0.0.0"}}, env={"DOCKER_HOST": self.engine.host})
            self.server.start()
        except BaseException:
            self.remove()
            raise

    def pid(self, sandbox):
        return str(self.engine.inspect(sandbox)[1]["State"]["Pid"])

    def remove(self):
        if self.server:
            self.server.remove()
        self.engine.remove()


@pytest.fixture(scope="module", params=[BuiltIn, OnDockerd], ids=["oci", "dockerd"])
def world(request):
    global place
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    place = None
    inner = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    try:
        harness.wait_until(lambda: os.readlink(f"/proc/{inner.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "second namespace")
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "outer", "type", "veth", "peer", "name", "net0", "netns", str(inner.pid))
        sh("ip", "addr", "add", OUTER + "/24", "dev", "outer")
        sh("ip", "addr", "add", V6_OUTER + "/64", "dev", "outer", "nodad")
        sh("ip", "link", "set", "outer", "up")
        sh("ip", "route", "add", "default", "via", INTERNET)
        sh("ip", "link", "add", "meta", "type", "veth", "peer", "name", "meta2")
        sh("ip", "link", "set", "meta", "up")
        sh("ip", "addr", "add", "169.254.169.254/32", "dev", "meta")
        n = ["nsenter", "-t", str(inner.pid), "-n"]
        sh(*n, "ip", "addr", "add", INTERNET + "/24", "dev", "net0")
        sh(*n, "ip", "link", "set", "net0", "up")
        sh(*n, "ip", "link", "set", "lo", "up")
        far = subprocess.Popen([*n, "python3", "-c", f"""
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('{INTERNET}', {PORT})); s.listen(16)
print('up', flush=True)
while True:
    c, peer = s.accept(); c.sendall(b'reached' if peer[0] == '{OUTER}' else b'not translated'); c.close()
"""], stdout=subprocess.PIPE, text=True)
        assert far.stdout.readline() == "up\n"
        listener = Listener()
        place = request.param()
        yield place.server, listener
        listener.close()
        far.kill()
        far.wait()
    finally:
        if place:
            place.remove()
        inner.kill()
        inner.wait()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


def in_net(sandbox, *args):
    return sh("nsenter", "-t", place.pid(sandbox), "-n", *args)


def address(sandbox):
    return json.loads(in_net(sandbox, "ip", "-j", "-4", "addr", "show", "eth0"))[0]["addr_info"][0]["local"]


def gateway(sandbox):
    return json.loads(in_net(sandbox, "ip", "-j", "route", "show", "default"))[0]["gateway"]


def probe(server, sandbox, targets, port=PORT):
    r = server.execd("POST", sandbox, "/command", body={"argv": ["python3", "-c", PROBE, json.dumps(targets), str(port)]})
    text = "".join(e["text"] for e in (json.loads(f) for f in r.body.split(b"\n\n") if f.strip()) if e["type"] == "stdout")
    assert text, r
    return set(json.loads(text))


def probe_from_outside(sandbox, targets, port=PORT):
    """The same from the sandbox's network namespace, without the server."""
    return set(json.loads(in_net(sandbox, "python3", "-c", PROBE, json.dumps(targets), str(port))))


@contextlib.contextmanager
def in_namespace(sandbox):
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    fd = os.open(f"/proc/{place.pid(sandbox)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.setns(fd, CLONE_NEWNET) == 0
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(fd)
        os.close(home)


def our_tables():
    return [line.split()[1:] for line in sh("nft", "list", "tables").splitlines() if line.split()[2].startswith(place.tables)]


def open_ipv6(sandbox, number):
    """IPv6 on both halves of the link, so that the rules are what is tested and not its absence."""
    for key in ("all", "default", "eth0", "lo"):
        in_net(sandbox, "sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{key}/disable_ipv6")
    peer = json.loads(in_net(sandbox, "ip", "-j", "link", "show", "eth0"))[0]["link_index"]
    host = next(x.get("master", x["ifname"]) for x in json.loads(sh("ip", "-j", "link")) if x["ifindex"] == peer)
    in_net(sandbox, "ip", "addr", "add", f"fe80::{number}/64", "dev", "eth0", "nodad")
    in_net(sandbox, "ip", "addr", "add", f"2001:db8:{number}::2/64", "dev", "eth0", "nodad")
    pathlib.Path(f"/proc/sys/net/ipv6/conf/{host}/disable_ipv6").write_text("0")
    sh("ip", "addr", "add", f"fe80::f{number}/64", "dev", host, "nodad")
    sh("ip", "addr", "add", f"2001:db8:{number}::1/64", "dev", host, "nodad")
    in_net(sandbox, "ip", "-6", "route", "add", "default", "via", f"2001:db8:{number}::1")
    pathlib.Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    return [f"fe80::f{number}%eth0", f"2001:db8:{number}::1", V6_OUTER]


SERVE = f"""
import socket, threading
def tcp():
    s = socket.create_server(('0.0.0.0', {PORT}))
    while True:
        c, _ = s.accept(); c.sendall(b'reached'); c.close()
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', {PORT}))
    while True:
        d, p = s.recvfrom(99); s.sendto(b'reached', p)
threading.Thread(target=tcp).start(); udp()
"""


@pytest.mark.slow
def test_network(world):
    server, listener = world
    a, b = server.create()["id"], server.create()["id"]
    r = server.execd("POST", b, "/command", body={"argv": ["python3", "-c", SERVE], "background": True})
    assert r.status == 200
    harness.wait_until(lambda: PORT in [int(x.split()[3].rsplit(":", 1)[1]) for x in in_net(b, "ss", "-Hlnt").splitlines()], "listener in b")
    v6 = open_ipv6(a, 11)
    assert server.run(a, "ls /run/docker.sock /var/run/docker.sock /run/podman 2>/dev/null")[1] == ""
    closed = [address(b), gateway(a), OUTER, "169.254.169.254", *v6]
    assert INTERNET not in closed
    gateway_address = gateway(a)
    with_rules = probe(server, a, closed)
    assert with_rules == set(), f"reached through our rules: {with_rules}"
    assert listener.hits == {}, f"listeners counted {listener.hits}"
    # the server's own port, on each of its addresses
    assert probe_connect(server, a, [(x, server.port) for x in (gateway(a), OUTER)]) == []
    # through NAT, and the host's outer address is what the other side sees
    assert probe(server, a, [INTERNET]) == {f"tcp {INTERNET}"}
    # the control: without our rules each of them answers. The server would bring them back at once, so it is halted
    tables = our_tables()
    assert tables
    server.process.send_signal(signal.SIGSTOP)
    try:
        for t in tables:
            sh("nft", "delete", "table", *t)
        listener.hits.clear()
        # a reply may come from another address than was asked: that the listener got it is what counts
        control = probe_from_outside(a, closed) | set(listener.hits)
        want = {f"{k} {x.split('%')[0]}" for x in closed for k in ("tcp", "udp")}
        assert control == want, f"the control did not reach {want - control}"
        with in_namespace(a):
            socket.create_connection((gateway_address, server.port), 2).close()
    finally:
        server.process.send_signal(signal.SIGCONT)
    harness.wait_until(lambda: sorted(our_tables()) == sorted(tables), "the server brings its rules back")
    assert probe_from_outside(a, closed) == set()
    listener.hits.clear()
    assert probe(server, a, closed) == set() and listener.hits == {}
    server.delete(a)
    server.delete(b)


def probe_connect(server, sandbox, targets):
    code = ("import json,socket,sys\nout=[]\nfor a,p in json.loads(sys.argv[1]):\n s=socket.socket(); s.settimeout(.7)\n"
            " try: s.connect((a,p)); out.append(a)\n except OSError: pass\nprint(json.dumps(out))")
    r = server.execd("POST", sandbox, "/command", body={"argv": ["python3", "-c", code, json.dumps(targets)]})
    return json.loads("".join(e["text"] for e in (json.loads(f) for f in r.body.split(b"\n\n") if f.strip()) if e["type"] == "stdout"))


@pytest.mark.slow
def test_neighbour_survives(world):
    """One sandbox exhausts its pids, memory and inotify instances; its neighbour works on."""
    server, _ = world
    bad, good = server.create(resourceLimits={"cpu": "500m", "memory": "128Mi"})["id"], server.create()["id"]
    fork = server.run(bad, "for i in $(seq 6000); do sleep 30 & done 2>&1 | tail -1; echo; wait", timeout=8000)
    assert server.run(good, "true; echo fine")[:2] == (0, "fine\n"), fork
    eater = "x=bytearray()\nwhile True: x += bytearray(8<<20)"
    code, _, _ = server.run(bad, f"python3 -c '{eater}'", timeout=20000)
    assert code in (137, -1), code
    inotify = ("import ctypes,os\nl=ctypes.CDLL(None)\nn=0\n"
               "for u in range(2000,2020):\n if os.fork()==0:\n  os.setuid(u)\n  while l.inotify_init1(0)>=0: n+=1\n  print(n,flush=True)\n  import time; time.sleep(20)\n"
               "import time; time.sleep(1)")
    server.events(bad, command=f"python3 -c '{inotify}'", background=True)
    out = server.run(good, "python3 -c 'import ctypes;print(ctypes.CDLL(None).inotify_init1(0)>=0)'")
    assert out[:2] == (0, "True\n"), out
    assert server.run(good, "sh -c 'for i in 1 2 3 4 5; do (echo $i) & done; wait' | sort | tr -d '\\n'")[1] == "12345"
    server.delete(bad)
    server.delete(good)
