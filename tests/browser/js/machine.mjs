// The machine at the end of a pipe: one line of JSON is the life of one instance, the answer what came of every call.
//     {"new": {a, saved?, sid?, secret?}, "jitter": [...], "calls": [[name, ...arguments], ...]}
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { ClientMachine, nextInstance } = await import(new URL("machine.js", folder));
const { fromBase64, readHello, toBase64 } = await import(new URL("codec.js", folder));
const { numbered, endFrame } = await import(new URL("frames.js", folder));

const read = (data) => (typeof data === "string" ? data : fromBase64(data.base64));
const plain = (data) => (typeof data === "string" ? data : { base64: toBase64(data) });

function readFrame([kind, n, ...more]) {
  if (kind === "h") return { kind, hello: readHello(n) };
  if (kind === "m") return numbered(n, read(more[0]));
  return kind === "e" ? endFrame(n, ...more) : { kind, n };
}

function plainFrame(frame) {
  if (frame.kind === "e") return ["e", frame.n, frame.code, frame.reason];
  if (frame.kind === "m" || frame.kind === "b") return ["m", frame.n, plain(frame.data)];
  return frame.kind === "p" ? ["p"] : [frame.kind, frame.n];
}

const plainAction = (action) => ("frames" in action ? { ...action, frames: action.frames.map(plainFrame) } : action);

const CALLS = {
  created: (machine, hello, ...more) => machine.created(readHello(hello), ...more),
  received: (machine, attachment, frame, now) => machine.received(attachment, readFrame(frame), now),
  send: (machine, data, now) => machine.send(read(data), now),
  pull: (machine) => {
    const frame = machine.pull();
    return frame === null ? [] : [plainFrame(frame)];
  },
};

function view(machine) {
  const { ack, deadline, isOpen, drained, link, attached, kind, wanted, attachment, hadHello, sid, ending, closing, retryAt } = machine;
  const uplink = [machine.uplink.taken, machine.uplink.failures, machine.uplink.notBefore, machine.uplink.most];
  const { sent, acked, bytes } = machine.sender;
  const { have, recv, recvBytes, takenBytes } = machine.receiver;
  const saved = sid === null ? null : { ...machine.save(), frames: machine.save().frames.map(plainFrame) };
  const room = machine.hasRoom(1);
  return {
    ack, deadline, isOpen, drained, link, attached, kind, wanted, attachment, hadHello, sid, ending,
    closing: closing && plainFrame(closing),
    retryAt, uplink, sent, acked, bytes, have, recv, recvBytes, takenBytes, saved, room,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  if (question.nextInstance) {
    process.stdout.write(`${nextInstance(...question.nextInstance)}\n`);
    continue;
  }
  const { new: options, jitter, calls } = question;
  let drawn = 0;
  if (options.saved) options.saved.frames = options.saved.frames.map(readFrame);
  const machine = new ClientMachine({ ...options, jitter: () => jitter[drawn++ % jitter.length] });
  const results = calls.map(([name, ...args]) => {
    const actions = name in CALLS ? CALLS[name](machine, ...args) : machine[name](...args);
    return { actions: (actions ?? []).map((one) => ("do" in one ? plainAction(one) : one)), view: view(machine) };
  });
  process.stdout.write(`${JSON.stringify(results)}\n`);
}
