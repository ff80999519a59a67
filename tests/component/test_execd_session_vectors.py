"""Appendix A.5 of execd.md, a line each."""
import pytest

from execd_session import Session

# Appendix A.5, one line each: command, output, exit code; the rows are one session in order.
A5 = [
    ("export A='x\ny' B=\"q'z\"; C=n; f(){ :; }; alias ll=ls; cd /usr", "", "0"),
    ("echo \"$B\"; pwd", "q'z\n/usr\n", "0"),
    ("echo \"[$C]\"; f", "[]\n", "127"),
    ("alias ll", "", "1"),
    ("printf '%s' \"$A\"", "x\ny", "0"),
    ("exit 7", "", "7"),
    ("false", "", "1"),
    ("if", "", "2"),
    ("trap 'echo bye' EXIT; echo hi", "hi\nbye\n", "0"),
    ("true \\", "", "0"),
    ("echo \"$B\"; pwd", "q'z\n/usr\n", "0"),
]


@pytest.fixture(scope="module")
def a5(execd):
    s = Session(execd, cwd="/tmp")
    return [s.run(command) for command, _, _ in A5]


@pytest.mark.parametrize("row", range(len(A5)), ids=[repr(c)[:40] for c, _, _ in A5])
def test_vectors_a5(a5, row):
    assert a5[row] == A5[row][1:]
