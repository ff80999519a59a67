#!/usr/bin/env python3
"""`make quickstart` and `make stop`: a server with the built-in runtime, an image, a sandbox, two programs in it.

Python's standard library only. State lives in STATE (its parents must be searchable for the sandboxes' users, so it is
not below the clone); build/quickstart.env holds what clients need, 0600 from its creation on.
"""
import http.client
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("OPENSANDBOX_BUILD", ROOT / "build"))
SERVER = BUILD / "release/src/server/opensandbox-server"
STATE = pathlib.Path(os.environ.get("OPENSANDBOX_QUICKSTART_STATE", "/var/lib/opensandbox-quickstart"))
CONFIG, LOG, PID = STATE / "config.toml", STATE / "server.log", STATE / "server.pid"
ENV = BUILD / "quickstart.env"
BASE_TAR = pathlib.Path("/var/cache/opensandbox/base-bookworm.tar")
REGISTRY_IMAGE = "docker.io/library/python:3.12-slim-bookworm"
LOCAL_IMAGE = "opensandbox/base:bookworm"
PORTS = [8080, *range(18080, 18180)]


def private_file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.write(text)


def settings():
    """The values of quickstart.env, {} when there is none."""
    try:
        return dict(line.split("=", 1) for line in ENV.read_text().split() if "=" in line)
    except OSError:
        return {}


def running_pid():
    """The server that PID names, checked by its command line: pids are used again."""
    try:
        pid = int(PID.read_text())
        argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return pid if str(CONFIG).encode() in argv else None
    except (OSError, ValueError):
        return None


def request(env, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(env["OPEN_SANDBOX_DOMAIN"], timeout=60)
    fields = {"OPEN-SANDBOX-API-KEY": env["OPEN_SANDBOX_API_KEY"], **(headers or {})}
    if body is not None:
        fields["Content-Type"] = "application/json"
    connection.request(method, path, json.dumps(body) if body is not None else None, fields)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply.status, data


def cli(*args, **kw):
    return subprocess.run([str(SERVER), "--config", str(CONFIG), *args], **kw)


def free_port():
    import socket
    for port in PORTS:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit("quickstart: no free port among 8080 and 18080..18179")


def ensure_image():
    """A base image with python3: from a registry that answers within 3 s, else from Debian packages."""
    done = cli("image", "list", capture_output=True, text=True)
    for image in (REGISTRY_IMAGE, LOCAL_IMAGE):
        if image in done.stdout:
            return image
    print("image: asking the registry (3 s) ...", flush=True)
    try:
        if cli("image", "pull", REGISTRY_IMAGE, capture_output=True, timeout=3).returncode == 0:
            return REGISTRY_IMAGE
    except subprocess.TimeoutExpired:
        pass
    if not BASE_TAR.exists():
        print("image: no registry; building one from Debian packages (about 30 s, once) ...", flush=True)
        subprocess.run([str(ROOT / "tools/base_image.sh"), str(BASE_TAR)], check=True)
    print("image: importing ...", flush=True)
    cli("image", "import", str(BASE_TAR), LOCAL_IMAGE, check=True, stdout=subprocess.DEVNULL)
    return LOCAL_IMAGE


def start_server():
    if not CONFIG.exists() or not settings():
        key, port = secrets.token_hex(32), free_port()
        STATE.mkdir(parents=True, exist_ok=True)
        STATE.chmod(0o711)
        private_file(CONFIG, f'''# made by make quickstart
[server]
host = "127.0.0.1"
port = {port}
api_key = "{key}"

[runtime]
type = "oci"

[oci]
state_dir = "{STATE}/oci"

[store]
path = "{STATE}/store/opensandbox.db"
''')
        private_file(ENV, f"OPEN_SANDBOX_DOMAIN=127.0.0.1:{port}\nOPEN_SANDBOX_API_KEY={key}\nOPEN_SANDBOX_IMAGE=\n")
    env = settings()
    if running_pid():
        return env
    image = ensure_image()
    private_file(ENV, "".join(f"{k}={v}\n" for k, v in {**env, "OPEN_SANDBOX_IMAGE": image}.items()))
    with open(LOG, "ab") as log:
        process = subprocess.Popen([str(SERVER), "--config", str(CONFIG)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
    PID.write_text(str(process.pid))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"quickstart: the server ended at once:\n{LOG.read_text()[-3000:]}\n`{SERVER} doctor` names what is missing")
        try:
            if request(settings(), "GET", "/readyz")[0] == 200:
                return settings()
        except OSError:
            pass
        time.sleep(0.01)
    sys.exit(f"quickstart: the server is not ready after 60 s, see {LOG}")


def timed(what, f, *args):
    begin = time.monotonic()
    value = f(*args)
    print(f"\n{what}  ({(time.monotonic() - begin) * 1000:.1f} ms)")
    return value


def create(env):
    status, data = request(env, "POST", "/v1/sandboxes", {
        "image": {"uri": env["OPEN_SANDBOX_IMAGE"]}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 3600,
        "resourceLimits": {"cpu": "1", "memory": "512Mi"}})
    if status != 202:
        sys.exit(f"quickstart: create answered {status}: {data.decode(errors='replace')}")
    return json.loads(data)["id"]


def command(env, sandbox, text):
    base = f"/v1/sandboxes/{sandbox}"
    status, data = request(env, "GET", f"{base}/endpoints/44772")
    headers = json.loads(data)["headers"] if status == 200 else {}
    status, data = request(env, "POST", f"{base}/proxy/44772/command",
                           {"command": text, "envs": {"QUICKSTART_VALUE": os.environ.get("QUICKSTART_VALUE", "world")}}, headers)
    output = ""
    for frame in data.split(b"\n\n"):
        event = json.loads(frame) if frame.strip() else {}
        if event.get("type") in ("stdout", "stderr"):
            output += event["text"]
        if event.get("type") == "error":
            sys.exit(f"quickstart: {text!r} failed: {event['error']} {output}")
    if status != 200:
        sys.exit(f"quickstart: command answered {status}: {data.decode(errors='replace')}")
    return output


def start():
    env = start_server()
    sandbox = timed("sandbox created", create, env)
    print(f"  {sandbox}")
    for line in timed("$ echo hello $QUICKSTART_VALUE; uname -sr; id -un", command, env, sandbox,
                      "echo hello $QUICKSTART_VALUE; uname -sr; id -un").splitlines():
        print("  " + line)
    program = "import os,sys; print('python', sys.version.split()[0], 'says', os.environ['QUICKSTART_VALUE'], sum(range(101)))"
    for line in timed(f'$ python3 -c "{program}"', command, env, sandbox, f'python3 -c "{program}"').splitlines():
        print("  " + line)
    request(env, "DELETE", f"/v1/sandboxes/{sandbox}")
    key = env["OPEN_SANDBOX_API_KEY"] if sys.stdout.isatty() else f"(in {ENV})"
    print(f"""
The server runs on.
  address  http://{env['OPEN_SANDBOX_DOMAIN']}
  key      {key}
  image    {env['OPEN_SANDBOX_IMAGE']}
Next:
  set -a; . {ENV}; set +a
  curl -s -H "OPEN-SANDBOX-API-KEY: $OPEN_SANDBOX_API_KEY" http://$OPEN_SANDBOX_DOMAIN/v1/sandboxes
  pip install opensandbox-cli && osb sandbox create --image $OPEN_SANDBOX_IMAGE
  make stop        ends the server and removes what it made""")


def stop():
    env, pid = settings(), running_pid()
    if pid:
        while True:
            status, data = request(env, "GET", "/v1/sandboxes?pageSize=200")
            items = json.loads(data)["items"] if status == 200 else []
            if not items:
                break
            for item in items:
                request(env, "DELETE", f"/v1/sandboxes/{item['id']}")
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 45
        while running_pid() and time.monotonic() < end:
            time.sleep(0.01)
        if running_pid():
            sys.exit(f"stop: the server (pid {pid}) does not end; see {LOG}")
    shutil.rmtree(STATE, ignore_errors=True)
    ENV.unlink(missing_ok=True)
    print("stopped" if pid else "nothing was running")


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1] if len(sys.argv) > 1 else "start"]()
