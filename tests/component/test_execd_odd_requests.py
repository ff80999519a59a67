"""Requests at the edges of the contract: null for a zero value, wrong types, names that are no text, ranges of nothing."""
import os
import shutil
import urllib.parse

import pytest

from execd_files import download, execd, failed, file, meta, mode, query, upload, work  # noqa: F401
from execd_peer import Execd


def test_null_is_the_zero_value(execd, work):
    assert execd.stdout("echo [$A] [$B]", envs={"A": None, "B": "b"}) == "[] [b]\n"
    assert execd.stdout(["printf", "[%s]", None, "x"]) == "[][x]"
    assert execd.request("POST", "/files/mv", "null").status == 200
    os.chmod(work, 0o711)
    assert execd.request("POST", "/files/permissions", {str(work): None}).status == 200 and mode(work) == 0o711
    assert execd.request("POST", "/directories", {str(work / "new"): None}).status == 200 and (work / "new").is_dir()
    failed(execd.request("POST", "/files/mv", {"src": "a", "dest": "b"}), 400, "INVALID_REQUEST_BODY", "an array is expected")


@pytest.mark.parametrize("item", [{"old": "5", "new": 7}, {"old": 5, "new": "x"}, {"old": ["5"]}, "5", 5, []])
def test_replace_of_a_wrong_type_changes_nothing(execd, work, item):
    first, f = work / "a", work / "f"
    first.write_text("5")
    f.write_text("456")
    body = {str(first): {"old": "5", "new": "five"}, str(f): item}
    failed(execd.request("POST", "/files/replace", body), 400, "INVALID_REQUEST_BODY", "must be strings")
    assert f.read_text() == "456" and first.read_text() == "5"


def test_replace_of_a_long_text(execd, work):
    f, old = work / "f", "0123456789abcdef" * 100_000
    f.write_text("<" + old + ">" + old[1:] + "|" + old)
    r = execd.request("POST", "/files/replace?verbose=true", {str(f): {"old": old, "new": "-"}})
    assert r.json() == {str(f): {"replacedCount": 2}} and f.read_text() == "<->" + old[1:] + "|-"


def test_info_of_a_name_that_is_no_text(execd, work):
    name = os.fsencode(str(work)) + b"/a\xff\n"
    open(name, "wb").write(b"x")
    shown = os.fsdecode(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    r = execd.request("GET", "/files/info?path=" + urllib.parse.quote_from_bytes(name))
    assert r.status == 200 and r.json()[shown]["path"] == shown and r.json()[shown]["size"] == 1


def test_depth_has_no_end_of_its_own(execd, work):
    (work / "a/b/c").mkdir(parents=True)
    listed = execd.request("GET", query("/directories/list", path=str(work), depth=99_999_999_999)).json()
    assert [i["path"] for i in listed] == [str(work / p) for p in ("a", "a/b", "a/b/c")]


def test_the_end_of_an_empty_file_is_no_range(execd, work):
    (work / "f").touch()
    for text in ("bytes=-5", "bytes=0-", "bytes=0-0"):
        r = download(execd, work / "f", {"Range": text})
        failed(r, 416, "UNKNOWN")
        assert r.headers["Content-Range"] == "bytes */0"


def test_if_range_is_exact(execd, work):
    (work / "f").write_bytes(b"0123456789")
    os.utime(work / "f", (1_000_000_000, 1_000_000_000))
    assert download(execd, work / "f", {"Range": "bytes=0-1", "If-Range": "Sun, 09 Sep 2001 01:46:40 GMT"}).status == 206
    assert download(execd, work / "f", {"Range": "bytes=0-1", "If-Range": "Sun, 09 Sep 2001 01:46:41 GMT"}).status == 200


@pytest.mark.parametrize("body", [{"command": "true", "envs": {f"V{i}": "x" for i in range(9000)}}, {"command": "true", "envs": {f"V{i}": "x" * 1000 for i in range(3000)}},
                                  {"argv": ["true"] + ["x" * 1000] * 3000}])
def test_more_than_a_program_can_be_given(execd, body):
    r = execd.request("POST", "/command", body)
    assert r.status == 400 and r.json()["code"] == "INVALID_REQUEST_BODY" and "memory" not in r.json()["message"], r.body
    assert execd.stdout("echo ${#A}", envs={"A": "x" * 100_000}) == "100000\n"


def test_an_env_file_with_too_many_lines_is_named(tmp_path):
    envs = tmp_path / "envs"
    envs.write_text("".join(f"V{i}=x\n" for i in range(9000)))
    with Execd(env={"EXECD_ENVS": str(envs)}) as e:
        failed(e.request("POST", "/command", {"command": "true"}), 400, "INVALID_REQUEST_BODY", "more than 8192 variables")
        envs.write_text("A=1\n")
        assert e.stdout("echo $A") == "1\n"


def test_a_missing_tmpdir_is_made(tmp_path):
    with Execd(token="", env={"TMPDIR": str(tmp_path / "a/b")}) as e:
        assert e.stdout("mktemp -d").startswith(str(tmp_path / "a/b"))
        shutil.rmtree(tmp_path / "a")
        assert upload(e, file(b"content"), meta(tmp_path / "f")).status == 200  # waits in a spool for its metadata
        assert (tmp_path / "f").read_bytes() == b"content"
