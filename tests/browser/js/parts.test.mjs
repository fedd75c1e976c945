// The small pure parts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./fakes.mjs";

const { makeClock } = await load("clock.js");
const { Ladder } = await load("ladder.js");
const { utf8Size, isWellFormed, mayEnd } = await load("frames.js");
const { Receiver, backoff } = await load("halves.js");
const { ClientMachine } = await load("machine.js");

test("the clock never goes back, and sleep counts", () => {
  let [steps, wall] = [1000, 5000];
  const clock = makeClock(() => steps, () => wall);
  assert.equal(clock(), 0);
  [steps, wall] = [3000, 7000];
  assert.equal(clock(), 2);
  wall -= 100_000; // somebody sets the clock back
  assert.equal(clock(), 2);
  wall += 3_600_000; // an hour of sleep, which performance.now() did not see
  assert.equal(clock(), 3602);
});

test("a transport that never worked is left at once, one that did after three failures; it is climbed back to", () => {
  const ladder = new Ladder(["websocket", "stream", "poll"]);
  assert.equal(ladder.failed("websocket"), "stream");
  ladder.attached("stream", 0);
  assert.equal(ladder.climbAt, Infinity); // the WebSocket has never worked here
  ladder.attached("websocket", 0);
  assert.equal(ladder.failed("websocket"), "websocket");
  assert.equal(ladder.failed("websocket"), "websocket");
  assert.equal(ladder.failed("websocket"), "stream");
  ladder.attached("stream", 100);
  assert.equal(ladder.climbAt, 130);
  assert.equal(ladder.climb(130), "websocket");
  assert.equal(ladder.climbAt, 190); // if that fails: later, and later
  ladder.attached("websocket", 140);
  assert.equal(ladder.climbAt, Infinity);
});

test("a WebSocket that brings nothing twice is left for long; the next time at once, until one has brought something", () => {
  const ladder = new Ladder(["websocket", "stream"]);
  ladder.attached("websocket", 0);
  assert.equal(ladder.lost("websocket", true), "websocket");
  ladder.attached("websocket", 0);
  assert.equal(ladder.lost("websocket", true), "stream");
  ladder.attached("stream", 100);
  assert.equal(ladder.lost("stream", true), "stream");
  assert.equal(ladder.climbAt, 400);
  assert.equal(ladder.climb(400), "websocket");
  ladder.attached("websocket", 400);
  assert.equal(ladder.lost("websocket", true), "stream");
  ladder.attached("stream", 500);
  assert.equal(ladder.climbAt, 1100);
  ladder.attached("websocket", 1100);
  assert.equal(ladder.lost("websocket", false), "websocket");
  assert.equal(ladder.lost("websocket", true), "websocket");
  ladder.prefer("websocket"); // somebody knows better
  assert.equal(ladder.lost("websocket", true), "websocket");
  assert.equal(ladder.lost("websocket", true), "stream");
});

test("a transport that was asked for is not climbed away from, and those behind it are tried after it", () => {
  const ladder = new Ladder(["websocket", "stream", "poll"]);
  ladder.attached("websocket", 0);
  ladder.prefer("poll");
  ladder.attached("poll", 1);
  assert.equal(ladder.climbAt, Infinity);
  assert.equal(ladder.best, "poll");
  assert.deepEqual([1, 2, 3].map(() => ladder.failed("poll")), ["poll", "poll", "websocket"]);
  ladder.prefer("events"); // one that was not among them
  assert.deepEqual(ladder.kinds, ["events", "poll", "websocket", "stream"]);
});

test("sizes are those of UTF-8, and lone surrogates are seen", () => {
  const texts = ["", "a", "\x7f\x80", "é", "߿ࠀ", "€", "😀", "a😀b", "\u{10ffff}", "\uffff"];
  for (const text of texts) assert.equal(utf8Size(text), Buffer.byteLength(text), text);
  assert.deepEqual(["\ud800", "\udc00a", "😀\ud83d", "😀"].map(isWellFormed), [false, false, false, true]);
});

test("an end is what a close frame may hold", () => {
  for (const [code, reason] of [[1000, ""], [1014, "é".repeat(61)], [3000, "x"], [4999, "x".repeat(123)]]) assert.ok(mayEnd(code, reason));
  for (const [code, reason] of [[999, ""], [1005, ""], [1006, ""], [1015, ""], [5000, ""], [1000, "x".repeat(124)], ["1000", ""], [1000, 1]]) {
    assert.ok(!mayEnd(code, reason));
  }
});

test("a receiver takes what the window holds, in messages and in bytes, and an end beyond it", () => {
  const text = (n, data) => ({ kind: "m", n, data, size: data.length });
  const receiver = new Receiver(2, 10, 0);
  assert.deepEqual([text(1, "a"), text(1, "a"), text(3, "c"), text(2, "b"), text(3, "c")].map((frame) => receiver.take(frame)), [
    "taken", "duplicate", "gap", "taken", "no room",
  ]);
  assert.equal(receiver.take({ kind: "e", n: 3, code: 1000, reason: "", size: 0 }), "taken");
  assert.deepEqual([receiver.pull().data, receiver.pullEnd(), receiver.pull().data, receiver.pull()], ["a", null, "b", null]);
  assert.equal(receiver.pullEnd().n, 3);
  const narrow = new Receiver(9, 3, 0);
  assert.deepEqual([narrow.take(text(1, "ab")), narrow.take(text(2, "cd"))], ["taken", "no room"]);
});

test("back-off doubles from half a second to a sixth of the grace, at most thirty, times chance", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 99].map((failures) => backoff(failures, 1, 30)), [0, 0.5, 1, 2, 4, 5, 5]);
  assert.deepEqual([7, 8, 99].map((failures) => backoff(failures, 1, 600)), [30, 30, 30]);
  assert.equal(backoff(3, 0.25, 30), 0.5);
});

const hello = { kind: "h", hello: { recv: 0, sid: "S", terms: { window: 4, windowBytes: 400, max: 100, ping: 20, grace: 30 } } };

function attached(kind) {
  const machine = new ClientMachine({ jitter: () => 0.5, sid: "S", secret: "K" });
  machine.start(kind, 0);
  if (kind === "websocket") machine.opened(1, 0);
  machine.received(1, hello, 0);
  return machine;
}

test("a paused machine has no connection and wants none until it is hurried; the grace goes on", () => {
  const machine = attached("websocket");
  assert.deepEqual(machine.pause(1).map((one) => one.do), ["drop", "detached"]);
  assert.deepEqual(machine.tick(10), []);
  assert.equal(machine.deadline, 31);
  assert.deepEqual(machine.hurry(20).map((one) => one.do), ["open"]);
  const late = attached("stream");
  late.pause(1);
  assert.equal(late.hurry(40).at(-1).do, "drained");
  assert.equal(late.ending.outcome, "lost");
});

test("a probed WebSocket says p, and is given up if nothing comes in pingTimeout", () => {
  const machine = attached("websocket");
  assert.deepEqual(machine.probe(5), [{ do: "write", attachment: 1, frames: [{ kind: "p" }] }]);
  assert.equal(machine.deadline, 15);
  assert.deepEqual(machine.tick(15).map((one) => one.do), ["drop", "detached"]);
  const alive = attached("websocket");
  alive.probe(5);
  alive.received(1, { kind: "a", n: 0 }, 6);
  assert.equal(alive.deadline, 25); // it wrote nothing since 5, and its server is to hear of it too
});

test("an overdue timer after sleep finds the silence by the clock", () => {
  const machine = attached("websocket");
  assert.deepEqual(machine.tick(3600).map((one) => one.do), ["drop", "detached"]);
  assert.equal(machine.ending, null); // whether the session still lives is for the server to say
  assert.deepEqual(machine.tick(3600.25).map((one) => one.do), ["open"]);
});
