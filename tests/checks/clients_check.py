#!/usr/bin/env python3
"""Official clients against a real server, a line each: package, version, tests passed. A client whose registry does not give it out has a
line of its own, `not reachable`, and is in none of the counts. Last line: N passed, N failed."""
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
MAIN, OWN = BUILD / "venv", BUILD / "clients"
VERSION = "1.1.1"
TESTS = [  # package, version, environment, what pytest runs
    ("opensandbox", VERSION, MAIN, ["tests/e2e/test_clients.py", "tests/e2e/test_sdk_execd.py", "-k", "not osb and not javascript"]),
    ("opensandbox-cli", VERSION, MAIN, ["tests/e2e/test_clients.py", "-k", "osb"]),
    ("opensandbox-mcp", VERSION, OWN, ["tests/clients/test_mcp.py"]),
    ("opensandbox-code-interpreter", VERSION, OWN, ["tests/clients/test_code_interpreter.py"]),
    ("@alibaba-group/opensandbox", "0.1.11", MAIN, ["tests/e2e/test_sdk_execd.py", "-k", "javascript"]),
]
GO, JAVA = "github.com/alibaba/OpenSandbox/sdks/sandbox/go", "com.alibaba.opensandbox:sandbox"


def run(args, **kw):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=900, **kw)


def install():
    """The environment of the clients that the ordinary one lacks. None, or why not."""
    if (OWN / "bin/opensandbox-mcp").exists():
        return None
    subprocess.run([sys.executable, "-m", "venv", str(OWN)], check=True)
    done = run([OWN / "bin/pip", "install", "-q", "--disable-pip-version-check", *[f"{p}=={v}" for p, v, env, _ in TESTS if env == OWN],
                "pytest==8.3.4", "pytest-timeout==2.3.1"])
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def tests(python, args):
    """(passed, failed, output)"""
    with tempfile.TemporaryDirectory() as d:
        report = pathlib.Path(d) / "report.xml"
        done = run([python, "-m", "pytest", "-p", "no:cacheprovider", "-c", "tests/e2e/pytest.ini", "--rootdir", ROOT, "--junitxml", report, *args],
                   cwd=ROOT, env=dict(os.environ, OPENSANDBOX_BUILD=str(BUILD)))
        try:
            suite = ET.parse(report).getroot().find("testsuite")
        except (OSError, ET.ParseError):
            return 0, 1, done.stdout + done.stderr
    bad = int(suite.get("failures")) + int(suite.get("errors"))
    good = int(suite.get("tests")) - bad - int(suite.get("skipped"))
    return good, bad or (good == 0), done.stdout


def elsewhere():
    """Clients of registries that may not answer: (package, version, what was tried)."""
    with tempfile.TemporaryDirectory() as d:
        pathlib.Path(d, "go.mod").write_text("module check\n\ngo 1.21\n")
        yield GO, "v" + VERSION, ["go", "get", f"{GO}@v{VERSION}"], d
        yield JAVA, VERSION, ["mvn", "-q", "-B", "dependency:get", f"-Dartifact={JAVA}:{VERSION}", "-Dtransitive=false"], d


def main():
    passed = failed = 0
    why = install()
    for package, version, environment, args in TESTS:
        if environment == OWN and why:
            print(f"{package} {version}: not reachable ({why})", flush=True)
            continue
        good, bad, output = tests(environment / "bin/python", args)
        print(f"{package} {version}: {good} passed{f', {bad} FAILED' if bad else ''}", flush=True)
        if bad:
            print(output[-6000:])
        passed, failed = passed + good, failed + bad
    for package, version, command, directory in elsewhere():
        try:
            done = run(command, cwd=directory)
            why = None if done.returncode == 0 else "the registry does not give it out"
        except (OSError, subprocess.TimeoutExpired) as e:
            why = str(e)
        if why:
            print(f"{package} {version}: not reachable ({why})", flush=True)
        else:  # it has been given out: then it wants tests
            print(f"{package} {version}: reachable, and no test here uses it")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
