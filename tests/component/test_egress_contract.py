"""api/egress.yaml against the route table and against what egress really answers."""
import pathlib
import re

import pytest
import yaml

import egress_net as net
from egress_net import SHARED

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = yaml.safe_load((ROOT / "api/egress.yaml").read_text())
METHODS = ("get", "post", "put", "delete", "patch")


def documented():
    found = set()
    for path, item in DOCUMENT["paths"].items():
        pattern = path.replace("/{rest}", "/*")
        if item.get("x-any-method"):
            found.add(("*", pattern))
        else:
            found |= {(m.upper(), pattern) for m in METHODS if m in item}
    return found


def test_routes_are_the_documented_ones():
    text = (ROOT / "src/egress/api.c").read_text()
    table = text[text.index("static const struct http_route routes[]"):]
    assert set(re.findall(r'\{"(\S+)", "(/[^"]*)",', table)) == documented()


def check(value, schema, where="$"):
    """The part of JSON Schema that the document uses; members and values that it does not name are errors."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = {"object": dict, "array": list, "string": str, "integer": int}
    assert isinstance(value, kinds[schema["type"]]), where
    assert "enum" not in schema or value in schema["enum"], (where, value)
    assert "const" not in schema or value == schema["const"], where
    if schema["type"] == "object":
        assert set(value) <= set(schema["properties"]) and set(schema["required"]) <= set(value), (where, value)
        for key, member in value.items():
            check(member, schema["properties"][key], f"{where}.{key}")
    if schema["type"] == "array":
        for i, member in enumerate(value):
            check(member, schema["items"], f"{where}[{i}]")


@pytest.fixture(scope="module")
def bed():
    with net.Bed() as b:
        b.start_egress({"egress": [{"action": "deny", "target": "denied.test"}, {"action": "allow", "target": SHARED}]})
        yield b


REQUESTS = [
    ("GET", "/healthz", None, 200), ("PUT", "/healthz", None, 200), ("GET", "/policy", None, 200),
    ("PUT", "/policy", {"egress": [{"action": "deny", "target": "denied.test"}, {"action": "allow", "target": SHARED}]}, 200),
    ("POST", "/policy", {"egress": 1}, 400), ("PATCH", "/policy", [{"action": "allow", "target": "a.b"}], 200), ("PATCH", "/policy", [], 400),
    ("DELETE", "/policy", ["a.b"], 200), ("DELETE", "/policy", ["not.there"], 200), ("DELETE", "/policy", {}, 400),
    ("PUT", "/policy", {"egress": [{"action": "allow", "target": f"h{i}.test"} for i in range(4097)]}, 413),
    ("GET", "/policy/explain?target=denied.test", None, 200), ("GET", "/policy/explain?target=" + SHARED, None, 200),
    ("GET", "/policy/explain?target=other.test", None, 200), ("GET", "/policy/explain", None, 400),
    ("GET", "/events", None, 200), ("GET", "/events?since=x", None, 400), ("GET", "/metrics", None, 200),
    ("GET", "/credential-vault/_active", None, 403), ("POST", "/credential-vault", {}, 501), ("PATCH", "/credential-vault/bindings/x", {}, 501),
]


@pytest.mark.parametrize("method,path,body,status", REQUESTS)
def test_answers(bed, method, path, body, status):
    bed.ask("denied.test")
    got, answer = bed.api(method, path, body)
    pattern = path.partition("?")[0]
    item = DOCUMENT["paths"].get(pattern) or DOCUMENT["paths"]["/credential-vault/{rest}"]
    operation = item.get(method.lower()) or item["get"]
    assert got == status
    response = operation["responses"][str(status)]
    kind = bed.headers["Content-Type"].partition(";")[0]
    assert kind in response["content"]
    if kind == "application/json":
        check(answer, response["content"][kind]["schema"])
    if operation.get("security") != []:
        assert bed.api(method, path, body, token="wrong") == (401, "unauthorized\n") and "401" in operation["responses"]
