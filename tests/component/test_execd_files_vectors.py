"""Vectors of execd.md, Appendix A.6, A.7 and A.9 to A.11, and the lines of compat-1.1.1.md E11, one test each."""
import json
import os

import pytest
from execd_files import download, execd, failed, file, leftovers, meta, mode, owner, query, upload, work  # noqa: F401


# ---- A.6 globs ----

NAMES = ["a.txt", "b.log", ".env", "x[1].md", "a!b", "ünï.txt", "AB", "q*", "z-1", "z"]
ALL = set(NAMES)
GLOBS = [
    ("*", ALL), ("**", ALL), ("***", ALL), ("{,.}*", ALL),
    ("?", {"z"}), ("??", {"AB", "q*"}),
    ("*.txt", {"a.txt", "ünï.txt"}), ("**/*.txt", {"a.txt", "ünï.txt"}), ("**txt", {"a.txt", "ünï.txt"}),
    ("a/**", set()),
    ("[a-b]*", {"a!b", "a.txt", "b.log"}), ("[!a]*", ALL - {"a.txt", "a!b"}), ("[^a]*", ALL - {"a.txt", "a!b"}),
    ("[a-]*", {"a!b", "a.txt"}), ("[z-a]*", {"z", "z-1"}),
    ("{a,b}.*", {"a.txt", "b.log"}), ("z{,-1}", {"z", "z-1"}),
    ("x\\[1\\]*", {"x[1].md"}), ("x[[]1]*", {"x[1].md"}), ("q\\*", {"q*"}),
    ("!(a*)", ALL - {"a!b", "a.txt"}), ("*!(txt)", ALL - {"a.txt", "ünï.txt"}), ("!(a*|b*)", ALL),
    ("{a,b", None), ("*[", None), ("[]", None), ("\\", None), ("a!b", None),
]


@pytest.fixture(scope="module")
def globs(execd):
    d = execd.tmp / "globs"
    d.mkdir()
    for n in NAMES:
        (d / n).touch()
    return d


@pytest.mark.parametrize("pattern,expected", GLOBS)
def test_a6_glob(execd, globs, pattern, expected):
    r = execd.request("GET", query("/files/search", path=str(globs), pattern=pattern))
    if expected is None:
        failed(r, 500, "RUNTIME_ERROR", "syntax error in pattern")
    else:
        found = [os.path.basename(i["path"]) for i in r.json()]
        assert set(found) == expected and found == sorted(found, key=str.encode)


# ---- A.7 path expansion ----

A7 = [
    ("$HOME/x", "/root/x"), ("${HOME}x", "/rootx"), ("~", "/root"), ("~/", "/root"), ("~root", "/w/~root"), ("~/../x", "/x"),
    ("$1a", "/w/a"), ("a$", "/w/a$"), ("a${", "/w/a"), ("a${}b", "/w/ab"), ("$-x", "/w/x"), ("a\\$HOME", "/w/a\\/root"),
    ("$HOME_", "HOME_"), ("a$$b", "b"), ("/a//b/./c/", "/a/b/c"),
]


@pytest.mark.parametrize("given,expected", A7)
def test_a7_path(execd, given, expected):
    cwd = execd.cwd
    r = execd.request("GET", query("/files/info", path=given))
    if not expected.startswith("/"):
        failed(r, 500, "RUNTIME_ERROR", f"path references undefined environment variables: {expected}")
        return
    expected = expected.replace("/w", cwd, 1) if expected.startswith("/w/") else expected
    if os.path.lexists(expected):
        assert r.json()[given]["path"] == expected
    else:
        failed(r, 404, "FILE_NOT_FOUND", expected)


# ---- A.9 ranges ----

A9 = [
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"), ("bytes=-3", 206, b"789", "bytes 7-9/10"), ("bytes=8-", 206, b"89", "bytes 8-9/10"),
    ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"), ("bytes=0-1,4-5", 206, b"01", "bytes 0-1/10"),
    ("bytes=0-9223372036854775807", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=50-60", 416, None, "bytes */10"), ("bytes=5-2", 416, None, "bytes */10"), ("items=0-1", 416, None, "bytes */10"),
    ("bytes=foo", 416, None, "bytes */10"), ("bytes=", 200, b"0123456789", None), ("bytes=-0", 206, b"", "bytes 10-9/10"),
]


@pytest.mark.parametrize("given,status,body,content_range", A9)
def test_a9_range(execd, work, given, status, body, content_range):
    (work / "f").write_bytes(b"0123456789")
    r = download(execd, work / "f", {"Range": given})
    assert r.status == status and r.headers.get("Content-Range") == content_range
    if body is None:
        failed(r, 416, "UNKNOWN")
    else:
        assert r.body == body and int(r.headers["Content-Length"]) == len(body)


# ---- A.10 Content-Disposition ----

A10 = [
    ("test.txt", 'attachment; filename="test.txt"'), ("my file.txt", 'attachment; filename="my file.txt"'),
    ("测试文件.txt", 'attachment; filename="%E6%B5%8B%E8%AF%95%E6%96%87%E4%BB%B6.txt"; '
                 "filename*=UTF-8''%E6%B5%8B%E8%AF%95%E6%96%87%E4%BB%B6.txt"),
]


@pytest.mark.parametrize("name,expected", A10)
def test_a10_disposition(execd, work, name, expected):
    (work / name).write_bytes(b"x")
    r = download(execd, work / name)
    assert r.body == b"x" and r.headers["Content-Disposition"] == expected
    assert r.headers["Content-Type"] == "application/octet-stream" and r.headers["Accept-Ranges"] == "bytes"


# ---- A.11 upload permissions ----

A11 = [
    ({}, 200, 0o755, None), ({"mode": 755, "owner": None, "group": None}, 200, 0o755, None),
    ({"mode": 640, "owner": "nobody", "group": "nogroup"}, 200, 0o640, (65534, 65534)), ({"mode": 4755}, 200, 0o755, None),
    ({"mode": 888}, 500, None, None), ({"mode": -1}, 500, None, None), ({"owner": "nosuchuser"}, 200, 0o755, None),
]


@pytest.mark.parametrize("permissions,status,bits,ids", A11)
def test_a11_upload(execd, work, permissions, status, bits, ids):
    r = upload(execd, meta(work / "f", **permissions), file(b"content"))
    assert r.status == status, r
    assert (work / "f").read_bytes() == b"content" and not leftovers(work)
    if status == 200:
        assert r.body == b"" and mode(work / "f") == bits and owner(work / "f") == (ids or (os.geteuid(), os.getegid()))


@pytest.mark.parametrize("order", ["mfmf", "mmff", "fmfm", "ffmm", "fmmf", "mffm"])
def test_a11_pairs_by_index(execd, work, order):
    parts, m, f = [], iter("ab"), iter("ab")
    for kind in order:
        parts.append(meta(work / next(m)) if kind == "m" else file(next(f).encode() * 1000))
    assert upload(execd, *parts).status == 200
    assert (work / "a").read_bytes() == b"a" * 1000 and (work / "b").read_bytes() == b"b" * 1000 and not leftovers(work)


def test_a11_metadata_without_filename(execd, work):
    part = ("metadata", None, json.dumps({"path": str(work / "f")}).encode())
    failed(upload(execd, part, file(b"x")), 400, "INVALID_FILE_METADATA", "metadata file is missing")


# ---- E11 windows of lines ----

LINES = [
    (b"original\nsecond line\n", {"offset": 2, "limit": 1}, b"second line"), (b"a\nb\nc", {"offset": 2}, b"b\nc"),
    (b"a\nb\nc", {"limit": 2}, b"a\nb"), (b"a\r\nb\r\r\n", {"offset": 1}, b"a\nb"), (b"a\n", {"offset": 9}, b""),
    (b"a\n\nb\n", {"offset": 1}, b"a\n\nb"), (b"", {"limit": 1}, b""),
]


@pytest.mark.parametrize("content,window,expected", LINES)
def test_e11_lines(execd, work, content, window, expected):
    (work / "f").write_bytes(content)
    r = download(execd, work / "f", **window)
    assert r.status == 200 and r.body == expected and r.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "Content-Length" not in r.headers and "Content-Disposition" not in r.headers
