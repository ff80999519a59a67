#!/usr/bin/env python3
"""make quickstart from a clean clone and an empty state directory, twice, then make stop: both outputs hold a random value
of ours, the second run takes under 5 s, and nothing is left."""
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from census import census, left_since

passed = failed = 0


def check(what, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {what}{'' if ok else ': ' + str(detail)[-2000:]}", flush=True)


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="osb-quickstart-", dir="/var/lib"))
    work.chmod(0o711)
    clone, state = work / "clone", work / "state"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OPENSANDBOX", "MAKE", "MFLAGS", "CHECK_"))}
    env |= {"OPENSANDBOX_QUICKSTART_STATE": str(state), "PATH": env["PATH"]}

    def make(target):
        value = secrets.token_hex(8)
        begin = time.monotonic()
        done = subprocess.run(["make", target], cwd=clone, env=env | {"QUICKSTART_VALUE": value}, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=900)
        return done.returncode, done.stdout + done.stderr, value, time.monotonic() - begin

    before = census()
    try:
        subprocess.run(["git", "clone", "-q", str(harness.ROOT), str(clone)], check=True)
        for run in ("first", "second"):
            code, text, value, seconds = make("quickstart")
            check(f"{run} run ends with 0 ({seconds:.1f} s)", code == 0, text)
            check(f"{run} run: the shell command printed our value", f"hello {value}" in text, text)
            check(f"{run} run: the Python program printed our value", f"says {value} 5050" in text, text)
            key = (clone / "build/quickstart.env").read_text().split("OPEN_SANDBOX_API_KEY=")[1].split()[0] if code == 0 else "?"
            check(f"{run} run: the key is not on the screen", key not in text)
        check(f"second run under 5 s ({seconds:.1f} s)", seconds < 5)
        modes = [oct(p.stat().st_mode & 0o777) for p in (clone / "build/quickstart.env", state / "config.toml") if p.exists()]
        check("key files are 0600", modes == ["0o600", "0o600"], modes)
        code, text, _, _ = make("stop")
        check("stop ends with 0", code == 0, text)
        check("the state directory is gone", not state.exists())
    finally:
        if (clone / "Makefile").exists():
            make("stop")
        shutil.rmtree(work, ignore_errors=True)
    left = left_since(before)
    check("nothing is left", not left, left)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
