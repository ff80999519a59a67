"""execd in a root that holds nothing else: no libc, no shell, no /etc/passwd, no /proc, no /dev, no /tmp."""
import os
import shutil
import subprocess

import pytest

from execd_peer import BINARY, Execd

pytestmark = pytest.mark.bare


@pytest.fixture
def alone(tmp_path):
    tmp_path.chmod(0o755)
    shutil.copy(BINARY, tmp_path / "execd")
    with Execd(binary="/execd", wrap=["chroot", str(tmp_path)], env={"HOME": "/", "TMPDIR": "/tmp"}) as e:
        e.root = tmp_path
        yield e


def test_it_is_one_file_without_an_interpreter():
    headers = subprocess.run(["readelf", "-lW", BINARY], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers and "DYN (" in headers  # static, and position independent


def test_it_answers(alone):
    assert alone.request("GET", "/ping").status == 200
    assert os.listdir(alone.root) == ["execd"]


def test_a_command_without_a_shell_is_an_error_event(alone):
    events = alone.run("echo hi")
    assert [e["type"] for e in events] == ["init", "ping", "error"]
    assert events[-1]["error"]["evalue"] == "no shell: neither bash nor sh is in PATH"
    s = alone.status(events[0]["text"])
    assert s["exit_code"] == 255 and s["error"] == "no shell: neither bash nor sh is in PATH"


def test_its_only_program_runs(alone):
    (alone.root / "dev").mkdir()
    (alone.root / "dev/null").touch()
    assert "Usage: execd" in alone.stdout(["/execd", "-h"])


def test_metrics_and_files_answer(alone):
    assert alone.request("GET", "/files/search?path=/&pattern=exe*").json()[0]["path"] == "/execd"
    assert alone.request("POST", "/directories", {"/a/b": {"mode": 755}}).status == 200
    info = alone.request("GET", "/files/info?path=/a/b").json()["/a/b"]
    assert info["type"] == "directory" and info["owner"] == str(os.geteuid())
