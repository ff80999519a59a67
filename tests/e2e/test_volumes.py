"""Named volumes on the built-in runtime: kept, shared, below a subPath, and gone with their last user."""
import harness


def volume(claim, path="/data", **members):
    pvc = {k: members.pop(k) for k in ("createIfNotExists", "deleteOnSandboxTermination") if k in members}
    return {"name": members.pop("name", "v"), "mountPath": path, "pvc": {"claimName": claim, **pvc}, **members}


def there(server, claim):
    return (server.state / "oci/oci/volumes" / claim).exists()


def made(server, *volumes, **members):
    return server.create(volumes=list(volumes), **members)["id"]


def test_outlives_its_sandboxes(server):
    a = made(server, volume("kept"))
    assert server.run(a, "id -u >/data/who && mkdir -p /data/deep/er && echo deep >/data/deep/er/file && stat -c '%u %a' /data")[1] == "0 755\n"
    b = made(server, volume("kept", readOnly=True), volume("kept", "/sub", name="w", subPath="deep/er"))
    assert server.run(b, "cat /data/who /sub/file")[1] == "0\ndeep\n"
    assert server.run(b, "touch /data/x")[0] != 0 and server.run(b, "touch /sub/y")[0] == 0
    assert server.run(a, "ls /data/deep/er")[1] == "file\ny\n"
    server.delete(a)
    server.kill()
    server.start()
    assert server.run(b, "cat /data/who")[1] == "0\n"
    server.delete(b)
    assert there(server, "kept")
    c = made(server, volume("kept", createIfNotExists=False))
    assert server.run(c, "cat /data/deep/er/file; cat /proc/mounts | grep ' /data '")[1].startswith("deep\n")
    mount = server.run(c, "grep ' /data ' /proc/mounts")[1]
    assert "nosuid" in mount and "nodev" in mount
    server.delete(c)


def test_temporary_goes_with_its_last_user(server):
    a = made(server, volume("temp", deleteOnSandboxTermination=True))
    b = made(server, volume("temp"))
    server.delete(a)
    assert there(server, "temp") and server.run(b, "touch /data/x")[0] == 0
    server.kill()
    server.start()
    assert there(server, "temp")
    server.delete(b)
    assert not there(server, "temp")
    a = made(server, volume("stays"))
    b = made(server, volume("stays", deleteOnSandboxTermination=True))  # it was there before
    server.delete(a)
    server.delete(b)
    assert there(server, "stays")


def test_goes_with_what_expires_ends_or_fails(server):
    a = made(server, volume("gone", deleteOnSandboxTermination=True), entrypoint=["sh", "-c", "sleep 1; exit 3"])
    harness.wait_until(lambda: server.get(a)["status"]["state"] == "Failed", "the end")
    server.delete(a)
    assert not there(server, "gone")
    r = server.create(expect=400, volumes=[volume("gone", deleteOnSandboxTermination=True),
                                           volume("absent", "/b", name="b", createIfNotExists=False)])
    assert r["code"] == "VOLUME::PVC_NOT_FOUND"
    assert not there(server, "gone") and not there(server, "absent")


def test_links_lead_nowhere(server):
    a = made(server, volume("trap"))
    server.run(a, "ln -s /etc /data/etc; ln -s .. /data/up; mkdir /data/real; ln -s real /data/alias")
    for sub in ("etc", "up", "alias", "etc/ssh"):
        r = server.create(expect=400, volumes=[volume("trap", subPath=sub)])
        assert r["code"] == "VOLUME::INVALID_SUB_PATH", (sub, r)
    for sub in ("../other", "/etc"):
        assert server.create(expect=400, volumes=[volume("trap", subPath=sub)])["code"] == "VOLUME::INVALID_SUB_PATH"
    for name in ("../x", "A", ".", "a/b"):
        server.create(expect=422, volumes=[volume(name)])
    server.delete(a)
    assert not list((server.state / "oci/oci/volumes").glob("*/users/*"))
