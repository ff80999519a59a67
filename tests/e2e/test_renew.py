"""Renewal on access over a real proxy, with the cool-down, the skip header and across a restart."""
import datetime
import json
import subprocess
import time

import pytest

import harness

EXTEND = {"access.renew.extend.seconds": "300"}


@pytest.fixture(scope="module")
def renewing():
    with harness.Server({"renew_intent": {"enabled": True, "min_interval_seconds": 1}}) as s:
        s.import_base()
        yield s.start()


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


class Redis:
    def __init__(self, directory):
        self.socket, self.dir, self.process = str(directory / "redis.sock"), directory, None

    def start(self):
        self.process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--requirepass", "s3cret",
                                         "--dir", str(self.dir)], stdout=subprocess.DEVNULL)
        harness.wait_until(lambda: self.cli("PING") == "PONG", "redis-server")

    def cli(self, *args):
        return subprocess.run(["redis-cli", "--no-auth-warning", "-s", self.socket, "-a", "s3cret", *args], capture_output=True, text=True).stdout.strip()

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


def test_redis_comes_and_goes(tmp_path):
    redis = Redis(tmp_path)
    port = harness.free_port()
    s = harness.Server({"renew_intent": {"enabled": True, "min_interval_seconds": 1},
                        "renew_intent.redis": {"enabled": True, "dsn": f"redis://:s3cret@127.0.0.1:{port}/2"}})
    bad = harness.Server({"renew_intent": {"enabled": True}, "renew_intent.redis": {"enabled": True, "dsn": "redisx://:s3cret@h"}})
    try:
        done = bad.cli(check=False)
        assert done.returncode and "renew_intent.redis.dsn" in done.stderr and "s3cret" not in done.stderr
        s.import_base()
        s.start()  # without Redis
        harness.wait_until(lambda: "worker_redis_error" in s.log(), "the warning")
        sb = s.create(timeout=60, extensions=EXTEND)["id"]
        redis.start()
        redis.cli("CONFIG", "SET", "port", str(port))

        def tell(age=0):
            subprocess.run(["redis-cli", "--no-auth-warning", "-p", str(port), "-n", "2", "-a", "s3cret", "LPUSH", "opensandbox:renew:intent",
                            json.dumps({"sandbox_id": sb, "observed_at": (datetime.datetime.now(datetime.timezone.utc)
                                                                          - datetime.timedelta(seconds=age)).isoformat()}), "junk", "{}"],
                           check=True, capture_output=True)
        tell(age=400)  # stale
        tell()
        harness.wait_until(lambda: left(s, sb) > 290, "the renewal")
        assert s.log().count("renew_event=renew_succeeded") == 1 and "renew_source=redis_queue" in s.log()
        redis.stop()
        harness.wait_until(lambda: s.log().count("worker_redis_error") > 1, "the loss")
        redis.start()
        redis.cli("CONFIG", "SET", "port", str(port))
        harness.wait_until(lambda: s.log().count("redis_connected") == 2, "Redis again", 60)
        time_before = s.get(sb)["expiresAt"]
        end = time.monotonic() + 20
        while s.get(sb)["expiresAt"] == time_before:  # after the cool-down
            assert time.monotonic() < end
            tell()
        begin = time.monotonic()
        s.stop()
        assert time.monotonic() - begin < 10 and "s3cret" not in s.log()
        s.start()
    finally:
        redis.stop()
        s.remove()
        bad.remove()


def openssl(directory, *args):
    subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=directory)


@pytest.mark.slow
def test_redis_over_tls(tmp_path):
    """By rediss:// with a private authority; a server that does not know it, or that was named otherwise, gives nothing away."""
    openssl(tmp_path, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=ca")
    openssl(tmp_path, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=redis")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(tmp_path, "x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "own.pem", "-days", "2", "-extfile", "names")
    port = harness.free_port()
    redis = subprocess.Popen(["redis-server", "--port", "0", "--tls-port", str(port), "--tls-cert-file", "own.pem", "--tls-key-file", "own.key",
                              "--tls-ca-cert-file", "ca.pem", "--tls-auth-clients", "no", "--save", "", "--requirepass", "s3cret"],
                             cwd=tmp_path, stdout=subprocess.DEVNULL)
    cli = lambda *args: subprocess.run(["redis-cli", "--no-auth-warning", "--tls", "--cacert", str(tmp_path / "ca.pem"), "-p", str(port), "-a", "s3cret",
                                        *args], capture_output=True, text=True).stdout.strip()
    queue = lambda host, ca: harness.Server({"renew_intent": {"enabled": True}, "renew_intent.redis": {
        "enabled": True, "dsn": f"rediss://:s3cret@{host}:{port}", **({"ca_file": str(tmp_path / "ca.pem")} if ca else {})}})
    s, stranger, misnamed = queue("127.0.0.1", True), queue("127.0.0.1", False), queue("localhost", True)
    try:
        harness.wait_until(lambda: cli("PING") == "PONG", "redis-server")
        for refused in (stranger, misnamed):
            refused.start()
            harness.wait_until(lambda: "worker_redis_error" in refused.log(), "the refusal")
            assert "certificate" in refused.log() and "redis_connected" not in refused.log()
            refused.stop()
        s.import_base()
        s.start()
        harness.wait_until(lambda: "redis_connected" in s.log(), "the connection")
        sb = s.create(timeout=60, extensions=EXTEND)["id"]
        cli("LPUSH", "opensandbox:renew:intent", "x" * 100000, *["{}"] * 100)  # more than one record of TLS, and than one batch
        cli("LPUSH", "opensandbox:renew:intent", json.dumps({"sandbox_id": sb, "observed_at": datetime.datetime.now(datetime.timezone.utc).isoformat()}))
        harness.wait_until(lambda: left(s, sb) > 290, "the renewal")
        assert "s3cret" not in s.log()
    finally:
        redis.kill()
        redis.wait()
        for server in (s, stranger, misnamed):
            server.remove()
