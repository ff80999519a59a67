import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import execd_peer  # noqa: E402


@pytest.fixture(scope="module")
def execd():
    """One plain execd for the tests of a file; tests that end or load it start their own."""
    with execd_peer.Execd() as e:
        yield e
