// The codec of CK/1 as a client needs it (docs/protocol.md, section 2).  Pure: bytes and strings in, frames out, and back.
// What is wrong throws BadFrame, after what preceded it was given; unknown frames give null, unknown members are ignored.
import { BadFrame, endFrame, isWellFormed, mayEnd, utf8Size } from "./frames.js";

/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./frames.js").Hello} Hello */

const encoder = new TextEncoder();
const BOUNDED = 2 ** 31; // hello's counts and sizes: more is nobody's memory

/** The longest line, event, and body of a POST: JSON may escape one byte as six. @param {number} max */
export const lineLimit = (max) => 6 * max + 1024;

/** @param {unknown} value @param {string} what @param {number} least @returns {number} */
function number(value, what, least) {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
  throw new BadFrame(`${what} must be a whole number from ${least} to 2^53-1, not ${String(value).slice(0, 40)}`);
}

/** @param {string} text @param {string} what @param {number} least */
function decimal(text, what, least) {
  if (/^(0|[1-9][0-9]{0,15})$/.test(text)) return number(Number(text), what, least);
  throw new BadFrame(`${what} must be a decimal number, not ${text.slice(0, 40)}`);
}

/** @param {unknown} value @param {number} max @returns {string} */
function text(value, max) {
  if (typeof value !== "string") throw new BadFrame("a text must be a string");
  if (!isWellFormed(value)) throw new BadFrame("a text with a lone surrogate");
  if (value.length > max || utf8Size(value) > max) throw new BadFrame(`a text of more than ${max} bytes`);
  return value;
}

/** @param {number} n @param {unknown} value @param {number} max @returns {Frame} */
function textFrame(n, value, max) {
  const data = text(value, max);
  return { kind: "m", n, data, size: utf8Size(data) };
}

/** @param {number} n @param {Uint8Array} data @param {number} max @returns {Frame} */
function binaryFrame(n, data, max) {
  if (data.byteLength > max) throw new BadFrame(`a message of more than ${max} bytes`);
  return { kind: "b", n, data, size: data.byteLength };
}

/** @param {number} n @param {unknown} code @param {unknown} reason @returns {Frame} */
function end(n, code, reason) {
  if (!mayEnd(code, reason)) throw new BadFrame("an end needs a close code and a reason as RFC 6455 has them");
  return endFrame(n, /** @type {number} */ (code), /** @type {string} */ (reason));
}

/** @param {string} source @returns {any} */
function json(source) {
  try {
    return JSON.parse(source);
  } catch {
    throw new BadFrame("not JSON"); // never the source: a hello holds a secret
  }
}

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let all = "";
  for (let at = 0; at < bytes.length; at += 8192) all += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(all);
}

/** @param {unknown} value @param {number} max */
export function fromBase64(value, max = Infinity) {
  if (typeof value !== "string") throw new BadFrame("binary data must be a string of base64");
  if (value.length > 4 * (max / 3 + 1)) throw new BadFrame(`a message of more than ${max} bytes`);
  if (value.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(value)) throw new BadFrame("not base64");
  return Uint8Array.from(atob(value), (c) => c.charCodeAt(0));
}

// -- hello

/** @param {any} members @param {string} name */
function optionalText(members, name) {
  const value = members[name] ?? null;
  if (value === null || (typeof value === "string" && /^[\x00-\x7f]{1,512}$/.test(value))) return value;
  throw new BadFrame(`hello: ${name} must be an ASCII string of 1 to 512 characters`);
}

/** @param {unknown} value @param {string} what */
function count(value, what) {
  if (number(value, what, 1) <= BOUNDED) return /** @type {number} */ (value);
  throw new BadFrame(`hello: ${what} is beyond reason`);
}

/** @param {unknown} value @param {string} what */
function seconds(value, what) {
  if (typeof value === "number" && value > 0 && value <= 1e9) return value;
  throw new BadFrame(`hello: ${what} must be seconds above 0`);
}

/** A server's hello, checked. @param {any} value @returns {Hello} */
export function readHello(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new BadFrame("hello must be an object");
  if ("v" in value && value.v !== 1) throw new BadFrame("hello: that version is not spoken here, only 1");
  const has = (/** @type {string} */ name, /** @type {number} */ least) =>
    name in value ? number(value[name], name, least) : null;
  let terms = null;
  if ("window" in value) {
    const { window } = value;
    if (!Array.isArray(window) || window.length < 2) throw new BadFrame("hello: window must be [messages, bytes]");
    terms = {
      window: count(window[0], "window"),
      windowBytes: count(window[1], "window"),
      max: count(value.max, "max"),
      ping: seconds(value.ping, "ping"),
      grace: seconds(value.grace, "grace"),
    };
  }
  return {
    recv: number(value.recv, "recv", 0),
    sid: optionalText(value, "sid"),
    secret: optionalText(value, "secret"),
    a: has("a", 1),
    by: has("by", 1),
    have: has("have", 0),
    terms,
  };
}

/** A client's hello, the first message of a WebSocket. @param {{a: number, recv: number, sid: string | null, secret: string | null}} hello */
export function encodeClientHello({ a, recv, sid, secret }) {
  return `h ${JSON.stringify({ v: 1, ...(sid === null ? {} : { sid }), ...(secret === null ? {} : { secret }), a, recv })}`;
}

// -- lines of JSON

/** A numbered frame as a line of JSON, its LF included. @param {import("./frames.js").Numbered} frame */
export function encodeLine(frame) {
  if (frame.kind === "m") return `${JSON.stringify(["m", frame.n, frame.data])}\n`;
  if (frame.kind === "b") return `["b",${frame.n},"${toBase64(frame.data)}"]\n`;
  return `${JSON.stringify(["e", frame.n, frame.code, frame.reason])}\n`;
}

/** @type {Record<string, [number, (values: any[], max: number) => Frame]>} */
const LINE_KINDS = {
  m: [3, (values, max) => textFrame(number(values[1], "number", 1), values[2], max)],
  b: [3, (values, max) => binaryFrame(number(values[1], "number", 1), fromBase64(values[2], max), max)],
  e: [4, (values) => end(number(values[1], "number", 1), values[2], values[3])],
  a: [2, (values) => ({ kind: "a", n: number(values[1], "ack", 0) })],
  p: [1, () => ({ kind: "p" })],
  h: [2, (values) => ({ kind: "h", hello: readHello(values[1]) })],
};

/** The frame of a line without its LF. @param {string} line @param {number} max @returns {Frame | null} */
export function decodeLine(line, max) {
  const values = json(line);
  if (!Array.isArray(values) || typeof values[0] !== "string") {
    throw new BadFrame("a frame is a JSON array that begins with its kind");
  }
  if (!Object.hasOwn(LINE_KINDS, values[0])) return null;
  const [least, decode] = LINE_KINDS[values[0]];
  if (values.length < least) throw new BadFrame(`frame '${values[0]}' has too few members`);
  return decode(values, max);
}

/** Reads a stream of lines: bytes in, however cut, frames out.  A last line without LF is never given. */
export class LineFrames {
  /** @type {Uint8Array[]} */
  #pieces = []; // of the line that is not at its end yet
  #held = 0;
  #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  /** @param {number} max bytes of one message */
  constructor(max) {
    this.max = max;
  }

  /** @param {Uint8Array} bytes @returns {Generator<Frame>} */
  *feed(bytes) {
    let from = 0;
    for (let at; (at = bytes.indexOf(10, from)) >= 0; from = at + 1) {
      this.#hold(bytes.subarray(from, at));
      const line = this.#whole();
      const frame = /^[ \t\r\v\f]*$/.test(line) ? null : decodeLine(line, this.max);
      if (frame !== null) yield frame;
    }
    if (from < bytes.length) this.#hold(bytes.slice(from));
  }

  /** @param {Uint8Array} piece */
  #hold(piece) {
    this.#held += piece.length;
    if (this.#held > lineLimit(this.max)) throw new BadFrame(`a line of more than ${lineLimit(this.max)} bytes`);
    this.#pieces.push(piece);
  }

  #whole() {
    const line = this.#pieces.length === 1 ? this.#pieces[0] : joined(this.#pieces, this.#held);
    this.#pieces = [];
    this.#held = 0;
    try {
      return this.#decoder.decode(line);
    } catch {
      throw new BadFrame("a line is not UTF-8");
    }
  }
}

/** @param {Uint8Array[]} pieces @param {number} size */
function joined(pieces, size) {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

// -- WebSocket messages

/** A frame as a WebSocket message: a string, or bytes for binary. @param {Exclude<Frame, {kind: "h"}>} frame */
export function encodeWebSocket(frame) {
  switch (frame.kind) {
    case "m": return `m ${frame.n} ${frame.data}`;
    case "e": return `e ${frame.n} ${frame.code} ${frame.reason}`;
    case "a": return `a ${frame.n}`;
    case "p": return "p";
    default: {
      const head = encoder.encode(`m ${frame.n} `);
      return joined([head, frame.data], head.length + frame.data.length);
    }
  }
}

/** @param {string | Uint8Array} message @param {number} max @returns {Frame | null} */
export function decodeWebSocket(message, max) {
  if (typeof message !== "string") return decodeBinary(message, max);
  const [kind, rest] = split(message);
  switch (kind) {
    case "m": {
      const [n, data] = split(rest ?? "");
      if (data === undefined) throw new BadFrame("frame 'm' is 'm number text'");
      return textFrame(decimal(n, "number", 1), data, max);
    }
    case "e": {
      const [n, more] = split(rest ?? "");
      const [code, reason = ""] = split(more ?? "");
      return end(decimal(n, "number", 1), decimal(code, "code", 0), reason);
    }
    case "a": return { kind: "a", n: decimal(rest ?? "", "ack", 0) };
    case "p": return { kind: "p" };
    case "h": return { kind: "h", hello: readHello(json(rest ?? "")) };
    default: return null;
  }
}

/** @param {Uint8Array} message @param {number} max @returns {Frame | null} */
function decodeBinary(message, max) {
  if (message[0] !== 109 || (message.length > 1 && message[1] !== 32)) return null; // "m "
  const space = message.indexOf(32, 2);
  if (space < 0) throw new BadFrame("a binary frame is 'm number bytes'");
  const n = decimal(String.fromCharCode(...message.subarray(2, Math.min(space, 42))), "number", 1);
  return binaryFrame(n, message.slice(space + 1), max);
}

/** @param {string} source @returns {[string, string | undefined]} */
function split(source) {
  const at = source.indexOf(" ");
  return at < 0 ? [source, undefined] : [source.slice(0, at), source.slice(at + 1)];
}

// -- server-sent events

/** The frame of an event as an EventSource dispatches it. @param {string} event @param {string} data @param {string} id
 * @param {number} max @returns {Frame | null} */
export function decodeEvent(event, data, id, max) {
  switch (event) {
    case "ck-hello": return { kind: "h", hello: readHello(json(data)) };
    case "message": return textFrame(decimal(id, "id", 1), data, max);
    case "ck-j": return textFrame(decimal(id, "id", 1), json(data), max);
    case "ck-b": return binaryFrame(decimal(id, "id", 1), fromBase64(data, max), max);
    case "ck-end": {
      const values = json(data);
      if (!Array.isArray(values) || values.length < 2) throw new BadFrame("the data of ck-end is [code, reason]");
      return end(decimal(id, "id", 1), values[0], values[1]);
    }
    default: return null;
  }
}

/** Reads an event stream as WHATWG HTML 9.2 says a browser does: bytes in, however cut, frames out. */
export class EventFrames {
  #decoder = new TextDecoder(); // one BOM at the start is taken off, what is wrong becomes U+FFFD
  #afterCr = false; // the last text ended in CR: a LF that comes next belongs to it
  #line = "";
  #held = 0; // characters of the event that is not at its end yet
  #event = "";
  /** @type {string[]} */
  #data = [];
  #id = "";

  /** @param {number} max bytes of one message */
  constructor(max) {
    this.max = max;
  }

  /** @param {Uint8Array} bytes @returns {Generator<Frame>} */
  *feed(bytes) {
    let source = this.#decoder.decode(bytes, { stream: true });
    if (source !== "" && this.#afterCr) source = source.replace(/^\n/, "");
    if (source === "") {
      if (bytes.length > 0) this.#afterCr = false;
      return;
    }
    this.#afterCr = source.endsWith("\r");
    const lines = source.split(/\r\n|\r|\n/);
    const rest = /** @type {string} */ (lines.pop());
    for (const piece of lines) {
      this.#hold(piece);
      const line = this.#line + piece;
      this.#line = "";
      const frame = this.#take(line);
      if (frame !== null) yield frame;
    }
    this.#hold(rest);
    this.#line += rest;
  }

  /** @param {string} piece */
  #hold(piece) {
    this.#held += piece.length;
    if (this.#held > lineLimit(this.max)) throw new BadFrame(`an event of more than ${lineLimit(this.max)} characters`);
  }

  /** @param {string} line */
  #take(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #dispatch() {
    const [event, data] = [this.#event || "message", this.#data];
    this.#event = "";
    this.#data = [];
    this.#held = 0;
    return data.length > 0 ? decodeEvent(event, data.join("\n"), this.#id, this.max) : null;
  }
}

// -- answers

/** `code` and `ack` of an answer's body; null for both if it is none of ours (a proxy's page, a cut one).
 * @param {string} body @returns {{code: string | null, ack: number | null}} */
export function decodeAnswer(body) {
  try {
    const value = JSON.parse(body);
    const ack = Number.isSafeInteger(value.ack) && value.ack >= 0 ? value.ack : null;
    return { code: typeof value.code === "string" ? value.code : null, ack };
  } catch {
    return { code: null, ack: null };
  }
}

/** Code and acknowledgement of a WebSocket close whose code is 4400 to 4599. @param {string} reason */
export function readCloseReason(reason) {
  const [code, ack = ""] = split(reason);
  return { code, ack: /^[0-9]{1,16}$/.test(ack) ? Number(ack) : null };
}
