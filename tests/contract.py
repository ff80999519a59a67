"""An OpenAPI document beside what a server really answers: schemas of replies, and what of the document has been seen."""
import json

import yaml

METHODS = ("get", "post", "put", "delete", "patch")
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}


class Document:
    """`seen` gathers ("status", route, status), ("code", route, status, code), ("header", route, status, name), ("field", schema, name),
    ("value", schema.name, value); a route is (method, path of the document)."""

    def __init__(self, *paths):
        self.tree, *more = [yaml.safe_load(p.read_text()) for p in paths]
        for m in more:
            self.tree["paths"].update(m["paths"])
            self.tree["components"]["schemas"].update(m["components"]["schemas"])
        self.operations = {("*" if item.get("x-any-method") else method.upper(), path): item[method]
                           for path, item in self.tree["paths"].items() for method in METHODS if method in item}
        self.seen = set()

    def resolve(self, o):
        while "$ref" in o:
            target = self.tree
            for part in o["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            o = target
        return o

    def responses(self, route):
        return {status: self.resolve(r) for status, r in self.operations[route]["responses"].items()}

    def codes(self, route):
        return {c for r in self.responses(route).values() for c in r.get("x-codes", [])}

    def _matches(self, value, schema):
        try:
            self.validate(value, schema, "", set())
            return True
        except AssertionError:
            return False

    def validate(self, value, schema, where, seen):
        where = schema.get("$ref", where)
        schema = self.resolve(schema)
        if "oneOf" in schema:
            fitting = [s for s in schema["oneOf"] if self._matches(value, s)]
            assert len(fitting) == 1, f"{where}: {len(fitting)} alternatives fit {value}"
            return self.validate(value, fitting[0], where, seen)
        kind = schema["type"]
        assert isinstance(value, TYPES[kind]) and not (kind != "boolean" and isinstance(value, bool)), f"{where}: {value!r} is no {kind}"
        assert "enum" not in schema or value in schema["enum"], f"{where}: {value!r}"
        if "enum" in schema:
            seen.add(("value", where, value))
        if kind in ("integer", "number"):
            assert schema.get("minimum", value) <= value <= schema.get("maximum", value), f"{where}: {value}"
        if kind == "array":
            for item in value:
                self.validate(item, schema["items"], where + "[]", seen)
        if kind == "object":
            missing = set(schema.get("required", [])) - set(value)
            assert not missing, f"{where}: without {missing}"
            for name, member in value.items():
                inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", "properties" not in schema or None))
                assert inner, f"{where}: {name} is not documented"
                if name in schema.get("properties", {}):
                    seen.add(("field", where, name))
                if isinstance(inner, dict):
                    self.validate(member, inner, f"{where}.{name}", seen)

    def check(self, route, reply, code=lambda c: c):
        """One reply; `code` turns a code of the wire into the document's spelling."""
        responses = self.responses(route)
        status = str(reply.status)
        assert status in responses, f"{route}: {status} is not documented: {reply.body[:300]!r}"
        response, content = responses[status], responses[status].get("content", {})
        self.seen.add(("status", route, status))
        for name in response.get("headers", {}):
            if reply.headers.get(name) is not None:
                self.seen.add(("header", route, status, name))
        if not reply.body:
            assert not content, f"{route} {status}: without the documented body"
            return
        kind = (reply.headers.get("Content-Type") or "").split(";")[0]
        assert kind in content, f"{route} {status}: {kind} is not documented"
        if kind == "application/json":
            value = json.loads(reply.body)
            self.validate(value, content[kind]["schema"], str(route), self.seen)
            if "x-codes" in response:
                assert code(value["code"]) in response["x-codes"], f"{route}: {value}"
                self.seen.add(("code", route, status, code(value["code"])))
