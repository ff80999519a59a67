#!/usr/bin/env python3
"""Runs groups of checks and adds up what they say. Last line: N passed, N failed, N skipped. Exit 1 on any failure.

usage: check.py GROUP...    groups are the functions below whose name begins with `group_`
A group that could not set up its peers counts as failed; with OPENSANDBOX_TESTS_MUST_RUN=1 a skip is a failure too.
"""
import json
import os
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
PYTHON = BUILD / "venv/bin/python"
SHORT = os.environ.get("CHECK_SHORT") == "1"


def run(args, **kw):
    return subprocess.run([str(a) for a in args], cwd=ROOT, **kw)


def meson_tests(directory, suites, env=None, timeout_factor="1"):
    """Counts of `meson test`; each failing test's output is shown."""
    command = ["meson", "test", "-C", directory, "--no-rebuild", "--print-errorlogs", "-t", timeout_factor]
    for s in suites:
        command += ["--suite", s]
    run(command, env=dict(os.environ, **(env or {})))
    passed = failed = skipped = 0
    for line in open(pathlib.Path(directory) / "meson-logs/testlog.json"):
        result = json.loads(line)["result"]
        passed += result in ("OK", "EXPECTEDFAIL")
        skipped += result == "SKIP"
        failed += result not in ("OK", "EXPECTEDFAIL", "SKIP")
    return passed, failed, skipped


def pytest(*args, env=None):
    report = BUILD / f"pytest-{os.getpid()}-{time.monotonic_ns()}.xml"
    env = dict(os.environ, OPENSANDBOX_BUILD=str(BUILD), **(env or {}))
    run([PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "-c", "tests/e2e/pytest.ini", "--rootdir", ROOT, "--junitxml", report,
         *args], env=env)
    try:
        suite = ET.parse(report).getroot().find("testsuite")
    except (OSError, ET.ParseError):
        return 0, 1, 0
    report.unlink()
    n = {k: int(suite.get(k)) for k in ("tests", "failures", "errors", "skipped")}
    failed = n["failures"] + n["errors"]
    # one that must fail, and did, is as it should be (tests/engines.py names each with its reason)
    n["skipped"] -= sum(s.get("type") == "pytest.xfail" for s in suite.iter("skipped"))
    if n["tests"] == 0:
        print("pytest ran no test")
        return 0, 1, 0
    return n["tests"] - failed - n["skipped"], failed, n["skipped"]


def configure(directory, *options, env=None):
    if not (directory / "build.ninja").exists():
        run(["meson", "setup", directory, *options], check=True, stdout=subprocess.DEVNULL, env=env)
    run(["ninja", "-C", directory], check=True, stdout=subprocess.DEVNULL)


def group_unit():
    return meson_tests(BUILD / "test", ["unit"])


def quick():
    """CHECK_QUICK leaves out what takes long for what it says; `make test-all` has it."""
    return " and not slow" if os.environ.get("CHECK_QUICK") == "1" else ""


def group_component():
    return pytest("tests/component", "-m", "not long" + quick())


def group_vectors():
    """The malformed requests and Appendix A of execd.md: a line and a count per vector, not per program."""
    _, failed, skipped = meson_tests(BUILD / "test", ["vectors"])
    lines = []
    for line in open(BUILD / "test/meson-logs/testlog.json"):
        lines += [text for text in json.loads(line).get("stdout", "").splitlines() if text.startswith(("ok ", "not ok "))]
    print("\n".join(lines))
    bad = sum(text.startswith("not ok") for text in lines)
    files = sorted((ROOT / "tests/component").glob("test_*vectors.py"))
    good = pytest("-vv", *files)
    return len(lines) - bad + good[0], max(bad, failed) + good[1], skipped + good[2]


def group_soak():
    return pytest("-s", "tests/component/execd_soak.py", "tests/component/execd_telemetry_soak.py")


def group_empty_root():
    return pytest("tests/component/test_execd_empty_root.py")


def group_egress():
    return pytest("-vv", "tests/component/test_egress.py", "tests/component/test_egress_hostile.py", "tests/component/test_egress_contract.py",
                  "tests/e2e/test_egress_sandbox.py", "tests/e2e/test_egress_engine.py")


def group_egress_closed():
    """The program by itself, then in sandboxes: their server is taken away too, and at the end nothing is left."""
    return pytest("-vv", "tests/component/test_egress_fail_closed.py", "tests/e2e/test_egress_life.py")


def group_e2e():
    return pytest("tests/e2e", "-m", "not long" + quick(), "--durations=40", "--durations-min=3")


def group_sdk():
    return pytest("tests/e2e/test_sdk_execd.py")


def group_sanitize():
    """Unit tests, then the component tests over an execd with sanitizers."""
    d = BUILD / "asan"
    configure(d, "-Db_sanitize=address,undefined", "-Dexecd_static=false", "-Db_lundef=false", "-Dbench=false", "--buildtype=debug",
              "-Doptimization=1", "-Dwerror=false")  # the ordinary builds decide on warnings; these see texts cut on purpose
    env = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    unit = meson_tests(d, ["unit"], env, "4")
    env = dict(env, OPENSANDBOX_EXECD=str(d / "src/execd/execd"), OPENSANDBOX_EGRESS=str(d / "src/egress/egress"))
    component = pytest("tests/component", "-m", "not long and not bare", env=env)
    return tuple(a + b for a, b in zip(unit, component))


def group_fuzz():
    seconds = int(os.environ.get("FUZZ_SECONDS", "5"))
    d = BUILD / "fuzz"
    configure(d, "-Dfuzz=true", "-Dserver=true", "-Dtests=false", "-Dbench=false", "-Dexecd_static=false",
              "-Db_sanitize=address,undefined", "-Db_lundef=false", env=dict(os.environ, CC="clang", CXX="clang++"))
    passed = failed = 0
    targets = sorted(p for p in (d / "tests/fuzz").glob("fuzz_*") if p.is_file() and os.access(p, os.X_OK))
    for target in targets:
        source = ROOT / "tests/fuzz/corpus" / target.name.removeprefix("fuzz_")
        corpus = d / "corpus" / target.name
        corpus.mkdir(parents=True, exist_ok=True)
        args = [target, f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10", "-verbosity=0", corpus]
        if source.is_dir():
            args.append(source)
        dictionary = ROOT / "tests/fuzz" / f"{target.name.removeprefix('fuzz_')}.dict"
        if dictionary.exists():
            args.insert(1, f"-dict={dictionary}")
        done = run(args, capture_output=True, text=True)
        ok = done.returncode == 0
        print(f"fuzz {target.name}: {'ok' if ok else 'FAILED'} ({seconds} s)")
        if not ok:
            print(done.stderr[-4000:])
        passed += ok
        failed += not ok
    return (passed, failed, 0) if targets else (0, 1, 0)


def script(path, *args):
    """A check of its own that prints `N passed, N failed` last."""
    done = run([PYTHON, path, *args], env=dict(os.environ, OPENSANDBOX_BUILD=str(BUILD)), stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    words = done.stdout.strip().splitlines()[-1].replace(",", "").split() if done.stdout.strip() else []
    try:
        passed, failed = int(words[-4]), int(words[-2])
    except (IndexError, ValueError):
        return 0, 1, 0
    return (passed, max(failed, done.returncode != 0), 0)


def group_leak():
    return script("tests/checks/leak_check.py")


def group_crash():
    return script("tests/checks/crash_check.py")


def group_differential():
    return script("tests/checks/differential.py")


def group_quickstart():
    return script("tests/checks/quickstart_check.py")


# Tests that say nothing of the runtime: the built-in one runs them with all others, the engines by --runtime.
COMMON = [f"tests/e2e/test_{name}.py" for name in ("clients", "sdk_execd", "execd_sandbox", "golden", "pools", "snapshots", "diagnostics", "terminal",
                                                   "renew", "hosts", "metrics", "inside", "hooks")]


def group_docker():
    """The runtime's own tests, then the common ones on a private dockerd."""
    own = pytest(*[f"tests/e2e/test_{name}.py" for name in ("docker", "docker_engine", "docker_far", "docker_load", "adopt", "egress_engine")], "-k", "not podman")
    return tuple(a + b for a, b in zip(own, pytest(*COMMON, "--runtime=dockerd")))


def group_podman():
    """The same on a private Podman with root; the runtime's own once more on one without."""
    own = pytest("tests/e2e/test_docker.py", "tests/e2e/test_egress_engine.py", "tests/e2e/test_egress_sandbox.py", "-k", "podman")
    return tuple(a + b for a, b in zip(own, pytest(*COMMON, "--runtime=podman")))


def group_engine_restart():
    return pytest("-s", "tests/e2e/test_engine_restart.py")


def group_defects():
    return script("tests/checks/defects_check.py")


def group_isolation():
    return pytest("tests/e2e/test_isolation.py")


def group_hostile():
    return pytest("tests/e2e/test_hostile_images.py")


def main():
    total = [0, 0, 0]
    for name in sys.argv[1:]:
        begin = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            counts = globals()["group_" + name]()
        except (subprocess.CalledProcessError, OSError, AssertionError) as e:
            print(f"{name}: cannot run: {e}")
            counts = (0, 1, 0)
        print(f"== {name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped in {time.monotonic() - begin:.0f} s", flush=True)
        total = [a + b for a, b in zip(total, counts)]
    must_run = os.environ.get("OPENSANDBOX_TESTS_MUST_RUN") == "1" and total[2] > 0
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or must_run or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
