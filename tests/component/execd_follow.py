"""Replies of execd followed event by event, and work beside a test."""
import json
import pathlib
import threading


class Following:
    """The events of one reply, as they come. Cut it with close()."""

    def __init__(self, connection, response):
        self.connection, self.response = connection, response
        self.status = response.status

    def __iter__(self):
        frame = b""
        while line := self.response.readline():
            if line == b"\n":
                yield json.loads(frame)
                frame = b""
            else:
                frame += line

    def until(self, event_type):
        for event in self:
            if event["type"] == event_type:
                return event
        raise AssertionError(f"no {event_type} event")

    def close(self):
        self.response.close()
        self.connection.close()


def text_of(events, kind="stdout"):
    return "".join(e["text"] for e in events if e["type"] == kind)


def outcome(events):
    """(exit code or evalue, traceback) of the one terminal event, which comes last."""
    terminal = [e for e in events if e["type"] in ("execution_complete", "error")]
    assert len(terminal) == 1, events
    assert [e for e in events if e["type"] != "ping"][-1] == terminal[0], events
    if terminal[0]["type"] == "execution_complete":
        return "0", []
    return terminal[0]["error"]["evalue"], terminal[0]["error"]["traceback"]


def descendants(execd):
    """Processes below execd, whatever their group; zombies do not count."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found, grew = {execd.pid}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        grew = bool(more)
        found |= more
    return found - {execd.pid}


class Together(threading.Thread):
    """Runs a function beside the test; result() joins and re-raises."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args, self.value, self.error = function, args, None, None
        self.start()

    def run(self):
        try:
            self.value = self.function(*self.args)
        except BaseException as e:  # told by result()
            self.error = e

    def result(self, seconds=30):
        self.join(seconds)
        assert not self.is_alive(), "still running"
        if self.error:
            raise self.error
        return self.value
