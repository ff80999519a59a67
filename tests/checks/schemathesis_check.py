#!/usr/bin/env python3
"""Schemathesis over our own document, stateful links and all, against a real server: no 5xx, no reply against its schema, nothing left behind.

usage: schemathesis_check.py [EXAMPLES [SEED]]    prints the seed; last line: N passed, N failed (a pass is a phase of a check)
What is left out, and why: the proxy (its replies are the services' own), /docs and /redoc (another port), what answers 501 by contract
(templates, networkpolicy); QUERY, a method that the parser does not know (400).
"""
import os
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import harness  # noqa: E402

OWN = harness.BUILD / "schemathesis"
LEFT_OUT = "proxy|/route/|/docs|/redoc|networkpolicy|templates"
# Rules between members, and those of a runtime, are beyond a schema: 400, 404, 409, 422 and 429 are fair answers to what fits it; null is absent.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "307", "400", "404", "409", "422", "429"]
negative_data_rejection.enabled = false
unsupported_method.enabled = false
"""


def install():
    if not (OWN / "bin/schemathesis").exists():
        subprocess.run([sys.executable, "-m", "venv", str(OWN)], check=True)
        subprocess.run([str(OWN / "bin/pip"), "install", "-q", "--disable-pip-version-check", "schemathesis==4.32.5"], check=True)


def main():
    examples, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2] if len(sys.argv) > 2 else str(secrets.randbelow(10**6))
    install()
    server = harness.Server(config={"server": {"sandboxes_max": 16}})
    failed = []
    try:
        server.import_base()
        server.start()
        with tempfile.TemporaryDirectory() as d:
            config = pathlib.Path(d, "schemathesis.toml")
            config.write_text(CONFIG)
            done = subprocess.run(
                [str(OWN / "bin/schemathesis"), "--config-file", str(config), "run", server.base + "/openapi.json", "--header",
                 f"OPEN-SANDBOX-API-KEY: {server.key}", "--max-examples", str(examples), "--seed", seed, "--exclude-path-regex", LEFT_OUT,
                 "--continue-on-failure", "--request-timeout", "40", "--no-color"],
                cwd=d, capture_output=True, text=True, timeout=1800, env=dict(os.environ, COLUMNS="150"))
        if done.returncode:
            print(done.stdout[-12000:] + done.stderr[-2000:])
            failed.append("schemathesis")
        cases = int((re.search(r"(\d+) generated", done.stdout) or [0, 0])[1])
        print(f"seed {seed}: {cases} cases, {len(failed)} failed")
        assert server.process.poll() is None, server.log()[-3000:]
        for pool in server.request("GET", "/v1/pools").json()["items"]:
            server.request("DELETE", f"/v1/pools/{pool['name']}")
        for sandbox in server.sandboxes():
            server.delete(sandbox["id"])
        sandboxes = server.state / "oci/oci/sandboxes"
        harness.wait_until(lambda: not sandboxes.exists() or not os.listdir(sandboxes), "nothing is left of the sandboxes", 60)
    except (AssertionError, subprocess.SubprocessError) as e:
        print(e)
        failed.append("server")
    finally:
        server.remove()
    print(f"{2 - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
