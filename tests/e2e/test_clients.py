"""Official clients, unchanged: create, wait until ready, command, files, list, renew, pause, resume, kill."""
import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.filesystem import WriteEntry
from opensandbox.models.sandboxes import SandboxFilter
from opensandbox.sync.manager import SandboxManagerSync
from opensandbox.sync.sandbox import SandboxSync

import harness


@pytest.fixture(params=[False, True], ids=["endpoint", "server-proxy"])
def proxied(request):
    return request.param


def text(execution):
    return "".join(m.text for m in execution.logs.stdout).strip()


def test_python_sync(server, proxied):
    config = ConnectionConfigSync(domain=f"127.0.0.1:{server.port}", api_key=server.key, use_server_proxy=proxied)
    sb = SandboxSync.create(harness.IMAGE, env={"GREETING": "salut"}, metadata={"suite": "clients"}, connection_config=config)
    try:
        assert sb.is_healthy()
        assert text(sb.commands.run("echo $GREETING")) == "salut"
        failed = sb.commands.run("echo out; echo err >&2; exit 3")
        assert failed.error.value == "3" and failed.logs.stderr[0].text.strip() == "err"
        assert text(sb.commands.run("pwd", opts=RunCommandOpts(working_directory="/tmp"))) == "/tmp"
        assert text(sb.commands.run("python3 -c 'print(6*7)'")) == "42"
        sb.files.write_files([WriteEntry(path="/tmp/a/b.txt", data="line 1\nline 2\n", mode=644)])
        assert sb.files.read_file("/tmp/a/b.txt") == "line 1\nline 2\n"
        assert sb.files.get_file_info(["/tmp/a/b.txt"])["/tmp/a/b.txt"].mode == 644
        with SandboxManagerSync.create(config) as manager:
            ids = [i.id for i in manager.list_sandbox_infos(SandboxFilter(metadata={"suite": "clients"})).sandbox_infos]
            assert sb.id in ids
        before = sb.get_info().expires_at
        assert sb.renew(timedelta(hours=2)).expires_at > before
        sb.pause()
        assert sb.get_info().status.state == "Paused"
        sb = SandboxSync.resume(sb.id, connection_config=config)
        assert text(sb.commands.run("cat /tmp/a/b.txt")).startswith("line 1")
        sb.files.delete_files(["/tmp/a/b.txt"])
        assert sb.commands.run("test -e /tmp/a/b.txt").error.value == "1"
    finally:
        sb.kill()
        sb.close()
    assert server.request("GET", f"/v1/sandboxes/{sb.id}").status == 404


def test_python_async(server, proxied):
    async def flow():
        config = ConnectionConfig(domain=f"127.0.0.1:{server.port}", api_key=server.key, use_server_proxy=proxied)
        sb = await Sandbox.create(harness.IMAGE, connection_config=config)
        try:
            run = await asyncio.gather(*[sb.commands.run(f"echo {i}") for i in range(10)])
            assert [text(r) for r in run] == [str(i) for i in range(10)]
            await sb.files.write_file("/tmp/x", b"\x00\xff" * 100000)
            assert await sb.files.read_bytes("/tmp/x") == b"\x00\xff" * 100000
            await sb.renew(timedelta(minutes=30))
            await sb.pause()
            sb = await Sandbox.resume(sb.id, connection_config=config)
            assert text(await sb.commands.run("echo again")) == "again"
        finally:
            await sb.kill()
            await sb.close()
    asyncio.run(flow())


def osb(server, *args, proxied=False, check=True):
    exe = os.path.join(os.path.dirname(sys.executable), "osb")
    flag = "--use-server-proxy" if proxied else "--no-use-server-proxy"
    env = dict(os.environ, OPEN_SANDBOX_API_KEY=server.key, OPEN_SANDBOX_DOMAIN=f"127.0.0.1:{server.port}",
               HOME=str(server.state), OPENSANDBOX_DISABLE_METRICS="1")
    done = subprocess.run([exe, "--no-color", flag, *args], env=env, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_osb_cli(server, proxied, tmp_path):
    made = json.loads(osb(server, "sandbox", "create", "--image", harness.IMAGE, "-o", "json", proxied=proxied).stdout)
    sid = made["id"]
    try:
        assert "hello cli" in osb(server, "command", "run", sid, "--", "echo", "hello", "cli", proxied=proxied).stdout
        assert osb(server, "command", "run", sid, "--", "false", proxied=proxied, check=False).returncode == 1
        osb(server, "file", "write", sid, "/tmp/f.txt", "-c", "from the cli", proxied=proxied)
        assert "from the cli" in osb(server, "file", "cat", sid, "/tmp/f.txt", proxied=proxied).stdout
        assert sid in osb(server, "sandbox", "list", "-o", "json").stdout
        osb(server, "sandbox", "renew", sid, "--timeout", "1h")
        osb(server, "sandbox", "pause", sid)
        osb(server, "sandbox", "resume", sid)
    finally:
        osb(server, "sandbox", "kill", sid)
    assert server.request("GET", f"/v1/sandboxes/{sid}").status == 404
