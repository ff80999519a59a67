"""Official Python and JavaScript clients against real sandboxes: every method that reaches execd."""
import asyncio
import io
import json
import os
import subprocess
import time
from datetime import timedelta

import httpx
import pytest
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.execd_sync import ExecutionHandlersSync
from opensandbox.models.filesystem import (ContentReplaceEntry, DirectoryListEntry, MoveEntry, SearchEntry, SetPermissionEntry,
                                           WriteEntry)
from opensandbox.sync.sandbox import SandboxSync

import harness

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="module", params=[False, True], ids=["endpoint", "server-proxy"])
def sandbox(server, request):
    """One sandbox for all; each test uses names of its own."""
    config = ConnectionConfigSync(domain=f"127.0.0.1:{server.port}", api_key=server.key, use_server_proxy=request.param)
    sb = SandboxSync.create(harness.IMAGE, env={"GREETING": "salut"}, connection_config=config)
    yield sb
    sb.kill()
    sb.close()


def out(execution):
    return "".join(m.text for m in execution.logs.stdout)


def err(execution):
    return "".join(m.text for m in execution.logs.stderr)


# ---- commands ------------------------------------------------------------------------------------------------

def test_foreground(sandbox):
    done = sandbox.commands.run("echo out; echo err >&2; echo $GREETING")
    assert (out(done), err(done), done.exit_code) == ("out\nsalut\n", "err\n", 0)
    assert done.complete and not done.error and done.id
    done = sandbox.commands.run("printf 'a\\n\\nb\\nlast'; exit 3")
    assert done.text == "a\n\nb\nlast" and done.exit_code == 3
    assert (done.error.name, done.error.value, done.complete) == ("CommandExecError", "3", None)
    assert sandbox.commands.run("kill -9 $$").error.value == "-1"
    assert sandbox.commands.run("no-such-command").exit_code == 127


def test_options(sandbox):
    opts = RunCommandOpts(working_directory="/tmp", envs={"A": "it's \"quoted\"", "B": "2"}, timeout=timedelta(seconds=20))
    assert out(sandbox.commands.run("pwd; echo $A $B", opts=opts)) == "/tmp\nit's \"quoted\" 2\n"
    begin = time.monotonic()
    late = sandbox.commands.run("sleep 30", opts=RunCommandOpts(timeout=timedelta(milliseconds=300)))
    assert late.error and time.monotonic() - begin < 5
    done = sandbox.commands.run("id -u; id -g", opts=RunCommandOpts(uid=65534, gid=65534))
    assert out(done) == "65534\n65534\n"
    with pytest.raises(SandboxApiException):
        sandbox.commands.run("true", opts=RunCommandOpts(working_directory="/no/such"))


def test_argv(sandbox):
    done = sandbox.commands.run(["printf", "%s|", "a b", "$HOME", "*"])
    assert (out(done), done.exit_code) == ("a b|$HOME|*|", 0)


def test_streaming(sandbox):
    seen = []

    def line(m):  # the command goes on when its line has come: they come as they are written
        seen.append(m.text.strip())
        sandbox.files.write_file(f"/tmp/seen-{seen[-1]}", "")
    wait = "until [ -e /tmp/seen-%d ]; do sleep 0.02; done"
    sandbox.commands.run(f"echo 1; {wait % 1}; echo 2 >&2; {wait % 2}; echo 3", opts=RunCommandOpts(timeout=timedelta(seconds=60)),
                         handlers=ExecutionHandlersSync(on_init=lambda e: seen.append("init"), on_stdout=line, on_stderr=line,
                                                        on_execution_complete=lambda e: seen.append("complete")))
    assert seen == ["init", "1", "2", "3", "complete"]
    big = sandbox.commands.run("seq 1 50000")
    assert out(big) == "".join(f"{i}\n" for i in range(1, 50001))


def test_background(sandbox):
    done = sandbox.commands.run("echo one; until [ -e /tmp/go ]; do sleep 0.02; done; echo two >&2; exit 4", opts=RunCommandOpts(background=True))
    assert done.id and done.exit_code is None
    status = sandbox.commands.get_command_status(done.id)
    assert status.running and status.exit_code is None and status.content.startswith("echo one")
    sandbox.files.write_file("/tmp/go", "")
    text, cursor = "", None
    status = harness.wait_until(lambda: (lambda s: s if not s.running else None)(sandbox.commands.get_command_status(done.id)),
                                "the end")
    while True:
        logs = sandbox.commands.get_background_command_logs(done.id, cursor)
        text, cursor = text + logs.content, logs.cursor
        if not logs.content:
            break
    assert text == "one\ntwo\n"
    assert status.exit_code == 4 and status.error == "exit status 4" and status.finished_at >= status.started_at
    with pytest.raises(SandboxApiException):
        sandbox.commands.get_command_status("0" * 32)


def test_interrupt(sandbox):
    started = sandbox.commands.run("sleep 100", opts=RunCommandOpts(background=True))
    sandbox.commands.interrupt(started.id)
    status = harness.wait_until(lambda: (lambda s: s if not s.running else None)(
        sandbox.commands.get_command_status(started.id)), "the end")
    assert status.exit_code == -1
    with pytest.raises(SandboxApiException):
        sandbox.commands.interrupt("no-such-command")


def test_set_env(sandbox):
    session = sandbox.commands.create_session()
    sandbox.commands.set_env("SDK_SET", "two words, it's $HOME")
    assert out(sandbox.commands.run("echo \"$SDK_SET\"")).startswith("two words, it's")
    sandbox.commands.set_env("SDK_PLAIN", "a \"b\" $c")
    assert out(sandbox.commands.run("echo \"$SDK_PLAIN\"")) == "a \"b\" $c\n"
    assert out(sandbox.commands.run_in_session(session, "echo \"$SDK_PLAIN\"")) == "a \"b\" $c\n"
    sandbox.commands.delete_session(session)


# ---- sessions ------------------------------------------------------------------------------------------------

def test_sessions(sandbox):
    run = sandbox.commands.run_in_session
    sid = sandbox.commands.create_session(working_directory="/tmp")
    assert out(run(sid, "pwd")) == "/tmp\n"
    assert out(run(sid, "pwd", working_directory="/var")) == "/var\n"
    assert out(run(sid, "pwd", working_directory="/tmp")) == "/tmp\n"
    assert run(sid, "export X='a\nb'; exit 5").exit_code == 5
    assert out(run(sid, "echo \"$X\"")) == "a\nb\n"
    failed = run(sid, "sh -c 'echo bad >&2; exit 7'")
    assert (failed.error.name, failed.error.value, failed.exit_code, failed.complete) == ("CommandExecError", "7", 7, None)
    late = run(sid, "sleep 30", timeout=timedelta(milliseconds=300))
    assert late.error and late.exit_code is None
    assert out(run(sid, "pwd")) == "/tmp\n"
    sandbox.commands.delete_session(sid)
    with pytest.raises(SandboxApiException):
        sandbox.commands.delete_session(sid)
    with pytest.raises(SandboxApiException):
        run(sid, "true")


# ---- files ---------------------------------------------------------------------------------------------------

def test_files(sandbox):
    f = sandbox.files
    f.create_directories([WriteEntry(path="/tmp/py/sub", mode=755), WriteEntry(path="/tmp/py/private", mode=700)])
    f.write_files([WriteEntry(path="/tmp/py/a.txt", data="line 1\nline 2\nline 3\n", mode=644),
                   WriteEntry(path="/tmp/py/sub/b.txt", data=b"\x00\x01\xff", mode=600, owner="nobody", group="nogroup"),
                   WriteEntry(path="/tmp/py/ünï cödé.txt", data="ü", mode=644)])
    info = f.get_file_info(["/tmp/py/a.txt", "/tmp/py/sub/b.txt", "/tmp/py/private"])
    assert (info["/tmp/py/a.txt"].mode, info["/tmp/py/a.txt"].size) == (644, 21)
    b = info["/tmp/py/sub/b.txt"]
    assert (b.mode, b.owner, b.group, b.size) == (600, "nobody", "nogroup", 3)
    assert info["/tmp/py/private"].mode == 700
    assert f.read_file("/tmp/py/a.txt") == "line 1\nline 2\nline 3\n"
    assert f.read_bytes("/tmp/py/sub/b.txt") == b"\x00\x01\xff"
    assert f.read_file("/tmp/py/a.txt", range_header="bytes=5-9") == "1\nlin"
    assert f.read_file("/tmp/py/a.txt", offset=2, limit=1) == "line 2"
    assert b"".join(f.read_bytes_stream("/tmp/py/a.txt", chunk_size=4)) == b"line 1\nline 2\nline 3\n"
    assert f.read_file("/tmp/py/ünï cödé.txt") == "ü"
    assert {e.path for e in f.search(SearchEntry(path="/tmp/py", pattern="*.txt"))} == \
        {"/tmp/py/a.txt", "/tmp/py/sub/b.txt", "/tmp/py/ünï cödé.txt"}
    listed = {e.path: e.entry_type for e in f.list_directory(DirectoryListEntry(path="/tmp/py"))}
    assert listed["/tmp/py/sub"] == "directory" and listed["/tmp/py/a.txt"] == "file" and "/tmp/py/sub/b.txt" not in listed
    assert "/tmp/py/sub/b.txt" in {e.path for e in f.list_directory(DirectoryListEntry(path="/tmp/py", depth=2))}
    f.replace_contents([ContentReplaceEntry(path="/tmp/py/a.txt", old_content="line", new_content="row")])
    result = f.replace_contents_detailed([ContentReplaceEntry(path="/tmp/py/a.txt", old_content="row", new_content="Row")])
    assert [(r.path, r.replaced_count) for r in result] == [("/tmp/py/a.txt", 3)]
    f.set_permissions([SetPermissionEntry(path="/tmp/py/a.txt", mode=600, owner="nobody", group="nogroup")])
    assert f.get_file_info(["/tmp/py/a.txt"])["/tmp/py/a.txt"].mode == 600
    f.move_files([MoveEntry(src="/tmp/py/a.txt", dest="/tmp/py/moved.txt")])
    assert f.read_file("/tmp/py/moved.txt").startswith("Row 1")
    f.delete_files(["/tmp/py/moved.txt"])
    for gone in (lambda: f.get_file_info(["/tmp/py/moved.txt"]), lambda: f.read_file("/tmp/py/moved.txt")):
        with pytest.raises(SandboxApiException) as e:
            gone()
        assert e.value.status_code == 404
    f.delete_directories(["/tmp/py"])
    assert sandbox.commands.run("test -e /tmp/py").exit_code == 1


def test_large_files(sandbox):
    data = os.urandom(1 << 20) * 20
    sandbox.files.write_files([WriteEntry(path="/tmp/large", data=io.BytesIO(data), mode=644)])
    assert out(sandbox.commands.run("stat -c %s /tmp/large")) == f"{len(data)}\n"
    assert b"".join(sandbox.files.read_bytes_stream("/tmp/large")) == data
    sandbox.files.delete_files(["/tmp/large"])


def test_files_as_somebody_else(sandbox):
    theirs = sandbox.files_with_identity(65534, 65534)
    theirs.write_file("/tmp/theirs", "mine", mode=600)
    assert sandbox.files.get_file_info(["/tmp/theirs"])["/tmp/theirs"].owner == "nobody"
    sandbox.files.write_file("/tmp/roots", "secret", mode=600)
    with pytest.raises(SandboxApiException):
        theirs.read_file("/tmp/roots")
    theirs.delete_files(["/tmp/theirs"])


# ---- metrics and endpoints -----------------------------------------------------------------------------------

def test_metrics(sandbox):
    m = sandbox.get_metrics()
    assert m.cpu_count > 0 and 0 <= m.cpu_used_percentage <= 100
    assert 0 < m.memory_used_in_mib <= m.memory_total_in_mib
    assert abs(m.timestamp / 1000 - time.time()) < 60
    assert sandbox.is_healthy()


def test_endpoints(sandbox):
    sandbox.commands.run("mkdir -p /srv/www && echo hello from inside >/srv/www/index.html")
    sandbox.commands.run("exec python3 -m http.server -d /srv/www 8123", opts=RunCommandOpts(background=True))
    harness.wait_until(lambda: sandbox.commands.run("exec 3<>/dev/tcp/127.0.0.1/8123").exit_code == 0, "it listens")
    e = sandbox.get_endpoint(8123)
    key = {"OPEN-SANDBOX-API-KEY": sandbox.connection_config.api_key}
    r = httpx.get(f"http://{e.endpoint}/", headers={**e.headers, **(key if sandbox.connection_config.use_server_proxy else {})})
    assert (r.status_code, r.text) == (200, "hello from inside\n")


def test_asynchronous(server):
    async def flow():
        config = ConnectionConfig(domain=f"127.0.0.1:{server.port}", api_key=server.key)
        sb = await Sandbox.create(harness.IMAGE, connection_config=config)
        try:
            sid = await sb.commands.create_session(working_directory="/tmp")
            runs = await asyncio.gather(*[sb.commands.run_in_session(sid, f"echo {i}; export LAST={i}") for i in range(5)],
                                        *[sb.commands.run(f"echo c{i}") for i in range(20)])
            assert [out(r) for r in runs] == [f"{i}\n" for i in range(5)] + [f"c{i}\n" for i in range(20)]
            assert out(await sb.commands.run_in_session(sid, "echo ${LAST:-none}")) != "none\n"
            await sb.commands.delete_session(sid)
            await asyncio.gather(*[sb.files.write_file(f"/tmp/f{i}", f"{i}") for i in range(20)])
            assert await asyncio.gather(*[sb.files.read_file(f"/tmp/f{i}") for i in range(20)]) == [str(i) for i in range(20)]
            assert (await sb.get_metrics()).cpu_count > 0
        finally:
            await sb.kill()
            await sb.close()
    asyncio.run(flow())


# ---- JavaScript ----------------------------------------------------------------------------------------------

JS_CHECKS = ["commands", "stream", "background", "interrupt", "sessions", "files", "streamed files", "metrics", "endpoints"]


@pytest.fixture(scope="module", params=[False, True], ids=["endpoint", "server-proxy"])
def javascript(server, request):
    """What sdk_execd.mjs said of each of its checks: {name: None, or what went wrong}."""
    env = dict(os.environ, SDK_DOMAIN=f"127.0.0.1:{server.port}", SDK_KEY=server.key, SDK_IMAGE=harness.IMAGE,
               SDK_PROXY="1" if request.param else "", SDK_MODULES=str(harness.BUILD / "venv/js/node_modules"),
               OPENSANDBOX_DISABLE_METRICS="1")
    done = subprocess.run(["node", os.path.join(HERE, "sdk_execd.mjs")], env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("check", JS_CHECKS)
def test_javascript(javascript, check):
    assert check in javascript, javascript
    assert javascript[check] is None, javascript[check]
