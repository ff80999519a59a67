"""Lifecycle hooks: preStart before the entrypoint, periodic ones on their schedules (compat-1.1.1.md L10, E20, E21)."""
import json
import os
import pathlib
import re
import signal
import threading
import time

import pytest

from execd_peer import Execd, wait_until

VARIABLE = "OPENSANDBOX_LIFECYCLE"


def prestart(script, **members):
    return {"preStart": {"command": ["sh", "-c", script], **members}}


def periodic(script, schedule="@every 1s", name="tick", **members):
    return {"periodic": [{"name": name, "schedule": schedule, "command": ["sh", "-c", script], **members}]}


def init(lifecycle, *entrypoint, env=None, **options):
    text = lifecycle if isinstance(lifecycle, str) else json.dumps(lifecycle)
    return Execd(init=list(entrypoint), env={VARIABLE: text, **(env or {})}, **options)


def plain(lifecycle, *flags, **options):
    return Execd(*flags, env={VARIABLE: json.dumps(lifecycle)}, **options)


def start_of(e, timeout=30):
    r = e.request("GET", "/start", timeout=timeout)
    assert r.status == 200, r.body
    return r.json()


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def failed(e, message):
    """It says so to who asks, in the log and in its exit record, and ends."""
    assert start_of(e) == {"state": "failed", "message": message}
    assert e.wait() == 1 and e.record()["code"] == 1
    assert e.ring().decode().endswith(message + "\n")


# ---- preStart ----

def test_it_runs_before_the_entrypoint():
    script = 'echo from hook; echo MADE=by-hook >>"$EXECD_ENVS"; pwd; echo $A'
    with init(prestart(script), "sh", "-c", "echo entrypoint $MADE; exec sleep 600", env={"A": "variable"}) as e:
        assert start_of(e) == {"state": "started"}
        wait_until(lambda: e.ring() == b"from hook\n/\nvariable\nentrypoint by-hook\n", "both outputs in order")
        assert VARIABLE not in e.stdout("env") + e.stdout("tr '\\0' '\\n' </proc/$PPID/environ")


def test_it_is_waited_for_while_the_api_answers(tmp_path):
    go, begun = tmp_path / "go", tmp_path / "begun"
    answers = []
    with init(prestart(f"touch {begun}; until [ -e {go} ]; do sleep 0.01; done"), "sh", "-c", f"touch {tmp_path}/entry; exec sleep 600") as e:
        waiter = threading.Thread(target=lambda: answers.append(start_of(e)))
        waiter.start()
        wait_until(begun.exists, "the hook runs")
        c, _ = e.connection(), e.request("GET", "/ping")
        c.request("GET", "/start", headers=e.headers())
        c.close()  # who leaves is forgotten
        assert e.stdout("echo hi") == "hi\n" and not answers and not (tmp_path / "entry").exists()
        go.touch()
        waiter.join()
        assert answers == [{"state": "started"}]
        wait_until((tmp_path / "entry").exists, "the entrypoint runs")


def test_the_token_is_demanded():
    with init(prestart("true")) as e:
        c = e.connection()
        c.request("GET", "/start")
        assert c.getresponse().status == 401


def test_without_hooks_a_sandbox_has_started():
    with Execd(init=[]) as e:
        assert start_of(e) == {"state": "started"}


@pytest.mark.parametrize("script,why", [("exit 3", "exit status 3"), ("kill -KILL $$", "signal: killed"), ("kill -USR1 $$", "signal: user defined signal 1")])
def test_its_failure_stops_the_start(script, why, tmp_path):
    with init(prestart("echo last words;" + script), "touch", str(tmp_path / "entry")) as e:
        failed(e, f"preStart hook: {why}")
        assert e.ring().startswith(b"last words\n") and not (tmp_path / "entry").exists()


@pytest.mark.bare  # a sanitizer has a word of its own where an exec fails
def test_a_program_that_is_not_there_stops_the_start():
    with init({"preStart": {"command": ["/no/such/program"]}}) as e:
        failed(e, "preStart hook: could not be started: /no/such/program: No such file or directory")


@pytest.mark.bare  # a sanitizer has a word of its own where an exec fails
def test_an_entrypoint_that_is_not_there_is_told_behind_it():
    with init(prestart("echo done"), "/no/such/entrypoint") as e:
        failed(e, "entrypoint: /no/such/entrypoint: No such file or directory")


def test_time_out_ends_its_whole_group(tmp_path):
    script = f"trap 'echo told to end; exit 0' TERM; sleep 600 & echo $! >{tmp_path}/child; wait"
    with init(prestart(script, timeoutSeconds=1)) as e:
        failed(e, "preStart hook: timed out after 1 s")
        assert b"told to end\n" in e.ring()
        child = int((tmp_path / "child").read_text())
        wait_until(lambda: not alive(child), "what it left is gone")


def test_who_does_not_end_is_killed():
    with init(prestart("trap '' TERM; while :; do sleep 0.1; done", timeoutSeconds=1)) as e:
        begin = time.monotonic()
        failed(e, "preStart hook: timed out after 1 s")
        assert time.monotonic() - begin > 3


def test_nobody_asks():
    with init(prestart("exit 9")) as e:
        assert e.wait() == 1 and e.ring().endswith(b"preStart hook: exit status 9\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number, tmp_path):
    with init(prestart(f"echo $$ >{tmp_path}/pid; sleep 600"), "sleep", "600") as e:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the hook runs")
        os.kill(e.process.pid, number)
        assert e.wait() == 128 + number and e.record()["code"] == 128 + number
        wait_until(lambda: not alive(int((tmp_path / "pid").read_text())), "the hook is gone")


def test_what_it_leaves_running_goes_on():
    script = "(while :; do echo beat; sleep 0.05; done) & echo $!"
    with init(prestart(script)) as e:
        assert start_of(e) == {"state": "started"}
        wait_until(lambda: e.ring().count(b"beat\n") > 5, "its output still comes")
        os.kill(int(re.search(rb"^\d+$", e.ring(), re.M).group()), signal.SIGKILL)


def test_pre_script_does_not_see_the_hooks(tmp_path):
    (tmp_path / "pre.sh").write_text("env\n")
    with init(prestart("echo hook"), env={"EXECD_BOOTSTRAP_PRE_SCRIPT": str(tmp_path / "pre.sh")}) as e:
        assert start_of(e) == {"state": "started"}
        assert b"hook\n" in e.ring() and VARIABLE.encode() not in e.ring()


@pytest.mark.parametrize("text,why", [
    ("{", "line 1"),
    ("[]", "lifecycle is no object"),
    ('{"preStop": {}}', 'lifecycle has an unknown member "preStop"'),
    ('{"preStart": {}}', "preStart has no command"),
    ('{"preStart": {"command": []}}', "preStart has no command"),
    ('{"preStart": {"command": [" "]}}', "preStart: word 0 of the command is no text"),
    ('{"preStart": {"command": ["a", 1]}}', "preStart: word 1 of the command is no text"),
    ('{"preStart": {"command": ["a\\u0000b"]}}', "line 1"),
    ('{"preStart": {"command": ["a"], "timeoutSeconds": 10801}}', "preStart: timeoutSeconds is no number from 1 to 10800"),
    ('{"preStart": {"command": ["a"], "timeoutSeconds": 0}}', "preStart: timeoutSeconds"),
    ('{"preStart": {"command": ["a"], "timeout_seconds": 5}}', 'preStart has an unknown member "timeout_seconds"'),
    ('{"periodic": {}}', "periodic is no list"),
    ('{"periodic": [{"name": "a", "command": ["a"]}]}', "a periodic hook has no name or no schedule"),
    ('{"periodic": [{"name": "a", "schedule": "* * *", "command": ["a"]}]}', "a: schedule: 3 fields instead of five"),
    ('{"periodic": [{"name": "a", "schedule": "@daily", "command": ["a"], "timeoutSeconds": 301}]}', "a: timeoutSeconds is no number from 1 to 300"),
    (json.dumps({"periodic": [{"name": "a", "schedule": "@daily", "command": ["a"]}] * 2}), 'two periodic hooks have the name "a"'),
    (json.dumps({"periodic": [{"name": str(i), "schedule": "@daily", "command": ["a"]} for i in range(101)]}), "at most 100 hooks"),
    (json.dumps(prestart("x" * 65536)), "more than 65536 bytes"),
])
def test_what_is_malformed_stops_the_start(text, why, tmp_path):
    with init(text, "touch", str(tmp_path / "entry")) as e:
        assert e.wait() == 1
        assert f"{VARIABLE}: " in e.ring().decode() and why in e.ring().decode(), e.ring()
        assert not (tmp_path / "entry").exists()


def test_an_empty_object_is_no_hook():
    with init({"preStart": None, "periodic": None}) as e:
        assert start_of(e) == {"state": "started"}


# ---- the status file, for launchers of the plain daemon ----

def test_status_file(tmp_path):
    told = tmp_path / "status"
    flag = f"--lifecycle-startup-status-file={told}"
    with plain(prestart("exit 0"), flag):
        wait_until(told.exists, "the status file")
        assert json.loads(told.read_text()) == {"state": "started"}
    with plain(prestart("exit 4"), flag) as e:
        wait_until(lambda: json.loads(told.read_text())["state"] == "failed", "the failure")
        assert json.loads(told.read_text()) == {"state": "failed", "message": "preStart hook: exit status 4"}
        assert start_of(e)["state"] == "failed" and e.wait() == 1
    with Execd(flag):
        wait_until(lambda: json.loads(told.read_text()) == {"state": "started"}, "no hooks at all")
    assert list(tmp_path.iterdir()) == [told]


def test_plain_daemon_writes_their_output_to_its_own():
    with plain(prestart("echo to stdout; echo to stderr >&2")) as e:
        assert start_of(e) == {"state": "started"}
        assert "to stdout\n" in e.output() and "to stderr\n" in e.output()


# ---- periodic hooks ----

def timers(e):
    """What the kernel says of its timers; other descriptors may go while one looks."""
    found = []
    for fd in os.listdir(f"/proc/{e.pid}/fd"):
        try:
            found.append(pathlib.Path(f"/proc/{e.pid}/fdinfo/{fd}").read_text())
        except OSError:
            pass
    return [t for t in found if "clockid:" in t]


def test_a_hook_runs_on_its_schedule(tmp_path):
    out, begin = tmp_path / "out", time.time()
    with init(periodic(f"date +%s.%N >>{out}; pwd; id -u; echo $A"), env={"A": "b"}) as e:
        times = wait_until(lambda: out.exists() and len(t := out.read_text().split()) >= 3 and t, "three runs", 15)
        assert float(times[2]) >= begin + 2, (begin, times)  # three whole seconds later; it may take longer
        assert f"/\n{os.geteuid()}\nb\n".encode() in e.ring()
        assert VARIABLE not in e.stdout("env")


@pytest.mark.slow
def test_it_never_runs_twice_at_once(tmp_path):
    script = f"mkdir {tmp_path}/lock || echo twice >>{tmp_path}/out; sleep 2.5; rmdir {tmp_path}/lock; echo once >>{tmp_path}/out"
    with init(periodic(script)) as e:
        wait_until(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text() == "once\nonce\n", "two runs", 30)
        assert re.search(rb"hook tick: its time came [23] times while it ran; skipped\n", e.ring()), e.ring()


def test_its_failures_and_its_time_out_are_told():
    hooks = {"periodic": [{"name": "fails", "schedule": "@every 1s", "command": ["sh", "-c", "echo no; exit 5"]},
                          {"name": "lasts", "schedule": "@every 1s", "command": ["sleep", "600"], "timeoutSeconds": 1},
                          {"name": "is not there", "schedule": "@every 1s", "command": ["/no/such"]}]}
    with init(hooks) as e:
        assert start_of(e) == {"state": "started"}
        for line in b"no\nhook fails: exit status 5\n", b"hook lasts: timed out after 1 s\n", b"hook is not there: could not be started: /no/such":
            wait_until(lambda: line in e.ring(), line, 15)
        assert e.request("GET", "/ping").status == 200
        wait_until(lambda: not e.zombies(), "all are reaped")


def test_it_begins_after_the_start(tmp_path):
    go = tmp_path / "go"
    hooks = {**prestart(f"until [ -e {go} ]; do sleep 0.01; done"), **periodic(f"touch {tmp_path}/ran")}
    with init(hooks) as e:
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() > begin + 2, "more than its interval")
        assert not (tmp_path / "ran").exists()
        go.touch()
        wait_until((tmp_path / "ran").exists, "the hook runs")
        assert start_of(e) == {"state": "started"}


@pytest.mark.slow
def test_ticks_that_passed_in_a_pause_are_not_made_up_for(tmp_path):
    out = tmp_path / "out"
    with init(periodic(f"echo >>{out}")) as e:
        wait_until(out.exists, "the first run")
        os.kill(e.process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() > begin + 7.2, "a pause longer than what counts as late")
        runs = out.stat().st_size
        os.kill(e.process.pid, signal.SIGCONT)
        wait_until(lambda: b"hook tick: its time passed while the sandbox stood still\n" in e.ring(), "it is told")
        assert out.stat().st_size <= runs + 1
        wait_until(lambda: out.stat().st_size > runs, "it goes on")


def test_it_ends_with_the_sandbox(tmp_path):
    with init(periodic(f"echo $$ >{tmp_path}/pid; exec sleep 600")) as e:
        pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the hook runs"))
        assert e.stop() == 0
        wait_until(lambda: not alive(pid), "it is gone")


def test_every_minute_waits_without_work():
    """One timer of the kernel: no processor time while nothing is due."""
    with init(periodic("true", schedule="* * * * *")) as e:
        assert start_of(e) == {"state": "started"}
        infos = timers(e)
        assert len(infos) == 1
        text = infos[0]
        left = int(re.search(r"it_value: \((\d+),", text).group(1))
        assert re.search(r"clockid: 0\b", text) and left <= 60
