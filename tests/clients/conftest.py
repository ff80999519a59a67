"""Official clients that the ordinary test environment does not have; `make test-clients` installs them."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402


@pytest.fixture(scope="session")
def server():
    with harness.Server() as s:
        s.import_base()
        yield s.start()
