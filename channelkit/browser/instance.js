// Who this client is: one instance of one session, of a line of instances, and what the server's hellos told it.

/** @typedef {import("./frames.js").Hello} Hello */
/** @typedef {import("./frames.js").Terms} Terms */
/** @typedef {import("./halves.js").Sender} Sender */
/** @typedef {import("./halves.js").Receiver} Receiver */
/** @typedef {import("./machine.js").Saved} Saved */

/** Until a hello tells the real ones. @type {Terms} */
export const FIRST_TERMS = { window: 1, windowBytes: 1 << 20, max: 1 << 20, ping: 20, grace: 30 };

/** The number of an instance that takes over from `a`: larger, and by the clock larger than any twin's.
 * @param {number} a @param {number} milliseconds since 1970 @param {number} digits 0 to 999 */
export const nextInstance = (a, milliseconds, digits) =>
  Math.min(Math.max(a + 1, Math.floor(milliseconds) * 1000 + digits), Number.MAX_SAFE_INTEGER);

/** `a` orders the instances of a session.  `hadHello`: this one's own, without which it numbers nothing (F2). */
export class Instance {
  hadHello = false;

  /** @param {number} a @param {Saved | null} saved @param {string | null} sid @param {string | null} secret */
  constructor(a, saved, sid, secret) {
    this.a = a;
    this.line = saved?.line ?? null;
    this.verified = saved?.verified ?? 0;
    this.terms = saved ? { ...FIRST_TERMS, grace: saved.grace } : FIRST_TERMS;
    this.sid = saved ? saved.sid : sid;
    this.secret = saved ? saved.secret : secret;
  }

  /** The session that a creation made is this instance's, unless it has one: of two answers the first counts.
   * @param {Hello} hello */
  named(hello) {
    if (this.sid !== null) return;
    this.sid = hello.sid ?? null;
    this.secret = hello.secret ?? null;
  }

  /** Whether the numbers hello has received can only be this instance's and its predecessors' (F3, F27).
   * @param {Hello} hello @param {Sender} sender */
  owns(hello, sender) {
    const have = Math.max(hello.recv, hello.have ?? 0); // never below `recv`, says a server that tells the truth
    if (have > sender.sent) return false;
    if (this.hadHello || have <= Math.max(sender.acked, this.verified)) return true;
    this.verified = have;
    const by = hello.by ?? null;
    return by === null || by === this.a || by === this.line;
  }

  /** From here on this instance may number (F2), within the terms it was told.
   * @param {Hello} hello @param {Sender} sender @param {Receiver} receiver */
  firstHello(hello, sender, receiver) {
    this.hadHello = true;
    if (!hello.terms) return;
    this.terms = hello.terms;
    sender.window = receiver.window = hello.terms.window;
    sender.windowBytes = receiver.windowBytes = hello.terms.windowBytes;
  }

  /** The state for a successor, once there is a `sid`. @param {Sender} sender @param {number} recv @returns {Saved} */
  save({ sent, acked, frames }, recv) {
    const { sid, secret, a, verified, terms } = this;
    const line = this.hadHello ? a : this.line;
    return { sid: String(sid), secret, a, recv, sent, acked, frames: [...frames], line, verified, grace: terms.grace };
  }
}
