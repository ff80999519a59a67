"""A terminal of a sandbox through the server's proxy: WebSocket all the way, resize, takeover."""
import json
import re

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


class Terminal:
    def __init__(self, server, sandbox, pty, query="", headers=None):
        self.seen = b""
        self.ws = connect(f"ws://127.0.0.1:{server.port}/v1/sandboxes/{sandbox}/proxy/44772/pty/{pty}/ws{query}",
                          additional_headers=server.execd_headers(sandbox) if headers is None else headers, compression=None)

    def text(self, kind):
        while True:
            data = self.ws.recv(20)
            if isinstance(data, str):
                frame = json.loads(data)
                if frame["type"] == kind:
                    return frame
            else:
                self.seen += data[9:] if data[0] == 3 else data[1:]

    def until(self, pattern):
        while not re.search(pattern, self.seen, re.S):
            data = self.ws.recv(20)
            if isinstance(data, bytes):
                self.seen += data[9:] if data[0] == 3 else data[1:]

    def type(self, text):
        self.ws.send(b"\0" + text.encode())


def test_terminal_through_the_server(server, sandbox):
    made = server.execd("POST", sandbox, "/pty", body={"cwd": "/tmp"})
    assert made.status == 201, made
    pty = made.json()["session_id"]
    t = Terminal(server, sandbox, pty)
    t.text("connected")
    t.ws.send(json.dumps({"type": "resize", "cols": 132, "rows": 43}))
    t.type("stty size; pwd; echo $TERM; X=kept\n")
    t.until(rb"43 132\r\n/tmp\r\nxterm-256color\r\n")
    with pytest.raises(InvalidStatus) as e:
        Terminal(server, sandbox, pty)
    assert e.value.response.status_code == 409
    with pytest.raises(InvalidStatus) as e:
        Terminal(server, sandbox, pty, headers={})
    assert e.value.response.status_code == 401
    second = Terminal(server, sandbox, pty, "?takeover=1")
    second.text("connected")
    assert b"43 132" in second.seen
    second.type("echo $X; exit 6\n")
    assert second.text("exit")["exit_code"] == 6
    assert re.search(rb"\nkept\r\n|\rkept\r\n", second.seen)
    assert server.execd("GET", sandbox, f"/pty/{pty}").json()["running"] is False
    assert server.execd("DELETE", sandbox, f"/pty/{pty}").status == 200
