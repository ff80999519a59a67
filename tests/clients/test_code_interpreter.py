"""opensandbox-code-interpreter: it finds a sandbox whose code port listens; running code is refused, as this execd has no code runtime."""
import pytest
from code_interpreter import CodeInterpreterSync
from opensandbox.config.connection_sync import ConnectionConfigSync
from opensandbox.exceptions import SandboxException
from opensandbox.sync.sandbox import SandboxSync

import harness

LISTEN = ["python3", "-c", "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 44771)); s.listen(64); time.sleep(3600)"]


@pytest.fixture(params=[False, True], ids=["endpoint", "server-proxy"])
def sandbox(server, request):
    config = ConnectionConfigSync(domain=f"127.0.0.1:{server.port}", api_key=server.key, use_server_proxy=request.param)
    sb = SandboxSync.create(harness.IMAGE, entrypoint=LISTEN, connection_config=config)
    yield sb
    sb.kill()
    sb.close()


def test_code_interpreter(sandbox):
    interpreter = CodeInterpreterSync.create(sandbox)
    assert interpreter.id == sandbox.id
    run = interpreter.commands.run("echo through the interpreter")
    assert "".join(m.text for m in run.logs.stdout).strip() == "through the interpreter"
    interpreter.files.write_file("/tmp/x", "y")
    assert interpreter.files.read_file("/tmp/x") == "y"
    with pytest.raises(SandboxException):
        interpreter.codes.run("2 + 2")
