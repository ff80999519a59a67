// The official JavaScript client against a real sandbox: one line for each check, ["name", null or what went wrong].
// Started by test_sdk_execd.py.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.SDK_MODULES}/`);
const client = require.resolve("@alibaba-group/opensandbox").replace("/dist/cjs/index.cjs", "/dist/index.js");
const { ConnectionConfig, Sandbox } = await import(pathToFileURL(client).href);

const config = new ConnectionConfig({
  domain: process.env.SDK_DOMAIN,
  apiKey: process.env.SDK_KEY,
  useServerProxy: Boolean(process.env.SDK_PROXY),
});
const sandbox = await Sandbox.create({ connectionConfig: config, image: process.env.SDK_IMAGE, env: { GREETING: "salut" } });
const { commands, files } = sandbox;
const text = (messages) => messages.map((m) => m.text).join("");

async function ended(id) {
  for (;;) {
    const status = await commands.getCommandStatus(id);
    if (!status.running) return status;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const checks = {
  async commands() {
    let done = await commands.run("echo out; echo err >&2; echo $GREETING; pwd", { workingDirectory: "/tmp" });
    assert.equal(text(done.logs.stdout), "out\nsalut\n/tmp\n");
    assert.equal(text(done.logs.stderr), "err\n");
    assert.equal(done.exitCode, 0);
    done = await commands.run("echo $A; exit 3", { envs: { A: "it's" } });
    assert.equal(text(done.logs.stdout), "it's\n");
    assert.equal(done.error.value, "3");
    assert.equal(done.exitCode, 3);
    done = await commands.run("sleep 30", { timeoutSeconds: 1 });
    assert.ok(done.error);
    await assert.rejects(commands.run("true", { workingDirectory: "/no/such" }));
  },
  async stream() {
    const seen = [];
    for await (const event of commands.runStream("printf 'a\\n\\nb'; echo c >&2")) seen.push(event);
    assert.equal(seen[0].type, "init");
    assert.equal(seen.filter((e) => e.type === "stdout").map((e) => e.text).join(""), "a\n\nb");
    assert.equal(seen.filter((e) => e.type === "stderr").map((e) => e.text).join(""), "c\n");
    assert.equal(seen.filter((e) => e.type !== "ping").at(-1).type, "execution_complete");
  },
  async background() {
    const started = await commands.run("echo one; echo two; exit 4", { background: true });
    const status = await ended(started.id);
    assert.equal(status.exitCode, 4);
    const logs = await commands.getBackgroundCommandLogs(started.id);
    assert.equal(logs.content, "one\ntwo\n");
    assert.equal((await commands.getBackgroundCommandLogs(started.id, logs.cursor)).content, "");
  },
  async interrupt() {
    const started = await commands.run("sleep 100", { background: true });
    await commands.interrupt(started.id);
    assert.equal((await ended(started.id)).exitCode, -1);
    await assert.rejects(commands.interrupt("no-such-command"));
  },
  async sessions() {
    const id = await commands.createSession({ workingDirectory: "/tmp" });
    const run = async (command, options) => commands.runInSession(id, command, options);
    assert.equal(text((await run("pwd")).logs.stdout), "/tmp\n");
    assert.equal(text((await run("pwd", { workingDirectory: "/var" })).logs.stdout), "/var\n");
    await run("export X=1; exit 2");
    assert.equal(text((await run("echo $X; pwd")).logs.stdout), "1\n/var\n");
    const failed = await run("sh -c 'exit 7'");
    assert.equal(failed.error.name, "CommandExecError");
    assert.equal(failed.error.value, "7");
    assert.ok((await run("sleep 30", { timeoutSeconds: 1 })).error);
    await commands.deleteSession(id);
    await assert.rejects(commands.deleteSession(id));
  },
  async files() {
    await files.createDirectories([{ path: "/tmp/js/sub", mode: 755 }]);
    await files.writeFiles([
      { path: "/tmp/js/a.txt", data: "line 1\nline 2\n", mode: 644 },
      { path: "/tmp/js/sub/b.bin", data: new Uint8Array([0, 1, 255]), mode: 600 },
    ]);
    const info = await files.getFileInfo(["/tmp/js/a.txt", "/tmp/js/sub/b.bin"]);
    assert.equal(info["/tmp/js/a.txt"].size, 14);
    assert.equal(info["/tmp/js/sub/b.bin"].mode, 600);
    assert.equal(await files.readFile("/tmp/js/a.txt"), "line 1\nline 2\n");
    assert.equal(await files.readFile("/tmp/js/a.txt", { range: "bytes=0-5" }), "line 1");
    assert.equal(await files.readFile("/tmp/js/a.txt", { offset: 2, limit: 1 }), "line 2");
    assert.deepEqual([...(await files.readBytes("/tmp/js/sub/b.bin"))], [0, 1, 255]);
    assert.deepEqual((await files.search({ path: "/tmp/js", pattern: "*" })).map((f) => f.path), ["/tmp/js/a.txt", "/tmp/js/sub/b.bin"]);
    assert.ok((await files.listDirectory({ path: "/tmp/js" })).some((f) => f.path === "/tmp/js/sub"));
    await files.replaceContents([{ path: "/tmp/js/a.txt", oldContent: "line", newContent: "row" }]);
    const counts = await files.replaceContentsDetailed([{ path: "/tmp/js/a.txt", oldContent: "row", newContent: "Row" }]);
    assert.equal(counts[0].replacedCount, 2);
    await files.setPermissions([{ path: "/tmp/js/a.txt", mode: 600, owner: "nobody", group: "nogroup" }]);
    await files.moveFiles([{ src: "/tmp/js/a.txt", dest: "/tmp/js/c.txt" }]);
    assert.equal(await files.readFile("/tmp/js/c.txt"), "Row 1\nRow 2\n");
    await files.deleteFiles(["/tmp/js/c.txt"]);
    await assert.rejects(files.readFile("/tmp/js/c.txt"));
    await files.deleteDirectories(["/tmp/js"]);
    await assert.rejects(files.getFileInfo(["/tmp/js"]));
  },
  async "streamed files"() {
    const piece = new Uint8Array(1 << 20).map((_, i) => i * 31);
    async function* pieces() {
      for (let i = 0; i < 10; i++) yield piece;
    }
    await files.writeFiles([{ path: "/tmp/js-large", data: pieces(), mode: 644 }]);
    let size = 0;
    for await (const chunk of files.readBytesStream("/tmp/js-large")) {
      assert.equal(chunk[0], piece[size % piece.length]);
      size += chunk.length;
    }
    assert.equal(size, 10 << 20);
    await files.deleteFiles(["/tmp/js-large"]);
  },
  async metrics() {
    const m = await sandbox.getMetrics();
    assert.ok(m.cpuCount > 0 && m.cpuUsedPercentage >= 0 && m.cpuUsedPercentage <= 100);
    assert.ok(m.memoryUsedMiB > 0 && m.memoryUsedMiB <= m.memoryTotalMiB);
    assert.ok(await sandbox.isHealthy());
  },
  async endpoints() {
    await commands.run("mkdir -p /srv/js && echo hello js >/srv/js/index.html");
    await commands.run("exec python3 -m http.server -d /srv/js 8124", { background: true });
    while ((await commands.run("exec 3<>/dev/tcp/127.0.0.1/8124")).exitCode !== 0);
    const endpoint = await sandbox.getEndpoint(8124);
    const headers = { ...endpoint.headers };
    if (process.env.SDK_PROXY) headers["OPEN-SANDBOX-API-KEY"] = process.env.SDK_KEY;
    const reply = await fetch(`http://${endpoint.endpoint}/`, { headers });
    assert.equal(await reply.text(), "hello js\n");
  },
};

try {
  for (const [name, check] of Object.entries(checks)) {
    let wrong = null;
    try {
      await check();
    } catch (e) {
      wrong = String(e.stack ?? e);
    }
    console.log(JSON.stringify([name, wrong]));
  }
} finally {
  await sandbox.kill();
  await sandbox.close();
}
