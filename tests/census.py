"""Counts what a server could leave behind on the host. Reads the kernel's own lists, never the server's."""
import os
import pathlib
import re
import subprocess
import time

PREFIX = re.compile(r"osb|opensandbox", re.I)


def processes():
    """Processes of sandboxes, of their egress, runtimes and servers: by their command line."""
    found = set()
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (p / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if re.search(r"opensandbox-server --config|/execd init|crun .*--root|runc .*--root|/egress$|^/proc/self/exe worker$", argv):
            found.add(f"{p.name} {argv[:120]}")
    return found


def mounts():
    return {line.split()[4] for line in open("/proc/self/mountinfo") if PREFIX.search(line)}


def namespaces():
    """Network and user namespaces that some process is in or holds open, besides ours."""
    found = set()
    ours = {os.readlink(f"/proc/self/ns/{n}") for n in ("net", "user")}
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(p / "ns" / n) for n in ("net", "user")]
            links += [os.readlink(f) for f in (p / "fd").iterdir()]
        except OSError:
            continue
        found |= {x for x in links if x.startswith(("net:", "user:")) and x not in ours}
    return found


def links():
    out = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split(": ")[1].split("@")[0] for line in out.splitlines() if PREFIX.search(line)}


def cgroups():
    """Directories of ours in every hierarchy, and plain ones that a runtime made where nothing is mounted."""
    found = set()
    for root, dirs, _ in os.walk("/sys/fs/cgroup"):
        depth = root.count("/") - 3
        found |= {os.path.join(root, d) for d in dirs if PREFIX.search(d) or PREFIX.search(root)}
        if depth > 3:
            dirs.clear()
    return found


def nft():
    """Set elements and tables of ours."""
    out = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    tables = set(re.findall(r"table \w+ (osb\w*)", out))
    elements = set()
    for table in tables:
        text = subprocess.run(["nft", "list", "table", "inet", table], capture_output=True, text=True).stdout
        for name in ("no_egress4", "allow4"):
            m = re.search(r"set %s \{.*?elements = \{(.*?)\}" % name, text, re.S)
            if m:
                elements |= {f"{table} {name} {e.strip()}" for e in m.group(1).split(",")}
    return tables | elements


def sockets():
    return {line.split()[-1] for line in open("/proc/net/unix") if PREFIX.search(line.split()[-1])}


def directories(roots):
    found = set()
    for root in roots:
        for sub in ("sandboxes", "trash", "run"):
            d = pathlib.Path(root) / sub
            if d.is_dir():
                found |= {str(x) for x in d.iterdir() if x.name != "rootfs"}
    return found


def census(roots=()):
    return {"processes": processes(), "mounts": mounts(), "namespaces": namespaces(), "links": links(), "cgroups": cgroups(),
            "nft": nft(), "sockets": sockets(), "directories": directories(roots)}


def difference(before, after):
    """What is there now and was not before, by kind; {} when nothing."""
    return {kind: sorted(after[kind] - before[kind]) for kind in after if after[kind] - before[kind]}


def left_since(before, seconds=15):
    """What is there now and was not before, after waiting so long for it to go: namespaces and their links do so a moment
    after their last descriptor."""
    end = time.monotonic() + seconds
    while (left := difference(before, census())) and time.monotonic() < end:
        time.sleep(0.05)
    return left
