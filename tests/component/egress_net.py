"""Two network namespaces as egress.md 8.1 has them: SB with the sandbox and egress, UP as the internet. Everything dies with them.

UP holds servers, dnsmasq, a hostile DNS server and a sniffer; what the sniffer saw is the proof. DNS messages are made and read
by hand here, so that they can be wrong on purpose.
"""
import ctypes
import http.client
import json
import os
import pathlib
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
EGRESS = os.environ.get("OPENSANDBOX_EGRESS", str(BUILD / "test/src/egress/egress"))
ALLOWED, SHARED, DENIED = "198.51.100.10", "198.51.100.20", "203.0.113.66"
RESOLVER, EVIL, DEAD = "198.51.100.53", "198.51.100.54", "198.51.100.55"
SANDBOX, UPLINK = "192.0.2.2", "192.0.2.1"
TOKEN = "token-of-the-tests"
CLONE_NEWNET = 0x40000000
SO_TIMESTAMPNS = 35
libc = ctypes.CDLL(None, use_errno=True)


def wait_until(condition, what, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def run(*args, check=True):
    done = subprocess.run(args, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{args}: {done.stderr}")
    return done


class Inside:
    """Runs a function in a thread that is in another network namespace (sockets keep the one they were made in)."""

    def __init__(self, namespace):
        self.namespace = namespace

    def __call__(self, function, *args):
        box = {}

        def body():
            with open(f"/run/netns/{self.namespace}") as f:
                if libc.setns(f.fileno(), CLONE_NEWNET):
                    box["error"] = OSError(ctypes.get_errno(), "setns")
                    return
            try:
                box["value"] = function(*args)
            except BaseException as e:  # handed over to the caller
                box["error"] = e
        t = threading.Thread(target=body)
        t.start()
        t.join()
        if "error" in box:
            raise box["error"]
        return box["value"]


# ---- DNS by hand ----

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "TXT": 16, "AAAA": 28, "ANY": 255, "AXFR": 252}


def wire_name(name):
    if isinstance(name, bytes):  # already on the wire
        return name
    return b"".join(bytes([len(p)]) + p.encode() for p in name.rstrip(".").split(".") if p) + b"\0"


def query(name, kind="A", edns=True, ident=None, flags=0x0100, klass=1, count=1, padding=0):
    ident = secrets.randbelow(65536) if ident is None else ident
    m = struct.pack("!6H", ident, flags, count, 0, 0, int(edns)) + (wire_name(name) + struct.pack("!HH", TYPES[kind], klass)) * count
    if edns:
        option = struct.pack("!HH", 12, padding) + b"\0" * padding if padding else b""
        m += b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(option)) + option
    return m


def record(owner, kind, ttl, data):
    return wire_name(owner) + struct.pack("!HHIH", TYPES[kind], 1, ttl, len(data)) + data


def skip_name(m, at):
    while True:
        n = m[at]
        if n >= 0xc0:
            return at + 2
        at += 1 + n
        if not n:
            return at


class Reply:
    def __init__(self, m):
        self.raw = m
        self.id, self.flags, qd, an, ns, ar = struct.unpack("!6H", m[:12])
        self.rcode, self.tc, self.ra = self.flags & 15, bool(self.flags & 0x200), bool(self.flags & 0x80)
        at = 12
        for _ in range(qd):
            at = skip_name(m, at) + 4
        self.addresses, self.ttls, self.ede, self.opt, self.texts = [], [], None, False, []
        for _ in range(an + ns + ar):
            at = skip_name(m, at)
            kind, _, ttl, size = struct.unpack("!HHIH", m[at:at + 10])
            data = m[at + 10:at + 10 + size]
            at += 10 + size
            if kind == 1:
                self.addresses.append(socket.inet_ntoa(data))
            if kind == 28:
                self.addresses.append(socket.inet_ntop(socket.AF_INET6, data))
            if kind == 16:
                self.texts.append(data)
            if kind == 41:
                self.opt = True
                while len(data) >= 4:
                    code, length = struct.unpack("!HH", data[:4])
                    if code == 15:
                        self.ede = struct.unpack("!H", data[4:6])[0]
                    data = data[4 + length:]
            else:
                self.ttls.append(ttl)


class Bed:
    """The topology, torn down with everything in it. Use as a context."""

    def __init__(self):
        tag = secrets.token_hex(3)
        self.sb, self.up, self.tag = f"egsb{tag}", f"egup{tag}", tag
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="egress-test-"))
        self.processes, self.sniffed, self.sockets = [], [], []
        self.seen_at = []  # when each of sniffed arrived, by the kernel's clock: time.time()
        self.inside, self.outside = Inside(self.sb), Inside(self.up)
        self.evil = {}  # name -> function(question bytes) -> list of replies
        self.egress = None

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for ns in (self.sb, self.up):
            run("ip", "netns", "add", ns)
        for ns in (self.sb, self.up):
            run("ip", "-n", ns, "link", "set", "lo", "up")
        run("ip", "-n", self.sb, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.up)
        for ns, v4, v6 in ((self.sb, SANDBOX, "2001:db8::2"), (self.up, UPLINK, "2001:db8::1")):
            run("ip", "-n", ns, "addr", "add", f"{v4}/24", "dev", "eth0")
            run("ip", "-n", ns, "addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
            run("ip", "-n", ns, "link", "set", "eth0", "up")
        run("ip", "-n", self.sb, "route", "add", "default", "via", UPLINK)
        run("ip", "-n", self.sb, "route", "add", "default", "via", "2001:db8::1")
        for a in (ALLOWED, SHARED, DENIED, RESOLVER, EVIL, "198.51.100.11", "198.51.100.12"):
            run("ip", "-n", self.up, "addr", "add", f"{a}/32", "dev", "lo")
        self.start_sniffer()
        self.start_servers()
        self.start_dnsmasq()
        self.start_evil()

    def __exit__(self, *_):
        try:
            self.stop_egress()
        finally:
            self.tear_down()

    def tear_down(self):
        for p in self.processes:
            p.kill()
            p.wait()
        for s in self.sockets:
            s.close()
        for ns in (self.sb, self.up):
            run("ip", "netns", "del", ns, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---- UP ----

    def start_sniffer(self, link="eth0"):
        """link None: all of them."""
        s = self.outside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        if link:
            self.outside(lambda: s.bind((link, 0)))
        s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.sockets.append(s)

        def loop():
            while True:
                try:
                    frame, stamps, _, address = s.recvmsg(2048, 64)
                except OSError:
                    return
                if address[2] != socket.PACKET_OUTGOING:
                    seconds, nanoseconds = struct.unpack("qq", stamps[0][2])
                    self.seen_at.append(seconds + nanoseconds / 1e9)
                    self.sniffed.append(frame)
        threading.Thread(target=loop, daemon=True).start()

    def frames_to(self, address):
        """IPv4 frames that arrived at UP for this address."""
        packed = socket.inet_aton(address)
        return [f for f in self.sniffed if f[12:14] == b"\x08\x00" and f[30:34] == packed]

    def times_of(self, address):
        """When those frames arrived."""
        packed = socket.inet_aton(address)
        return [t for t, f in zip(self.seen_at, list(self.sniffed)) if f[12:14] == b"\x08\x00" and f[30:34] == packed]

    def start_servers(self):
        """TCP echo on 80, 443, 853, 9000 and UDP echo on 9000 of every address."""
        self.accepted = []
        tcp = [self.outside(socket.create_server, ("", port)) for port in (80, 443, 853, 9000)]
        v6 = self.outside(lambda: socket.create_server(("2001:db8::1", 9000), family=socket.AF_INET6))
        udp = self.outside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("198.51.100.10", 9000))
        self.sockets += tcp + [v6, udp]

        def loop():
            clients = []
            while True:
                try:
                    ready, _, _ = select.select(tcp + [v6, udp] + clients, [], [], 0.5)
                except (OSError, ValueError):
                    return
                for s in ready:
                    try:
                        if s is udp:
                            data, who = s.recvfrom(2000)
                            s.sendto(data, who)
                        elif s in clients:
                            data = s.recv(2000)
                            if data:
                                s.send(data)
                            else:
                                clients.remove(s)
                                s.close()
                        else:
                            c, _ = s.accept()
                            self.accepted.append(c.getsockname())
                            clients.append(c)
                    except OSError:
                        if s in clients:
                            clients.remove(s)
        threading.Thread(target=loop, daemon=True).start()

    def start_dnsmasq(self):
        text = "x" * 200
        many = [f"--txt-record=big.test,{','.join([text] * 10)}"]
        p = subprocess.Popen(["ip", "netns", "exec", self.up, "dnsmasq", "-k", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
                              "--conf-file=/dev/null", "--bind-interfaces", f"--listen-address={RESOLVER}", "--local-ttl=30",
                              f"--host-record=allowed.test,{ALLOWED},2001:db8::1", f"--address=/wild.test/{SHARED}",
                              f"--host-record=denied.test,{DENIED}", "--cname=alias.test,denied.test",
                              f"--host-record=other.test,{SHARED}", f"--host-record=hook.test,{SHARED}", *many],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(p)
        wait_until(lambda: self.ask_directly("allowed.test"), "dnsmasq answers")

    def ask_directly(self, name):
        s = self.outside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            s.settimeout(0.2)
            s.sendto(query(name), (RESOLVER, 53))
            return Reply(s.recv(4096))
        except OSError:
            return None
        finally:
            s.close()

    def start_evil(self):
        """Answers what self.evil says; names it does not know get REFUSED."""
        udp = self.outside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.outside(lambda: udp.bind((EVIL, 53)))
        tcp = self.outside(socket.create_server, (EVIL, 53))
        self.sockets += [udp, tcp]
        self.evil_seen = []

        def replies(m, over_tcp):
            end = skip_name(m, 12)
            labels, at = [], 12
            while m[at]:
                labels.append(m[at + 1:at + 1 + m[at]].decode("latin-1"))
                at += 1 + m[at]
            name = ".".join(labels).lower()
            self.evil_seen.append(name)
            kind = struct.unpack("!H", m[end:end + 2])[0]
            for pattern, make in list(self.evil.items()):
                if name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:])):
                    return make(m, kind, over_tcp)
            return [answer(m, rcode=5)]

        def udp_loop():
            while True:
                try:
                    m, who = udp.recvfrom(4096)
                    for r in replies(m, False):
                        udp.sendto(r, who)
                except OSError:
                    return

        def tcp_loop():
            while True:
                try:
                    c, _ = tcp.accept()
                    size = struct.unpack("!H", c.recv(2))[0]
                    for r in replies(c.recv(size), True):
                        c.sendall(struct.pack("!H", len(r)) + r)
                    c.close()
                except (OSError, struct.error):
                    if tcp.fileno() < 0:
                        return
        threading.Thread(target=udp_loop, daemon=True).start()
        threading.Thread(target=tcp_loop, daemon=True).start()

    # ---- egress ----

    def start_egress(self, policy=None, supervisor=False, wait=True, **env):
        rules = self.dir / "rules"
        rules.mkdir(exist_ok=True)
        variables = {"OPENSANDBOX_EGRESS_DNS_UPSTREAM": RESOLVER, "OPENSANDBOX_EGRESS_TOKEN": TOKEN, "PATH": os.environ["PATH"],
                     "OPENSANDBOX_EGRESS_RULES": json.dumps(policy) if policy is not None else ""}
        variables.update({k: os.environ[k] for k in ("ASAN_OPTIONS", "UBSAN_OPTIONS") if k in os.environ})
        variables.update({f"OPENSANDBOX_EGRESS_{k}": str(v) for k, v in env.items()})
        self.log = open(self.dir / "egress.log", "ab")
        command = [EGRESS] + ([] if supervisor else ["worker"])
        self.egress = subprocess.Popen(
            ["unshare", "-m", "nsenter", f"--net=/run/netns/{self.sb}", "sh", "-c",
             f"mkdir -p /var/egress/rules && mount --bind {rules} /var/egress/rules && exec \"$@\"", "sh", *command],
            env=variables, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        if wait:
            wait_until(self.healthy, "egress is healthy: " + str(self.dir / "egress.log"))
        return self.egress

    def stop_egress(self, number=signal.SIGTERM):
        if self.egress and self.egress.poll() is None:
            self.egress.send_signal(number)
            try:
                code = self.egress.wait(10)
            except subprocess.TimeoutExpired:
                self.egress.kill()
                code = self.egress.wait()
            p, self.egress = self.egress, None
            assert number != signal.SIGTERM or code == 0, f"{p.args}: {code}: " + (self.dir / "egress.log").read_text()[-3000:]
        self.egress = None

    def healthy(self):
        if self.egress is not None and self.egress.poll() is not None:
            raise AssertionError("egress ended: " + (self.dir / "egress.log").read_text()[-2000:])
        try:
            return self.api("GET", "/healthz", token=None)[0] == 200
        except OSError:
            return False

    def api(self, method, path, body=None, token=TOKEN, raw=False):
        s = self.inside(lambda: socket.create_connection(("127.0.0.1", 18080), 5))
        c = http.client.HTTPConnection("127.0.0.1", 18080)
        c.sock = s
        try:
            headers = {"OPENSANDBOX-EGRESS-AUTH": token} if token else {}
            c.request(method, path, body if raw or body is None else json.dumps(body), headers)
            r = c.getresponse()
            data = r.read()
            self.headers = r.headers
            if r.headers.get("Content-Type") == "application/json":
                return r.status, json.loads(data)
            return r.status, data.decode()
        finally:
            c.close()

    # ---- the sandbox ----

    def udp(self):
        s = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        s.settimeout(5)
        return s

    def ask(self, name, kind="A", server=RESOLVER, message=None, **options):
        s = self.udp()
        try:
            s.sendto(message or query(name, kind, **options), (server, 53))
            return Reply(s.recv(65535))
        finally:
            s.close()

    def ask_tcp(self, messages, server=RESOLVER):
        s = self.inside(lambda: socket.create_connection((server, 53), 5))
        try:
            s.sendall(b"".join(struct.pack("!H", len(m)) + m for m in messages))
            replies, data = [], b""
            while len(replies) < len(messages):
                more = s.recv(65535)
                if not more:
                    break
                data += more
                while len(data) >= 2 and len(data) >= 2 + struct.unpack("!H", data[:2])[0]:
                    n = struct.unpack("!H", data[:2])[0]
                    replies.append(Reply(data[2:2 + n]))
                    data = data[2 + n:]
            return replies
        finally:
            s.close()

    def connect(self, address, port=80, seconds=3):
        """The errno of a TCP connection from the sandbox, 0 when it stands; "time-out" when nothing answers."""
        def body():
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            s.settimeout(seconds)
            try:
                return s.connect_ex((address, port))
            except TimeoutError:
                return "time-out"
            finally:
                s.close()
        return self.inside(body)

    def open(self, address, port=9000):
        s = self.inside(lambda: socket.create_connection((address, port), 3))
        s.settimeout(3)
        return s

    def nft(self, *args):
        return run("ip", "netns", "exec", self.sb, "nft", *args, check=False)

    def has_element(self, name, address):
        return self.nft("get", "element", "inet", "opensandbox", name, "{ " + address + " }").returncode == 0


def answer(m, records=(), rcode=0, ident=None, flags=0, question=None, authority=(), additional=()):
    """An answer to the message m."""
    end = skip_name(m, 12) + 4
    return (struct.pack("!6H", struct.unpack("!H", m[:2])[0] if ident is None else ident, 0x8180 | flags | rcode, 1, len(records),
                        len(authority), len(additional)) + (question or m[12:end]) + b"".join((*records, *authority, *additional)))


def a(owner, address, ttl=30):
    return record(owner, "A", ttl, socket.inet_aton(address))
