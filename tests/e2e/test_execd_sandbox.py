"""execd inside real sandboxes, through the server: what only a sandbox can show."""
import asyncio
import json
import os
import pathlib
import re
import socket
import threading
import time

import pytest

import harness
from harness import wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def big(server):
    """A sandbox with room for a thousand processes."""
    sb = server.create(resourceLimits={"cpu": "2", "memory": "4Gi", "pids": "3000"})
    yield sb["id"]
    server.request("DELETE", f"/v1/sandboxes/{sb['id']}")


def test_out_of_memory_is_named(server):
    sb = server.create(resourceLimits={"cpu": "1", "memory": "64Mi"})["id"]
    hog = ["python3", "-c", "x = [bytearray(1 << 20) for _ in range(1000)]"]
    end = server.events(sb, argv=hog)[-1]
    assert end["error"] == {"ename": "CommandExecError", "evalue": "-1", "traceback": ["signal: killed", f"out of memory: limit {64 * MIB}"]}
    by_shell = server.events(sb, command="python3 -c 'x = [bytearray(1 << 20) for _ in range(1000)]'; exit $?")[-1]
    assert by_shell["error"]["evalue"] == "137" and by_shell["error"]["traceback"] == ["exit status 137", f"out of memory: limit {64 * MIB}"]
    assert server.events(sb, command="kill -9 $$")[-1]["error"]["traceback"] == ["signal: killed"]  # and only then
    assert server.run(sb, "echo alive") == (0, "alive\n", "")
    server.delete(sb)


def test_first_process(server, sandbox):
    code, out, err = server.run(sandbox, "cat /proc/1/comm; cat /proc/1/environ /proc/1/maps /proc/1/fd/3 /proc/1/fd/4 /proc/1/fd/5")
    assert out == "execd\n" and code == 1 and err.count("ermission denied") == 5, err  # for root of the sandbox
    code, out, _ = server.run(sandbox, "ls -l /proc/self/fd | wc -l; env")
    assert "TOKEN" not in out and "HANDOFF" not in out and f"OPENSANDBOX_ID={sandbox}" in out


def test_orphans_are_reaped(server, sandbox):
    assert server.run(sandbox, "for i in $(seq 300); do (sleep 0.05 &); done")[0] == 0
    wait_until(lambda: server.run(sandbox, "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")[1] == "0\n", "no zombie")


def test_two_hundred_thousand_lines(server, sandbox):
    begin = time.monotonic()
    r = server.execd("POST", sandbox, "/command", body={"command": "seq 200000"})
    took = time.monotonic() - begin
    texts = re.findall(rb'^\{"type":"stdout","text":"(\d+)\\n"', r.body, re.M)
    assert texts == [b"%d" % i for i in range(1, 200001)]
    assert r.body.endswith(b"}\n\n") and b"execution_complete" in r.body[-200:]
    print(f"200,000 lines in {took:.3f} s")


class Peak:
    """The highest resident size of processes, in KiB above that at the beginning, read all the while."""

    def __init__(self, **pids):
        self.pids, self.over = pids, threading.Event()
        self.first = {name: self.resident(pid) for name, pid in pids.items()}
        self.top = dict(self.first)
        self.watcher = threading.Thread(target=self.watch)

    @staticmethod
    def resident(pid):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))

    def watch(self):
        while not self.over.wait(0.02):
            for name, pid in self.pids.items():
                self.top[name] = max(self.top[name], self.resident(pid))

    def __enter__(self):
        self.watcher.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.watcher.join()

    def above(self):
        return {name: self.top[name] - self.first[name] for name in self.pids}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a slow disk takes minutes for as much
def test_eight_gib_both_ways_in_little_memory(server, big):
    block = os.urandom(MIB)
    size = 8 << 30 if server.runtime.kind == "oci" else 512 * MIB  # the disk of the tests' engines is small
    head = (b'--B\r\nContent-Disposition: form-data; name="metadata"; filename="m"\r\n\r\n{"path": "/root/huge"}\r\n'
            b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n')
    tail = b"\r\n--B--\r\n"
    token = "".join(f"{k}: {v}\r\n" for k, v in server.execd_headers(big).items())
    path = f"/v1/sandboxes/{big}/proxy/44772/files"
    with Peak(server=server.process.pid, execd=server.first_process(big)) as peak:
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
            s.sendall(f"POST {path}/upload HTTP/1.1\r\nHost: x\r\n{token}Content-Type: multipart/form-data; boundary=B\r\n"
                      f"Content-Length: {len(head) + size + len(tail)}\r\n\r\n".encode() + head)
            for _ in range(size // MIB):
                s.sendall(block)
            s.sendall(tail)
            assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
        up = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
            s.sendall(f"GET {path}/download?path=/root/huge HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n".encode())
            with s.makefile("rb", MIB) as reply:
                assert reply.readline().startswith(b"HTTP/1.1 200 ")
                while reply.readline() != b"\r\n":
                    pass
                got = bytearray(MIB)
                for i in range(size // MIB):
                    assert reply.readinto(got) == MIB and got == block, i
                assert reply.read() == b""
        down = time.monotonic()
    print(f"{size // MIB} MiB up in {up - begin:.1f} s, down in {down - up:.1f} s, KiB above idle: {peak.above()}")
    assert server.run(big, "rm /root/huge")[0] == 0
    assert max(peak.above().values()) < 16 * 1024, peak.above()


# A plain file in the fifo's place for shells that come late; the others wait on the fifo.
RELEASE = "cd /tmp; ln gate fifo; : >open; mv open gate; exec 9>fifo; sleep 0.2"


def test_a_thousand_commands_at_once(server, big):
    """Foreground, each with a connection of its own through the server's proxy."""
    headers = "".join(f"{k}: {v}\r\n" for k, v in server.execd_headers(big).items())
    body = json.dumps({"command": "read x </tmp/gate; echo done $$"})
    head = (f"POST /v1/sandboxes/{big}/proxy/44772/command HTTP/1.1\r\nHost: x\r\n{headers}Content-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()
    assert server.run(big, "mkfifo /tmp/gate")[0] == 0
    waiting = [0]

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        try:
            seen = await reader.readuntil(b"pong")
        except asyncio.IncompleteReadError as e:
            raise AssertionError(e.partial) from None
        waiting[0] += 1
        seen += await reader.read()
        writer.close()
        return seen

    async def all_of_them():
        tasks = [asyncio.create_task(one()) for _ in range(1000)]
        while waiting[0] < 1000:
            for t in tasks:
                if t.done():
                    t.result()
            await asyncio.sleep(0.01)
        await asyncio.get_running_loop().run_in_executor(None, lambda: server.run(big, RELEASE))
        return await asyncio.gather(*tasks)

    replies = asyncio.run(asyncio.wait_for(all_of_them(), 120))
    for r in replies:
        assert re.search(rb'"stdout","text":"done \d+\\n"', r) and b'"execution_complete"' in r and r.endswith(b"0\r\n\r\n")
    assert server.run(big, "echo after") == (0, "after\n", "")


def test_what_a_lost_client_missed_is_read_by_offset(server, sandbox):
    events = server.events(sandbox, command="echo one; sleep 0.2; echo two >&2", background=True)
    command = events[0]["text"]

    def logs(cursor):
        r = server.execd("GET", sandbox, f"/command/{command}/logs?cursor={cursor}")
        return r.body, r.headers["EXECD-COMMANDS-TAIL-CURSOR"]
    wait_until(lambda: logs(0) == (b"one\ntwo\n", "8"), "both lines")
    assert logs(4) == (b"two\n", "8")


def test_set_env_file_is_there_and_private(server, sandbox):
    assert server.run(sandbox, "stat -c '%a %u' $EXECD_ENVS")[1] == "600 0\n"
    assert server.run(sandbox, "echo \"NAME='v w'\" >>$EXECD_ENVS")[0] == 0
    assert server.run(sandbox, "echo $NAME") == (0, "v w\n", "")


@pytest.mark.parametrize("entrypoint,codes", [(["sh", "-c", "echo out; echo err >&2; exit 3"], ["code 3"]),
                                              (["sh", "-c", "echo out; echo err >&2; sleep 0.2; kill -9 $$"], ["signal 9", "code 137"])])
def test_end_of_the_entrypoint_ends_the_sandbox(server, entrypoint, codes):
    """An engine knows no signals, only 128 and more."""
    r = server.request("POST", "/v1/sandboxes", {"image": {"uri": harness.IMAGE}, "entrypoint": entrypoint, "timeout": 600,
                                                 "resourceLimits": {"cpu": "1", "memory": "256Mi"}})
    if r.status != 202:  # it ended before it was ready: then the error says so
        assert r.status >= 400 and "err" in r.body.decode()
        return
    sb = r.json()["id"]
    state = wait_until(lambda: (s := server.get(sb)["status"])["state"] in ("Failed", "Terminated") and s, "the end of the sandbox")
    assert any(code in state["message"] for code in codes), state
    server.delete(sb)
