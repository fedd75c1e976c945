// A client's uplink by POST (docs/protocol.md, section 6): one batch in flight, sent again until it is acknowledged.  Pure.
import { NEVER, backoff } from "./halves.js";

/** @typedef {import("./frames.js").Numbered} Numbered */
/** @typedef {import("./halves.js").Sender} Sender */
/** @typedef {{do: "post", number: number, a: number, ack: number, frames: Numbered[]}} Post */

/** With `postTimeout` 30 s: 240 s, in which a message of 1 MiB passes at 4 KiB/s. */
const MOST_PATIENCE = 8;
/** Of a line, beside its payload: `["m",9007199254740991,""]`, and a little more. */
const LINE = 32;

/** `inFlight` is the batch without answer; `taken` what a 200 said the server has, acknowledged or not.  `patience` is how
 * many times `postTimeout` an answer may take: nobody can tell a large batch on a slow line from one that was lost.
 * `most` is the size of a batch that passes, as far as is known: a proxy may take less than the server. */
export class Uplink {
  /** @type {Post | null} */
  inFlight = null;
  count = 0;
  taken = 0;
  failures = 0;
  notBefore = 0;
  until = NEVER;
  patience = 1;
  most = Infinity;

  /** @param {() => number} jitter */
  constructor(jitter) {
    this.jitter = jitter;
  }

  /** What the server is not known to have, up to a size; one message at least. @param {Sender} sender @param {number} most */
  batch(sender, most) {
    const frames = [];
    let size = 0;
    for (const frame of sender.after(Math.max(sender.acked, this.taken))) {
      size += frame.size + LINE;
      if (frames.length > 0 && size > Math.min(most, this.most)) break;
      frames.push(frame);
    }
    return frames;
  }

  /** A batch was too large for whoever answered: smaller ones from now on.  False: one message is not smaller.
   * @param {Post} post */
  halve({ frames }) {
    if (frames.length < 2) return false;
    this.most = Math.floor(frames.reduce((sum, { size }) => sum + size + LINE, 0) / 2);
    return true;
  }

  /** Whether everything kept was taken and an acknowledgement is awaited: an empty batch asks for it.
   * @param {Sender} sender */
  asks(sender) {
    return sender.frames.length > 0 && this.taken >= sender.sent;
  }

  /** Whether a batch would hold anything. @param {Sender} sender */
  owes(sender) {
    return sender.frames.length > 0 && this.taken < sender.sent;
  }

  /** @param {number} a @param {number} ack @param {Numbered[]} frames @param {number} now @param {number} timeout
   * @returns {Post} */
  begin(a, ack, frames, now, timeout) {
    this.count += 1;
    this.until = now + timeout * this.patience;
    return (this.inFlight = { do: "post", number: this.count, a, ack, frames });
  }

  /** The batch in flight had its time. */
  unanswered() {
    this.patience = Math.min(2 * this.patience, MOST_PATIENCE);
  }

  /** The batch is in flight no more: answered, failed, or given up. */
  landed() {
    const post = /** @type {Post} */ (this.inFlight);
    this.inFlight = null;
    this.until = NEVER;
    return post;
  }

  /** Back off. @param {number} now @param {number} grace @param {number} least */
  wait(now, grace, least = 0) {
    this.failures += 1;
    this.notBefore = now + Math.max(least, backoff(this.failures, this.jitter(), grace));
  }

  /** Something was acknowledged: no reason to wait. */
  progress() {
    this.failures = 0;
    this.notBefore = 0;
  }
}
