"""How tests of files talk to execd, and the fixtures they share."""
import json
import os
import pathlib
import stat
import urllib.parse

import pytest

from execd_peer import Execd


@pytest.fixture(scope="module")
def execd(tmp_path_factory):
    cwd = str(tmp_path_factory.mktemp("w"))
    with Execd(token="", env={"TZ": "UTC", "HOME": "/root"}, cwd=cwd) as e:
        e.cwd = cwd
        yield e


@pytest.fixture
def work(execd, request):
    d = execd.tmp / request.node.name.split("[")[0]
    for n in range(1000):
        p = d.with_name(f"{d.name}-{n}")
        if not p.exists():
            p.mkdir()
            return p
    raise AssertionError("no directory")


def query(route, /, **values):
    return route + "?" + urllib.parse.urlencode(values, doseq=True)


def multipart(*parts):
    """parts: (name, filename or None, bytes)"""
    out = b""
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        out += b"--XX\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"
    return out + b"--XX--\r\n"


def meta(path, **more):
    return ("metadata", "metadata", json.dumps({"path": str(path), **more}).encode())


def file(data, name="x"):
    return ("file", name, data)


MULTIPART = {"Content-Type": "multipart/form-data; boundary=XX"}


def upload(execd, *parts, prefix="", **kw):
    return execd.request("POST", prefix + "/files/upload", multipart(*parts), headers=MULTIPART, **kw)


def download(execd, path, headers=None, prefix="", **values):
    return execd.request("GET", query(prefix + "/files/download", path=str(path), **values), headers=headers)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def owner(path):
    s = os.stat(path)
    return s.st_uid, s.st_gid


def leftovers(directory):
    return [p for p in pathlib.Path(directory).rglob("*") if p.name.startswith(".opensandbox-")]


def failed(reply, status, code, text=""):
    assert reply.status == status, reply
    body = reply.json()
    assert body["code"] == code and text in body["message"], body
