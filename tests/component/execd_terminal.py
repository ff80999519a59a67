"""Terminals of a real execd, and WebSocket clients of them."""
import json
import re
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect


class Client:
    """A WebSocket client of one terminal. `live` collects what came since the last replay."""

    def __init__(self, execd, session, query=""):
        self.ws = connect(f"ws://127.0.0.1:{execd.port}/pty/{session}/ws{query}", max_size=None, compression=None,
                          close_timeout=2)
        self.live, self.errors, self.offset = bytearray(), bytearray(), 0

    def next(self, timeout=10):
        """The next frame: ("out" | "err" | "replay", bytes) or a decoded text frame."""
        data = self.ws.recv(timeout)
        if isinstance(data, str):
            assert data.endswith("\n")
            frame = json.loads(data)
        elif data[0] == 3:
            frame = ("replay", data[9:])
            self.offset = int.from_bytes(data[1:9], "big")
        else:
            frame = ({1: "out", 2: "err"}[data[0]], data[1:])
            if data[0] == 1:
                self.live += data[1:]
            else:
                self.errors += data[1:]
        return frame

    def text(self, event_type, timeout=10):
        """Reads until a text frame of that type; returns it."""
        while True:
            frame = self.next(timeout)
            if isinstance(frame, dict) and frame["type"] == event_type:
                return frame

    def until(self, pattern, timeout=10):
        """Reads until the last 64 KiB of the live output match; bracketed paste and the like are left out."""
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, re.sub(rb"\x1b\[\??[0-9;]*[a-zA-Z]\r?", b"", self.live[-65536:]), re.S)):
            self.next(max(0.01, end - time.monotonic()))
        return found

    def amount(self, size, timeout=30):
        """Reads that many bytes of live output."""
        end = time.monotonic() + timeout
        while len(self.live) < size:
            self.next(max(0.01, end - time.monotonic()))

    def type(self, text):
        self.ws.send(b"\0" + text.encode())

    def send(self, **frame):
        self.ws.send(json.dumps(frame))

    def closed(self, timeout=10):
        """Reads to the close; returns (code, reason)."""
        try:
            while True:
                self.next(timeout)
        except ConnectionClosed as e:
            return e.rcvd.code, e.rcvd.reason

    def leave(self):
        self.ws.close()

    def vanish(self):
        """Without a goodbye."""
        try:
            self.ws.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # gone already


class Pty:
    def __init__(self, execd, **body):
        self.execd = execd
        r = execd.request("POST", "/pty", body or None)
        assert r.status == 201, r
        self.id = r.json()["session_id"]
        self.clients = []

    def open(self, query="", **role):
        """Connects and reads up to the `connected` frame."""
        c = Client(self.execd, self.id, query)
        self.clients.append(c)
        frame = c.next()
        c.replayed = frame[1] if isinstance(frame, tuple) else None
        if c.replayed is not None:
            assert frame[0] == "replay"
            frame = c.next()
        assert frame["type"] == "connected" and frame["session_id"] == self.id, frame
        c.mode, c.role = frame["mode"], frame["role"]
        return c

    def state(self):
        r = self.execd.request("GET", f"/pty/{self.id}")
        assert r.status == 200, r
        return r.json()

    def delete(self):
        for c in self.clients:
            c.vanish()
        self.execd.request("DELETE", f"/pty/{self.id}")


def held(p):
    r = p.execd.request("GET", f"/pty/{p.id}/ws")
    return r.status == 409


def refused(execd, path):
    with pytest.raises(InvalidStatus) as e:
        connect(f"ws://127.0.0.1:{execd.port}{path}", compression=None)
    r = e.value.response
    return r.status_code, json.loads(r.body)["code"]
