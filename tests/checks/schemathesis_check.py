#!/usr/bin/env python3
"""Schemathesis over our own document, stateful links and all, against a real server with a registry that answers.

usage: schemathesis_check.py [EXAMPLES [SEED]]    prints the seed; last line: N passed, N failed
Fails on a 5xx, a reply against its schema, an object that is left behind, fewer than 5,000 cases in all or 50 an operation, and an operation
that never answered 2xx (the counts hold from 150 EXAMPLES on). What is left out, and why: the proxy (its replies are the services' own), /docs
and /redoc (another port), /openapi.json (what is read), templates (501 by contract); from the stateful phase the policies (502 by contract without one).
"""
import collections
import contextlib
import datetime
import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import contract  # noqa: E402
import harness  # noqa: E402
import images  # noqa: E402

LEFT_OUT = "proxy|/route/|/docs|/redoc|/openapi.json|templates"
OLD = 20  # seconds
PARKED, STOCK = {"egress", "egress.json", "egress.log", "egress.pid", "e"}, 8  # a few egress wait for the next policy; each has these files alone
# Phases, kind of data, times EXAMPLES, digit added to the seed of a run for operations that the tool gave up on early (slow ones).
RUNS = [("examples,coverage,fuzzing", "all", 1, ""), ("stateful", "positive", 20, ""), *[("fuzzing", "all", 1, n) for n in "1234"]]
CASES, CASES_EACH, FULL = 5000, 50, 150  # from FULL examples an operation the counts must be met
# Rules between members, and those of a runtime, are beyond a schema: 400, 404, 409, 422 and 429 are fair answers to what fits it.
CONFIG = """
hooks = "schemathesis_hooks.py"
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "307", "400", "404", "409", "422", "429"]
"""


def operations():
    document = contract.Document(ROOT / "api/lifecycle.yaml", ROOT / "api/diagnostics.yaml")
    return [" ".join(route) for route in document.operations if not re.search(LEFT_OUT, route[1])]


def generate(server, registry, examples, seed, phases, mode, only=()):
    """Exit code and words of one run, and {operation: {status: cases}}."""
    with tempfile.TemporaryDirectory() as d:
        for name, text in (("schemathesis.toml", CONFIG), ("schemathesis_hooks.py", (ROOT / "tests/checks/schemathesis_hooks.py").read_text())):
            pathlib.Path(d, name).write_text(text)
        done = subprocess.run(
            [str(harness.environment("schemathesis", "schemathesis", "schemathesis==4.32.5")), "--config-file", "schemathesis.toml", "run", server.base + "/openapi.json", "--header",
             f"OPEN-SANDBOX-API-KEY: {server.key}", "--max-examples", str(examples), "--seed", seed, "--phases", phases, "--mode", mode, "--exclude-path-regex", LEFT_OUT + ("|networkpolicy" if phases == "stateful" else ""),
             *[word for name in only for word in ("--include-name", name)], "--continue-on-failure", "--request-timeout", "60", "--no-color"],
            cwd=d, capture_output=True, text=True, timeout=3600,
            env=dict(os.environ, COLUMNS="150", PYTHONPATH=d, SCHEMATHESIS_REGISTRY=registry.host, SCHEMATHESIS_ANSWERS=d + "/answers", SCHEMATHESIS_BASE=server.base,
                     SCHEMATHESIS_KEY=server.key, SCHEMATHESIS_IDS="1" if phases != "stateful" else "0"))
        answers = json.loads(pathlib.Path(d, "answers").read_text())
    return done.returncode, done.stdout + done.stderr[-2000:], answers


@contextlib.contextmanager
def janitor(server):
    """Deletes what is old enough that no sequence of requests can still be about it, so that there is room."""
    over = threading.Event()

    def old(o):
        return (datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(o["createdAt"].replace("Z", "+00:00"))).total_seconds() > OLD

    def work():
        while not over.wait(2):
            for kind, key in (("sandboxes", "id"), ("pools", "name"), ("snapshots", "id")):
                r = server.request("GET", f"/v1/{kind}" + ("?pageSize=200" if kind != "pools" else ""))
                for o in r.json()["items"] if r.status == 200 else []:
                    if old(o):
                        server.request("DELETE", f"/v1/{kind}/{o[key]}")
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def nothing_left(server):
    for pool in server.request("GET", "/v1/pools").json()["items"]:
        server.request("DELETE", f"/v1/pools/{pool['name']}")
    for sandbox in server.sandboxes():
        server.delete(sandbox["id"])
    for snapshot in server.request("GET", "/v1/snapshots?pageSize=200").json()["items"]:
        harness.wait_until(lambda s=snapshot: server.request("DELETE", f"/v1/snapshots/{s['id']}").status in (204, 404), "a snapshot goes", 30)
    sandboxes = server.state / "oci/oci/sandboxes"
    names = lambda: os.listdir(sandboxes) if sandboxes.exists() else []
    left = lambda: {p.parent.name for p in sandboxes.glob("*/*") if p.name not in PARKED}
    with contextlib.suppress(AssertionError):
        harness.wait_until(lambda: not left(), "nothing is left of the sandboxes", 60)
    assert len(names()) <= STOCK and not left(), f"left of sandboxes: {left()}\n" + "".join(line for line in server.log().splitlines(True) if any(i in line for i in left()))
    assert server.request("GET", "/v1/snapshots").json()["pagination"]["totalItems"] == 0


def main():
    examples, seed = int(sys.argv[1]) if len(sys.argv) > 1 else FULL, sys.argv[2] if len(sys.argv) > 2 else str(secrets.randbelow(10**6))
    passed, failed = 0, []

    def judge(good, what):
        nonlocal passed
        passed += bool(good)
        if not good:
            failed.append(what)
            print(f"FAILED: {what}")

    with tempfile.TemporaryDirectory() as d:
        registry = images.Registry(pathlib.Path(d, "registry"))
        server = harness.Server(config={"server": {"sandboxes_max": 100}, "oci": {"registries": [registry.host], "insecure_registries": [registry.host]}})
        try:
            images.Image([images.small_root()]).layout(pathlib.Path(d, "small"))
            registry.push(pathlib.Path(d, "small"), "small:1")
            server.import_base()
            server.start()
            print(f"seed {seed}", flush=True)
            asked = {o: collections.Counter() for o in operations()}
            with janitor(server):
                for phases, mode, times, rest in RUNS:
                    few = [o for o, n in asked.items() if sum(n.values()) < CASES_EACH] if rest and examples >= FULL else []
                    if rest and not few:
                        continue
                    code, words, answers = generate(server, registry, examples * times, f"{seed}{rest}", phases, mode, few)
                    judge(code == 0, f"{phases}: " + words[-60000:])
                    for o, n in answers.items():
                        asked[o].update({int(status): times for status, times in n.items()})
            cases = sum(sum(n.values()) for n in asked.values())
            full = examples >= FULL
            judge(cases >= (CASES if full else 1), f"{cases} cases, {CASES} are wanted")
            for o in asked:
                n, good = sum(asked[o].values()), sum(v for k, v in asked[o].items() if k < 300)
                judge(n >= (CASES_EACH if full else 1) and (good or not full), f"{o}: {n} cases, {good} answered 2xx")
                judge(not [k for k in asked[o] if k >= 500], f"{o}: {dict(asked[o])}")
                print(f"{o}: {dict(sorted(asked[o].items()))}")
            judge(server.process.poll() is None, "the server ended: " + server.log()[-3000:])
            nothing_left(server)
            passed += 1
            print(f"seed {seed}: {cases} cases of {len(asked)} operations", flush=True)
        except (AssertionError, subprocess.SubprocessError) as e:
            judge(False, e)
        finally:
            server.remove()
            registry.close()
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
