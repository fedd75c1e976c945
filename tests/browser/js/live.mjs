// Whole sessions against a real server, all of a question at once.
//     {"sessions": [{url, options, messages, moves: [[after how many messages, what], ...]}, ...]}
// `what` is a transport, "reload" (save and go on in a successor), "page" (the page goes and comes back with its Storage),
// "bfcache" (it is put away and shown again) or "network" (offline, online).  Answers {received, sent, info, superseded, ...}.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { WebSocket } from "./websocket.mjs";

const { connect } = await import(new URL("channelkit.js", pathToFileURL(`${process.argv[2]}/`)));

const read = (data) => (typeof data === "string" ? data : new Uint8Array(Buffer.from(data.base64, "base64")));
const plain = (data) => (typeof data === "string" ? data : { base64: Buffer.from(data).toString("base64") });

const random = () => Math.random() / 10; // so that waiting for the next try is short

class Page extends EventTarget {
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  say(type, more = {}) {
    this.dispatchEvent(Object.assign(new Event(type), more));
  }
}

class Store extends Map {
  getItem = (key) => this.get(key) ?? null;
  setItem = (key, value) => void this.set(key, value);
  removeItem = (key) => void this.delete(key);
}

async function session({ url, options, messages, moves }) {
  const storage = new Store();
  const received = [];
  const errors = [];
  const predecessors = [];
  let [page, channel, done] = [null, null, () => {}];
  const all = new Promise((resolve) => (done = resolve));
  function open() {
    page = new Page();
    channel = connect(url, { ...options, state: storage, key: "k", WebSocket, page, random });
    channel.onmessage = (message) => {
      received.push(plain(message));
      if (received.length >= messages.length) done();
    };
    channel.onclose = ({ outcome }) => outcome === "superseded" || done();
  }
  const moved = {
    reload() {
      const old = channel;
      storage.setItem("k", old.save());
      old.onmessage = null;
      predecessors.push(old);
      open();
    },
    page() {
      const old = channel;
      page.say("pagehide", { persisted: false });
      old.onmessage = null;
      predecessors.push(old);
      open();
      if (!channel.resumed) errors.push("the state was not found");
    },
    async bfcache() {
      page.say("pagehide", { persisted: true });
      await new Promise((resolve) => setTimeout(resolve, 50));
      page.say("pageshow", { persisted: true });
    },
    network() {
      page.say("offline");
      page.say("online");
    },
  };
  open();
  const script = [...moves];
  for (const [at, message] of messages.entries()) {
    while (script.length > 0 && script[0][0] <= at) {
      const [, what] = script.shift();
      if (what in moved) await moved[what]();
      else channel.switchTransport(what);
    }
    if (!(await channel.send(read(message)))) errors.push(`message ${at} was not accepted`);
  }
  await all;
  const flushed = await channel.flush();
  const statistics = channel.statistics();
  const info = await channel.close(4000, "done");
  const before = predecessors.map(({ closeInfo }) => closeInfo?.outcome ?? "unaware");
  return { received, errors, info, flushed, statistics, before, kept: storage.size };
}

for await (const line of createInterface({ input: process.stdin })) {
  const answers = await Promise.all(JSON.parse(line).sessions.map(session));
  process.stdout.write(`${JSON.stringify(answers)}\n`);
}
