"""Appendix A of execd.md (A.1 to A.4, A.8), as compat-1.1.1.md section 3 changed it. `make vectors` prints a line each."""
import os
import time

import pytest

from execd_peer import Execd, texts, wait_until

A1 = [
    (r"a\n\nb\n\n\nc\n", ["a\n", "\n", "b\n", "\n", "\n", "c\n"]),
    (r"line1\nprog 10%%\rprog 20%%\rlast\n", ["line1\n", "prog 10%\r", "prog 20%\r", "last\n"]),
    (r"tail1\r\ntail2\n", ["tail1\r\n", "tail2\n"]),
    (r"c\n\r\nd\n", ["c\n", "\r\n", "d\n"]),
    (r"x", ["x"]),
    (r"a\n\nb\r\nc\rd", ["a\n", "\n", "b\r\n", "c\r", "d"]),
    (r"\377\376<&>\n", ["\ufffd\ufffd<&>\n"]),
]


@pytest.mark.parametrize("written,expected", A1)
def test_a1_line_splitter(execd, written, expected):
    assert texts(execd.run(f"printf '{written}'"), "stdout") == expected


@pytest.mark.parametrize("first,second,expected", [(r"a\r", r"\nb\n", "a\r\nb\n"), (r"\r", r"\n", "\r\n")])
def test_a1_terminator_in_two_writes(execd, first, second, expected):
    assert execd.stdout(f"printf '{first}'; sleep .1; printf '{second}'") == expected


def outcome(events):
    """The terminal event, the only one and the last but for pings."""
    ends = [e for e in events if e["type"] in ("error", "execution_complete")]
    assert len(ends) == 1
    assert [e for e in events if e["type"] != "ping"][-1] is ends[0]
    assert events[0]["type"] == "init" and len(events[0]["text"]) == 32
    return ends[0]


A2 = [
    ("exit 3", "3", ["exit status 3"]),
    ("kill -9 $$", "-1", ["signal: killed"]),
    ("kill -TERM $$", "-1", ["signal: terminated"]),
    ("nonexist_cmd", "127", ["exit status 127"]),
]


@pytest.mark.parametrize("command,code,traceback", A2)
def test_a2_failures(execd, command, code, traceback):
    assert outcome(execd.run(command))["error"] == {"ename": "CommandExecError", "evalue": code, "traceback": traceback}


def test_a2_time_out(execd):
    begin = time.monotonic()
    end = outcome(execd.run("sleep 5", timeout=300))
    assert end["error"]["evalue"] == "-1" and end["error"]["traceback"] == ["signal: killed"]
    assert 0.29 < time.monotonic() - begin < 2


def test_a2_unknown_command_is_explained_on_stderr(execd):
    assert "nonexist_cmd" in "".join(texts(execd.run("nonexist_cmd"), "stderr"))


def test_a2_spaces_succeed(execd):
    assert outcome(execd.run("   "))["type"] == "execution_complete"


def test_a2_orphans_are_not_waited_for_and_live_on(execd, tmp_path):
    go = tmp_path / "go"
    events = execd.run(f"echo parent; (until [ -e {go} ]; do sleep 0.01; done; echo late) &")
    assert texts(events, "stdout") == ["parent\n"] and outcome(events)["type"] == "execution_complete"
    command = events[0]["text"]
    go.touch()
    wait_until(lambda: execd.logs(command).body == b"parent\nlate\n", "the late line in the log, so no SIGPIPE")


def test_a2_prompt_is_one_line(execd):
    assert texts(execd.run("printf 'prompt> '; sleep .5; echo done"), "stdout") == ["prompt> done\n"]


def test_a2_the_shell_calls_itself_by_its_name(execd):
    assert execd.stdout("echo $0") == "bash\n"
    assert texts(execd.run("nonexist_cmd"), "stderr") == ["bash: line 1: nonexist_cmd: command not found\n"]


def test_a2_long_command_works(execd):
    """The reference fails with `argument list too long`; section 3.1 recommends a script instead."""
    assert execd.stdout("echo start; : " + "x" * 150_000 + "\necho end $0") == "start\nend bash\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("members,expected", [({"uid": 65534}, "65534:65534"), ({"uid": 1234567}, "1234567:1234567"),
                                              ({"uid": 1234567, "gid": 99}, "1234567:99")])
def test_a2_users(execd, members, expected):
    assert execd.stdout("echo $(id -u):$(id -g)", **members) == expected + "\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a2_a_known_user_gets_its_groups(tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:4711:4712::/home/ann:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\nann:x:4712:\none:x:4801:bob,ann\ntwo:x:4802:ann\nother:x:4803:bob,anna\n")
    hide = f"for f in passwd group; do mount --bind {tmp_path}/$f /etc/$f || exit; done; exec \"$@\""
    with Execd(wrap=["unshare", "--mount", "sh", "-c", hide, "sh"]) as e:
        assert e.stdout("id -u; id -g; id -G", uid=4711) == "4711\n4712\n4712 4801 4802\n"
        assert e.stdout("id -g; id -G", uid=4711, gid=4803) == "4803\n4803 4712 4801 4802\n"
        assert e.stdout("id -g; id -G", uid=4999) == "4999\n4999\n"  # unknown: none of ours


@pytest.mark.parametrize("members", [{"uid": -1}, {"uid": "x"}, {"gid": 5}, {"uid": 1.0}, {"timeout": -1}, {"timeout": "1"}, {"cwd": "/nowhere"},
                                     {"cwd": "$NOT_SET_ANYWHERE"}, {"envs": {"A": 1}}, {"envs": []}, {"background": "yes"},
                                     {"argv": ["x"]}, {"command": ""}, {"command": None}, {"command": 5}])
def test_a2_refused(execd, members):
    r = execd.request("POST", "/command", {"command": "true", **members})
    assert r.status == 400 and r.json()["code"] == "INVALID_REQUEST_BODY" and r.json()["message"]


def test_a2_stdin_is_empty(execd):
    assert execd.stdout("cat; echo eof=$?") == "eof=0\n"


@pytest.mark.parametrize("cursor,body,header", [(None, b"bg1\nbgerr\n", "10"), ("4", b"bgerr\n", "10"), ("10", b"", "10"), ("400", b"", "10"),
                                                ("abc", b"bg1\nbgerr\n", "10")])
@pytest.mark.parametrize("background", [True, False])
def test_a3_cursor(execd, background, cursor, body, header):
    events = execd.run("echo bg1; sleep .05; echo bgerr >&2", background=background)
    command = events[0]["text"]
    execd.wait_end(command)
    wait_until(lambda: len(execd.logs(command).body) == 10, "the whole log")
    r = execd.logs(command, cursor)
    assert (r.status, r.body, r.headers["EXECD-COMMANDS-TAIL-CURSOR"]) == (200, body, header)
    assert r.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a3_negative_cursor(execd):
    command = execd.background("true")
    assert execd.logs(command, -3).status == 400


def test_a4_running(execd):
    command = execd.background("sleep 5")
    assert list(execd.status(command)) == ["id", "content", "running", "started_at"]
    assert execd.request("DELETE", f"/command?id={command}").status == 200
    s = execd.wait_end(command)
    assert s["exit_code"] == -1 and s["error"] == "signal: terminated"


@pytest.mark.parametrize("command,code,error", [("true", 0, None), ("exit 4", 4, "exit status 4"), ("kill -9 $$", -1, "signal: killed")])
def test_a4_ended(execd, command, code, error):
    s = execd.wait_end(execd.background(command))
    assert s["exit_code"] == code and s.get("error") == error and s["finished_at"] >= s["started_at"] and s["content"] == command


def test_a8_envs_file(tmp_path):
    (tmp_path / "envs").write_text("# c\n\nFOO=bar\nPATH=$BASE_DIR/bin:/usr/bin:/bin\nEMPTY=\nMALFORMED\nONE=file\nTWO=file\n")
    with Execd(env={"EXECD_ENVS": "$WHERE/envs", "WHERE": str(tmp_path), "BASE_DIR": "/base", "ONE": "process", "ZERO": "process"}) as e:
        shown = e.stdout('echo "$FOO|$PATH|${EMPTY-unset}|$ZERO|$ONE|$TWO"', envs={"TWO": "request"})
        assert shown == "bar|/base/bin:/usr/bin:/bin||process|file|request\n"
        (tmp_path / "envs").write_text("FOO='it''s'\nBAR=\"a\\n\\\"b\\\"\"\n")  # read again for each command
        assert e.stdout('echo "$BAR"') == 'a\n"b"\n'
