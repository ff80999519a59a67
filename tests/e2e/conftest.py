import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402


@pytest.fixture(scope="session")
def server():
    """One server with the base image for the whole session; tests that change it start their own."""
    s = harness.Server()
    try:
        s.import_base()
        s.start()
        yield s
    finally:
        s.remove()


@pytest.fixture
def sandbox(server):
    """A running sandbox, deleted after the test."""
    sb = server.create()
    yield sb["id"]
    server.request("DELETE", f"/v1/sandboxes/{sb['id']}")
