// The codec at the end of a pipe.  {"read": form, "wire": base64 | string, "size": of the pieces, "max": bytes} is answered by
// {"frames": [...], "wrong": whether it threw behind them}, {"write": frame} by {"line", "websocket"}.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const codec = await import(new URL("codec.js", folder));
const frames = await import(new URL("frames.js", folder));

const bytesOf = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const base64Of = (bytes) => Buffer.from(bytes).toString("base64");

function plain(frame) {
  const { kind, n, size } = frame;
  if (kind === "h") return [kind, frame.hello];
  if (kind === "m") return ["m", n, frame.data, size];
  if (kind === "b") return ["b", n, { base64: base64Of(frame.data) }, size];
  return kind === "e" ? ["e", n, frame.code, frame.reason] : n === undefined ? [kind] : [kind, n];
}

function* pieces(bytes, size) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.slice(at, at + size);
}

function* read({ read: form, wire, size, max }) {
  if (form === "websocket") {
    const frame = codec.decodeWebSocket(typeof wire === "string" ? wire : bytesOf(wire.base64), max);
    if (frame !== null) yield frame;
    return;
  }
  const reader = form === "lines" ? new codec.LineFrames(max) : new codec.EventFrames(max);
  for (const piece of pieces(bytesOf(wire.base64), size)) yield* reader.feed(piece);
}

function answer(question) {
  if (question.answer !== undefined) return codec.decodeAnswer(question.answer);
  if (question.closed !== undefined) return codec.readCloseReason(question.closed);
  if (question.write) {
    const [kind, n, data, ...more] = question.write;
    const payload = typeof data === "string" ? data : data?.base64 === undefined ? data : bytesOf(data.base64);
    const frame = kind === "m" ? frames.numbered(n, payload) : kind === "e" ? frames.endFrame(n, data, ...more) : { kind, n };
    const message = codec.encodeWebSocket(frame);
    const line = kind === "m" || kind === "e" ? codec.encodeLine(frame) : null;
    return { line, websocket: typeof message === "string" ? message : { base64: base64Of(message) } };
  }
  const found = [];
  try {
    for (const frame of read(question)) found.push(plain(frame));
  } catch (error) {
    if (!(error instanceof frames.BadFrame)) throw error;
    return { frames: found, wrong: true };
  }
  return { frames: found, wrong: false };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(answer(JSON.parse(line)))}\n`);
}
