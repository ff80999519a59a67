import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import engines  # noqa: E402
import harness  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; by its own target only")
    config.addinivalue_line("markers", "slow: takes many seconds for what it says; not in make test")


def pytest_addoption(parser):
    parser.addoption("--runtime", default="oci", choices=["oci", *engines.ENGINES], help="what servers run on that no test chose a runtime for")


def pytest_collection_modifyitems(config, items):
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        reason = engines.EXPECTED.get(params.get("engine", config.getoption("--runtime")), {}).get(item.originalname)
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session", autouse=True)
def runtime(request):
    """The built-in runtime, or one on a private engine for the whole session."""
    name, built_in = request.config.getoption("--runtime"), harness.RUNTIME
    if name == built_in.name:
        yield
        return
    with engines.ENGINES[name]() as engine:
        engine.import_base()
        engine.build_images()
        harness.RUNTIME = engines.OnEngine(engine)
        try:
            yield
        finally:
            harness.RUNTIME = built_in


@pytest.fixture(scope="session")
def server():
    """One server with the base image for the whole session; tests that change it start their own."""
    with harness.Server() as s:
        s.import_base()
        yield s.start()


@pytest.fixture
def sandbox(server):
    """A running sandbox, deleted after the test."""
    sb = server.create()
    yield sb["id"]
    server.request("DELETE", f"/v1/sandboxes/{sb['id']}")
