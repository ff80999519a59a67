import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import execd_peer  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "bare: measures or needs the static program; not for a build with sanitizers (make sanitize)")
    config.addinivalue_line("markers", "long: takes minutes; by its own target only")
    config.addinivalue_line("markers", "slow: takes many seconds for what it says; not in make test")


@pytest.fixture(scope="module")
def execd():
    """One plain execd for the tests of a file; tests that end or load it start their own."""
    with execd_peer.Execd() as e:
        yield e


@pytest.fixture
def pty(execd):
    """Makes terminals that are gone after the test, with all that ran in them."""
    from execd_follow import descendants
    from execd_terminal import Pty
    made = []

    def make(**body):
        made.append(Pty(execd, **body))
        return made[-1]
    yield make
    for p in made:
        p.delete()
    execd_peer.wait_until(lambda: not descendants(execd), "no shell is left")
