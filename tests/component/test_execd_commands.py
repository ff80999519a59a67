"""Commands beside the vectors: what clients rely on, slow and vanishing readers, many at once."""
import concurrent.futures
import json
import os
import re
import signal
import socket
import time

import pytest

from execd_peer import Execd, milliseconds, parse_events, texts, wait_until

MIB = 1024 * 1024


def test_ping_needs_no_token_and_nothing_else_is_open(execd):
    for path, status in (("/ping", 200), ("/command/status/x", 401), ("/nowhere", 401), ("/proxy/80/", 401)):
        c = execd.connection()
        c.request("GET", path)
        r = c.getresponse()
        assert r.status == status
        body = r.read()
        if status == 401:
            assert json.loads(body) == {"error": "Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN"}
        c.close()
    assert execd.request("GET", "/command/status/x", headers={"X-EXECD-ACCESS-TOKEN": "wrong"}).status == 401


@pytest.mark.parametrize("method,path", [("GET", "/nowhere"), ("PUT", "/command"), ("HEAD", "/ping"), ("OPTIONS", "/command"), ("GET", "/")])
def test_unknown_routes_and_methods_are_404(execd, method, path):
    r = execd.request(method, path)
    assert r.status == 404 and r.headers["Content-Type"] == "text/plain"
    assert r.body == (b"" if method == "HEAD" else b"404 page not found")


@pytest.mark.parametrize("method,status", [("GET", 301), ("POST", 307), ("DELETE", 307)])
def test_a_trailing_slash_is_redirected(execd, method, status):
    path = {"GET": "/command/status/x/", "POST": "/command/", "DELETE": "/command/?id=x"}[method]
    r = execd.request(method, path)
    assert r.status == status and r.headers["Location"] == path.replace("/?", "?").rstrip("/")


def test_code_and_isolation_say_that_they_are_not_there(execd):
    for method, path in (("POST", "/code"), ("POST", "/code/context"), ("GET", "/code/contexts"), ("GET", "/code/contexts/x")):
        r = execd.request(method, path, {})
        assert r.status == 500 and "not configured" in r.json()["message"] and r.json()["code"] == "RUNTIME_ERROR"
    r = execd.request("GET", "/v1/isolated/capabilities")
    assert r.status == 200 and r.json()["available"] is False and r.json()["message"]
    for method, path, code in (("POST", "session", "SERVICE_UNAVAILABLE"), ("GET", "session/x/diff", "NOT_SUPPORTED"),
                               ("POST", "session/x/commit", "NOT_SUPPORTED"), ("DELETE", "session/x/files", "SERVICE_UNAVAILABLE")):
        r = execd.request(method, f"/v1/isolated/{path}")
        assert r.status == 503 and r.json()["code"] == code


def test_head_of_the_stream(execd):
    c, r = execd.open("POST", "/command", {"command": "echo hi"})
    assert r.headers["Content-Type"] == "text/event-stream" and r.headers["Cache-Control"] == "no-cache"
    assert r.headers["X-Accel-Buffering"] == "no" and r.headers["Transfer-Encoding"] == "chunked"
    events = parse_events(r.read())
    assert [list(e) for e in events[:3]] == [["type", "text", "timestamp"]] * 3
    c.request("GET", "/ping")  # the connection goes on
    assert c.getresponse().status == 200
    c.close()


def test_http_1_0_gets_a_body_that_ends_with_the_connection(execd):
    s = socket.create_connection(("127.0.0.1", execd.port), 10)
    body = b'{"command":"echo hi"}'
    s.sendall(b"POST /command HTTP/1.0\r\nX-EXECD-ACCESS-TOKEN: " + execd.token.encode() +
              b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = b""
    while piece := s.recv(65536):
        answer += piece
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"ransfer-" not in head and parse_events(body)[-1]["type"] == "execution_complete"


def test_body_is_json_of_any_kind(execd):
    assert execd.request("POST", "/command", '{"COMMAND":"true"} trailing').status == 200
    assert execd.request("POST", "/command", '{"command":"false","command":"true","other":[1]}').events()[-1]["type"] == "execution_complete"
    for bad in ("", "{", "[]", '"x"', "null", '{"command":"\\ud800"}'):
        r = execd.request("POST", "/command", bad)
        assert r.status == 400 and r.json()["code"] == "INVALID_REQUEST_BODY", bad


def test_argv(execd, tmp_path):
    assert execd.stdout(["printf", "%s|", "a b", "$HOME", ""]) == "a b|$HOME||"
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool $0\n")
    (tmp_path / "tool").chmod(0o755)
    assert execd.stdout(["./tool"], cwd=str(tmp_path)) == "tool ./tool\n"
    assert execd.stdout(["tool"], envs={"PATH": f"relative:{tmp_path}:/bin:/usr/bin"}).startswith("tool /")
    missing = execd.run(["no-such-program"])[-1]
    assert missing["error"]["ename"] == "CommandExecError" and "No such file" in missing["error"]["evalue"]
    events = execd.run(["no-such-program"], background=True)
    late = events[-1]["error"]
    assert late == {"ename": "RUNTIME_ERROR", "evalue": missing["error"]["evalue"], "traceback": []}
    status = execd.status(events[0]["text"])
    assert (status["running"], status["exit_code"], status["error"]) == (False, 255, late["evalue"])
    for argv in ([], [""], ["a\0b"], "x", [1]):
        assert execd.request("POST", "/command", {"argv": argv}).status == 400, argv


def test_cwd(execd, tmp_path):
    (tmp_path / "sub").mkdir()
    assert execd.stdout("pwd", cwd=str(tmp_path)) == f"{tmp_path}\n"
    assert execd.stdout("pwd", cwd="$W/sub/../sub", envs={"W": str(tmp_path)}) == f"{tmp_path}/sub\n"
    assert execd.stdout("pwd", cwd="~").strip() == execd.dir.name
    r = execd.request("POST", "/command", {"command": "pwd", "cwd": "$UNDEFINED_A/$UNDEFINED_B"})
    assert r.status == 400 and "UNDEFINED_A,UNDEFINED_B" in r.json()["message"]


def test_child_gets_no_secret_no_descriptor_and_plain_signals(execd):
    out = execd.stdout("ls /proc/self/fd; env; grep -E 'SigIgn|SigBlk' /proc/self/status; ulimit -Sn")
    assert execd.token not in out and "EXECD_ACCESS_TOKEN" not in out
    assert out.split("\n")[:4] == ["0", "1", "2", "3"]  # 3 is ls reading the directory
    assert re.findall(r"Sig\w+:\s+(\d+)", out) == ["0" * 16, "0" * 16]
    import resource
    assert int(out.split()[-1]) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_secrets_cannot_be_read_from_proc(execd):
    environ = open(f"/proc/{execd.pid}/environ", "rb").read()
    assert execd.token.encode() not in environ
    if os.geteuid() == 0:
        assert execd.stdout(f"cat /proc/{execd.pid}/environ", uid=65534) == ""


def test_interrupt_kills_the_group_and_escalates(execd):
    command = execd.background("trap '' TERM; (trap '' TERM; sleep 60) & echo $!; wait; sleep 60")
    child = int(wait_until(lambda: execd.logs(command).body, "pid of the child"))
    took, r = milliseconds(lambda: execd.request("DELETE", f"/command?id={command}"))
    assert r.status == 200 and r.body == b"" and took < 500
    s = execd.wait_end(command)
    assert s["error"] == "signal: killed"
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), "end of the child")
    r = execd.request("DELETE", f"/command?id={command}")
    assert r.status == 500 and f"command session {command} is not running" in r.json()["message"]


def test_interrupt_of_a_foreground_command(execd):
    c, r = execd.open("POST", "/command", {"command": "echo go; sleep 60"})
    first = r.readline()
    command = json.loads(first)["text"]
    assert execd.request("DELETE", f"/code?id={command}").status == 200
    events = parse_events(first + r.read())
    assert events[-1]["error"]["traceback"] == ["signal: terminated"]
    c.close()


def test_interrupt_of_nothing(execd):
    r = execd.request("DELETE", "/command?id=nothing")
    assert r.status == 500 and "no such session" in r.json()["message"]
    r = execd.request("DELETE", "/command")
    assert r.status == 400 and r.json() == {"code": "MISSING_QUERY", "message": "missing query parameter 'id'"}


def test_time_out_kills_the_whole_group(execd):
    events = execd.run("sleep 60 & echo $!; sleep 60", timeout=2000)
    child = int(texts(events, "stdout")[0])
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), "end of the child")


def test_unknown_ids(execd):
    r = execd.request("GET", "/command/status/nothing")
    assert r.status == 404 and r.json() == {"code": "INVALID_REQUEST_BODY", "message": "command not found: nothing"}
    assert execd.request("GET", "/command/nothing/logs").status == 400


def test_a_leaving_client_leaves_the_command(execd):
    c, r = execd.open("POST", "/command", {"command": "echo a; sleep .2; echo b; exit 7"})
    command = json.loads(r.readline())["text"]
    c.sock.close()
    r.close()
    s = execd.wait_end(command)
    assert s["exit_code"] == 7 and execd.logs(command).body == b"a\nb\n"


def test_first_byte_comes_at_once(execd):
    def first_output():
        c, r = execd.open("POST", "/command", {"command": "echo first; sleep 0.5"})
        begin = time.monotonic()
        while b"stdout" not in r.readline():
            pass
        took = time.monotonic() - begin
        r.read()
        c.close()
        return took
    assert min(first_output() for _ in range(5)) < 0.05


def test_stdout_and_stderr_keep_their_own_order(execd):
    events = execd.run("for i in $(seq 500); do echo o$i; echo e$i >&2; done")
    assert "".join(texts(events, "stdout")).split() == [f"o{i}" for i in range(1, 501)]
    assert "".join(texts(events, "stderr")).split() == [f"e{i}" for i in range(1, 501)]


def test_every_byte_arrives(execd):
    events = execd.run("head -c 3000000 /dev/zero | tr '\\0' x; echo; seq 100000")
    out = "".join(texts(events, "stdout"))
    assert out == "x" * 3000000 + "\n" + "".join(f"{i}\n" for i in range(1, 100001))
    assert texts(events, "stdout")[0] == "x" * 3000000 + "\n"  # a line is one event


def test_long_logs_by_offset(execd):
    command = execd.background("seq 1000000")
    execd.wait_end(command)
    whole = "".join(f"{i}\n" for i in range(1, 1000001)).encode()
    wait_until(lambda: int(execd.logs(command, 10 ** 9).headers["EXECD-COMMANDS-TAIL-CURSOR"]) == len(whole), "all of it")
    assert execd.logs(command, 5).body == whole[5:]


def test_the_oldest_is_dropped_and_told(execd):
    command = execd.background("head -c 20000000 /dev/zero; echo end")
    execd.wait_end(command)
    wait_until(lambda: execd.logs(command, 20000000).body.endswith(b"end\n"), "the end of the log")
    r = execd.logs(command, 1000)
    assert int(r.headers["EXECD-COMMANDS-DROPPED"]) == 20000004 - 16 * MIB - 1000
    assert len(r.body) == 16 * MIB and r.headers["EXECD-COMMANDS-TAIL-CURSOR"] == "20000004"


def test_a_long_line_does_not_stop_the_other_stream(execd):
    """The event of a long line leaves in pieces; what stderr says meanwhile comes behind it, up to 1 MiB, then it is cut."""
    events = execd.run("head -c 300000 /dev/zero | tr '\\0' o; echo e1 >&2; sleep .1; echo tail; echo e2 >&2")
    assert texts(events, "stdout") == ["o" * 300000 + "tail\n"] and texts(events, "stderr") == ["e1\n", "e2\n"]
    events = execd.run("head -c 300000 /dev/zero | tr '\\0' o; sleep .1; seq 300000 >&2; sleep .1; echo tail")
    assert "".join(texts(events, "stdout")) == "o" * 300000 + "tail\n"
    assert "".join(texts(events, "stderr")) == "".join(f"{i}\n" for i in range(1, 300001))


def slow_client(execd, command):
    """A client that reads nothing yet, on a small receive buffer."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", execd.port))
    body = json.dumps({"command": command}).encode()
    s.sendall(b"POST /command HTTP/1.1\r\nHost: x\r\nX-EXECD-ACCESS-TOKEN: %s\r\nContent-Length: %d\r\n\r\n%s"
              % (execd.token.encode(), len(body), body))
    return s


def written(pid):
    return int(re.search(r"wchar: (\d+)", open(f"/proc/{pid}/io").read()).group(1))


@pytest.mark.bare
def test_a_slow_reader_stops_the_command_and_its_leaving_frees_it():
    with Execd() as e:
        before = e.rss_kib()
        s = slow_client(e, "echo $$; exec head -c 1073741824 /dev/zero")
        got = b""
        while b"stdout" not in got or not got.endswith(b"\n\n\r\n"):
            got += s.recv(1024)
        pid = int(re.search(rb'"stdout","text":"(\d+)', got).group(1))
        last = [0]

        def stopped():
            n = written(pid)
            same, last[0] = n == last[0], n
            time.sleep(0.1)
            return same and n > 16 * MIB
        wait_until(stopped, "the command stands still")
        assert 16 * MIB <= written(pid) < 20 * MIB
        for _ in range(20):
            s.recv(1024)  # 1 KiB at a time changes nothing
        assert written(pid) < 20 * MIB
        assert e.rss_kib() - before < 3 * 1024  # though it is one endless line
        command = re.search(rb'"init","text":"([0-9a-f]+)', got).group(1).decode()
        s.close()
        assert e.wait_end(command, 60)["exit_code"] == 0
        wait_until(lambda: e.logs(command, 2 ** 31).headers["EXECD-COMMANDS-TAIL-CURSOR"] == str(1073741824 + len(str(pid)) + 1), "1 GiB counted")


@pytest.mark.bare
def test_lines_of_a_slow_reader_take_little_memory():
    with Execd() as e:
        before = e.rss_kib()
        s = slow_client(e, "yes")
        time.sleep(0.5)
        wait_until(lambda: s.recv(1024), "bytes")
        assert e.rss_kib() - before < 3 * 1024
        s.close()


def test_a_thousand_commands_at_once():
    with Execd() as e:
        go = e.tmp / "go"
        os.mkfifo(go)
        ids = [e.background(f"echo begun; read x <{go}; echo done $$") for _ in range(1000)]
        for i in ids:
            wait_until(lambda: e.logs(i).body == b"begun\n", "it runs")
        assert sum(e.status(i)["running"] for i in ids[::50]) == 20
        assert min(milliseconds(lambda: e.request("GET", "/ping"))[0] for _ in range(5)) < 100
        os.link(go, e.tmp / "fifo")
        (e.tmp / "open").touch()
        os.rename(e.tmp / "open", go)  # for shells that come late; the others wait on the fifo
        fd = os.open(e.tmp / "fifo", os.O_WRONLY)
        assert e.run("true")
        os.close(fd)
        for i in ids:
            assert e.wait_end(i, 60)["exit_code"] == 0
            assert re.fullmatch(rb"begun\ndone \d+\n", e.logs(i).body)
        wait_until(lambda: not e.zombies() and e.descriptors() < 300, "nothing left open but spools")


def test_many_readers_at_once(execd):
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda i: execd.stdout(f"for k in 1 2 3; do echo {i}-$k; done"), range(200)))
    assert results == [f"{i}-1\n{i}-2\n{i}-3\n" for i in range(200)]


def test_pings_keep_the_stream_alive():
    with Execd() as e:
        events = e.run("sleep 3.3")
        assert [x["type"] for x in events] == ["init", "ping", "ping", "execution_complete"]


def test_stop_ends_streams_with_their_last_event():
    with Execd() as e:
        other = e.background("trap 'echo bye >%s/bye; exit' TERM; echo ready; while :; do sleep 0.05; done" % e.dir.name)
        wait_until(lambda: e.logs(other).body == b"ready\n", "it listens")
        c, r = e.open("POST", "/command", {"command": "echo hi; sleep 60"})
        first = b"".join(r.readline() for _ in range(6))
        os.kill(e.pid, signal.SIGTERM)
        took, code = milliseconds(lambda: e.wait(6))
        assert code == 0 and took < 2500
        assert parse_events(first + r.read())[-1]["error"]["traceback"] == ["signal: terminated"]
        assert os.path.exists(e.dir.name + "/bye")
        assert "left open" not in e.output()
        c.close()


def test_stop_kills_what_does_not_listen():
    with Execd() as e:
        command = e.background("trap '' TERM; echo $$; while :; do sleep 0.05; done")
        pid = int(wait_until(lambda: e.logs(command).body, "its pid"))
        took, code = milliseconds(e.stop)
        assert code == 0 and 2900 < took < 5000 and not os.path.exists(f"/proc/{pid}")


def test_with_few_descriptors_what_fails_says_so():
    with Execd(wrap=["prlimit", "--nofile=40:40"]) as e:
        before, go = e.descriptors(), e.tmp / "go"
        assert e.stdout("ulimit -n") == "40\n"
        os.mkfifo(go)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            held = [pool.submit(e.run, f"read x <{go}; echo end") for _ in range(16)]
            wait_until(lambda: any(h.done() for h in held), "one fails while the others run", 30)
            fd = os.open(go, os.O_RDWR)  # until all have read: some may come late
            os.write(fd, b"\n" * 16)
            ends = [h.result()[-1] for h in held]
            os.close(fd)
        failed = [x["error"]["evalue"] for x in ends if x["type"] == "error"]
        assert failed and all("Too many open files" in f for f in failed) and len(failed) < len(ends)
        wait_until(lambda: e.descriptors() <= before, "all are closed")
        assert e.stdout("echo ok") == "ok\n"


@pytest.mark.bare
def test_records_are_bounded_by_the_texts_of_commands():
    with Execd() as e:
        first = e.background("true")
        for i in range(10):
            e.run(": " + "x" * 1_000_000)
        assert e.request("GET", f"/command/status/{first}").status == 404
        assert e.rss_kib() < 24 * 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_root_a_uid_is_a_start_error(tmp_path):
    tmp_path.chmod(0o755)
    with Execd(wrap=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], env={"TMPDIR": "/tmp"}, cwd="/") as e:
        assert e.stdout("id -u") == "65534\n"
        assert e.stdout("id -u", uid=65534) == "65534\n"  # its own: no change of privilege
        end = e.run("id -u", uid=1000)[-1]
        assert end["type"] == "error" and "ot permitted" in end["error"]["evalue"]
