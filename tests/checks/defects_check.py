#!/usr/bin/env python3
"""`make defects`: the table of the reference's defects in docs/runtimes.md, row by row. A row names tests, which are run here; or it says what makes
the defect impossible, as `file.c` `function`, both of which must be there. Last line: N passed, N failed."""
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
UNITS = BUILD / "test/tests/unit"
E2E = {"E": "tests/e2e/test_docker.py", "G": "tests/e2e/test_docker_engine.py", "A": "tests/e2e/test_adopt.py", "S": "tests/e2e/test_egress_engine.py",
       "F": "tests/e2e/test_docker_fake.py"}
ROWS = [f"B{n}" for n in range(1, 35)]


def rows():
    """{"B1": text of its row}"""
    found = {}
    for line in (ROOT / "docs/runtimes.md").read_text().splitlines():
        m = re.match(r"\| (B\d+(?:, B\d+)*) \| (.*) \|$", line)
        for name in m.group(1).split(", ") if m else ():
            found[name] = m.group(2)
    return found


def references(text):
    """(letter, name) of every test that a row names."""
    return {(letter, name) for letter, names in re.findall(r"\b([UELGASF]) ((?:`\w[\w./]*`(?:, )?)+)", text) for name in re.findall("`([^`]+)`", names)}


def places(text):
    """(file, word) pairs of code: `file.c` `word`."""
    return set(re.findall(r"`([\w/]+\.[ch])` `(\w+)`", text))


def unit_results(program):
    """{test: passed} of one cmocka program, and whether it ended well."""
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    out = done.stdout + done.stderr
    return {n: True for n in re.findall(r"\[ +OK \] (\w+)", out)} | {n: False for n in re.findall(r"\[ +FAILED +\] (\w+)", out)}, done.returncode == 0


def program_of(path):
    """The test program of a source file such as test_store.c or tests/unit/base/test_clock.c."""
    room = pathlib.Path(path).parent.name or "server"
    return UNITS / room / f"test-{room}-{pathlib.Path(path).stem.removeprefix('test_')}"


def e2e_results(wanted):
    """{(letter, test): passed}, on dockerd alone."""
    found = {}
    for letter, names in wanted.items():
        report = BUILD / f"defects-{os.getpid()}.xml"
        subprocess.run([BUILD / "venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", "-c", "tests/e2e/pytest.ini", "--rootdir", ROOT,
                        "--junitxml", report, E2E[letter], "-k", f"({' or '.join(sorted(names))}) and not podman"], cwd=ROOT)
        for case in ET.parse(report).getroot().iter("testcase"):
            name = case.get("name").partition("[")[0]
            found[letter, name] = found.get((letter, name), True) and not any(c.tag in ("failure", "error", "skipped") for c in case)
        report.unlink()
    return found


def main():
    table = rows()
    wanted = {}
    for letter, name in (r for text in table.values() for r in references(text)):
        if letter in E2E:
            wanted.setdefault(letter, set()).add(name)
    runtime, _ = unit_results(UNITS / "server/test-docker-runtime")
    e2e = e2e_results(wanted)
    programs, failed = {}, 0

    def verdict(letter, name):
        if letter == "U":
            return runtime.get(name, False)
        if letter in E2E:
            return e2e.get((letter, name), False)
        if name not in programs:
            programs[name] = unit_results(program_of(name))[1]
        return programs[name]
    for row in ROWS:
        text = table.get(row, "")
        tests, code = sorted(references(text)), sorted(places(text))
        wrong = [f"{letter} {name} did not pass" for letter, name in tests if not verdict(letter, name)]
        wrong += [f"no {word} in {file}" for file, word in code
                  if not any(re.search(rf"\b{word}\b", p.read_text()) for p in (ROOT / "src").rglob(pathlib.Path(file).name))]
        if not tests and not code:
            wrong.append("it names neither a test nor the code that makes it impossible")
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} {row}: {'; '.join(wrong or [n for _, n in tests] + [f'{f}: {w}' for f, w in code])}", flush=True)
    print(f"{len(ROWS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
