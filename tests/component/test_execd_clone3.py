"""EXECD_CLONE3_COMPAT: clone3 fails with ENOSYS in what execd starts, and execd goes on without it (execd.md 1.8)."""
import errno
import platform
import subprocess

import pytest

from execd_peer import BINARY, Execd, wait_until

# clone3(NULL, 0) is EINVAL where it exists, so nothing is made by asking
CALL = """exec python3 -c '
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(435, None, 0), ctypes.get_errno())'"""
PRIVILEGES = "grep NoNewPrivs /proc/self/status"


def answers(e, script):
    return e.stdout(script).strip()


@pytest.mark.parametrize("value", ["", "0", "False", " off ", "no"])
def test_off(value):
    with Execd(env={"EXECD_CLONE3_COMPAT": value}) as e:
        assert answers(e, CALL) == f"-1 {errno.EINVAL}"
        assert answers(e, PRIVILEGES).split()[1] == "0"


@pytest.mark.parametrize("value", ["1", " TRUE\n", "yes", "on", "reexec"])
def test_on(value):
    with Execd(env={"EXECD_CLONE3_COMPAT": value}) as e:
        assert answers(e, CALL) == f"-1 {errno.ENOSYS}"
        assert answers(e, PRIVILEGES).split()[1] == "1"
        # processes and threads are still made, by clone(2)
        assert answers(e, "echo a | cat; (echo b)") == "a\nb"
        assert answers(e, "exec python3 -c 'import threading; t = threading.Thread(target=print, args=[1]); t.start(); t.join()'") == "1"
        assert answers(e, "echo $_EXECD_CLONE3_COMPAT_APPLIED") == ("1" if value == "reexec" else "")
        assert "clone3 answers ENOSYS" in e.output()


def test_the_value_of_a_start_object_counts():
    """It comes too late to execute anything again: the threads that are there take the filter over."""
    for value in "1", "reexec":
        with Execd(init=["sh", "-c", CALL.replace("exec ", "") + "; exec sleep 600"], env={"EXECD_CLONE3_COMPAT": value}) as e:
            assert answers(e, CALL) == f"-1 {errno.ENOSYS}"
            wait_until(lambda: e.ring() == f"-1 {errno.ENOSYS}\n".encode(), "the entrypoint's answer")


def test_anything_else_is_an_error():
    r = subprocess.run([BINARY, "--port", "0"], env={"EXECD_CLONE3_COMPAT": "maybe"}, capture_output=True, text=True, timeout=10)
    assert r.returncode == 1 and r.stdout == "" and 'EXECD_CLONE3_COMPAT: invalid value "maybe"' in r.stderr


def test_a_filter_that_the_kernel_refuses_is_an_error():
    """A process under a filter that refuses seccomp(2) itself stands for a kernel without it."""
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    deny = f"number = {number}" + """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
allow, refuse = 0x7fff0000, 0x00050000 | 1
code = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, number, 0x06, 0, 0, refuse, 0x06, 0, 0, allow)
data = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(data))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
    r = subprocess.run(["python3", "-c", deny, BINARY, "--port", "0"], env={"EXECD_CLONE3_COMPAT": "1", "PATH": "/usr/bin:/bin"},
                       capture_output=True, text=True, timeout=10)
    assert r.returncode == 1 and "EXECD_CLONE3_COMPAT: seccomp" in r.stderr, r.stderr
