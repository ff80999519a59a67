#!/usr/bin/env python3
"""Turns api/lifecycle.yaml and api/diagnostics.yaml into the one JSON document that the server carries, and it and the page that shows it
into C: openapi.py OUT.c LIFECYCLE DIAGNOSTICS PAGE. With --json the document alone goes to standard output."""
import json
import pathlib
import sys

import yaml


def document(lifecycle, diagnostics):
    whole, part = (yaml.safe_load(pathlib.Path(p).read_text()) for p in (lifecycle, diagnostics))
    whole["paths"].update(part["paths"])
    whole["components"]["schemas"].update(part["components"]["schemas"])
    del whole["x-shared"]
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def array(name, data):
    rows = "\n".join(",".join(map(str, data[i:i + 64])) + "," for i in range(0, len(data), 64))
    return f"const unsigned char {name}[] = {{\n{rows}\n}};\nconst size_t {name}_size = sizeof {name};\n"


def main():
    out, lifecycle, diagnostics, *page = sys.argv[1:]
    data = document(lifecycle, diagnostics)
    if out == "--json":
        sys.stdout.buffer.write(data)
        return
    pathlib.Path(out).write_text('#include "server/api/resources/openapi.h"\n\n' + array("openapi_json", data) +
                                 array("openapi_page", pathlib.Path(page[0]).read_bytes()))


if __name__ == "__main__":
    main()
