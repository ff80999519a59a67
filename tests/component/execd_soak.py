"""`make soak`: one execd lives through 10,000 commands, uploads, terminals and dropped connections; /proc of it is the same before and after.

What it keeps by contract is the same at both looks: a full history (EXECD_COMMANDS_MAX records, for 24 hours) and as much
output of ended commands as it keeps in memory. Every kind of work was done before the first. CHECK_SHORT=1 does a tenth.
"""
import concurrent.futures
import json
import os
import socket

import pytest

from execd_peer import Execd, wait_until

SHORT = os.environ.get("CHECK_SHORT") == "1"
COMMANDS, UPLOADS, TERMINALS, DROPS = (1000, 100, 50, 200) if SHORT else (10000, 1000, 500, 2000)
HISTORY, LONG, LONG_BYTES = 4096, 100, 60000
RSS_LIMIT_KIB = 256


def mix(e, i):
    """One of the kinds of commands, and its truth."""
    kind = i % 8
    if kind == 0:
        assert e.stdout(f"echo {i}") == f"{i}\n"
    elif kind == 1:
        assert e.run(f"exit {i % 100 + 1}")[-1]["error"]["evalue"] == str(i % 100 + 1)
    elif kind == 2:
        command = e.background(f"echo {i}; echo e >&2")
        assert e.wait_end(command)["exit_code"] == 0
        wait_until(lambda: e.logs(command).body == f"{i}\ne\n".encode(), "the log")
    elif kind == 3:
        assert e.stdout(["printf", "%s", str(i)]) == str(i)
    elif kind == 4:
        assert e.run("sleep 9", timeout=5)[-1]["error"]["traceback"] == ["signal: killed"]
    elif kind == 5:
        assert e.run(["/no/such"])[-1]["error"]["ename"] == "CommandExecError"
    elif kind == 6:
        assert len(e.stdout("seq 20000")) == 108894
    else:
        assert e.request("POST", "/command", {"command": 5}).status == 400


def commands(e, count):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: mix(e, i), range(count)))


def fill(e):
    """A full history: HISTORY records like those that mix() leaves, the last of them with more output than is kept in memory."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: e.background(f"echo {i}; echo e >&2; exit {i % 3}"), range(HISTORY - LONG)))
        list(pool.map(lambda i: e.background(f"head -c {LONG_BYTES} /dev/zero"), range(LONG)))


def upload(e, i):
    boundary = "soak"
    meta = json.dumps({"path": f"{e.dir.name}/up/{i}", "mode": 644})
    data = os.urandom(1000) * (i % 100 + 1)
    body = (f'--{boundary}\r\nContent-Disposition: form-data; name="metadata"; filename="metadata"\r\nContent-Type: application/json\r\n\r\n{meta}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n').encode() + data + f"\r\n--{boundary}--\r\n".encode()
    r = e.request("POST", "/files/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    assert r.status == 200, r.body
    assert e.request("GET", f"/files/download?path={e.dir.name}/up/{i}").body == data


def terminal(e, i):
    from websockets.sync.client import connect
    session = e.request("POST", "/pty", {}).json()["session_id"]
    url = f"ws://127.0.0.1:{e.port}/pty/{session}/ws"
    with connect(url, additional_headers=e.headers(), open_timeout=10, close_timeout=1) as ws:
        ws.send(b"\x00echo to-$((40+2))\n")
        seen = b""
        while b"to-42" not in seen:
            piece = ws.recv(timeout=10)
            seen += piece[1:] if isinstance(piece, bytes) else b""
    assert e.request("DELETE", f"/pty/{session}").status == 200


def drop(e, i):
    """A client that goes away: in the head, in the body, in the middle of output, before the first byte."""
    s = socket.create_connection(("127.0.0.1", e.port), 10)
    body = json.dumps({"command": ["yes", "sleep 0.2; echo late", "seq 300000", "echo hi"][i % 4], "timeout": 2000}).encode()
    head = b"POST /command HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: %s\r\nContent-Length: %d\r\n\r\n" % (e.token.encode(), len(body))
    where = i // 4 % 4
    s.sendall((head + body)[:len(head) // 2] if where == 0 else (head + body)[:-3] if where == 1 else head + body)
    if where == 3:
        s.recv(1000)
    s.close()


def each(count, work, e, threads=4):
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: work(e, i), range(count)))


def stop_yes(e):
    """Commands whose client is gone run on by contract; `yes` would for its two seconds."""
    wait_until(lambda: not e.children(), "end of what runs", 30)


def descriptors(e):
    """(kept outputs, all others) of one look: an output that ends may push an older one into a file."""
    names = links(e)
    spools = sum("opensandbox-execd" in name for name in names)
    return spools, len(names) - spools


def look(e):
    wait_until(lambda: not e.children() and not e.zombies(), "no child is left", 60)
    spools, others = wait_until(lambda: (d := descriptors(e))[1] == look.idle and d, "sockets and pipes closed", 30)
    return {"rss_kib": e.rss_kib(), "descriptors": others, "spools": spools, "threads": e.threads()}


def links(e):
    out = []
    for fd in os.listdir(f"/proc/{e.pid}/fd"):
        try:
            out.append(os.readlink(f"/proc/{e.pid}/fd/{fd}"))
        except OSError:
            pass
    return out


@pytest.mark.timeout(3600)
def test_soak():
    with Execd() as e:
        look.idle = len(links(e))
        os.mkdir(f"{e.dir.name}/up")
        commands(e, 1000)
        for work in (upload, terminal, drop):
            each(200, work, e)
        stop_yes(e)
        fill(e)
        before = look(e)
        commands(e, COMMANDS)
        each(UPLOADS, upload, e)
        each(TERMINALS, terminal, e)
        each(DROPS, drop, e)
        stop_yes(e)
        fill(e)
        after = look(e)
        print(f"\n{COMMANDS} commands, {UPLOADS} uploads, {TERMINALS} terminals, {DROPS} dropped connections")
        for name in before:
            print(f"{name:12} before {before[name]:6} after {after[name]:6}")
        assert after["threads"] == before["threads"] and after["descriptors"] == before["descriptors"]
        assert after["rss_kib"] - before["rss_kib"] <= RSS_LIMIT_KIB
        assert e.request("GET", "/ping").status == 200
