"""Whatever happens to egress, a packet counter on the far side stays at zero (make egress-fail-closed)."""
import errno
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

import egress_net as net
from egress_net import ALLOWED, DENIED, SHARED, wait_until

POLICY = {"defaultAction": "deny", "egress": [{"action": "allow", "target": "allowed.test"}]}


def worker_of(bed):
    pid = bed.egress.pid
    with open(f"/proc/{pid}/task/{pid}/children") as f:  # a process to list processes takes too long to see a gap of a second
        out = f.read().split()
    return int(out[0]) if out else 0


class Pressure:
    """Tries denied destinations all the time; `tries` says that it really did."""

    def __init__(self, bed):
        self.bed, self.tries, self.stop = bed, 0, False
        self.thread = threading.Thread(target=bed.inside, args=(self.loop,), daemon=True)

    def loop(self):
        import socket
        while not self.stop:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                s = socket.socket(socket.AF_INET, kind)
                s.setblocking(False)
                for address in (DENIED, SHARED):
                    try:
                        if kind == socket.SOCK_STREAM:
                            s.connect_ex((address, 80))
                        else:
                            s.sendto(b"out", (address, 9000))
                    except OSError:
                        pass
                s.close()
            self.tries += 1
            time.sleep(0.001)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        self.thread.join()

    def check(self):
        before = self.tries
        wait_until(lambda: self.tries > before + 20, "packets are tried")
        assert self.bed.frames_to(DENIED) == [] and self.bed.frames_to(SHARED) == []


@pytest.fixture
def bed():
    with net.Bed() as b:
        b.start_egress(POLICY, supervisor=True)
        yield b


def test_the_counter_counts():
    """Without egress the same pressure is seen on the far side: a zero means something."""
    with net.Bed() as b, Pressure(b) as p:
        wait_until(lambda: p.tries > 20 and b.frames_to(DENIED) and b.frames_to(SHARED), "packets arrive")


def test_worker_killed(bed):
    with Pressure(bed) as p:
        p.check()
        for _ in range(3):
            old = worker_of(bed)
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: worker_of(bed) == 0, "the gap between kill and restart")
            p.check()
            wait_until(lambda: worker_of(bed) not in (0, old), "another worker")
            wait_until(bed.healthy, "it is healthy")
            p.check()
        assert bed.ask("allowed.test").addresses == [ALLOWED]
        assert bed.connect(ALLOWED) == 0
        assert bed.nft("list", "table", "inet", "opensandbox").stdout.count("redirect to :15353") == 2  # no copies


def test_nobody_takes_the_place_of_the_api(bed):
    """While there is no worker its socket is still held: a sandbox that listened there would be told the token."""
    for _ in range(2):
        old = worker_of(bed)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: worker_of(bed) == 0, "the gap between kill and restart")
        for host in ("0.0.0.0", "127.0.0.1"):
            with pytest.raises(OSError) as e:
                bed.inside(socket.create_server, (host, 18080))
            assert e.value.errno == errno.EADDRINUSE
        assert bed.api("GET", "/policy")[0] == 200  # asked in the gap, answered by the next worker
        assert worker_of(bed) not in (0, old)


def test_supervisor_killed(bed):
    worker = worker_of(bed)
    with Pressure(bed) as p:
        bed.egress.kill()
        bed.egress.wait()
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), "the worker went with it")
        p.check()
        bed.start_egress(POLICY, supervisor=True)
        p.check()
    assert bed.ask("allowed.test").rcode == 0 and bed.connect(ALLOWED) == 0


def test_terminated(bed):
    bed.ask("allowed.test")
    with Pressure(bed) as p:
        bed.egress.terminate()
        assert bed.egress.wait(10) == 0
        p.check()
        with pytest.raises(OSError):
            bed.ask("denied.test")
        p.check()
    assert bed.nft("list", "table", "inet", "opensandbox").returncode == 0


@pytest.mark.parametrize("command", [("delete", "table", "inet", "opensandbox"), ("flush", "table", "inet", "opensandbox"),
                                     ("delete", "table", "netdev", "osb"),
                                     ("insert", "rule", "inet", "opensandbox", "egress", "accept")])
def test_rules_changed_by_a_stranger(bed, command):
    """One table is enough to stay closed; what was removed comes back."""
    bed.ask("allowed.test")
    with Pressure(bed) as p:
        assert bed.nft(*command).returncode == 0
        p.check()  # an opened chain is closed by the links' table: nothing is stamped
        wait_until(lambda: "egress_nftables_loads_total 2\n" in bed.api("GET", "/metrics")[1], "repaired")
        wait_until(bed.healthy, "healthy")
        p.check()
    assert bed.ask("allowed.test").rcode == 0 and bed.connect(ALLOWED) == 0


def test_upstream_dead(bed):
    with Pressure(bed) as p:
        bed.processes[0].kill()  # dnsmasq
        bed.processes[0].wait()
        assert bed.ask("allowed.test").rcode == 2  # SERVFAIL, and no other way out
        assert bed.ask("denied.test").rcode == 3
        p.check()
        bed.start_dnsmasq()
        wait_until(lambda: bed.ask("allowed.test").addresses == [ALLOWED], "it recovers")
        assert bed.connect(ALLOWED) == 0
        p.check()


def test_policy_outlives_a_restart():
    with net.Bed() as b:
        path = b.dir / "policy.json"
        b.start_egress({"egress": []}, supervisor=True, POLICY_FILE=path)
        assert b.api("PUT", "/policy", POLICY)[0] == 200
        assert oct(path.stat().st_mode & 0o777) == "0o600" and path.read_text().startswith('{\n  "egress": [\n')
        os.kill(worker_of(b), signal.SIGKILL)
        time.sleep(0.1)
        wait_until(b.healthy, "it is back")
        assert b.api("GET", "/policy")[1]["policy"] == POLICY  # the file comes before the environment
        assert b.ask("allowed.test").rcode == 0


def test_what_cannot_be_kept_is_not_in_force():
    with net.Bed() as b:
        b.start_egress({"egress": []}, POLICY_FILE="/proc/none/policy.json")
        status, text = b.api("PUT", "/policy", POLICY)
        assert status == 500 and text.startswith("failed to persist policy: ")
        assert b.api("GET", "/policy")[1]["mode"] == "deny_all"
        assert b.ask("allowed.test").rcode == 3


def test_nothing_is_left():
    names = set(subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split())
    with net.Bed() as b:
        b.start_egress(POLICY, supervisor=True)
        pid = b.egress.pid
    assert not os.path.exists(f"/proc/{pid}")
    assert not {n for n in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split() if b.tag in n} - names
