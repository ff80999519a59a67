"""Engines that are not simply there: over TLS, through ssh, and one that runs sandboxes on gVisor. What is reached on them, and what is refused."""
import os
import pathlib
import re
import signal
import stat
import subprocess
import time

import pytest
from opensandbox import SandboxSync
from opensandbox.config import ConnectionConfigSync

import engines
import harness
from test_docker_engine import other_ports_are_reached
from test_terminal import Terminal

pytestmark = pytest.mark.slow


def openssl(directory, *args):
    subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)


def authority(directory):
    """ca.pem, a certificate of the engine for 127.0.0.1, and one of a client: cert.pem and key.pem, as Docker names them."""
    directory.mkdir()
    openssl(directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=authority",
            "-keyout", "ca-key.pem", "-out", "ca.pem")
    for name, use, prefix in (("engine", "serverAuth", "server-"), ("client", "clientAuth", "")):
        (directory / "extensions").write_text(f"extendedKeyUsage={use}\nsubjectAltName=IP:127.0.0.1\n")
        openssl(directory, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout",
                f"{prefix}key.pem", "-out", "request")
        openssl(directory, "x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2",
                "-extfile", "extensions", "-out", f"{prefix}cert.pem")
    return directory


def server_of(host, env=None, binary=None, **docker):
    docker = {k: v for k, v in {"publish_host": "127.0.0.1", **docker}.items() if v}
    return harness.Server(config={"runtime": {"type": "docker"}, "docker": docker},
                          env={"DOCKER_HOST": host, **(env or {})}, binary=binary)


def serves(s, engine):
    """Sandboxes, and their ports, on an engine whose networks cannot be entered."""
    made = [s.create()["id"] for _ in range(2)]
    for i in made:
        ports = engine.inspect(i)[1]["NetworkSettings"]["Ports"]
        assert [p for p, where in ports.items() if where] == ["44772/tcp"]
        assert s.run(i, "echo here")[1] == "here\n"
    other_ports_are_reached(s, made[0])
    engine.call("POST", f"/containers/sandbox-{made[1]}/kill")
    harness.wait_until(lambda: s.get(made[1])["status"]["state"] == "Failed", "its end is told", 5)


def test_tls(tmp_path):
    own, other = authority(tmp_path / "own"), authority(tmp_path / "other")
    port = harness.free_port()
    engine = engines.Dockerd("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", f"{own}/ca.pem", "--tlscert", f"{own}/server-cert.pem",
                             "--tlskey", f"{own}/server-key.pem")
    env = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(own)}
    servers = []
    try:
        engine.start()
        engine.import_base()
        servers.append(server_of(f"tcp://127.0.0.1:{port}", env))
        servers[0].start()
        serves(servers[0], engine)
        for wrong, what in (({"DOCKER_CERT_PATH": str(other)}, "certificate"), ({"DOCKER_TLS_VERIFY": ""}, "DOCKER_TLS_VERIFY is not set: .*HTTPS")):
            s = server_of(f"tcp://127.0.0.1:{port}", {**env, **wrong})
            servers.append(s)
            with pytest.raises(AssertionError, match=f"(?s)server ended with 3.*{what}"):
                s.start()
        s = server_of(f"tcp://localhost:{port}", env)  # a name that is not in its certificate
        servers.append(s)
        with pytest.raises(AssertionError, match="(?s)server ended with 3.*does not answer: .*localhost"):
            s.start()
    finally:
        for s in servers:
            s.remove()
        engine.remove()


AT_HOME = """#!/bin/sh
# its own view of root's directory: the keys of the test, and nothing of the machine's
exec unshare -m sh -c 'mount --bind "$0" /root && exec "$@"' {home} {program} "$@"
"""


class Ssh:
    """A dropbear for root with a key of the test, which may do nothing but reach the private engine."""

    def __init__(self, directory, engine):
        self.directory, self.port = directory, harness.free_port()
        self.far, self.near = directory / "far", directory / "near"  # what is /root there and here
        for d in (self.far, self.near, self.far / ".ssh", self.near / ".ssh"):
            d.mkdir(mode=0o700)
        forced = directory / "forced.sh"
        forced.write_text(f'#!/bin/sh\n[ "$SSH_ORIGINAL_COMMAND" = "docker system dial-stdio" ] && DOCKER_HOST={engine.host} exec docker system dial-stdio\n')
        forced.chmod(0o755)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.near / ".ssh/id_ed25519")], check=True)
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", str(directory / "host")], check=True, capture_output=True)
        key = (self.near / ".ssh/id_ed25519.pub").read_text().strip()
        allowed = self.far / ".ssh/authorized_keys"
        allowed.write_text(f'command="{forced}" {key}\n')
        allowed.chmod(0o600)
        self.log = open(directory / "log", "wb")
        run = self.wrapped(self.far, "dropbear", "dropbear.sh")
        self.process = subprocess.Popen([run, "-F", "-E", "-s", "-p", f"127.0.0.1:{self.port}", "-r", str(directory / "host"), "-P", str(directory / "pid")],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        harness.wait_until(lambda: b"Not backgrounding" in (directory / "log").read_bytes(), "dropbear listens", 10)

    def wrapped(self, home, program, name):
        path = self.directory / name
        path.write_text(AT_HOME.format(home=home, program=program))
        path.chmod(0o755)
        return str(path)

    def know(self, line):
        (self.near / ".ssh/known_hosts").write_text(line)

    def host_key(self):
        text = subprocess.run(["dropbearkey", "-y", "-f", str(self.directory / "host")], check=True, capture_output=True, text=True).stdout
        return f"[127.0.0.1]:{self.port} " + re.search("^ssh-ed25519 .*$", text, re.M).group(0) + "\n"

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def carriers(home):
    """Pids of the ssh that carries connections to published ports."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (p / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"-oControlPath={home}/ssh" in words and "-N" in words:
            found.append(int(p.name))
    return found


def programs_of(s):
    """Pids of every ssh that its server has started."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (p / "comm").read_text() == "ssh\n" and f"DOCKER_HOST={s.env['DOCKER_HOST']}".encode() in (p / "environ").read_bytes().split(b"\0"):
                found.append(int(p.name))
        except OSError:
            continue
    return found


def used_by_clients(s):
    """The official client, and a terminal, from create to delete."""
    config = ConnectionConfigSync(domain=f"127.0.0.1:{s.port}", api_key=s.key)
    sb = SandboxSync.create(harness.IMAGE, connection_config=config)
    try:
        assert "".join(m.text for m in sb.commands.run("echo $((6 * 7))").logs.stdout).strip() == "42"
        data = "x" * 3000000
        sb.files.write_file("/tmp/big", data)
        assert sb.files.read_file("/tmp/big") == data
        t = Terminal(s, sb.id, s.execd("POST", sb.id, "/pty").json()["session_id"])
        t.text("connected")
        t.type("stty size; exit 6\n")
        assert t.text("exit")["exit_code"] == 6 and b"24 80" in t.seen
    finally:
        sb.kill()
        sb.close()


def median(what, times, action):
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        took.append((time.perf_counter() - begun) * 1000)
    print(f"{what} through ssh: median {sorted(took)[times // 2]:.2f} ms")


def carried_by_ssh(s, engine):
    """One ssh for all; it may end at any time, and so may the server."""
    i = s.create()["id"]
    assert s.run(i, "echo here")[1] == "here\n"
    there = engine.inspect(i)[1]
    port, = there["NetworkSettings"]["Ports"]["44772/tcp"]
    home = pathlib.Path("/tmp/opensandbox-ssh-" + there["Config"]["Labels"]["opensandbox.io/server"])
    assert port["HostIp"] == "127.0.0.1" and (home / port["HostPort"]).is_socket()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for end in (lambda: os.kill(carriers(home)[0], signal.SIGKILL), s.stop, s.kill):
        assert len(carriers(home)) == 1
        end()
        harness.wait_until(lambda: not carriers(home), "it has ended", 10)
        if s.process.poll() is not None:
            assert end == s.kill or not home.exists()
            s.start()
        assert s.run(i, "echo again")[1] == "again\n"
    median("GET /ping", 100, lambda: s.execd("GET", i, "/ping"))
    made = []
    median("create", 10, lambda: made.append(s.create()["id"]))
    for m in made:
        s.delete(m)
    s.delete(i)
    assert not (home / port["HostPort"]).exists()


def test_ssh(tmp_path):
    engine = engines.Dockerd()
    ssh, servers = None, []
    try:
        engine.start()
        engine.import_base()
        ssh = Ssh(tmp_path, engine)
        binary = ssh.wrapped(ssh.near, harness.BUILD / "test/src/server/opensandbox-server", "server.sh")
        host = f"ssh://root@127.0.0.1:{ssh.port}"
        for known in ("", ssh.host_key()[:-9] + "AAAAAAAA\n"):  # nobody knows its key; somebody knows another one
            ssh.know(known)
            servers.append(server_of(host, binary=binary))
            with pytest.raises(AssertionError, match="(?s)server ended with 3.*Host key verification failed|server ended with 3.*HOST IDENTIFICATION"):
                servers[-1].start()
            assert not engine.containers()
        ssh.know(ssh.host_key())
        s = server_of(host, binary=binary, publish_host=None)
        servers.append(s)
        s.start()
        serves(s, engine)
        used_by_clients(s)
        carried_by_ssh(s, engine)
        assert programs_of(s)
        s.stop()
        harness.wait_until(lambda: not programs_of(s), "no ssh of it is left", 5)
    finally:
        for s in servers:
            s.remove()
        if ssh:
            ssh.close()
        engine.remove()


def test_server_in_a_container(tmp_path):
    """It has the engine's socket and sees no process of it: ports are published where it can reach them, on its bridge's own address."""
    address, gateway = "10.63.0.2", "10.63.0.1"
    with engines.Dockerd() as engine:
        engine.import_base()
        made = engine.call("POST", "/networks/create", {"Name": "front", "IPAM": {"Config": [{"Subnet": "10.63.0.0/24", "Gateway": gateway}]}})
        assert made[0] == 201, made
        with server_of(engine.host, binary=tmp_path / "server.sh", publish_host=gateway) as s:
            binds = " ".join(f"-v {p}:{p}:ro" for p in ("/usr", harness.BUILD.resolve())) + "".join(f" -v {p}:{p}" for p in (s.state, engine.socket))
            (tmp_path / "server.sh").write_text(f'#!/bin/sh\nexec docker -H {engine.host} run --rm --network front --ip {address} -e DOCKER_HOST {binds} '
                                                f'{harness.IMAGE} {harness.BUILD.resolve()}/test/src/server/opensandbox-server "$@"\n')
            (tmp_path / "server.sh").chmod(0o755)
            s.address, s.sections["server"]["host"] = address, "0.0.0.0"
            s.write_config()
            s.start()
            serves(s, engine)


def test_gvisor():
    """The secure runtime on the real one: Debian's runsc, without KVM and on the network of its container."""
    engine = engines.Dockerd(runtimes={"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=ptrace", "--network=host"]}})
    s = None
    try:
        engine.start()
        engine.import_base()
        s = harness.Server(config={"runtime": {"type": "docker"}, "secure_runtime": {"type": "gvisor", "docker_runtime": "runsc"}},
                           env={"DOCKER_HOST": engine.host})
        s.start()
        i = s.create()["id"]
        assert engine.inspect(i)[1]["HostConfig"]["Runtime"] == "runsc"
        assert s.run(i, "uname -r")[1].strip() != os.uname().release  # another kernel answers
        assert s.run(i, "python3 -c 'print(6*7)'")[1] == "42\n"
        other_ports_are_reached(s, i)
        for step, state in (("pause", "Paused"), ("resume", "Running")):
            assert s.request("POST", f"/v1/sandboxes/{i}/{step}").status == 202
            harness.wait_until(lambda w=state: s.get(i)["status"]["state"] == w, state, 20)
        assert s.run(i, "echo again")[1] == "again\n"
        s.delete(i)
        assert engine.inspect(i)[0] == 404
    finally:
        if s:
            s.remove()
        engine.remove()
    absent = engines.Dockerd()
    try:
        absent.start()
        s = harness.Server(config={"runtime": {"type": "docker"}, "secure_runtime": {"type": "gvisor", "docker_runtime": "runsc"}},
                           env={"DOCKER_HOST": absent.host})
        with pytest.raises(AssertionError, match="secure_runtime"):
            s.start()
    finally:
        s.remove()
        absent.remove()
