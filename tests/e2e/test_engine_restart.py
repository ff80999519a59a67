"""An engine that is killed and stopped, again and again, while sandboxes are made, used and deleted on it. With live restore they run on, without
it they end with the engine; either way none is lost, none is immortal, and what the server says is what the engine has."""
import concurrent.futures
import http.client
import itertools
import os
import random
import threading
import time

import pytest

import engines
import harness

pytestmark = pytest.mark.long

ROUNDS = 3 if os.environ.get("CHECK_SHORT") == "1" else 10
CREATORS = 3
SMALL = {"cpu": "1", "memory": "64Mi"}
ENDED = ("Failed", "Terminated")


@pytest.fixture(params=["live-restore", "plain"])
def engine(request):
    with engines.Dockerd(*(["--live-restore"] if request.param == "live-restore" else [])) as e:
        e.lives_on = request.param == "live-restore"
        e.import_base()
        yield e


@pytest.fixture
def server(engine):
    with engines.docker_server(engine) as s:
        yield s.start()


class Load:
    """Creates, commands and deletes from threads of its own; keeps what was promised."""

    def __init__(self, server, lives_on):
        self.server, self.lives_on = server, lives_on
        self.lock, self.over = threading.Lock(), threading.Event()
        self.kept, self.deleted, self.wrong = set(), set(), []
        self.deletes, self.pending = concurrent.futures.ThreadPoolExecutor(16), []
        self.made = self.refused = self.ran = 0
        self.threads = [threading.Thread(target=self.guarded, args=(self.create_and_delete, n)) for n in range(CREATORS)]
        self.threads += [threading.Thread(target=self.guarded, args=(self.use, 0))]
        for t in self.threads:
            t.start()

    def guarded(self, work, number):
        dice = random.Random(number)
        while not self.over.is_set():
            try:
                work(dice)
            except BaseException as e:  # the main thread asserts that there is none
                self.wrong.append(repr(e))
                return

    def create_and_delete(self, dice):
        r = self.server.request("POST", "/v1/sandboxes", {"image": {"uri": harness.IMAGE}, "entrypoint": harness.IDLE, "timeout": 3600,
                                                          "resourceLimits": SMALL}, timeout=120)
        if r.status != 202:
            assert r.status == 500 and r.json()["code"] in ("DOCKER::UNAVAILABLE", "DOCKER::SANDBOX_START_FAILED"), r
            with self.lock:
                self.refused += 1
            self.over.wait(0.02)
            return
        with self.lock:
            self.made += 1
            self.kept.add(r.json()["id"])
            surplus = [self.kept.pop() for _ in range(len(self.kept) - 8 + dice.randrange(3))] if len(self.kept) > 8 else []
        for i in surplus:
            self.pending.append(self.deletes.submit(self.delete, i))

    def delete(self, sandbox_id):
        """Answered 204 also while the engine is away, then after 10 s."""
        assert self.server.request("DELETE", f"/v1/sandboxes/{sandbox_id}").status == 204
        self.deleted.add(sandbox_id)

    def use(self, dice):
        with self.lock:
            one = dice.choice(sorted(self.kept)) if self.kept else None
        if not one:
            self.over.wait(0.01)
            return
        try:
            answer = self.server.run(one, "echo $((6*7))")[:2]
        except (AssertionError, http.client.HTTPException) as e:
            answer = e
        with self.lock:
            alive = self.lives_on and one in self.kept  # nobody ends it then
        assert answer == (0, "42\n") or not alive, f"{one}: {answer!r}; it is {self.server.request('GET', f'/v1/sandboxes/{one}')}"
        self.ran += answer == (0, "42\n")
        self.over.wait(0.01)

    def more(self, what, by, seconds=60):
        now = getattr(self, what)
        harness.wait_until(lambda: getattr(self, what) >= now + by or self.wrong, f"{by} more {what}", seconds)
        assert not self.wrong, self.wrong

    def end(self):
        self.over.set()
        for t in self.threads:
            t.join()
        for p in self.pending:
            p.result()
        self.deletes.shutdown()


def of_this_server(engine):
    return {c["Labels"]["opensandbox.io/id"]: c["State"] for c in engine.containers() if "opensandbox.io/id" in c["Labels"]}


def agrees(server, engine, sandboxes):
    """None where the server's states are the engine's."""
    have = of_this_server(engine)
    for b in sandboxes:
        runs, state = have.get(b["id"]) == "running", b["status"]["state"]
        if (state == "Running") != runs or (not runs and state not in ENDED):
            return f"{b['id']}: {state} is {have.get(b['id'])} on the engine"
    return None


@pytest.mark.timeout(900)
def test_restarts_under_load(server, engine):
    doomed = [server.create(timeout=60, resourceLimits=SMALL)["id"] for _ in range(3)]  # they expire in between
    load = Load(server, engine.lives_on)
    try:
        dice = random.Random(7)
        for turn in range(ROUNDS):
            begun = time.monotonic()
            load.more("made", 3 + dice.randrange(4))
            (engine.kill, engine.stop)[turn % 2]()
            load.more("refused", 3 + dice.randrange(10))
            if engine.lives_on:
                load.more("ran", 3)  # nobody inside has noticed
            assert server.request("GET", "/health").status == 200
            engine.start()
            print(f"round {turn}: {time.monotonic() - begun:.1f} s", flush=True)
        load.more("made", 3)
    finally:
        load.end()
    assert not load.wrong, load.wrong

    known = {b["id"]: b["status"]["state"] for b in server.sandboxes()}
    assert load.kept <= known.keys(), f"lost: {load.kept - known.keys()}"
    harness.wait_until(lambda: agrees(server, engine, server.sandboxes()) is None, "server and engine agree", 30)
    if engine.lives_on:
        for i in load.kept:
            assert server.get(i)["status"]["state"] == "Running", server.get(i)
            assert server.run(i, "echo here")[1] == "here\n"
    harness.wait_until(lambda: of_this_server(engine).keys() <= {b["id"] for b in server.sandboxes()}, "no container without a sandbox", 60)
    assert not load.deleted & of_this_server(engine).keys()
    harness.wait_until(lambda: not set(doomed) & of_this_server(engine).keys(), "what expired meanwhile is gone", 90)
    assert all(server.request("GET", f"/v1/sandboxes/{i}").status == 404 for i in (*doomed, *itertools.islice(load.deleted, 5)))
    for b in server.sandboxes():
        server.delete(b["id"])
    assert not of_this_server(engine)
    print(f"{ROUNDS} restarts: {load.made} made, {load.refused} refused, {load.ran} commands, {len(load.deleted)} deleted meanwhile")
