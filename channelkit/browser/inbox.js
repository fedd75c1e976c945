// What a page receives: by a callback or by iterating, one message at a time; a message that was handed over is received.
import { report } from "./report.js";

/** @typedef {(message: string | Uint8Array) => void} Callback */

export class Inbox {
  received = 0; // handed over
  /** @type {Callback | null} */
  #callback = null;
  /** @type {(() => void)[]} */
  #readers = [];
  #machine;
  #settle;

  /** @param {import("./machine.js").ClientMachine} machine @param {() => void} settle says that messages were taken */
  constructor(machine, settle) {
    this.#machine = machine;
    this.#settle = settle;
  }

  get callback() {
    return this.#callback;
  }

  set callback(callback) {
    this.#callback = callback;
    if (callback) queueMicrotask(() => this.pull());
  }

  /** Messages, until the session is over. */
  async *messages() {
    for (;;) {
      const message = this.#take();
      if (message !== null) {
        this.#settle();
        yield message;
      } else if (this.#machine.ending !== null) {
        return;
      } else {
        await new Promise((resolve) => this.#readers.push(() => resolve(undefined)));
      }
    }
  }

  #take() {
    const message = this.#machine.pull();
    if (message === null) return null;
    this.received += 1;
    return message.data;
  }

  /** Hand over what is there. */
  pull() {
    for (let message; this.#callback && (message = this.#take()) !== null; ) {
      try {
        this.#callback(message);
      } catch (error) {
        report(error);
      }
    }
    this.#settle();
    this.wake();
  }

  /** Who iterates looks again. */
  wake() {
    for (const wake of this.#readers.splice(0)) wake();
  }
}
