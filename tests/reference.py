"""The reference server (opensandbox-server 1.1.1 of PyPI, in an environment of its own) on a private dockerd, driven as ours is: a black box."""

import harness

VERSION = "1.1.1"
NETWORK = "reference"  # the engine has no default bridge
EXECD_IMAGE = "opensandbox/execd:local"  # nothing but our execd, where the reference looks for its own


def install():
    return harness.environment("reference", "opensandbox-server", f"opensandbox-server=={VERSION}")


def prepare(engine):
    """The images and the network that the reference's configuration names."""
    engine.import_base()
    engine.build_images()
    if not any(n["Name"] == NETWORK for n in engine.call("GET", "/networks")[1]):
        status, made = engine.call("POST", "/networks/create", {"Name": NETWORK, "Driver": "bridge"})
        assert status == 201, made


class Reference(harness.Server):
    def __init__(self, engine, config=None):
        super().__init__(binary=install())
        self.env = {**self.env, "DOCKER_HOST": engine.host, "HOME": str(self.state)}
        self.sections = {k: self.sections[k] for k in ("server", "log")}
        self.sections |= {"runtime": {"type": "docker", "execd_image": EXECD_IMAGE}, "docker": {"network_mode": NETWORK},
                          "store": {"path": str(self.state / "store.db")}, **(config or {})}
        self.write_config()

    def wait_ready(self, seconds=60):
        def ready():
            assert self.process.poll() is None, f"the reference ended with {self.process.returncode}:\n{self.log()[-3000:]}"
            try:
                return self.request("GET", "/health", key=None).status == 200
            except OSError:
                return False
        harness.wait_until(ready, "the reference is ready", seconds)


