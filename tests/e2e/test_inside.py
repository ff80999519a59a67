"""The cage as a process in it sees it."""


def test_inside(server, sandbox):
    """What a process inside sees of its cage."""
    def out(command):
        return server.run(sandbox, command)[1].strip()
    status = out("cat /proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert int(fields["CapInh"], 16) == 0 and int(fields["CapBnd"], 16) == 0x800405fb & int(fields["CapBnd"], 16)
    for command in ("unshare -U true", "mount -t tmpfs none /mnt", "mknod /tmp/d b 8 0", "echo 1 >/proc/sys/kernel/panic", "dmesg",
                    "chroot / true && unshare -n true"):
        assert server.run(sandbox, command)[0] != 0, command
    # execd is not dumpable: its descriptors can be counted, not followed, read or written
    assert out("for f in /proc/1/fd/* /proc/1/exe /proc/1/cwd; do readlink $f; done; cat /proc/1/environ") == ""
    assert out("for f in /proc/1/fd/*; do (: <$f) && echo read $f; (: >>$f) && echo write $f; done 2>/dev/null") == ""
    assert out("cat /proc/kcore 2>/dev/null | head -c1 | wc -c") == "0"
    mounts = out("cat /proc/self/mountinfo")
    assert str(server.state) not in mounts, "host paths in the sandbox's mountinfo"
    assert out("cat /proc/net/unix | grep -c @ || true") == "0"
    fds = out("python3 -c 'import os; print(sorted(int(x) for x in os.listdir(\"/proc/self/fd\")))'")
    assert [int(x) for x in fds.strip("[]").split(",")][:3] == [0, 1, 2] and fds.count(",") <= 3, fds
    assert server.key not in out("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")
