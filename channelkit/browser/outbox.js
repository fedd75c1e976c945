// What a page wants to send: it waits for the session's window, and before that for the first hello.
import { isWellFormed, sizeOf } from "./frames.js";

/** @typedef {import("./machine.js").ClientMachine} ClientMachine */
/** @typedef {{data: string | Uint8Array, size: number, done: (accepted: boolean) => void, fail: (error: Error) => void}} Waiting */

export class Outbox {
  /** @type {Waiting[]} */
  #waiting = [];
  /** @type {(() => void)[]} */
  #flushers = [];
  #machine;
  #send;

  /** @param {ClientMachine} machine @param {(data: string | Uint8Array) => void} send has the machine number a message */
  constructor(machine, send) {
    this.#machine = machine;
    this.#send = send;
  }

  /** Messages that are not numbered yet. */
  get length() {
    return this.#waiting.length;
  }

  /** Numbered as soon as it may be; then `done(true)`, or `done(false)` if the session is over before.
   * @param {string | Uint8Array} data @param {(accepted: boolean) => void} done @param {(error: Error) => void} fail */
  add(data, done, fail) {
    this.#waiting.push({ data, size: sizeOf(data), done, fail });
    this.number();
  }

  /** The same without waiting; whether it was. @param {string | Uint8Array} data */
  addNow(data) {
    const machine = this.#machine;
    const size = sizeOf(data);
    if (machine.hadHello && size > machine.terms.max) throw tooLarge(size, machine.terms.max);
    if (!machine.isOpen || this.#waiting.length > 0 || !machine.hasRoom(size)) return false;
    this.#send(data);
    return true;
  }

  /** Number what may be numbered now. */
  number() {
    const machine = this.#machine;
    while (this.#waiting.length > 0 && machine.hadHello && machine.isOpen) {
      const { data, size, done, fail } = this.#waiting[0];
      if (size > machine.terms.max) fail(tooLarge(size, machine.terms.max));
      else if (machine.hasRoom(size)) done(true);
      else break;
      this.#waiting.shift();
      if (size <= machine.terms.max) this.#send(data);
    }
    if (!machine.isOpen) for (const { done } of this.#waiting.splice(0)) done(false);
  }

  /** Wait until everything numbered so far is acknowledged; false if the session ended before that. */
  async flush() {
    const { sender } = this.#machine;
    const upTo = sender.sent;
    while (sender.acked < upTo && this.#machine.ending === null) {
      await new Promise((resolve) => this.#flushers.push(() => resolve(undefined)));
    }
    return sender.acked >= upTo;
  }

  /** An acknowledgement came, or the end: who flushes looks again. */
  wake() {
    for (const wake of this.#flushers.splice(0)) wake();
  }
}

/** `data` as it is kept: bytes are copied, since the caller may go on using them. @param {unknown} data */
export function carried(data) {
  if (typeof data === "string") {
    if (isWellFormed(data)) return data;
    throw new RangeError("a text with a lone surrogate cannot be sent: UTF-8 has none");
  }
  if (data instanceof Uint8Array) return new Uint8Array(data);
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  throw new TypeError("a session carries strings and bytes (Uint8Array, ArrayBuffer)");
}

/** @param {number} size @param {number} max */
const tooLarge = (size, max) => new RangeError(`a message of ${size} bytes is larger than this session's max_message (${max})`);
