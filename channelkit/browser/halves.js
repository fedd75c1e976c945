// The two halves of a direction (docs/protocol.md, sections 1 and 4).  Pure; the twins of channelkit/session/sender.py,
// receiver.py and pacing.py.
import { endFrame, numbered } from "./frames.js";

/** @typedef {import("./frames.js").Numbered} Numbered */
/** @typedef {import("./frames.js").Message} Message */
/** @typedef {import("./frames.js").EndFrame} EndFrame */

export const NEVER = Infinity;

/** Seconds before the next try after `failures` in a row: never a large part of the grace, or an outage much shorter
 * than it would be slept over. @param {number} failures @param {number} jitter in [0, 1) @param {number} grace */
export function backoff(failures, jitter, grace) {
  return failures <= 0 ? 0 : jitter * Math.min(30, grace / 6, 0.5 * 2 ** Math.min(failures - 1, 10));
}

/** `sent` is the highest number given, `acked` the highest acknowledged; the frames between are kept.  Nothing leaves
 * because it was written: only an acknowledgement removes. */
export class Sender {
  sent = 0;
  acked = 0;
  bytes = 0;
  /** @type {Numbered[]} */
  frames = [];

  /** @param {number} window @param {number} windowBytes */
  constructor(window, windowBytes) {
    this.window = window;
    this.windowBytes = windowBytes;
  }

  /** Messages, the end not counted, that the peer has not acknowledged. */
  get unacknowledged() {
    return this.frames.length - (this.frames.at(-1)?.kind === "e" ? 1 : 0);
  }

  /** @param {number} size */
  hasRoom(size) {
    return this.sent - this.acked < this.window && this.bytes + size <= this.windowBytes;
  }

  /** @param {string | Uint8Array} data */
  number(data) {
    const frame = numbered(this.sent + 1, data);
    this.keep(frame);
    return frame;
  }

  /** @param {number} code @param {string} reason */
  end(code, reason) {
    const frame = endFrame(this.sent + 1, code, reason);
    this.keep(frame);
    return frame;
  }

  /** @param {Numbered} frame */
  keep(frame) {
    this.sent = frame.n;
    this.frames.push(frame);
    this.bytes += frame.size;
  }

  /** Merge an acknowledgement (max), at most `sent`; whether it brought anything. @param {number} n */
  acknowledge(n) {
    if (n <= this.acked) return false;
    this.acked = n;
    const kept = this.frames.findIndex((frame) => frame.n > n);
    const gone = this.frames.splice(0, kept < 0 ? this.frames.length : kept);
    for (const frame of gone) this.bytes -= frame.size;
    return true;
  }

  /** Everything kept with a number above `n`. @param {number} n */
  after(n) {
    return this.frames.filter((frame) => frame.n > n);
  }

  clear() {
    this.frames = [];
    this.bytes = 0;
  }
}

/** `have` is the highest number taken without gap, `recv` the highest that was handed to the application and may be
 * acknowledged.  Between them lies the hold: one window, so reading the wire never has to stop. */
export class Receiver {
  /** @type {Numbered[]} */
  hold = [];
  takenBytes = 0; // of everything in (recv, have]
  recvBytes = 0; // of everything that went into `recv` here

  /** @param {number} window @param {number} windowBytes @param {number} recv */
  constructor(window, windowBytes, recv) {
    this.window = window;
    this.windowBytes = windowBytes;
    this.have = this.recv = recv;
  }

  /** The take rule. @param {Numbered} frame @returns {"taken" | "duplicate" | "gap" | "no room"} */
  take(frame) {
    if (frame.n <= this.have) return "duplicate";
    if (frame.n !== this.have + 1) return "gap";
    const fits = frame.n - this.recv <= this.window && this.takenBytes + frame.size <= this.windowBytes;
    if (frame.kind !== "e" && !fits) return "no room";
    this.have = frame.n;
    this.hold.push(frame);
    this.takenBytes += frame.size;
    return "taken";
  }

  /** The next message for the application; null if there is none or the end is next. @returns {Message | null} */
  pull() {
    const frame = this.hold[0];
    if (frame === undefined || frame.kind === "e") return null;
    this.hold.shift();
    this.recv += 1;
    this.takenBytes -= frame.size;
    this.recvBytes += frame.size;
    return frame;
  }

  /** The peer's end, once everything before it was pulled; it counts as received. @returns {EndFrame | null} */
  pullEnd() {
    const frame = this.hold[0];
    if (frame?.kind !== "e" || frame.n !== this.recv + 1) return null;
    this.hold.shift();
    this.recv = frame.n;
    return frame;
  }

  /** Take nothing more: what is held was not acknowledged and never will be.  Whether an end was held. */
  stop() {
    const ended = this.hold.at(-1)?.kind === "e";
    this.hold = [];
    this.have = this.recv;
    this.takenBytes = 0;
    return ended;
  }
}
