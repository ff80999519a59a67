"""Appendix A.12 of execd.md, a line each, in order."""
import contextlib
import pytest

from execd_peer import Execd
from execd_terminal import Pty, refused


@pytest.fixture(scope="module")
def execd():
    with Execd(token="") as e:
        yield e


@pytest.fixture(scope="module")
def shared(execd):
    p = Pty(execd, cwd="/tmp")
    yield p
    p.delete()


def test_a12_connect_and_echo(shared):
    c = shared.open()
    assert (c.mode, c.role, c.replayed) == ("pty", "holder", None)
    c.until(rb"[#$] $")
    c.type("echo hi\n")
    c.until(rb"echo hi\r\nhi\r\n.*[#$] $")
    shared.first = c


def test_a12_text_ping(shared):
    shared.first.send(type="ping")
    assert shared.first.text("pong") == {"type": "pong"}


def test_a12_resize(shared):
    c = shared.first
    c.send(type="resize", cols=120, rows=40)
    c.live.clear()
    c.type("stty size\n")
    c.until(rb"40 120\r\n")


def test_a12_bogus(shared):
    shared.first.send(type="bogus")
    frame = shared.first.text("error")
    assert frame["code"] == "INVALID_FRAME" and frame["error"] == 'unknown frame type "bogus"'


def test_a12_websocket_ping(shared):
    pong = shared.first.ws.ping()  # this client reads no further while a message waits: a prompt may come late
    for _ in range(20):
        if pong.wait(0.25):
            return
        with contextlib.suppress(TimeoutError):
            shared.first.next(0)
    raise AssertionError("no pong within 5 s")


def test_a12_second_client(shared, execd):
    assert refused(execd, f"/pty/{shared.id}/ws") == (409, "ALREADY_CONNECTED")
    r = execd.request("GET", f"/pty/{shared.id}/ws?takeover=1")  # not an upgrade
    assert (r.status, r.json()["code"]) == (409, "ALREADY_CONNECTED")


def test_a12_takeover(shared):
    total = shared.state()["output_offset"]
    second = shared.open("?takeover=1&since=5")
    assert second.offset == 5 and len(second.replayed) >= total - 5 and b"echo hi" in second.replayed
    assert shared.first.closed() == (4001, "TAKEN_OVER")
    second.type("echo same $$\n")
    second.until(rb"\r\nsame \d+\r\n")
    shared.second = second


def test_a12_exit_5(shared):
    shared.second.type("exit 5\n")
    assert shared.second.text("exit")["exit_code"] == 5
    assert shared.second.closed() == (1000, "process exited")
    assert shared.state()["running"] is False


def test_a12_reconnect(shared):
    before = shared.state()["output_offset"]
    c = shared.open("?since=0")
    assert c.offset == 0 and len(c.replayed) == before and b"same" in c.replayed
    c.until(rb"[#$] $")
    c.type("exit\n")
    assert c.closed() == (1000, "process exited")


def test_a12_pipe_mode(pty):
    c = pty(command="echo out; echo err >&2").open("?pty=0")
    assert c.mode == "pipe"
    assert c.text("exit")["exit_code"] == 0
    assert (c.live, c.errors) == (b"out\n", b"err\n")
    assert c.closed() == (1000, "process exited")


def test_a12_sigterm_in_pipe_mode(pty):
    c = pty(command="echo ready; exec sleep 100").open("?pty=0")
    c.until(rb"ready")
    c.send(type="signal", signal="SIGTERM")
    assert c.text("exit")["exit_code"] == -1


def test_a12_delete_while_attached(pty, execd):
    p = pty()
    c = p.open()
    c.until(rb"[#$] $")
    assert execd.request("DELETE", f"/pty/{p.id}").status == 200
    assert c.text("exit")["exit_code"] == -1
    assert c.closed() == (1000, "process exited")
    assert refused(execd, f"/pty/{p.id}/ws") == (404, "CONTEXT_NOT_FOUND")
