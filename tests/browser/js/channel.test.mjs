// The channel against a page and a network that the test plays; no time passes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, Store, created, load, network, settled } from "./fakes.mjs";

const { connect } = await load("channelkit.js");
const URL_OF_CHAT = "/chat";

/** A channel with the page and the network around it. */
function stage(options = {}) {
  const net = network();
  const page = options.page ?? new Page();
  const channel = connect(URL_OF_CHAT, { transport: "websocket", page, ...net.options, ...options });
  const changes = [];
  channel.onchange = (change) => changes.push(change);
  return { ...net, page, channel, changes };
}

/** The same, attached by WebSocket. */
async function attached(options, hello = { secret: "K" }) {
  const all = stage(options);
  await settled();
  all.sockets[0].hello(hello);
  await settled();
  return all;
}

const sentBy = (socket) => socket.sent.filter((frame) => !String(frame).startsWith("h "));

test("the first message of a WebSocket is the hello; the address is that of the page, and holds no secret", async () => {
  const { sockets, channel, changes } = stage();
  await settled();
  assert.equal(sockets[0].url, "wss://site.example/chat/ck/ws");
  assert.equal(sockets[0].asked, "ck.v1");
  sockets[0].hello({ secret: "K" });
  assert.deepEqual(sockets[0].sent, ['h {"v":1,"a":1,"recv":0}']);
  sockets[0].drop();
  channel.switchTransport("websocket");
  sockets[1].open();
  assert.equal(sockets[1].url, `wss://site.example/chat/ck/${"S".repeat(22)}/ws`);
  assert.deepEqual(JSON.parse(sockets[1].sent[0].slice(2)), { v: 1, sid: "S".repeat(22), secret: "K", a: 1, recv: 0 });
  assert.deepEqual(changes.map(({ state }) => state), ["connecting", "attached", "detached", "connecting"]);
  assert.match(changes[2].why, /websocket closed with 1006/);
  assert.ok(changes[2].nextTry >= Date.now() - 1000);
});

test("sending waits for the hello and for the window; sendNow does not wait; what cannot be carried is refused", async () => {
  const { sockets, channel } = stage();
  const done = [];
  for (const name of ["1", "2", "3", "4", "5"]) channel.send(name).then((accepted) => done.push([name, accepted]));
  await settled();
  assert.deepEqual(done, []);
  assert.equal(channel.sendNow("x"), false);
  sockets[0].hello({ secret: "K" });
  await settled();
  assert.deepEqual(done.map(([name]) => name), ["1", "2", "3", "4"]); // the window is four messages
  assert.deepEqual(sentBy(sockets[0]), ["m 1 1", "m 2 2", "m 3 3", "m 4 4"]);
  sockets[0].say("a 2");
  await settled();
  assert.equal(done.length, 5);
  assert.equal(channel.sendNow(Uint8Array.of(7)), true);
  assert.deepEqual([...sentBy(sockets[0]).at(-1)], [109, 32, 54, 32, 7]); // m 6 and the byte
  await assert.rejects(channel.send("\ud800"), RangeError);
  await assert.rejects(channel.send({}), TypeError);
  assert.throws(() => channel.sendNow("x".repeat(1001)), /1001 bytes is larger than this session's max_message \(1000\)/);
  await assert.rejects(channel.send("x".repeat(1001)), RangeError);
});

test("bytes are copied: what the caller does to them afterwards is not sent", async () => {
  const { sockets, channel } = await attached();
  const data = Uint8Array.of(1, 2);
  const sent = channel.send(data);
  data[0] = 9;
  await sent;
  sockets[0].drop();
  channel.switchTransport("websocket");
  sockets[1].hello({ recv: 0 });
  assert.deepEqual([...sentBy(sockets[1])[0].subarray(4)], [1, 2]);
});

test("a message is acknowledged when it was handed over, not when it arrived", async () => {
  const { sockets, channel } = await attached();
  sockets[0].say("m 1 one");
  sockets[0].say("m 2 two");
  await settled();
  assert.deepEqual([channel.statistics().held, channel.statistics().recv], [2, 0]);
  const messages = channel[Symbol.asyncIterator]();
  assert.deepEqual(await messages.next(), { value: "one", done: false });
  assert.deepEqual(sentBy(sockets[0]), ["a 1"]); // a quarter of the window
  const seen = [];
  channel.onmessage = (message) => seen.push(message);
  await settled();
  assert.deepEqual(seen, ["two"]);
  assert.equal(channel.statistics().received, 2);
});

test("the server's end comes behind its messages, ends the iteration, and is told once", async () => {
  const { sockets, channel } = await attached();
  const closes = [];
  channel.onclose = (info) => closes.push(info);
  sockets[0].say("m 1 last");
  sockets[0].say("e 2 4001 bye");
  const seen = [];
  for await (const message of channel) seen.push(message);
  assert.deepEqual(seen, ["last"]);
  const info = { code: 4001, reason: "bye", by: "peer", outcome: "ended", delivered: true, unacknowledged: 0 };
  assert.deepEqual([await channel.closed, closes], [info, [info]]);
  assert.equal(await channel.send("late"), false);
  assert.equal(sentBy(sockets[0]).at(-1), "a 2");
});

test("a callback that throws is the application's affair: the next message comes all the same", async () => {
  const { sockets, channel } = await attached();
  const [seen, errors] = [[], []];
  globalThis.reportError = (error) => errors.push(error.message);
  channel.onmessage = (message) => {
    seen.push(message);
    throw new Error(message);
  };
  sockets[0].say("m 1 a");
  sockets[0].say("m 2 b");
  await settled();
  delete globalThis.reportError;
  assert.deepEqual([seen, errors], [["a", "b"], ["a", "b"]]);
});

test("another transport is tried when one fails at first; one that has worked is tried three times", async () => {
  const { sockets, requests, channel, page } = stage({ transport: undefined, transports: ["websocket", "long_poll"] });
  await settled();
  sockets[0].drop();
  assert.equal(channel.transport, "long_poll");
  page.say("online"); // which tries the best again: nothing has worked yet, so that is the first
  sockets[1].hello({ secret: "K" });
  for (const at of [1, 2, 3]) {
    sockets[at].drop();
    assert.equal(channel.transport, "websocket");
    page.say("online");
  }
  assert.equal(sockets.length, 5);
  assert.equal(requests.length, 0);
});

test("WebSockets that open and bring nothing give way to what shows a message while it comes in", async () => {
  const { sockets, requests, channel, page } = await attached({ transport: undefined, transports: ["websocket", "http_stream"] });
  sockets[0].drop(); // the session began by it
  for (const at of [1, 2]) {
    page.say("online");
    sockets[at].hello();
    sockets[at].say(`m ${at} a`); // it brought something
    await settled();
    sockets[at].drop();
    assert.equal(channel.transport, "websocket");
  }
  page.say("online");
  sockets[3].hello({ recv: 0 });
  sockets[3].drop();
  assert.equal(channel.transport, "websocket");
  page.say("online");
  sockets[4].hello({ recv: 0 });
  assert.equal(requests.length, 0);
  sockets[4].drop();
  assert.equal(channel.transport, "http_stream");
});

test("a URL without sessions is told at once", async () => {
  const { requests, channel } = stage({ transport: "http_stream" });
  await settled();
  requests[0].answer(404, "nothing here");
  const info = await channel.closed;
  assert.equal(info.outcome, "refused");
  assert.match(info.reason, /https:\/\/site.example\/chat\/ck answered 404; is that the URL of an Endpoint\?/);
});

test("headers go with every request, the secret with all but the first, and never in a URL", async () => {
  const { requests, channel } = stage({ transport: "http_stream", headers: { "X-Mine": "1" } });
  await settled();
  created(requests[0]);
  await settled();
  void channel.send("x");
  await settled();
  assert.deepEqual(requests.map(({ method = "GET", path }) => [method, path.replace("S".repeat(22), "S")]), [
    ["POST", "/chat/ck?a=1"],
    ["GET", "/chat/ck/S/stream?a=1&ack=0"],
    ["POST", "/chat/ck/S?a=1&ack=0"],
  ]);
  assert.deepEqual(requests.map(({ headers }) => headers["X-Mine"]), ["1", "1", "1"]);
  assert.deepEqual(requests.map(({ headers }) => headers.Authorization), [undefined, "Bearer K", "Bearer K"]);
  assert.ok(requests.every(({ url }) => !url.includes("K")));
});

test("with a cookie scripts never keep the secret, EventSource carries the stream, and a fetch tells why one failed", async () => {
  const { requests, sources, channel } = stage({ transport: "events", cookie: true, state: new Store() });
  channel.onmessage = () => {};
  await settled();
  assert.ok(requests[0].url.endsWith("?a=1&cookie=1"));
  created(requests[0]);
  await settled();
  assert.ok(!channel.save().includes('"K"'));
  const hello = JSON.stringify({ v: 1, sid: "S".repeat(22), a: 1, recv: 0 });
  sources[0].say("ck-hello", hello, "0");
  sources[0].say("message", "one", "1");
  sources[0].say("ck-b", "AAE=", "2");
  sources[0].say("ck-j", '"a\\rb"', "3");
  await settled();
  assert.equal(channel.statistics().recv, 3);
  sources[0].onerror({});
  assert.ok(sources[0].closed);
  channel.switchTransport("sse");
  assert.ok(sources[1].url.endsWith("/events?a=1&ack=3"));
  sources[1].onerror({}); // without hello: an EventSource does not say what the answer was
  channel.switchTransport("events");
  assert.equal(sources.length, 2);
  requests.at(-1).answer(204); // over, or another's: a batch of nothing is told which
  await settled();
  requests.at(-1).answer(409, { code: "superseded", reason: "another instance of this client took over" });
  assert.equal((await channel.closed).outcome, "superseded");
});

const LINE_OF_HELLO = `["h",${JSON.stringify({ v: 1, sid: "S".repeat(22), a: 1, recv: 0 })}]\n`;

/** The newest request, when it has come: what follows a turn does so behind a timer of no time. */
async function newest(requests, count) {
  while (requests.length < count) await settled();
  assert.equal(requests.length, count);
  return requests[count - 1];
}

test("a poller is attached by its first answer, and stays so from poll to poll", async () => {
  const { requests, channel, changes } = stage({ transport: "long_poll" });
  channel.onmessage = () => {};
  await settled();
  created(requests[0]);
  const first = await newest(requests, 2);
  assert.match(first.path, /wait=0$/);
  first.answer(200, LINE_OF_HELLO);
  const second = await newest(requests, 3);
  assert.match(second.path, /wait=25$/);
  assert.equal(channel.status.state, "attached");
  second.answer(200, `["h",{"recv":0}]\n["m",1,"one"]\n`);
  const third = await newest(requests, 4);
  assert.match(third.path, /ack=1&wait=25$/);
  assert.deepEqual(changes.map(({ state, transport }) => [state, transport]), [["connecting", "long_poll"], ["attached", "long_poll"]]);
  assert.equal(channel.statistics().attaches, 1);
  third.fail();
  while (channel.status.state === "attached") await settled();
  const fourth = await newest(requests, 5);
  assert.match(fourth.path, /ack=1&wait=0$/); // whether polls get through is to be seen again
  fourth.answer(200, LINE_OF_HELLO);
  await newest(requests, 6);
  assert.deepEqual(changes.slice(2).map(({ state }) => state), ["detached", "connecting", "attached"]);
});

test("a 200 that is nothing of a session is a failure", async () => {
  const { requests, channel } = stage({ transport: "long_poll" });
  await settled();
  created(requests[0]);
  const poll = await newest(requests, 2);
  poll.answer(200, "\n"); // a frame that says nothing, from whomever
  while (channel.status.state === "connecting" && requests.length === 2) await settled();
  assert.equal(channel.statistics().attaches, 0);
  assert.match(channel.status.why, /poll answered 200, and nothing of a session/);
});

test("a stream that the server rotates is followed by the next without a word", async () => {
  const { requests, channel, changes } = stage({ transport: "http_stream" });
  channel.onmessage = () => {};
  await settled();
  created(requests[0]);
  const gets = () => requests.filter(({ path }) => path.includes("/stream"));
  for (const at of [1, 2, 3]) {
    while (gets().length < at) await settled();
    gets()[at - 1].answer(200, `${LINE_OF_HELLO}["m",${at},"more"]\n`);
  }
  while (gets().length < 4) await settled();
  assert.match(gets()[3].path, /ack=3$/);
  assert.equal(channel.statistics().received, 3);
  assert.deepEqual(changes.map(({ state }) => state), ["connecting", "attached"]);
  assert.equal(channel.statistics().attaches, 1);
});

test("an EventSource whose stream was rotated is followed by the next without a word", async () => {
  const { requests, sources, channel, changes } = stage({ transport: "events", cookie: true });
  channel.onmessage = () => {};
  await settled();
  created(requests[0]);
  await settled();
  const hello = JSON.stringify({ v: 1, sid: "S".repeat(22), a: 1, recv: 0 });
  sources[0].say("ck-hello", hello, "0");
  sources[0].say("message", "one", "1");
  sources[0].onerror({});
  while (sources.length < 2) await settled();
  sources[1].say("ck-hello", hello, "1");
  await settled();
  assert.deepEqual(changes.map(({ state }) => state), ["connecting", "attached"]);
});

test("a batch that is too large for a proxy is said again in halves", async () => {
  const { requests, channel } = stage({ transport: "http_stream" });
  await settled();
  created(requests[0]);
  await settled();
  for (const text of ["1", "2", "3", "4"]) void channel.send(text);
  await settled();
  const bodies = () => requests.filter(({ method, url }) => method === "POST" && url.includes("ack=")).map(({ body }) => body);
  assert.deepEqual(bodies(), ['["m",1,"1"]\n']);
  requests.at(-1).answer(200, { ack: 1 });
  await settled();
  requests.at(-1).answer(413, "<html>too large</html>");
  await settled();
  assert.deepEqual(bodies().slice(1), ['["m",2,"2"]\n["m",3,"3"]\n["m",4,"4"]\n', '["m",2,"2"]\n']);
  requests.at(-1).answer(413, "<html>too large</html>");
  const info = await channel.closed;
  assert.deepEqual([info.outcome, info.reason, info.unacknowledged], ["lost", "size", 3]);
});

test("with a cookie a WebSocket is preceded by the creation that sets it", async () => {
  const { requests, sockets } = stage({ cookie: true });
  await settled();
  assert.equal(sockets.length, 0);
  created(requests[0]);
  await settled();
  sockets[0].open();
  assert.deepEqual(JSON.parse(sockets[0].sent[0].slice(2)), { v: 1, sid: "S".repeat(22), a: 1, recv: 0 });
});

test("an AbortSignal closes in order", async () => {
  const stop = new AbortController();
  const { sockets, channel } = await attached({ signal: stop.signal });
  stop.abort();
  assert.deepEqual(sentBy(sockets[0]), ["e 1 1000 "]);
  sockets[0].say("a 1");
  assert.equal((await channel.closed).delivered, true);
});

// -- the page's life

test("a page that goes for good says what is left and closes, in one request that outlives it", async () => {
  const { requests, channel, page, sockets } = await attached();
  await channel.send("left");
  page.say("pagehide", { persisted: false });
  assert.equal(requests.length, 1);
  const [{ keepalive, body, method, path }] = requests;
  assert.deepEqual([keepalive, method, path], [true, "POST", `/chat/ck/${"S".repeat(22)}?a=1&ack=0`]);
  assert.equal(body, '["m",1,"left"]\n["e",2,1001,"the page was left"]\n');
  assert.equal(sentBy(sockets[0]).at(-1), "e 2 1001 the page was left");
});

test("one that keeps its state is closed by nobody; its successor goes on, once", async () => {
  const storage = new Store();
  const { requests, channel, page } = await attached({ state: storage });
  await channel.send("left");
  assert.equal(storage.size, 0); // a tab that is duplicated while it is seen finds nothing
  page.say("pagehide", { persisted: false });
  assert.equal(requests[0].body, '["m",1,"left"]\n');
  const next = stage({ state: storage });
  const twin = stage({ state: storage });
  await settled();
  assert.deepEqual([next.channel.resumed, twin.channel.resumed], [true, false]);
  next.sockets[0].open();
  const { sid, secret, a, recv } = JSON.parse(next.sockets[0].sent[0].slice(2));
  assert.deepEqual([sid, secret, recv], ["S".repeat(22), "K", 0]);
  assert.ok(a > Date.now() * 999);
  assert.match(twin.sockets[0].url, /\/ck\/ws$/);
  next.sockets[0].hello({ a, recv: 0 });
  assert.deepEqual(sentBy(next.sockets[0]), ["m 1 left"]);
});

test("the loser of two pages of one session is told, and never comes again", async () => {
  const { sockets, channel, page, changes } = await attached();
  sockets[0].drop(1012);
  page.say("online");
  sockets[1].open();
  sockets[1].drop(4409, "superseded");
  assert.equal((await channel.closed).outcome, "superseded");
  page.say("online");
  page.say("pageshow", { persisted: true });
  assert.equal(sockets.length, 2);
  assert.equal(changes.at(-1).state, "closed");
});

test("put away for the back-forward cache it has no connection; shown again it attaches at once", async () => {
  const storage = new Store();
  const { sockets, page, changes } = await attached({ state: storage });
  page.say("pagehide", { persisted: true });
  assert.ok(sockets[0].closed);
  assert.equal(storage.size, 1);
  assert.equal(changes.at(-1).nextTry, null);
  page.say("pageshow", { persisted: true });
  assert.equal(sockets.length, 2);
  assert.equal(storage.size, 0);
});

test("a page shown again leaves alone what its successor has kept", async () => {
  const storage = new Store();
  const { page } = await attached({ state: storage });
  page.say("pagehide", { persisted: true });
  const next = await attached({ state: storage }, { a: 2 });
  next.page.say("pagehide", { persisted: true });
  const kept = [...storage.values()];
  page.say("pageshow", { persisted: true });
  assert.deepEqual([...storage.values()], kept);
});

test("a hidden page keeps its state, since it may be discarded without a word; seen again it takes it back", async () => {
  const storage = new Store();
  const { page } = await attached({ state: storage });
  page.show("hidden");
  assert.equal(storage.size, 1);
  page.show("visible");
  assert.equal(storage.size, 0);
});

test("what was taken from a hidden page is not put back by it", async () => {
  const storage = new Store();
  const { page } = await attached({ state: storage });
  page.show("hidden");
  const next = stage({ state: storage });
  assert.ok(next.channel.resumed);
  page.document.dispatchEvent(new Event("freeze")); // saves again
  assert.equal(storage.size, 0);
});

test("keepalive carries 60 KiB at most, whole lines from the first", async () => {
  const { requests, channel, page } = await attached({}, { secret: "K", window: [100, 1 << 20], max: 30000 });
  for (const letter of "abc") await channel.send(letter.repeat(25000));
  page.say("pagehide", { persisted: false });
  assert.deepEqual(requests[0].body.trimEnd().split("\n").map((line) => JSON.parse(line)[1]), [1, 2]);
});

test("when the network changes a WebSocket is asked for a sign of life, and back-off is over", async () => {
  const { sockets, page } = await attached();
  page.say("offline");
  assert.deepEqual(sentBy(sockets[0]), ["p"]);
  sockets[0].drop();
  page.say("online");
  assert.equal(sockets.length, 2);
  page.show("hidden");
  page.show("visible");
  assert.equal(sockets.length, 2); // it is trying already
});

test("a stream is begun anew when the network changes: it could not be asked", async () => {
  const { requests, page } = stage({ transport: "http_stream" });
  await settled();
  created(requests[0]);
  await settled();
  page.say("online");
  await settled();
  const streams = requests.slice(1);
  assert.deepEqual(streams.map(({ path }) => path.endsWith("/stream?a=1&ack=0")), [true, true]);
  assert.deepEqual(streams.map(({ signal }) => signal.aborted), [false, false]); // the server ends it when it has the newer one
  streams[1].answer(200, `["h",${JSON.stringify({ v: 1, recv: 0 })}]\n`);
  await settled();
  assert.deepEqual(streams.map(({ signal }) => signal.aborted), [true, false]);
});

test("a POST under way when the page wakes up is given up and said again: it might hang until its timeout", async () => {
  const { requests, page, channel } = stage({ transport: "http_stream", random: () => 0 });
  await settled();
  created(requests[0]);
  await settled();
  const posts = () => requests.filter(({ method }) => method === "POST").slice(1); // behind the creation
  void channel.send("one");
  while (posts().length < 1) await settled();
  page.document.dispatchEvent(new Event("resume"));
  while (posts().length < 2) await settled();
  assert.deepEqual(posts().map(({ signal }) => signal.aborted), [true, false]);
  assert.equal(posts()[1].body, posts()[0].body);
});

test("a state that is damaged, or another's, is not used: told if it was given, passed over if it was found", async () => {
  for (const [state, complaint] of [
    ["{", /not what channel.save\(\) gave/],
    ['{"channelkit":1,"base":"https://other/ck"}', /belongs to https:\/\/other\/ck/],
    ['{"channelkit":1,"base":"https://site.example/chat/ck","sid":"S","a":1,"recv":0,"sent":2,"acked":0,"verified":0,"frames":[]}', /damaged/],
  ]) {
    assert.throws(() => stage({ state }), complaint);
    const storage = new Store([["k", state]]);
    const { channel } = stage({ state: storage, key: "k" });
    assert.equal(channel.resumed, false);
  }
});

test("what cannot work is told before anything is opened", () => {
  for (const options of [{ transport: "pigeon" }, { transport: undefined, transports: [] }]) {
    assert.throws(() => stage(options), TypeError);
  }
  for (const url of ["ftp://h/", "/chat?x=1", "http://u@h/"]) assert.throws(() => connect(url, { page: new Page() }), TypeError);
});
