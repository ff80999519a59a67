"""opensandbox-mcp over its standard input: each of its tools, JSON-RPC by hand."""
import json
import os
import subprocess
import sys

import pytest

import harness


class Mcp:
    def __init__(self, server):
        exe = os.path.join(os.path.dirname(sys.executable), "opensandbox-mcp")
        self.process = subprocess.Popen(
            [exe, "--domain", f"127.0.0.1:{server.port}", "--api-key", server.key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=dict(os.environ, OPENSANDBOX_DISABLE_METRICS="1", HOME=str(server.state)))
        self.number = 0
        self.call("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "test", "version": "1"})
        self.send(method="notifications/initialized")

    def send(self, **message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def call(self, method, **params):
        self.number += 1
        self.send(id=self.number, method=method, params=params)
        for line in self.process.stdout:
            reply = json.loads(line)
            if reply.get("id") == self.number:
                assert "error" not in reply, reply
                return reply["result"]
        raise AssertionError("opensandbox-mcp ended")

    def tool(self, name, ok=True, **arguments):
        result = self.call("tools/call", name=name, arguments=arguments)
        assert bool(result.get("isError")) != ok, (name, result)
        return json.dumps(result)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def mcp(server):
    m = Mcp(server)
    yield m
    m.close()


@pytest.fixture(scope="module")
def sandbox(server, mcp):
    mcp.tool("sandbox_create", image=harness.IMAGE, metadata={"made": "mcp"}, entrypoint=harness.IDLE)
    made = [s["id"] for s in server.sandboxes() if s.get("metadata") == {"made": "mcp"}]
    assert len(made) == 1
    yield made[0]
    mcp.tool("sandbox_kill", sandbox_id=made[0])
    assert server.request("GET", f"/v1/sandboxes/{made[0]}").status == 404


def test_tools(mcp):
    assert len(mcp.call("tools/list")["tools"]) == 19


def test_sandbox(mcp, sandbox):
    assert sandbox in mcp.tool("sandbox_get_info", sandbox_id=sandbox)
    assert sandbox in mcp.tool("sandbox_list")
    mcp.tool("sandbox_connect", sandbox_id=sandbox)
    mcp.tool("sandbox_renew", sandbox_id=sandbox, timeout_seconds=900)
    assert "cpu" in mcp.tool("sandbox_get_metrics", sandbox_id=sandbox)
    assert "true" in mcp.tool("sandbox_healthcheck", sandbox_id=sandbox)
    assert "/proxy/8000" in mcp.tool("sandbox_get_endpoint", sandbox_id=sandbox, port=8000)


def test_commands(mcp, sandbox):
    assert "hello mcp" in mcp.tool("command_run", sandbox_id=sandbox, command="echo hello mcp")
    started = mcp.tool("command_run", sandbox_id=sandbox, command="sleep 100", background=True)
    ran = json.loads(json.loads(started)["content"][0]["text"])
    mcp.tool("command_interrupt", sandbox_id=sandbox, execution_id=ran["id"])


def test_files(mcp, sandbox):
    mcp.tool("file_create_directories", sandbox_id=sandbox, entries=[{"path": "/tmp/m"}])
    mcp.tool("file_write", sandbox_id=sandbox, path="/tmp/m/a.txt", content="one two")
    assert "one two" in mcp.tool("file_read", sandbox_id=sandbox, path="/tmp/m/a.txt")
    mcp.tool("file_replace_contents", sandbox_id=sandbox, entries=[{"path": "/tmp/m/a.txt", "old_content": "two", "new_content": "three"}])
    mcp.tool("file_move", sandbox_id=sandbox, entries=[{"src": "/tmp/m/a.txt", "dest": "/tmp/m/b.txt"}])
    assert "/tmp/m/b.txt" in mcp.tool("file_search", sandbox_id=sandbox, path="/tmp/m", pattern="*.txt")
    assert "one three" in mcp.tool("file_read", sandbox_id=sandbox, path="/tmp/m/b.txt")
    mcp.tool("file_delete", sandbox_id=sandbox, paths=["/tmp/m/b.txt"])
    mcp.tool("file_delete_directories", sandbox_id=sandbox, paths=["/tmp/m"])
    mcp.tool("file_read", ok=False, sandbox_id=sandbox, path="/tmp/m/b.txt")
