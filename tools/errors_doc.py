#!/usr/bin/env python3
"""Writes docs/errors.md from src/server/errors.def; with --check only says whether it is up to date."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r'^ERROR_CODE\((\w+), "([^"]+)", (\d+), "([^"]*)"\)$')

HEAD = """# Errors

Made by `tools/errors_doc.py` from `src/server/errors.def`; edit that.

Every error of the lifecycle API and of the proxy is JSON with two members, `code` and `message`; 404 and 405 of the router and 422
carry `detail` as well, as older clients read it. On 422 `detail` is a list of `{"type", "loc", "msg"}`, one item for each wrong
member; what was sent is never echoed. Replies with 429 and 503 carry `Retry-After`. Every reply carries `X-Request-ID`; the
server's log has the cause of a 5xx under that id.

`OCI::` stands for the runtime's prefix: the built-in runtime's is `OCI::`. A service inside a sandbox answers in its own words;
only the `BACKEND_` codes and those about the sandbox's state or token are ours.

| code | status | what it means, what to do |
|---|---|---|
"""


def rows():
    for number, line in enumerate((ROOT / "src/server/errors.def").read_text().splitlines(), 1):
        if not line or line.startswith("//"):
            continue
        found = ROW.match(line)
        if not found:
            sys.exit(f"errors.def:{number}: not a row of the table: {line}")
        yield found.groups()


def main():
    text = HEAD + "".join(f"| `{code.replace('%', 'OCI')}` | {status} | {what.replace('|', chr(92) + '|')} |\n"
                          for _, code, status, what in rows())
    path = ROOT / "docs/errors.md"
    if "--check" in sys.argv:
        sys.exit(0 if path.exists() and path.read_text() == text else "docs/errors.md is out of date: run tools/errors_doc.py")
    path.write_text(text)


if __name__ == "__main__":
    main()
