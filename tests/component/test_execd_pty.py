"""Terminals over a real execd: execd.md 4.6, 4.7, compat-1.1.1.md 3.3."""
import json
import re
import socket
import time

import pyte
import pytest
from websockets.exceptions import ConnectionClosed

from execd_follow import Together, descendants
from execd_peer import Execd, wait_until
from execd_terminal import Client, Pty, held, refused


@pytest.fixture(scope="module")
def execd():
    with Execd(token="") as e:
        yield e


# ---- REST ----------------------------------------------------------------------------------------------------

def test_rest(execd, pty, tmp_path):
    p = pty(cwd=str(tmp_path / "new/dir"))
    assert p.state() == {"session_id": p.id, "running": False, "output_offset": 0}
    c = p.open()
    c.until(rb"[#$] $")
    c.type("pwd; echo $TERM; stty size\n")
    c.until(rf"{tmp_path}/new/dir\r\nxterm-256color\r\n24 80\r\n.*[#$] $".encode())
    assert p.state()["running"] is True
    assert p.state()["output_offset"] == len(c.live)
    p.delete()
    for method in ("GET", "DELETE"):
        r = execd.request(method, f"/pty/{p.id}")
        assert (r.status, r.json()["code"]) == (404, "CONTEXT_NOT_FOUND")


@pytest.mark.parametrize("env,term", [({"TERM": "xterm", "container": "podman"}, "xterm-256color"), ({"TERM": "vt100", "container": "podman"}, "vt100"),
                                      ({"TERM": "xterm"}, "xterm")])
def test_term_is_what_somebody_chose(env, term):
    with Execd(token="", env=env) as e:
        c = Pty(e).open()
        c.until(rb"[#$] $")
        c.type("echo =$TERM; env | grep -c ^TERM=\n")
        c.until(rf"={term}\r\n1\r\n".encode())


def test_rest_refuses(execd):
    for body, status in ((b"{", 400), ({"cwd": 1}, 400), ({"command": []}, 400), ({"cwd": "/etc/passwd"}, 500)):
        r = execd.request("POST", "/pty", body)
        assert r.status == status and set(r.json()) == {"code", "message"}, r  # one JSON object, never two


def test_plain_get(execd, pty):
    r = execd.request("GET", f"/pty/{pty().id}/ws")
    assert r.status == 400, r
    assert r.headers["Sec-WebSocket-Version"] == "13"


def test_start_failure_is_told(execd, pty, tmp_path):
    p = pty(cwd=str(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    c = Client(execd, p.id)
    assert c.text("error")["code"] == "START_FAILED"
    assert c.closed()[0] != 1000
    assert p.state()["running"] is False


# ---- output and its end --------------------------------------------------------------------------------------

def test_the_last_output_comes_before_the_exit(pty):
    p = pty(command="head -c 200000 /dev/zero | tr '\\0' x; printf END; exit 42")
    c = p.open()
    assert c.text("exit")["exit_code"] == 42
    assert c.live == b"x" * 200000 + b"END"


def test_background_job_does_not_hold_the_exit(pty):
    c = pty(command="(trap '' HUP; exec sleep 2) & echo gone").open()
    begin = time.monotonic()
    assert c.text("exit")["exit_code"] == 0
    assert c.live == b"gone\r\n" and time.monotonic() - begin < 1.5
    c = pty(command="sleep 2 & echo gone").open("?pty=0")
    assert c.text("exit")["exit_code"] == 0
    assert c.live == b"gone\n" and time.monotonic() - begin < 1.9


def test_no_loss_no_duplicate_over_reconnects(pty):
    p = pty(command="i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; read x")
    total, end = b"", "".join(f"{i}\r\n" for i in range(20000)).encode()
    while len(total) < len(end):
        c = p.open(f"?since={len(total)}")
        if c.replayed is not None:
            assert c.offset == len(total)
            total += c.replayed
        for _ in range(7):
            if len(total) + len(c.live) >= len(end):
                break
            c.next()
        total += c.live
        c.leave()
        wait_until(lambda: not held(p), "the holder has left")
    assert total == end


def test_replay_is_clamped_to_the_last_mib(pty):
    p = pty(command="head -c 3000000 /dev/zero | tr '\\0' y; read x")
    c = p.open("?pty=0")
    c.amount(3000000)
    c.leave()
    wait_until(lambda: not held(p), "the holder has left")
    c = p.open("?since=17")
    assert c.offset == 3000000 - (1 << 20) and c.replayed == b"y" * (1 << 20)
    c.leave()
    wait_until(lambda: not held(p), "the holder has left")
    assert p.open("?since=3000000").replayed is None
    for since in ("99999999999", "3000001"):
        assert p.open(f"?takeover=1&since={since}").replayed is None
    for odd in ("x", "-1", ""):
        assert p.open(f"?takeover=1&since={odd}").offset == 3000000 - (1 << 20)


def test_slow_holder_stops_the_shell_and_loses_nothing(pty):
    p = pty(command="head -c 30000000 /dev/zero | tr '\\0' z; echo done")
    s = raw_client(p, "?pty=0")
    grown = 0
    while p.state()["output_offset"] != grown or not grown:  # until it stands still
        grown = p.state()["output_offset"]
        time.sleep(0.3)
    assert grown < 10_000_000  # ring, queue and socket buffers
    got = 0
    while got < 30_000_005:
        data = s.recv(1 << 20)
        assert data
        got += len(data)
    s.close()


def frames(s):
    """The frames that a server sends, each as (opcode, bytes)."""
    with s.makefile("rb") as f:
        while head := f.read(2):
            size = head[1]
            if size > 125:
                size = int.from_bytes(f.read(2 if size == 126 else 8), "big")
            yield head[0] & 15, f.read(size)


@pytest.mark.parametrize("query,role", [("?pty=0", "holder"), ("?mode=viewer", "viewer")])
def test_connected_comes_behind_a_replay_that_is_read_late(query, role):
    with Execd(init=[]) as e:
        p = Pty(e, command="head -c 1048576 /dev/zero | tr '\\0' y; read x; echo live")
        s = raw_client(p, "?pty=0")
        wait_until(lambda: p.state()["output_offset"] == 1 << 20, "its output is there")
        if role == "holder":
            s.close()
            wait_until(lambda: not held(p), "the holder has left")
        late = raw_client(p, query)
        came = frames(late)
        opcode, data = next(came)
        assert (opcode, data[:9], len(data)) == (2, b"\3" + bytes(8), 9 + (1 << 20))
        opcode, data = next(came)
        connected = json.loads(data)
        assert (opcode, connected["type"], connected["role"]) == (1, "connected", role)
        late.close()


def raw_client(p, query=""):
    """A handshake, and then a peer that reads nothing by itself."""
    c = p.execd.connection(20)
    c.connect()
    s = c.sock
    s.sendall((f"GET /pty/{p.id}/ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
               f"X-EXECD-ACCESS-TOKEN: {p.execd.token}\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += s.recv(1)
    assert b" 101 " in head, head
    return s


def test_takeover_from_a_holder_that_reads_nothing(pty):
    p = pty(command="head -c 30000000 /dev/zero | tr '\\0' z; echo; echo done; read x")
    s = raw_client(p, "?pty=0")
    wait_until(lambda: p.state()["output_offset"] > 1 << 20, "it is stuck")
    begin = time.monotonic()
    c = p.open("?takeover=1")
    assert time.monotonic() - begin < 5
    c.until(rb"done\n", 30)
    s.close()


# ---- signals and input ---------------------------------------------------------------------------------------

def test_signals_reach_the_foreground_job(pty):
    p = pty()
    c = p.open()
    c.until(rb"[#$] $")
    c.live.clear()
    c.type("sh -c 'echo jo''b; exec sleep 100'\n")
    c.until(rb"\njob\r\n")
    c.send(type="signal", signal="SIGINT")
    c.type("echo status $?\n")
    c.until(rb"status 130\r\n")
    c.type("sh -c 'echo an''other; exec cat'\n")
    c.until(rb"\nanother\r\n")
    c.type("\x03")
    c.until(rb"\^C\r\n.*[#$] $")
    c.live.clear()
    c.type("echo still $((40+2))\n")
    c.until(rb"still 42\r\n.*[#$] $")
    c.send(type="signal", signal="SIGSTOP")  # not among the allowed: ignored
    assert hang_up(c)["exit_code"] == -1


def hang_up(c):
    """SIGHUP until the shell has gone: one that comes between bash's prompt and its read is noticed with the next only."""
    while True:
        c.send(type="signal", signal="SIGHUP")
        try:
            return c.text("exit", 0.3)
        except TimeoutError:
            continue


def test_stdin_as_text_frames_and_odd_frames(pty):
    c = pty().open()
    c.until(rb"[#$] $")
    c.ws.send("not json")
    c.ws.send(b"\x07ignored")
    c.ws.send(b"")
    c.send(type="resize", cols=0, rows=5)
    c.send(type="stdin", data="echo te''xt\n")
    c.until(rb"\r\ntext\r\n")


def test_a_long_name_of_a_frame_is_cut_between_characters(pty):
    c = pty().open("?pty=0")
    c.send(type="x" + "\u00e9" * 100)
    assert c.text("error")["error"] == 'unknown frame type "x' + "\u00e9" * 31 + '"'


def test_typing_more_than_the_shell_reads(pty):
    p = pty(command="read go; wc -c")
    c = p.open("?pty=0")
    block = "x" * 60000
    feeder = Together(lambda: [c.type(block) for _ in range(50)])  # 3 MB, more than is buffered
    time.sleep(0.2)
    other = p.open("?mode=viewer")
    other.send(type="ping")
    assert other.text("pong")
    c.send(type="signal", signal="SIGINT")
    assert p.state()["running"] in (True, False)
    feeder.result()


def test_input_of_an_ended_pipe(pty):
    c = pty(command="exec <&-; echo closed; sleep 100").open("?pty=0")
    c.until(rb"closed")
    c.type("anyone?\n")
    assert c.text("error")["code"] == "STDIN_WRITE_FAILED"
    assert c.closed()[0] == 1011


# ---- viewers -------------------------------------------------------------------------------------------------

def test_viewers(pty, execd):
    p = pty()
    assert refused(execd, f"/pty/{p.id}/ws?mode=viewer") == (409, "VIEWER_REQUIRES_RUNNING_SESSION")
    c = p.open()
    c.until(rb"[#$] $")
    views = [p.open("?mode=viewer") for _ in range(3)]
    assert all(v.role == "viewer" for v in views)
    c.type("echo see\n")
    c.until(rb"see\r\nsee\r\n.*[#$] $")
    for v in views:
        seen = v.replayed or b""
        while len(seen) < len(c.live):
            kind, data = v.next()
            assert kind == "replay" and v.offset == len(seen)
            seen += data
        assert seen == c.live
    v = views[0]
    for n, frame in enumerate([dict(type="stdin", data="x"), dict(type="signal", signal="SIGINT"),
                               dict(type="resize", cols=1, rows=1), None, dict(type="stdin", data="x")]):
        v.ws.send(b"\0x") if frame is None else v.send(**frame)
        assert v.text("error")["code"] == "READ_ONLY"
        if n == 3:
            v.send(type="ping")
            v.text("pong")
    assert v.closed()[0] == 1008
    c.type("exit 3\n")
    for v in views[1:]:
        assert v.text("exit")["exit_code"] == 3
        assert v.closed() == (1000, "process exited")


def test_a_viewer_is_refused_whatever_it_wants_to_do(pty):
    p = pty()
    p.open().until(rb"[#$] $")
    v = p.open("?mode=viewer")
    v.ws.send("no json")
    v.ws.send(b"")
    v.ws.send(b"\7x")
    v.send(type="ping")
    assert v.text("pong")  # what means nothing is ignored
    for frame in (dict(type="signal", signal="SIGNOTHING"), dict(type="resize", cols=0, rows=0), dict(type="stdin"), dict(type="signal")):
        v.send(**frame)
        assert v.text("error")["code"] == "READ_ONLY"
    v.send(type="resize")
    assert v.closed()[0] == 1008


def test_a_viewer_that_reads_nothing_stops_nobody(pty):
    p = pty(command="read go; head -c 30000000 /dev/zero | tr '\\0' z; echo done")
    c = p.open("?pty=0")
    s = raw_client(p, "?mode=viewer")
    c.type("\n")
    assert c.text("exit", 30)["exit_code"] == 0
    assert len(c.live) == 30000005
    s.close()


# ---- takeovers and life --------------------------------------------------------------------------------------

def test_takeovers_at_once(pty):
    p = pty()
    first = p.open()
    first.until(rb"[#$] $")
    takers = [Together(p.open, "?takeover=1") for _ in range(6)]
    clients = [t.result() for t in takers]
    codes = []
    for c in clients:
        try:
            while True:
                c.next(0.5)
        except TimeoutError:
            codes.append(None)
            winner = c
        except ConnectionClosed as e:
            codes.append(e.rcvd.code)
    assert sorted(codes, key=str) == [4001] * 5 + [None]
    winner.type("echo alive\n")
    winner.until(rb"\r\nalive\r\n")


def test_the_shell_outlives_its_client(pty):
    p = pty()
    c = p.open()
    c.until(rb"[#$] $")
    c.type("echo $$; X=kept\n")
    pid = c.until(rb"\n(\d+)\r\n")[1]
    c.vanish()
    wait_until(lambda: not held(p), "the holder has left")
    c = p.open(f"?since={p.state()['output_offset']}")
    c.type("echo $$ $X\n")
    c.until(rb"\n" + pid + rb" kept\r\n")


def test_nothing_is_left(execd):
    Pty(execd).delete()
    before = execd.descriptors()
    for i in range(30):
        p = Pty(execd, command="seq 1 2000; read x" if i % 2 else "seq 1 2000")
        c = p.open("?pty=0" if i % 3 else "")
        c.until(rb"2000\r?\n")
        p.delete()
    wait_until(lambda: not descendants(execd) and execd.descriptors() <= before, "all is given back")


# ---- real programs through a terminal emulator ---------------------------------------------------------------

class Screen(pyte.Screen):
    """pyte takes `CSI > ... m` (vim sets a keyboard mode by it) for colours, and stumbles."""

    def select_graphic_rendition(self, *attributes, private=False):
        if not private:
            super().select_graphic_rendition(*attributes)


class Terminal:
    """pyte fed by a client."""

    def __init__(self, client, columns=80, rows=24):
        self.client, self.screen = client, Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        if client.replayed:
            self.stream.feed(client.replayed)
        self.fed = 0

    def until(self, condition, what, seconds=10):
        end = time.monotonic() + seconds
        while True:
            self.stream.feed(self.client.live[self.fed:])
            self.fed = len(self.client.live)
            if condition(self.screen.display):
                return
            try:
                self.client.next(max(0.01, end - time.monotonic()))
            except TimeoutError:
                raise AssertionError(f"not on the screen: {what}\n" + "\n".join(self.screen.display)) from None

    def resize(self, columns, rows):
        self.screen.resize(rows, columns)
        self.client.send(type="resize", cols=columns, rows=rows)


def test_vim_through_a_terminal(pty, tmp_path):
    text = tmp_path / "poem.txt"
    text.write_text("".join(f"line {i}\n" for i in range(1, 101)))
    p = pty(cwd=str(tmp_path))
    c = p.open()
    t = Terminal(c)
    t.until(lambda d: any(re.search(r"[#$] *$", line) for line in d), "a prompt")
    c.type("vim.tiny -u NONE -c 'set nocp laststatus=2' poem.txt\n")
    t.until(lambda d: d[0].startswith("line 1 ") and d[21].startswith("line 22") and "poem.txt" in d[22], "the file, 22 lines")
    t.resize(100, 40)
    t.until(lambda d: d[37].startswith("line 38") and "poem.txt" in d[38], "after the resize, 38 lines")
    c.type("Gonew last line\x1b")
    t.until(lambda d: any(line.startswith("new last line") for line in d), "what was typed")
    # another client comes later and sees the same screen
    c.leave()
    wait_until(lambda: not held(p), "the holder has left")
    again = p.open("?since=0")
    t2 = Terminal(again, 80, 24)
    t2.screen = Screen(100, 40)
    t2.stream = pyte.ByteStream(t2.screen)
    t2.resize(100, 39)
    t2.resize(100, 40)
    t2.until(lambda d: any(line.startswith("new last line") for line in d) and any("poem.txt" in line for line in d[38:]),
             "the same screen")
    again.type(":wq\n")
    wait_until(lambda: text.read_text().endswith("line 100\nnew last line\n"), "the file was written")


def test_top_through_a_terminal(pty):
    p = pty(command="exec top -d 0.2")
    c = p.open()
    t = Terminal(c)

    def shows_top(rows):
        def check(d):
            return d[0].startswith("top - ") and any(re.match(r"\s+PID\s+USER", line) for line in d[:8]) and \
                sum(bool(re.match(r"\s+\d+ ", line)) for line in d) >= min(3, rows - 8)
        return check
    t.until(shows_top(24), "top on 24 lines")
    t.resize(120, 50)
    t.until(lambda d: shows_top(50)(d) and any(len(line.rstrip()) > 0 for line in d), "top on 50 lines")
    c.leave()
    wait_until(lambda: not held(p), "the holder has left")
    c = p.open(f"?since={p.state()['output_offset']}")
    t = Terminal(c, 120, 50)
    t.resize(119, 50)
    t.resize(120, 50)
    t.until(shows_top(50), "top after the reconnect")
    c.type("q")
    assert c.text("exit")["exit_code"] == 0, c.live[-400:]
