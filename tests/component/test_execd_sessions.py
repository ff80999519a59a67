"""Bash sessions over a real execd: execd.md 4.1 to 4.5, compat-1.1.1.md E7 to E10."""
import os
import time

import pytest

from execd_follow import descendants, outcome, text_of
from execd_peer import Execd, wait_until
from execd_session import Session


@pytest.fixture(scope="module")
def execd():
    with Execd(env={"BASE": "seed"}) as e:
        yield e


@pytest.fixture
def session(execd):
    s = Session(execd, cwd="/tmp")
    yield s
    execd.request("DELETE", f"/session/{s.id}")


def test_contract_of_the_clients(execd, session):
    assert session.run("pwd") == ("/tmp\n", "0")
    assert session.run("pwd", cwd="/var") == ("/var\n", "0")
    assert session.run("pwd") == ("/var\n", "0")  # an override persists
    assert session.run("pwd", cwd="/tmp") == ("/tmp\n", "0")
    assert session.run("export X=1") == ("", "0")
    assert session.run("echo $X") == ("1\n", "0")
    events = session.events("sh -c 'echo out; echo err >&2; exit 7'")
    assert text_of(events) == "out\n" and text_of(events, "stderr") == "err\n"
    assert outcome(events) == ("7", ["exit status 7"])
    assert events[0]["type"] == "init" and events[0]["text"] == session.id
    assert session.run("echo still") == ("still\n", "0")
    session.delete()
    r = execd.request("DELETE", f"/session/{session.id}")
    assert (r.status, r.json()["code"]) == (404, "CONTEXT_NOT_FOUND")
    r = execd.request("POST", f"/session/{session.id}/run", {"command": "pwd"})
    assert (r.status, r.json()["code"]) == (500, "RUNTIME_ERROR")


def test_directories_are_made_and_expanded(execd, tmp_path):
    s = Session(execd, cwd=str(tmp_path / "a/b"))
    assert s.run("pwd") == (f"{tmp_path}/a/b\n", "0")
    assert Session(execd, cwd="$TMPDIR/x").run("pwd") == (f"{execd.tmp}/x\n", "0")
    assert Session(execd).run("pwd; echo $BASE") == ("/\nseed\n", "0")


@pytest.mark.parametrize("body,status", [
    (b"{", 400), (b"[]", 400), ({"cwd": 5}, 400), ({"cwd": "/etc/passwd"}, 500), ({"cwd": "/proc/none/x"}, 500),
    ({"cwd": "$NO_SUCH_THING/x"}, 500)])
def test_create_refuses(execd, body, status):
    r = execd.request("POST", "/session", body)
    assert r.status == status and r.json()["code"] and r.json()["message"], r


@pytest.mark.parametrize("body", [
    b"", b"{", {"command": ""}, {"command": 1}, {}, {"command": "x", "timeout": -1}, {"command": "x", "timeout": "1"},
    {"command": "x", "cwd": "/no/such"}, {"command": "x", "cwd": "/etc/passwd"}])
def test_run_refuses(execd, session, body):
    r = execd.request("POST", f"/session/{session.id}/run", body)
    assert (r.status, r.json()["code"]) == (400, "INVALID_REQUEST_BODY"), r


def test_runs_keep_their_order(session):
    session.run("export N=0")
    first = session.follow("sleep 0.3; echo $N; export N=first")
    others = [session.follow(f"echo $N; export N={i}") for i in range(5)]  # in line when their heads are here
    events = list(first)
    assert (text_of(events), outcome(events)[0]) == ("0\n", "0")
    assert [text_of(list(o)) for o in others] == ["first\n", "0\n", "1\n", "2\n", "3\n"]


def test_too_many_waiting_runs_are_refused(execd, tmp_path):
    s = Session(execd)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    runs = [s.follow(f"read x <{gate}; echo 0")] + [s.follow(f"echo {i}") for i in range(1, 65)]
    r = execd.request("POST", f"/session/{s.id}/run", {"command": "echo no"})
    assert r.status == 409 and r.json()["code"] == "RUNTIME_ERROR" and "session is busy" in r.json()["message"]
    gate.write_text("go\n")
    for i, run in enumerate(runs):
        assert text_of(list(run)) == f"{i}\n"
        run.close()
    assert s.run("echo again") == ("again\n", "0")
    s.delete()


def test_a_session_outlives_its_directory(execd, session, tmp_path):
    gone = tmp_path / "gone"
    assert session.run(f"export A=1; mkdir {gone}; cd {gone}; rmdir {gone}") == ("", "0")
    events = session.events("pwd; echo $A")
    assert text_of(events) == "/\n1\n" and outcome(events) == ("0", [])
    assert text_of(events, "stderr") == f"execd: cd: {gone}: No such file or directory\n"
    assert session.run("cd /usr") == ("", "0") and session.run("pwd") == ("/usr\n", "0")


def test_time_out_kills_the_whole_group(execd, session):
    session.run("export KEPT=1")
    begin = time.monotonic()
    events = session.events("sh -c 'sleep 100 & sleep 100' & sleep 100", timeout=300)
    assert time.monotonic() - begin < 3
    evalue, _ = outcome(events)
    assert "timeout after 300ms" in evalue
    assert events[-1]["error"]["ename"] == "RUNTIME_ERROR"
    wait_until(lambda: not descendants(execd), "all are gone")
    assert session.run("echo $KEPT") == ("1\n", "0")


def test_disconnect_kills_the_whole_group(execd, session):
    run = session.follow("echo begun; sleep 100 & sleep 100")
    assert run.until("stdout")["text"] == "begun\n"
    waiting = session.follow("echo never")
    waiting.until("init")
    waiting.close()
    run.close()
    wait_until(lambda: not descendants(execd), "all are gone")
    assert session.run("echo next") == ("next\n", "0")


def test_delete_kills_the_whole_group(execd):
    s = Session(execd)
    run = s.follow("echo begun; sleep 100 & sleep 100")
    run.until("stdout")
    queued = s.follow("echo never")
    queued.until("init")
    s.delete()
    assert outcome(list(run)) == ("-1", ["signal: killed"])
    events = list(queued)
    assert text_of(events) == "" and "deleted" in outcome(events)[0]
    wait_until(lambda: not descendants(execd), "all are gone")


def test_interrupt_destroys_it(execd):
    s = Session(execd)
    run = s.follow("echo begun; sleep 100")
    run.until("stdout")
    assert execd.request("DELETE", f"/command?id={s.id}").status == 200
    assert outcome(list(run))[0] == "-1"


def test_what_is_left_behind_does_not_hold_the_reply(execd, session):
    begin = time.monotonic()
    assert session.run("sleep 3 & echo done") == ("done\n", "0")
    assert session.run("(while :; do echo noise; done) & echo done; kill -STOP $!; echo $! >pid")[1] == "0"
    assert time.monotonic() - begin < 2
    assert session.run("kill -9 $(cat pid)")[1] == "0"
    wait_until(lambda: not descendants(execd), "all are gone")


def test_what_is_left_behind_may_go_on_writing(execd, session, tmp_path):
    go = tmp_path / "go"
    script = f"until [ -e {go} ]; do sleep 0.01; done; echo to nobody; seq 100000; echo alive >late"
    assert session.run(f"rm -f late; ({script}) & echo done") == ("done\n", "0")
    go.touch()
    wait_until(lambda: session.run("cat late")[0] == "alive\n", "the background job lived through its writes")
    wait_until(lambda: not descendants(execd), "it is gone")


def test_output_is_complete_and_cannot_forge_state(session):
    events = session.events("seq 1 20000; printf last")
    assert text_of(events) == "".join(f"{i}\n" for i in range(1, 20001)) + "last"
    forged = "__ENV_DUMP_START__\ndeclare -x EVIL=1\n__ENV_DUMP_END__\n__PWD__:/etc\n__EXIT_CODE__:3\n"
    assert session.run(f"printf '%s' '{forged}'") == (forged, "0")
    assert session.run("printf '/etc\\0export EVIL=1\\0' >&2; printf '/etc\\0export EVIL=1\\0'; exit 4")[1] == "4"
    assert session.run("pwd; echo [$EVIL]") == ("/tmp\n[]\n", "0")
    assert session.run("printf 'a\\n\\nb\\r\\nc'") == ("a\n\nb\r\nc", "0")


def test_any_bytes_and_large_commands(session):
    session.run("export BYTES=$'\\x01\\x7f\\xff\\xfe\\t\\n`$\"\\'\\\\'")
    for _ in range(3):
        assert session.run("printf %s \"$BYTES\" | od -An -tx1")[0].split() == \
            "01 7f ff fe 09 0a 60 24 22 27 5c".split()
    big = "x" * 300_000
    assert session.run(f"v={big}; echo ${{#v}}") == ("300000\n", "0")
    assert session.run("cat <<'X' | wc -l\n" + "line\n" * 1000 + "X") == ("1000\n", "0")


def test_changes_of_the_env_file(tmp_path):
    file = tmp_path / "envs"
    file.write_text("A=one\n")
    with Execd(env={"EXECD_ENVS": str(file)}) as e:
        s = Session(e)
        assert s.run("echo $A; export A=mine") == ("one\n", "0")
        assert s.run("echo $A") == ("mine\n", "0")
        file.write_text("A=one\nB='two words'\n")  # as commands.setEnv of the clients appends
        assert s.run("echo $A $B") == ("mine two words\n", "0")
        file.write_text("A=three\nB='two words'\n")
        assert s.run("echo $A $B") == ("three two words\n", "0")


def test_without_bash(tmp_path):
    os.symlink("/bin/dash", tmp_path / "sh")
    for tool in ("cat", "sleep"):
        os.symlink(f"/bin/{tool}", tmp_path / tool)
    with Execd(env={"PATH": str(tmp_path)}) as e:
        s = Session(e, cwd="/tmp")
        assert s.run("export A='x\ny'; cd /usr; exit 3") == ("", "3")
        assert s.run("printf %s \"$A\"; pwd") == ("x\ny/usr\n", "0")
        assert s.run("set -e; export B=1; false; echo no") == ("", "1")
        assert s.run("echo $B") == ("1\n", "0")


def test_nothing_is_left(execd):
    Session(execd).run("true")
    before = execd.descriptors()
    for i in range(30):
        s = Session(execd)
        s.run("export A=1; seq 1 1000")
        s.run("exit 1")
        s.delete()
    wait_until(lambda: execd.descriptors() <= before, "all descriptors are given back")
    assert not [p for p in execd.tmp.rglob("*") if p.is_file() and p.name not in ("execd.log", "pid")]
