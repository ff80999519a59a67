"""Files, directories and metrics over a real execd: execd.md 6 and 7, Appendix A.6, A.7, A.9 to A.11, compat-1.1.1.md E11 to E13."""
import os
import shutil
import socket
import struct
import threading
import time
import urllib.parse

import pytest

from execd_files import (MULTIPART, download, execd, failed, file, leftovers, meta, mode, multipart, owner, query, upload,  # noqa: F401
                         work)
from execd_follow import Following, Together
from execd_peer import Execd, wait_until

ROOT_USER = os.geteuid() == 0


# ---- upload ----

def test_upload_refusals(execd, work):
    failed(execd.request("POST", "/files/upload", b"x"), 400, "INVALID_FILE", "multipart form is empty")
    failed(execd.request("POST", "/files/upload", b"garbage", headers=MULTIPART), 400, "INVALID_FILE", "multipart form is empty")
    failed(upload(execd, file(b"x")), 400, "INVALID_FILE_METADATA", "metadata file is missing")
    failed(upload(execd, meta(work / "f")), 400, "INVALID_FILE_CONTENT", "file is missing")
    failed(upload(execd, meta(work / "f"), file(b"1"), file(b"2")), 400, "INVALID_FILE",
           "metadata and file count mismatch: 1 vs 2")
    failed(upload(execd, ("metadata", "m", b"{"), file(b"x")), 400, "INVALID_FILE_METADATA", "invalid metadata format.")
    failed(upload(execd, ("metadata", "m", b"[]"), file(b"x")), 400, "INVALID_FILE_METADATA", "invalid metadata format.")
    failed(upload(execd, meta(""), file(b"x")), 400, "INVALID_FILE_METADATA", "metadata path is empty")
    failed(upload(execd, meta(work / "g", mode="rw"), file(b"x")), 400, "INVALID_FILE_METADATA", "mode")
    failed(upload(execd, ("metadata", "m", b" " * 70000), file(b"x")), 400, "INVALID_FILE_METADATA", "longer than")
    failed(upload(execd, meta(work), file(b"x")), 500, "RUNTIME_ERROR", "error opening destination file")
    failed(upload(execd, meta(work / "f" / "g"), file(b"x")), 500, "RUNTIME_ERROR", "error creating target directory")
    assert not leftovers(work)


def test_upload_makes_parents_with_the_owner(execd, work):
    assert upload(execd, meta(work / "a/b/f", owner="nobody", group="nogroup", mode=600), file(b"x")).status == 200
    assert owner(work / "a") == owner(work / "a/b") == owner(work / "a/b/f") == (65534, 65534)
    assert mode(work / "a/b") == 0o755 and mode(work / "a/b/f") == 0o600


def test_upload_keeps_what_is_there(execd, work):
    f = work / "f"
    f.write_bytes(b"old")
    os.chown(f, 1234, 5678)
    os.chmod(f, 0o4711)
    os.link(f, work / "hard")
    os.symlink("f", work / "soft")
    assert upload(execd, meta(work / "soft"), file(b"new and longer")).status == 200
    assert f.read_bytes() == (work / "hard").read_bytes() == b"new and longer" and os.stat(f).st_nlink == 2
    assert owner(f) == (1234, 5678) and os.path.islink(work / "soft")
    os.unlink(work / "hard")
    os.chmod(f, 0o640)
    assert upload(execd, meta(work / "soft"), file(b"short")).status == 200
    assert f.read_bytes() == b"short" and owner(f) == (1234, 5678) and mode(f) == 0o640 and os.path.islink(work / "soft")
    assert not leftovers(work)


def test_upload_through_a_dangling_link(execd, work):
    os.mkdir(work / "d")
    os.symlink("d/target", work / "l")
    assert upload(execd, meta(work / "l"), file(b"x")).status == 200
    assert (work / "d/target").read_bytes() == b"x" and os.path.islink(work / "l")
    os.symlink("loop", work / "loop")
    assert upload(execd, meta(work / "loop"), file(b"x")).status == 500


@pytest.mark.skipif(not ROOT_USER, reason="mounts")
def test_upload_onto_a_mount_point_writes_in_place(execd, work):
    import subprocess
    (work / "source").write_bytes(b"old")
    (work / "f").touch()
    subprocess.run(["mount", "--bind", work / "source", work / "f"], check=True)
    try:
        assert upload(execd, meta(work / "f", mode=600), file(b"new")).status == 200
        assert (work / "source").read_bytes() == b"new" and mode(work / "source") == 0o600
    finally:
        subprocess.run(["umount", work / "f"], check=True)
    assert not leftovers(work)


@pytest.mark.skipif(not ROOT_USER, reason="mounts")
def test_upload_to_a_full_disk(execd, work):
    import subprocess
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", work], check=True)
    try:
        (work / "f").write_bytes(b"old")
        failed(upload(execd, meta(work / "f"), file(bytes(4 << 20))), 500, "RUNTIME_ERROR", "No space left")
        assert (work / "f").read_bytes() == b"old" and not leftovers(work)
        assert upload(execd, meta(work / "f"), file(b"new")).status == 200
    finally:
        subprocess.run(["umount", work], check=True)


@pytest.mark.parametrize("reset", [False, True])
def test_upload_vanishing_client_leaves_nothing(execd, work, reset):
    body = multipart(meta(work / "f"), file(bytes(1 << 20)))
    before = execd.descriptors()
    with socket.create_connection(("127.0.0.1", execd.port)) as s:
        s.sendall(b"POST /files/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body[:600000])
        wait_until(lambda: leftovers(work), "the file is begun")
        if reset:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not leftovers(work), "the file is removed")
    assert list(work.iterdir()) == []
    wait_until(lambda: execd.descriptors() <= before, "descriptors are closed")


def test_upload_chunked_byte_by_byte(execd, work):
    body = multipart(meta(work / "f"), file(b"\r\n--XX-\r\n--X" * 20))
    with socket.create_connection(("127.0.0.1", execd.port), timeout=20) as s:
        s.sendall(b"POST /files/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
                  b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for b in body:
            s.sendall(b"1\r\n%c\r\n" % b)
        s.sendall(b"0\r\n\r\n")
        assert s.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    assert (work / "f").read_bytes() == b"\r\n--XX-\r\n--X" * 20


def test_upload_long_with_files_of_every_size(execd, work):
    """Most of a long body is read by the worker itself; where its reads end must not matter."""
    sizes = [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20, 0, (3 << 20) + 7, 700000, 5]
    files = [os.urandom(n).replace(b"-", b"\r") if i % 2 else os.urandom(n // 16) * 16 + bytes(n % 16) for i, n in enumerate(sizes)]
    parts = [p for i, data in enumerate(files) for p in (meta(work / f"f{i}"), file(data))]
    for _ in range(3):
        assert upload(execd, *parts).status == 200
        assert [(work / f"f{i}").read_bytes() for i in range(len(files))] == files
    assert upload(execd, *parts[::-1], timeout=60).status == 200  # files before their metadata
    assert not leftovers(work)


def test_upload_long_refused_keeps_the_connection(execd, work):
    import http.client
    long = os.urandom(8 << 20)
    c = http.client.HTTPConnection("127.0.0.1", execd.port, timeout=60)
    for parts, status in [((meta(work), file(long)), 500), ((file(long),), 400), ((meta(work / "f"), file(long)), 200)]:
        c.request("POST", "/files/upload", multipart(*parts), MULTIPART)
        r = c.getresponse()
        assert (r.status, bool(r.read())) == (status, status != 200)
    c.close()
    assert (work / "f").read_bytes() == long and not leftovers(work)


def test_many_long_uploads_at_once_beside_stalled_ones(execd, work):
    """Clients that stop in the middle hold no worker."""
    data = os.urandom(6 << 20)
    body = multipart(meta(work / "stalled"), file(data))
    stalled = [socket.create_connection(("127.0.0.1", execd.port)) for _ in range(30)]
    results = {}

    def one(i):
        results[i] = upload(execd, meta(work / f"f{i}"), file(data), timeout=60).status
    try:
        for s in stalled:
            s.sendall(b"POST /files/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body[:2 << 20])
        wait_until(lambda: len(leftovers(work)) == len(stalled), "all are begun")
        threads = [threading.Thread(target=one, args=(i,)) for i in range(30)]
        for t in threads:
            t.start()
        assert execd.request("GET", "/ping").status == 200
        for t in threads:
            t.join()
        assert set(results.values()) == {200} and len(results) == 30
        assert all((work / f"f{i}").read_bytes() == data for i in range(30))
        stalled[0].sendall(body[2 << 20:])
        assert stalled[0].recv(64).startswith(b"HTTP/1.1 200 ")
    finally:
        for s in stalled:
            s.close()
    wait_until(lambda: not leftovers(work), "what was cut off is removed")
    assert (work / "stalled").read_bytes() == data


def resident(execd):
    for line in open(f"/proc/{execd.process.pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


class Generated:
    """A body of `size` bytes that is never held."""

    def __init__(self, head, size, tail):
        self.pieces = [head] + [bytes(1 << 20)] * (size >> 20) + [tail]
        self.size = len(head) + size + len(tail)

    def __iter__(self):
        return iter(self.pieces)


@pytest.mark.bare
def test_large_both_ways_in_little_memory(execd, work):
    size = 1 << 30
    idle = resident(execd)
    peak = [0]
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            peak[0] = max(peak[0], resident(execd))
            stop.wait(0.02)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        whole = multipart(meta(work / "f"), file(b"@@"))
        head, tail = whole.split(b"@@")
        body = Generated(head, size, tail)
        import http.client
        c = http.client.HTTPConnection("127.0.0.1", execd.port, timeout=120)
        c.request("POST", "/files/upload", iter(body), headers={**MULTIPART, "Content-Length": str(body.size)})
        assert c.getresponse().status == 200
        assert os.stat(work / "f").st_size == size
        c, r = execd.open("GET", query("/files/download", path=str(work / "f")), timeout=120)
        got = 0
        while True:
            n = len(r.read(1 << 20))
            if not n:
                break
            got += n
        assert got == size
    finally:
        stop.set()
        watcher.join()
        (work / "f").unlink(missing_ok=True)
    assert peak[0] - idle < 16 * 1024, f"{peak[0]} KiB at the peak, {idle} KiB before"


def test_a_reader_that_stops_stops_the_reading(execd, work):
    with open(work / "f", "wb") as f:
        f.truncate(1 << 30)
    def read_bytes():
        return int(dict(line.split(": ") for line in open(f"/proc/{execd.process.pid}/io").read().splitlines())["rchar"])
    before = read_bytes()
    c, r = execd.open("GET", query("/files/download", path=str(work / "f")))
    assert len(r.read(1000)) == 1000
    last = -1
    def settled():
        nonlocal last
        now, last_now = read_bytes(), last
        last = now
        time.sleep(0.05)
        return now == last_now
    wait_until(settled, "it stops")
    assert read_bytes() - before < 64 << 20
    assert execd.request("GET", "/ping").status == 200
    r.close()
    c.close()
    (work / "f").unlink()


# ---- download ----

def test_download_conditions(execd, work):
    (work / "f").write_bytes(b"0123456789")
    os.utime(work / "f", (1_000_000_000, 1_000_000_000))
    date, earlier, later = "Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:39 GMT", "Mon, 10 Sep 2001 01:46:40 GMT"
    assert download(execd, work / "f").headers["Last-Modified"] == date
    assert download(execd, work / "f", {"If-Modified-Since": date}).status == 304
    assert download(execd, work / "f", {"If-Modified-Since": later}).status == 304
    assert download(execd, work / "f", {"If-Modified-Since": earlier}).status == 200
    assert download(execd, work / "f", {"If-Modified-Since": "rubbish"}).status == 200
    assert download(execd, work / "f", {"If-Unmodified-Since": earlier}).status == 412
    assert download(execd, work / "f", {"If-Unmodified-Since": date}).status == 200
    assert download(execd, work / "f", {"Range": "bytes=0-1", "If-Range": date}).body == b"01"
    assert download(execd, work / "f", {"Range": "bytes=0-1", "If-Range": earlier}).status == 200
    assert download(execd, work / "f", {"Range": "bytes=0-1", "If-Range": '"tag"'}).status == 200


def test_download_refusals(execd, work):
    failed(execd.request("GET", "/files/download"), 400, "MISSING_QUERY", "path")
    failed(download(execd, work / "none"), 404, "FILE_NOT_FOUND")
    failed(download(execd, work), 400, "INVALID_FILE", "not a regular file")
    os.mkfifo(work / "fifo")
    failed(download(execd, work / "fifo"), 400, "INVALID_FILE", "not a regular file")
    os.symlink("loop", work / "loop")
    failed(download(execd, work / "loop"), 500, "RUNTIME_ERROR")
    assert execd.request("HEAD", query("/files/download", path=str(work))).status == 404


def test_download_empty_proc_and_shrinking(execd, work):
    (work / "f").touch()
    r = download(execd, work / "f")
    assert r.body == b"" and r.headers["Content-Length"] == "0"
    assert b"model name" in download(execd, "/proc/cpuinfo").body or download(execd, "/proc/meminfo").body
    assert download(execd, "/proc/self/fd/0").status == 500  # no magic links


@pytest.mark.parametrize("window", [{"offset": 0}, {"limit": 0}, {"offset": -1}, {"limit": "x"}, {"offset": "1.5"}, {"limit": ""}])
def test_e11_refusals(execd, work, window):
    (work / "f").touch()
    failed(download(execd, work / "f", **window), 400, "INVALID_REQUEST_BODY")


def test_e11_with_a_range(execd, work):
    (work / "f").touch()
    failed(download(execd, work / "f", {"Range": "bytes=0-1"}, offset=1), 400, "INVALID_REQUEST_BODY")


def test_e11_large(execd, work):
    lines = [b"line %d" % i for i in range(1, 500001)]
    (work / "f").write_bytes(b"\n".join(lines) + b"\n")
    assert download(execd, work / "f", offset=250000, limit=200000).body == b"\n".join(lines[249999:449999])
    assert download(execd, work / "f", offset=500000).body == lines[-1]


def test_a_name_cannot_break_the_head(execd, work):
    (work / "a\r\nX-Evil: 1").write_bytes(b"x")
    r = download(execd, str(work / "a\r\nX-Evil: 1"))
    assert r.status == 200 and "X-Evil" not in r.headers


# ---- names ----

def test_info(execd, work):
    (work / "f").write_bytes(b"12345")
    os.chmod(work / "f", 0o4750)
    os.symlink("f", work / "l")
    r = execd.request("GET", query("/files/info", path=[str(work / "f"), str(work / "l"), str(work)])).json()
    f = r[str(work / "f")]
    assert set(f) == {"path", "type", "size", "modified_at", "created_at", "owner", "group", "mode"}
    assert (f["type"], f["size"], f["mode"], f["owner"]) == ("file", 5, 750, "root" if ROOT_USER else f["owner"])
    assert (r[str(work / "l")]["type"], r[str(work / "l")]["mode"], r[str(work / "l")]["size"]) == ("symlink", 777, 1)
    assert r[str(work)]["type"] == "directory"
    assert execd.request("GET", "/files/info").json() == {}
    failed(execd.request("GET", query("/files/info", path=[str(work / "f"), str(work / "none")])), 404, "FILE_NOT_FOUND",
           "file not found.")


def test_names_that_are_no_text(execd, work):
    name = os.fsencode(str(work)) + b"/a\xff b"
    open(name, "wb").write(b"x")
    quoted = urllib.parse.quote_from_bytes(name)
    assert execd.request("GET", "/files/download?path=" + quoted).body == b"x"
    listed = execd.request("GET", query("/directories/list", path=str(work))).json()
    assert listed[0]["path"].endswith("/a\ufffd b")
    assert execd.request("DELETE", "/files?path=" + quoted).status == 200 and not os.path.exists(name)


def test_delete(execd, work):
    for n in "abc":
        (work / n).touch()
    os.symlink("nowhere", work / "dangling")
    os.symlink(".", work / "to_dir")
    assert execd.request("DELETE", query("/files", path=[str(work / "a"), str(work / "none"), str(work / "dangling")])).status == 200
    assert not os.path.lexists(work / "a") and not os.path.lexists(work / "dangling")
    failed(execd.request("DELETE", query("/files", path=[str(work), str(work / "b")])), 500, "RUNTIME_ERROR", "path is a directory")
    failed(execd.request("DELETE", query("/files", path=str(work / "to_dir"))), 500, "RUNTIME_ERROR", "path is a directory")
    assert (work / "b").exists() and execd.request("DELETE", "/files").status == 200


def test_move(execd, work):
    (work / "a").write_bytes(b"a")
    (work / "d").mkdir()
    move = lambda *pairs: execd.request("POST", "/files/mv", [{"src": str(work / s), "dest": str(work / d)} for s, d in pairs])
    r = move(("a", "n/m/b"), ("d", "n/d"))
    assert r.status == 200 and r.body == b"" and (work / "n/m/b").read_bytes() == b"a" and (work / "n/d").is_dir()
    assert mode(work / "n/m") == 0o755
    failed(move(("none", "x")), 404, "FILE_NOT_FOUND")
    (work / "c").write_bytes(b"c")
    failed(move(("c", "n/m/b")), 500, "RUNTIME_ERROR", "destination path already exists")
    failed(execd.request("POST", "/files/mv", [{"src": str(work / "c"), "dest": "/"}]), 500, "RUNTIME_ERROR")
    assert (work / "c").exists() and (work / "n/m/b").read_bytes() == b"a"
    failed(execd.request("POST", "/files/mv", {"src": "x"}), 400, "INVALID_REQUEST_BODY")
    failed(execd.request("POST", "/files/mv", [{"src": 1}]), 400, "INVALID_REQUEST_BODY")
    failed(execd.request("POST", "/files/mv", b"[{"), 400, "INVALID_REQUEST_BODY")


def test_permissions(execd, work):
    f = work / "f"
    f.touch()
    set_to = lambda **m: execd.request("POST", "/files/permissions", {str(f): m})
    assert set_to(mode=755).status == 200 and mode(f) == 0o755
    assert set_to(mode=7777).status == 200 and mode(f) == 0o777
    assert set_to(mode=600, owner="nobody", group="nogroup").status == 200 and owner(f) == (65534, 65534) and mode(f) == 0o600
    assert set_to(mode=644, owner=None, group=None).status == 200 and owner(f) == (65534, 65534) and mode(f) == 0o644
    assert set_to(owner="1234", group="5678").status == 200 and owner(f) == (1234, 5678)
    assert set_to(owner="nosuchuser").status == 200 and owner(f) == (1234, 5678)
    failed(set_to(mode=888), 500, "RUNTIME_ERROR")
    failed(set_to(mode=-1), 500, "RUNTIME_ERROR")
    failed(set_to(mode="755"), 400, "INVALID_REQUEST_BODY", "mode")
    failed(set_to(owner=5), 400, "INVALID_REQUEST_BODY", "owner")
    failed(execd.request("POST", "/files/permissions", {str(work / "none"): {"mode": 644}}), 500, "FILE_NOT_FOUND")
    failed(execd.request("POST", "/files/permissions", [1]), 400, "INVALID_REQUEST_BODY")
    assert execd.request("POST", "/files/permissions", {str(f): {"MODE": 600, "unknown": 1}}).status == 200 and mode(f) == 0o600


def test_search(execd, work):
    for p in ["b/2.txt", "a/z/1.txt", "a/3.txt", ".h/4.txt", "5.log"]:
        (work / p).parent.mkdir(parents=True, exist_ok=True)
        (work / p).touch()
    os.symlink("a", work / "link.txt")
    found = lambda **q: [i["path"] for i in execd.request("GET", query("/files/search", **q)).json()]
    assert found(path=str(work), pattern="*.txt") == [str(work / p) for p in
                                                     [".h/4.txt", "a/3.txt", "a/z/1.txt", "b/2.txt", "link.txt"]]
    assert len(found(path=str(work))) == 6 and found(path=str(work / "link.txt"), pattern="*") == [str(work / "link.txt")]
    assert found(path=str(work / "5.log")) == [str(work / "5.log")] and found(path=str(work), pattern="nothing") == []
    failed(execd.request("GET", "/files/search?pattern=*"), 400, "MISSING_QUERY", "missing query parameter 'path'")
    failed(execd.request("GET", query("/files/search", path=str(work / "none"))), 404, "FILE_NOT_FOUND")


def test_replace(execd, work):
    f, g = work / "f", work / "g"
    f.write_bytes(b"aXbXc")
    os.chmod(f, 0o640)
    g.write_bytes(b"none")
    before = os.stat(g).st_mtime_ns
    replace = lambda body, tail="?verbose=true": execd.request("POST", "/files/replace" + tail, body)
    r = replace({str(f): {"old": "X", "new": "--"}, str(g): {"old": "X", "new": ""}})
    assert r.json() == {str(f): {"replacedCount": 2}, str(g): {"replacedCount": 0}}
    assert f.read_bytes() == b"a--b--c" and mode(f) == 0o640 and os.stat(g).st_mtime_ns == before
    assert replace({str(f): {"old": "--"}}, "").body == b"" and f.read_bytes() == b"abc"
    assert replace({str(f): {"old": "b", "new": "B"}}, "?verbose=1").body == b""
    failed(replace({str(f): {"old": "", "new": "x"}}), 400, "INVALID_REQUEST_BODY", "old content must not be empty")
    failed(replace({str(work / "none"): {"old": "a", "new": "x"}}), 404, "FILE_NOT_FOUND")
    failed(replace({str(work): {"old": "a", "new": "x"}}), 500, "RUNTIME_ERROR")
    f.write_bytes(b"aaaaa")
    assert replace({str(f): {"old": "aa", "new": "a"}}).json()[str(f)]["replacedCount"] == 2 and f.read_bytes() == b"aaa"
    assert not leftovers(work)


def test_replace_across_reads(execd, work):
    f = work / "f"
    word = b"needle in the hay"
    data = bytearray(os.urandom(700_000).replace(b"n", b"m"))
    for at in [0, 131072 - 5, 262144 - len(word), 393216 - 1, 524288, len(data) - len(word)]:
        data[at:at + len(word)] = word
    f.write_bytes(data)
    r = execd.request("POST", "/files/replace?verbose=true", {str(f): {"old": word.decode(), "new": "X"}})
    assert r.json()[str(f)]["replacedCount"] == 6 and f.read_bytes() == bytes(data).replace(word, b"X")


def test_directories(execd, work):
    make = lambda body: execd.request("POST", "/directories", body)
    assert make({str(work / "a/b"): {"mode": 700}, str(work / "c"): {"mode": 0}}).status == 200
    assert mode(work / "a/b") == 0o700 and mode(work / "a") == 0o755 and mode(work / "c") == 0o755
    assert make({str(work / "a/b"): {"mode": 750, "owner": "nobody"}}).status == 200 and mode(work / "a/b") == 0o750
    (work / "f").touch()
    os.symlink("a", work / "l")
    assert make({str(work / "l/x"): {}}).status == 200 and (work / "a/x").is_dir()
    failed(make({str(work / "f"): {}}), 500, "RUNTIME_ERROR", "not a directory".capitalize())
    listed = lambda **q: execd.request("GET", query("/directories/list", path=str(work), **q)).json()
    assert [i["path"] for i in listed()] == [str(work / n) for n in "acfl"] and listed(depth=0) == []
    assert [i["path"] for i in listed(depth=2)] == [str(work / n) for n in ["a", "a/b", "a/x", "c", "f", "l"]]
    failed(execd.request("GET", "/directories/list"), 400, "MISSING_QUERY")
    failed(execd.request("GET", query("/directories/list", path=str(work), depth="x")), 400, "INVALID_REQUEST_BODY",
           "invalid query parameter 'depth': x")
    failed(execd.request("GET", query("/directories/list", path=str(work), depth=-1)), 400, "INVALID_REQUEST_BODY")
    failed(execd.request("GET", query("/directories/list", path=str(work / "none"))), 404, "FILE_NOT_FOUND")
    failed(execd.request("GET", query("/directories/list", path=str(work / "l") + "/")), 400, "INVALID_REQUEST_BODY",
           "path is a symbolic link, refusing to traverse: ")
    failed(execd.request("GET", query("/directories/list", path=str(work / "f"))), 400, "INVALID_REQUEST_BODY",
           "path is not a directory: ")
    remove = lambda *paths: execd.request("DELETE", query("/directories", path=[str(p) for p in paths]))
    assert remove(work / "a", work / "f", work / "none", "").status == 200
    assert sorted(os.listdir(work)) == ["c", "l"]
    failed(remove("/"), 400, "INVALID_REQUEST_BODY", "root directory")
    failed(remove("$UNDEFINED_NAME"), 500, "RUNTIME_ERROR", "UNDEFINED_NAME")


# ---- another user (E13) ----

NOBODY = "/v1/filesystem/65534/65534"


@pytest.mark.skipif(not ROOT_USER, reason="needs root to switch")
def test_e13_the_kernel_decides(execd, work):
    execd.tmp.chmod(0o755)
    os.chmod(work, 0o777)
    (work / "secret").write_bytes(b"root's")
    os.chmod(work / "secret", 0o600)
    for reply in [download(execd, work / "secret", prefix=NOBODY),
                  execd.request("POST", NOBODY + "/files/permissions", {str(work / "secret"): {"mode": 666}}),
                  execd.request("POST", NOBODY + "/files/replace", {str(work / "secret"): {"old": "r", "new": "x"}}),
                  execd.request("POST", NOBODY + "/directories", {"/root/x": {}}),
                  upload(execd, meta("/etc/x-execd-test"), file(b"x"), prefix=NOBODY),
                  upload(execd, meta(work / "secret"), file(b"x"), prefix=NOBODY)]:
        assert reply.status >= 400 and "permission" in reply.json()["message"].lower(), reply
    assert (work / "secret").read_bytes() == b"root's" and mode(work / "secret") == 0o600
    assert upload(execd, meta(work / "mine"), file(b"x"), prefix=NOBODY).status == 200
    assert owner(work / "mine") == (65534, 65534)
    assert download(execd, work / "mine", {"Range": "bytes=0-0"}, prefix=NOBODY).status == 206
    assert upload(execd, file(b"early"), meta(work / "late"), prefix=NOBODY).status == 200
    assert owner(work / "late") == (65534, 65534)
    os.chmod(work / "mine", 0o666)
    os.chmod(work, 0o755)  # a file that may be written in a directory that may not
    assert upload(execd, meta(work / "mine"), file(b"again"), prefix=NOBODY).status == 200
    assert (work / "mine").read_bytes() == b"again"
    os.chmod(work, 0o777)
    r = upload(execd, meta(work / "given", owner="root"), file(b"x"), prefix=NOBODY)
    assert r.status >= 400 and owner(work / "given")[0] == 65534
    # and execd is root again, on each of its threads
    for _ in range(16):
        assert download(execd, work / "secret").body == b"root's"


@pytest.mark.skipif(not ROOT_USER, reason="needs root to switch")
def test_e13_groups_home_and_ids(execd, work):
    execd.tmp.chmod(0o755)
    (work / "g").write_bytes(b"group")
    os.chown(work / "g", 0, 4242)
    os.chmod(work / "g", 0o640)
    assert download(execd, work / "g", prefix="/v1/filesystem/4242/4242").status == 200
    assert download(execd, work / "g", prefix="/v1/filesystem/4242/4243").status >= 400
    os.chown(work / "g", 0, 0)
    assert download(execd, work / "g", prefix="/v1/filesystem/4242/4243").status >= 400  # root's groups are not inherited
    info = execd.request("GET", query("/v1/filesystem/4242/4242/files/info", path=["~", "etc"])).json()
    assert info["~"]["path"] == "/" and info["etc"]["path"] == "/etc"
    assert execd.request("GET", query("/v1/filesystem/4242/4242/files/info", path="$HOME")).status == 500
    for bad in ["x/1", "-1/0", "4294967295/0", "1/4294967296", "1.5/1"]:
        assert execd.request("GET", f"/v1/filesystem/{bad}/files/info?path=/").status == 400, bad


# ---- metrics ----

def test_metrics(execd):
    began = time.monotonic()
    m = execd.request("GET", "/metrics").json()
    assert time.monotonic() - began < 0.5
    assert set(m) == {"cpu_count", "cpu_used_pct", "mem_total_mib", "mem_used_mib", "timestamp"}
    assert m["cpu_count"] > 0 and 0 <= m["cpu_used_pct"] <= 100 and 0 < m["mem_used_mib"] <= m["mem_total_mib"]
    assert abs(m["timestamp"] / 1000 - time.time()) < 5


def test_metrics_watch(execd):
    c, r = execd.open("GET", "/metrics/watch")
    assert r.status == 200 and r.headers["Content-Type"] == "text/event-stream"
    events = iter(Following(c, r))
    first, second = next(events), next(events)
    assert 800 <= second["timestamp"] - first["timestamp"] <= 3000 and set(first) == set(second)
    r.close()
    c.close()


# ---- watch ----

class Watch:
    def __init__(self, execd, path, **more):
        self.run = Following(*execd.open("GET", query("/files/watch", path=str(path), **more)))
        assert self.run.status == 200
        self.events = iter(self.run)
        first = next(self.events)
        assert first["type"] == "init" and first["text"] == str(path)

    def changes(self, until):
        """Kinds and names up to the first change that `until` accepts."""
        seen = []
        for e in self.events:
            if e["type"] == "ping":
                continue
            seen.append(e)
            if until(e):
                return seen
        raise AssertionError(f"ended: {seen}")


def test_watch_a_directory(execd, work):
    w = Watch(execd, work)
    (work / "f").write_bytes(b"x")
    os.rename(work / "f", work / "g")
    os.unlink(work / "g")
    seen = w.changes(lambda e: e.get("kind") == "deleted")
    kinds = [(e["kind"], os.path.basename(e["path"])) for e in seen]
    assert kinds == [("created", "f"), ("modified", "f"), ("closed", "f"), ("moved", "g"), ("deleted", "g")]
    assert seen[3]["from"] == str(work / "f") and not seen[3]["directory"] and all("timestamp" in e for e in seen)
    w.run.close()


def test_watch_a_tree(execd, work):
    (work / "a/b").mkdir(parents=True)
    w = Watch(execd, work, recursive="true")
    (work / "a/b/f").touch()
    w.changes(lambda e: e["path"] == str(work / "a/b/f"))
    os.makedirs(work / "n/m/o")
    (work / "n/m/o/f").touch()
    w.changes(lambda e: e["path"] == str(work / "n/m/o/f"))
    os.rename(work / "n", work / "a/moved")
    e = w.changes(lambda e: e.get("kind") == "moved")[-1]
    assert e["path"] == str(work / "a/moved") and e["from"] == str(work / "n") and e["directory"]
    (work / "a/moved/m/o/g").touch()
    w.changes(lambda e: e["path"] == str(work / "a/moved/m/o/g"))
    os.rename(work / "a/moved", work.parent / (work.name + "-out"))
    e = w.changes(lambda e: e.get("kind") == "deleted")[-1]
    assert e["path"] == str(work / "a/moved")
    (work.parent / (work.name + "-out") / "m/unseen").touch()
    (work / "last").touch()
    assert all("unseen" not in e["path"] for e in w.changes(lambda e: e["path"] == str(work / "last")))
    w.run.close()


def test_watch_a_file_and_its_end(execd, work):
    (work / "f").touch()
    w = Watch(execd, work / "f")
    with open(work / "f", "a") as f:
        f.write("x")
    assert w.changes(lambda e: e.get("kind") == "closed")[-1]["path"] == str(work / "f")
    os.unlink(work / "f")
    rest = [e for e in w.events if e["type"] != "ping"]
    assert rest[-1]["type"] == "error" and rest[-1]["error"]["ename"] == "FILE_NOT_FOUND"
    w.run.close()


def test_watch_refusals_and_end(execd, work):
    failed(execd.request("GET", "/files/watch"), 400, "MISSING_QUERY")
    failed(execd.request("GET", query("/files/watch", path=str(work / "none"))), 404, "FILE_NOT_FOUND")
    before = execd.descriptors()
    watches = [Watch(execd, work, recursive="1") for _ in range(5)]
    for w in watches:
        w.run.close()
    (work / "f").touch()
    wait_until(lambda: execd.descriptors() <= before, "descriptors are closed")


def test_watch_overflow_is_told(execd, work):
    """A client that does not read, more changes than the kernel's queue holds."""
    limit = int(open("/proc/sys/fs/inotify/max_queued_events").read())
    w = Watch(execd, work)
    a, b = work / "a", work / ("b" * 200)
    a.touch()
    for _ in range(limit * 2):
        os.rename(a, b)
        os.rename(b, a)
    assert execd.request("GET", "/ping").status == 200
    assert w.changes(lambda e: e["type"] == "overflow")[-1]["type"] == "overflow"
    w.run.close()


# ---- names that change meanwhile (wishes.md, class 13) ----

def test_symlink_races(execd, work):
    """A directory and a link to one outside change places while files are read, listed, searched and removed below."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    outside, inside, bait = work / "outside", work / "inside", work / "bait"
    for d in (outside, inside, inside / "victim"):
        d.mkdir()
    (outside / "canary").write_bytes(b"canary")
    (inside / "victim" / "f").write_bytes(b"mine")
    os.symlink(outside, inside / "evil")
    pairs = [(os.fsencode(d / "victim"), os.fsencode(d / "evil")) for d in (inside, bait)]
    stop, swaps = threading.Event(), [0]

    def swap():
        while not stop.is_set():
            for a, b in pairs:  # RENAME_EXCHANGE; the bait is not always there
                swaps[0] += libc.renameat2(-100, a, -100, b, 2) == 0
    swapper = Together(swap)
    rounds = 0
    try:
        end = time.monotonic() + (2 if os.environ.get("CHECK_SHORT") == "1" else 6)
        while time.monotonic() < end or rounds <= 20 or swaps[0] <= 100:
            listed = execd.request("GET", query("/directories/list", path=str(inside), depth=3))
            assert listed.status in (200, 500) and b"canary" not in listed.body
            found = execd.request("GET", query("/files/search", path=str(inside), pattern="canary"))
            assert found.status == 200 and found.json() == []
            got = download(execd, inside / "victim" / "f")
            assert got.status == 404 or got.body == b"mine", got
            (bait / "victim").mkdir(parents=True)
            for n in range(20):
                (bait / "victim" / str(n)).touch()
            os.symlink(outside, bait / "evil")
            assert execd.request("DELETE", query("/directories", path=str(bait))).status in (200, 500)
            assert (outside / "canary").read_bytes() == b"canary"
            while os.path.lexists(bait):  # its links are still being swapped
                shutil.rmtree(bait, ignore_errors=True)
            rounds += 1
    finally:
        stop.set()
        swapper.result()
    assert execd.request("GET", "/ping").status == 200


def test_many_at_once_and_nothing_left(execd, work):
    before = execd.descriptors()

    def one(i):
        for n in range(20):
            p = work / f"{i}-{n}"
            assert upload(execd, meta(p), file(b"%d" % i * 1000)).status == 200
            assert download(execd, p).body == b"%d" % i * 1000
            assert execd.request("DELETE", query("/files", path=str(p))).status == 200
    for t in [Together(one, i) for i in range(16)]:
        t.result(60)
    assert list(work.iterdir()) == []
    wait_until(lambda: execd.descriptors() <= before, "descriptors are closed")


def test_end_in_the_middle_of_everything(work):
    """SIGTERM while streams, a stalled download and half an upload are open: it goes by itself, nothing left behind."""
    with open(work / "big", "wb") as f:
        f.truncate(1 << 30)
    with Execd(token="") as e:
        streams = [e.open("GET", query("/files/watch", path=str(work), recursive="1")), e.open("GET", "/metrics/watch"),
                   e.open("GET", query("/files/download", path=str(work / "big")))]
        for _, response in streams:
            assert response.status == 200
        body = multipart(meta(work / "f"), file(bytes(1 << 20)))
        with socket.create_connection(("127.0.0.1", e.port)) as s:
            s.sendall(b"POST /files/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body[:600000])
            wait_until(lambda: leftovers(work), "the file is begun")
            e.process.terminate()
            assert e.process.wait(15) == 0, e.output()
        for connection, response in streams:
            response.close()
            connection.close()
        assert "left open" not in e.output() and "ERROR" not in e.output(), e.output()
    assert not leftovers(work)
