"""Network policies of real sandboxes: what leaves one is counted on the far side. The same tests on every runtime that has them."""
import asyncio
import json
import os
import pathlib
import signal
import subprocess

import pytest
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.models.sandboxes import NetworkPolicy, NetworkRule
from opensandbox.sync.sandbox import SandboxSync

import harness
from far_side import ALLOWED, DENIED, RESOLVER, SHARED, FarSide
from harness import wait_until

POLICY = {"defaultAction": "deny", "egress": [{"action": "allow", "target": "allowed.test"}]}


@pytest.fixture(scope="module")
def far():
    with FarSide() as f:
        yield f


@pytest.fixture(scope="module", params=["oci"])
def server(request, far):
    s = harness.Server({"oci": {"dns": [RESOLVER]}})
    try:
        s.import_base()
        s.start()
        yield s
    finally:
        s.remove()


@pytest.fixture
def make(server):
    made = []

    def create(policy=POLICY, **members):
        sb = server.create(networkPolicy=policy, **members)["id"]
        made.append(sb)
        return sb
    yield create
    for sb in made:
        server.request("DELETE", f"/v1/sandboxes/{sb}")


def python(server, sandbox, code):
    status, out, err = server.run(sandbox, "python3 -c '" + code.replace("'", "'\\''") + "'")
    assert status == 0, (out, err)
    return json.loads(out)


RESOLVE = """
import socket, json
def ask(n):
    try: return socket.gethostbyname(n)
    except OSError: return None
print(json.dumps([ask(n) for n in NAMES]))"""
CONNECT = """
import socket, json
def go(a, p):
    s = socket.socket(); s.settimeout(3)
    try: return s.connect_ex((a, p))
    except OSError as e: return str(e)
    finally: s.close()
print(json.dumps([go(a, p) for a, p in PLACES]))"""


def resolve(server, sandbox, *names):
    return python(server, sandbox, f"NAMES = {list(names)!r}" + RESOLVE)


def connect(server, sandbox, *places):
    return python(server, sandbox, f"PLACES = {[p if isinstance(p, tuple) else (p, 80) for p in places]!r}" + CONNECT)


def reaches(server, sandbox, far, name="allowed.test", address=ALLOWED):
    return resolve(server, sandbox, name) == [address] and connect(server, sandbox, address) == [0]


def nothing_left(far, before):
    assert len(far.frames_to(DENIED)) == before, "denied frames were seen on the far side"


def test_names_and_addresses(server, far, make):
    sandbox = make()
    before = len(far.frames_to(DENIED))
    assert resolve(server, sandbox, "allowed.test", "denied.test", "alias.test") == [ALLOWED, None, None]
    assert connect(server, sandbox, ALLOWED) == [0]
    assert all(connect(server, sandbox, DENIED, (DENIED, 443), (DENIED, 853), SHARED))
    nothing_left(far, before)


def test_without_policy(server, far):
    """The far side is reached by whoever has no policy: so the others were kept from it."""
    sandbox = server.create()["id"]
    try:
        assert resolve(server, sandbox, "denied.test") == [DENIED]
        before = len(far.frames_to(DENIED))
        assert connect(server, sandbox, DENIED) == [0] and len(far.frames_to(DENIED)) > before
    finally:
        server.delete(sandbox)
