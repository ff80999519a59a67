"""Diagnostics of real sandboxes: text and JSON, secrets masked, ranges and scopes refused."""
import harness


def page(server, sandbox, name, query=""):
    return server.request("GET", f"/v1/sandboxes/{sandbox}/diagnostics/{name}{query}")


def test_texts(server):
    sb = server.create(entrypoint=["sh", "-c", "for i in 1 2 3; do echo line $i; done; printf 'bad \\377\\n'; sleep 600"],
                       env={"API_KEY": "k-123", "PLAIN": "shown", "DATABASE": "postgres://me:hidden@db/x"},
                       metadata={"team": "red"})["id"]
    try:
        harness.wait_until(lambda: b"bad" in page(server, sb, "logs").body, "the entrypoint's output")
        r = page(server, sb, "logs")
        assert r.status == 200 and r.headers["Deprecation"] == "true"
        assert r.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert r.body.decode().splitlines() == ["line 1", "line 2", "line 3", "bad \ufffd"]
        assert page(server, sb, "logs", "?tail=2&since=5m&container=x").body.decode().splitlines() == ["line 3", "bad \ufffd"]
        r = page(server, sb, "inspect")
        text = r.body.decode()
        assert r.status == 200 and r.headers["Deprecation"] is None
        for line in (f"Sandbox ID:     {sb}", "Status:         Running", f"Image:          {harness.IMAGE}",
                     "  CPU:          1.00 cores", "  Memory:       512 MiB", "  team=red", "  API_KEY=***", "  PLAIN=shown",
                     "  DATABASE=***"):
            assert line in text.splitlines(), text
        facts = ("IP Address:", "Processes:") if server.runtime.kind == "oci" else ("Container ID:", "Network:")
        assert all(f in text for f in facts) and "k-123" not in text and "hidden" not in text
        r = page(server, sb, "events")
        assert r.headers["Deprecation"] == "true" and "Status:     Running" in r.body.decode()
        assert len(page(server, sb, "events", "?limit=2").body.decode().splitlines()) == 2
        text = page(server, sb, "summary", "?tail=1").body.decode()
        assert text.startswith("=" * 72 + f"\nSANDBOX DIAGNOSTICS SUMMARY\nSandbox ID: {sb}\n" + "=" * 72 + "\n\n" + "-" * 40)
        assert text.endswith("\nLOGS (last 1 lines)\n" + "-" * 40 + "\nbad \ufffd\n")
        assert "hidden" not in text and "[error]" not in text
        for token in server.execd_headers(sb).values():
            assert token not in text
    finally:
        server.delete(sb)


def test_scopes(server, sandbox):
    r = page(server, sandbox, "logs", "?scope=%20Container%20").json()
    assert r == {"sandboxId": sandbox, "kind": "logs", "scope": "container", "delivery": "inline",
                 "contentType": "text/plain; charset=utf-8", "content": "(no logs)", "contentLength": 9, "truncated": False}
    r = page(server, sandbox, "events", "?scope=all&limit=1")
    assert r.headers["Deprecation"] is None
    r = r.json()
    assert r["kind"] == "events" and r["truncated"] and len(r["warnings"]) == 1 and r["content"].startswith("Container:")
    assert r["contentLength"] == len(r["content"].encode())
    for name, scope in (("logs", ""), ("logs", "lifecycle"), ("logs", "runtime"), ("events", "container"), ("events", "x")):
        r = server.request("GET", f"/sandboxes/no-such/diagnostics/{name}?scope={scope}")
        assert r.status == 400 and r.json()["code"] == "DIAGNOSTICS_SCOPE_UNSUPPORTED", r
    assert page(server, sandbox, "logs", "?tail=0&scope=bad").status == 422


def test_refusals(server, sandbox):
    for name in ("logs", "inspect", "events", "summary"):
        r = page(server, "no-such", name)
        assert r.status == 404 and r.json()["code"] == f"{server.runtime.prefix}::SANDBOX_NOT_FOUND"
        assert server.request("GET", f"/v1/sandboxes/{sandbox}/diagnostics/{name}", key=None).status == 401
    for name, query in (("logs", "tail=10001"), ("events", "limit=501"), ("summary", "tail=x"), ("summary", "event_limit=0")):
        r = page(server, sandbox, name, "?" + query)
        assert r.status == 422 and r.json()["detail"][0]["loc"] == ["query", query.split("=")[0]], r


def test_of_the_ended_and_after_a_restart(server):
    sb = server.create(entrypoint=["sh", "-c", "echo last words; sleep 2; exit 3"])["id"]
    try:
        harness.wait_until(lambda: server.get(sb)["status"]["state"] == "Failed", "the end")
        for _ in range(2):
            assert page(server, sb, "logs").body == b"last words"
            text = page(server, sb, "inspect").body.decode()
            assert "Exit Code:      3" in text and "Finished At:" in text
            assert "exited with code 3" in page(server, sb, "events").body.decode()
            server.kill()
            server.start()
    finally:
        server.delete(sb)
