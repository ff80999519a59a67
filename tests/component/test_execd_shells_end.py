"""SIGTERM to an execd with sessions, terminals and proxied requests under way: it ends by itself, with nothing left open."""
import http.client

from execd_follow import descendants
from execd_peer import Execd, wait_until
from execd_session import Session
from execd_terminal import Pty


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
        left = descendants(e)
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
        wait_until(lambda: not [p for p in left if alive(p) and "sleep\0" + "50" not in open(f"/proc/{p}/cmdline").read()],
                   "no shell is left")
