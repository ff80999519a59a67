"""Faults on demand: memory, threads and the disk of a server's store (by tests/e2e/starve.c, preloaded), and an engine behind a relay."""
import fcntl
import mmap
import re
import socket
import struct
import threading

import harness


class Preload:
    """Of one server that has not started yet."""

    def __init__(self, server):
        path = server.state / "faults"
        path.write_bytes(bytes(24))
        self.file = open(path, "r+b")
        self.words = mmap.mmap(self.file.fileno(), 24)
        server.env.update(LD_PRELOAD=str(harness.BUILD / "test/tests/e2e/starve.so"), OPENSANDBOX_TEST_CONTROL=str(path))

    def set(self, starve=0, hold=False, full=False, late=False):
        """starve: the loop's n-th allocation from now fails; hold: no other thread takes up work; full: the store has no room;
        late: nobody comes to look at the control groups of a process."""
        self.words[:24] = struct.pack("qqq", starve, full, late)
        fcntl.flock(self.file, fcntl.LOCK_EX if hold else fcntl.LOCK_UN)

    def starving(self):
        """The allocation that is to fail has not come yet."""
        return struct.unpack("q", self.words[:8])[0] > 0


class Relay:
    """Between a server and its engine, on a unix socket and on a port. `refused` is an expression for "METHOD /path" of calls that are
    answered 500; while `away`, nobody is there."""

    def __init__(self, engine):
        self.engine, self.refused, self.away, self.open = engine, None, False, set()
        self.lock = threading.Lock()  # a connection is either refused or among the open
        self.path = engine.dir / "relay.sock"
        self.listeners = [socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))]
        self.listeners[0].bind(str(self.path))
        for s in self.listeners:
            s.listen(128)
            threading.Thread(target=self._accept, args=[s], daemon=True).start()

    @property
    def host(self):
        return f"unix://{self.path}"

    @property
    def far(self):
        return "tcp://127.0.0.1:%d" % self.listeners[1].getsockname()[1]

    def _accept(self, listener):
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return  # closed
            with self.lock:
                if self.away:
                    client.close()
                    continue
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(str(self.engine.socket))
                self.open |= {client, engine}
            for way in ((client, engine, True), (engine, client, False)):
                threading.Thread(target=self._pump, args=way, daemon=True).start()

    def _pump(self, source, to, asks):
        try:
            while data := source.recv(65536):
                if asks and self.refused and re.match(rf"{self.refused}\b", data.split(b" HTTP/", 1)[0].decode(errors="replace")):
                    body = b'{"message":"made to fail"}'
                    source.sendall(b"HTTP/1.1 500 Failed\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                else:
                    to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other way has ended it
        finally:
            with self.lock:
                self.open.discard(source)

    def leave(self):
        with self.lock:
            self.away, left = True, list(self.open)
        for s in left:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself

    def close(self):
        self.leave()
        for s in self.listeners:
            s.shutdown(socket.SHUT_RDWR)
            s.close()
