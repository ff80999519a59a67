"""Configuration and log of a real server: mistakes are told by file, line and key; init-config loads; SIGHUP; rotation; lines of both forms."""
import json
import re
import signal
import subprocess

import pytest

import harness

ROW = re.compile(r"^\| `([\w.]+)\.(\w+)` \| ([^|]+?) \| `?([^|]*?)`? \| ([^|]*) \|$", re.M)
KEYS = [m for m in ROW.findall((harness.ROOT / "docs/configuration.md").read_text()) if "effect" not in m[4]]
WRONG = {"number": "-1", "boolean": '"maybe"', "list": "5", "text": "5", "choice": '"nonsense"'}


def check(path):
    binary = str(harness.BUILD / "test/src/server/opensandbox-server")
    return subprocess.run([binary, "--config", str(path), "check-config"], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k[0]}.{k[1]}")
def test_mistakes_are_told(key, tmp_path):
    section, name, kind, _, _ = key
    wrong = WRONG.get(kind.split()[0], WRONG["choice"])
    file = tmp_path / "c.toml"
    file.write_text(f"# first line\n[{section}]\n\n{name} = {wrong}\n")
    done = check(file)
    told = done.stdout + done.stderr
    assert done.returncode == 1 and f"{file}:4: {section}.{name} " in told, told
    assert re.search(r"must .* \(.+\)", told), told  # what is right, and what the key is for


def test_there_are_keys():
    assert len(KEYS) > 60


def test_init_config_loads(tmp_path):
    binary = str(harness.BUILD / "test/src/server/opensandbox-server")
    file = tmp_path / "made" / "c.toml"
    assert subprocess.run([binary, "init-config", str(file)], capture_output=True, text=True).returncode == 0
    assert check(file).returncode == 0 and file.stat().st_mode & 0o077 == 0
    assert subprocess.run([binary, "init-config", str(file)], capture_output=True, text=True).returncode == 1
    file.write_text(file.read_text() + "\n[server.nonsense]\na = 1\n")
    done = check(file)
    assert done.returncode == 1 and "server.nonsense" in done.stdout + done.stderr


@pytest.fixture
def own():
    s = harness.Server()
    yield s
    s.remove()


def status(server, key):
    return server.request("GET", "/v1/sandboxes", key=key).status


def hang_up(server, word):
    before = server.log().count("SIGHUP: ")
    server.process.send_signal(signal.SIGHUP)
    harness.wait_until(lambda: server.log().count("SIGHUP: ") > before, "SIGHUP is answered", 10)
    line = [text for text in server.log().splitlines() if "SIGHUP: " in text][-1]
    assert word in line, line


def test_hangup(own):
    keys = own.state / "keys"
    keys.write_text("# rotated monthly\n  from-file-1  \n\nfrom-file-2\n")
    own.sections["server"] |= {"api_keys": ["listed"], "api_keys_file": str(keys)}
    own.write_config()
    own.start()
    for key in (own.key, "listed", "from-file-1", "from-file-2"):
        assert status(own, key) == 200
    assert status(own, "# rotated monthly") == status(own, "other") == 401
    keys.write_text("other\n")
    own.sections["log"]["level"] = "DEBUG"
    own.write_config()
    hang_up(own, "3 API keys")
    assert status(own, "other") == status(own, own.key) == 200 and status(own, "from-file-1") == 401
    assert own.request("GET", "/health", key=None).status == 200
    harness.wait_until(lambda: "/health HTTP" in own.log(), "the level is DEBUG", 10)
    # what is wrong changes nothing
    keys.unlink()
    hang_up(own, "nothing is changed")
    own.sections["server"] = {k: v for k, v in own.sections["server"].items() if not k.startswith("api_key")}
    own.write_config()
    hang_up(own, "no API key is left")
    own.config.write_text("[server\n")
    hang_up(own, "nothing is changed")
    assert status(own, "other") == 200 and status(own, "from-file-2") == 401
    assert "from-file" not in own.log() and own.key not in own.log()


def test_log(own):
    file = own.state / "logs" / "deep" / "server.log"
    own.sections["log"] |= {"format": "json", "file_enabled": True, "file_path": str(file), "file_max_bytes": 20000, "file_backup_count": 2}
    own.write_config()
    own.start()
    r = own.request("GET", "/v1/sandboxes?token=secret-in-query", headers={"X-Request-ID": "abc-1"})
    assert r.status == 200 and r.headers["X-Request-ID"] == "abc-1"
    own.request("GET", "/v1/sandboxes", key="a-wrong-key")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    access = next(line for line in lines if line.get("request_id") == "abc-1")
    assert re.fullmatch(r'127\.0\.0\.1:\d+ "GET /v1/sandboxes HTTP/1\.1" 200 \d+ \d+\.\d\dms', access["msg"]), access
    assert set(access) == {"ts", "level", "request_id", "msg"}
    text = file.read_text()
    assert "secret-in-query" not in text and own.key not in text and "a-wrong-key" not in text
    for i in range(600):
        own.request("GET", f"/v1/sandboxes/none-{i}")
    harness.wait_until(lambda: "none-599 HTTP" in file.read_text(), "the last line", 10)
    files = sorted(p.name for p in file.parent.iterdir())
    assert files == ["server.log", "server.log.1", "server.log.2"]
    for p in file.parent.iterdir():
        assert p.stat().st_size <= 20000 and p.stat().st_mode & 0o777 == 0o640
    kept = "".join((file.parent / n).read_text() for n in reversed(files)).splitlines()
    numbers = [int(m.group(1)) for m in (re.search(r"none-(\d+) HTTP", line) for line in kept) if m]
    assert numbers == list(range(numbers[0], 600))  # no line is lost or torn at the seams
    assert all(json.loads(line) for line in kept)
