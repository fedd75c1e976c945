// How far a session has come to its end.
import { NEVER } from "./halves.js";

/** @typedef {import("./machine.js").Ending} Ending */

/** Open; closing, from when our own end is numbered; over, from which there is no way back. */
export class Life {
  /** Our own end. @type {import("./frames.js").EndFrame | null} */
  closing = null;
  /** @type {Ending | null} */
  ending = null;
  closeAt = NEVER; // when a close that is not confirmed is given up

  /** Whether a message may ever be numbered again. */
  get isOpen() {
    return this.ending === null && this.closing === null;
  }

  /** @param {import("./machine.js").Outcome} outcome @param {import("./machine.js").By} by @param {number} code
   * @param {string} reason @param {import("./halves.js").Sender} sender @param {import("./halves.js").Receiver} receiver */
  end(outcome, by, code, reason, sender, receiver) {
    const left = sender.unacknowledged;
    this.ending = { outcome, by, code, reason, clean: left === 0 && outcome === "ended", unacknowledged: left };
    this.closeAt = NEVER;
    sender.clear();
    receiver.stop();
    return this.ending;
  }
}
