"""SIGTERM to an execd with sessions, terminals and proxied requests under way: it ends by itself, with nothing left open."""
import http.client
import json
import os
import signal
import socket

import pytest

from execd_follow import Following, descendants, outcome
from execd_peer import Execd, milliseconds, wait_until
from execd_session import Session
from execd_terminal import Pty


def is_sleep_50(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as f:
            return f.read() == "sleep\0" "50\0"
    except OSError:
        return False


def test_sigterm_with_all_under_way():
    with Execd(token="") as e:
        ended = Session(e)
        ended.run("export A=1; sleep 50 &")
        runs = [Session(e).follow("echo begun; sleep 100"), ended.follow("echo begun; exec sleep 100")]
        waiting = [ended.follow("echo never") for _ in range(3)]
        for r in runs:
            r.until("stdout")
        ptys = [Pty(e), Pty(e, command="sleep 100"), Pty(e, command="echo no more"), Pty(e)]
        clients = [ptys[0].open(), ptys[0].open("?mode=viewer"), ptys[1].open("?pty=0")]
        clients[0].until(rb"[#$] $")
        clients[0].type("sleep 100\n")
        gone = ptys[2].open()
        assert gone.text("exit")["exit_code"] == 0
        deleted = Pty(e)
        late = deleted.open()
        e.request("DELETE", f"/pty/{deleted.id}")
        assert late.text("exit")["exit_code"] == -1
        idle = http.client.HTTPConnection("127.0.0.1", e.port)
        idle.request("GET", "/ping")
        idle.getresponse().read()
        left = [p for p in descendants(e) if not is_sleep_50(p)]
        assert e.stop() == 0, e.output()
        assert "left open" not in e.output() and "ERROR" not in e.output(), e.output()
        for r in runs + waiting:
            list(r)  # an end, or a cut: never silence

        def alive(pid):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    return f.read().rsplit(")", 1)[1].split()[0] != "Z"
            except OSError:
                return False
        wait_until(lambda: not any(map(alive, left)), "no shell is left")


def test_sigterm_starts_no_run_that_waits(tmp_path):
    with Execd() as e:
        session = Session(e)
        running = session.follow("echo begun; sleep 100")
        running.until("stdout")
        waiting = [session.follow(f"touch {tmp_path}/{i}; sleep 100") for i in range(3)]
        took, code = milliseconds(e.stop)
        assert code == 0 and took < 2500
        assert outcome(list(running)) == ("-1", ["signal: terminated"])
        for w in waiting:
            assert outcome(list(w)) == ("error running in session. execd is stopping", [])
        assert not os.listdir(tmp_path)


@pytest.mark.parametrize("entrypoint,number", [([], signal.SIGTERM), (["sleep", "100"], signal.SIGKILL)])
def test_the_end_of_the_sandbox_is_told_to_every_stream(entrypoint, number):
    """Streams end with their terminal event and the final chunk, though all is killed with the entrypoint."""
    with Execd(init=entrypoint, pid1=True) as e:
        wait_until(lambda: e.request("GET", "/ping").status == 200, "it answers")
        command = Following(*e.open("POST", "/command", {"command": "echo begun; sleep 100"}))
        session = Session(e)
        run = session.follow("echo begun; sleep 100")
        for stream in command, run:
            stream.until("stdout")
        waiting = session.follow("echo never")
        idles = not entrypoint
        target = e.pid if idles else next(p for p in e.children() if open(f"/proc/{p}/cmdline").read().startswith("sleep\0"))
        os.kill(target, number)
        code = e.wait()
        assert (code == 0 if idles else code == 137) and "in time" not in e.output(), e.output()
        assert outcome(list(command)) == outcome(list(run)) == ("-1", ["signal: killed"])
        assert outcome(list(waiting)) == ("error running in session. execd is stopping", [])


def test_a_stream_that_goes_on_does_not_hold_the_end_of_the_sandbox():
    with Execd(init=[]) as e:
        wait_until(lambda: e.request("GET", "/ping").status == 200, "it answers")
        watch = Following(*e.open("GET", "/metrics/watch"))
        os.kill(e.pid, signal.SIGTERM)
        took, code = milliseconds(e.wait)
        assert code == 0 and took < 1000
        watch.close()


@pytest.mark.parametrize("route,body", [("POST /command", {"command": "sleep 100"}), ("POST /session/{}/run", {"command": "sleep 100"}), ("GET /files/watch?path=/usr", None)])
def test_a_client_that_shuts_its_side_gets_no_end_without_a_last_event(route, body):
    """It counts as gone (docs/compatibility.md), so what it still reads is cut, not ended."""
    with Execd(token="") as e, socket.create_connection(("127.0.0.1", e.port)) as s:
        data = json.dumps(body).encode() if body else b""
        s.sendall(f"{route.format(Session(e).id)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        s.settimeout(10)
        reply = s.recv(65536)
        s.shutdown(socket.SHUT_WR)
        while piece := s.recv(65536):
            reply += piece
        assert b"text/event-stream" in reply and not reply.endswith(b"0\r\n\r\n"), reply
