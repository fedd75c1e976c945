// Which transport to try next: an order of preference, what has worked here, and when to climb back.  Pure.

/** @typedef {import("./machine.js").Kind} Kind */

const TRIES_OF_A_KNOWN_ONE = 3; // in a row, before another one is tried: it worked here, so the network is the likelier cause
const FIRST_CLIMB = 30; // seconds on a lesser transport before a better one that worked is tried again; doubled each time
const LONGEST_CLIMB = 600;
const BARREN = 2; // WebSockets in a row that brought nothing
const BARREN_CLIMB = 300; // behind which one is tried again: the message that it could not bring has that long

export class Ladder {
  /** @type {Set<Kind>} */
  #worked = new Set();
  #failures = 0;
  #barren = 0;
  #pause = FIRST_CLIMB;
  /** When to try `best` again beside what serves. */
  climbAt = Infinity;

  /** @param {Kind[]} kinds best first */
  constructor(kinds) {
    this.kinds = kinds;
  }

  /** The best one that has worked here, else the first. */
  get best() {
    return this.kinds.find((kind) => this.#worked.has(kind)) ?? this.kinds[0];
  }

  /** `kind` was asked for: it is the best from now on, and the others stand behind it. @param {Kind} kind */
  prefer(kind) {
    this.kinds = [kind, ...this.kinds.filter((other) => other !== kind)];
    this.#failures = this.#barren = 0;
    this.climbAt = Infinity;
  }

  /** An attach by `kind` had its hello. @param {Kind} kind @param {number} now */
  attached(kind, now) {
    this.#failures = 0;
    this.#worked.add(kind);
    if (kind === this.best && this.#barren === 0) this.#pause = FIRST_CLIMB;
    // Only a WebSocket is opened beside what serves; trying a stream would cost the poll that works.
    const lesser = this.best === "websocket" && this.kinds.includes(kind) && kind !== "websocket";
    if (!lesser) this.climbAt = Infinity;
    else if (this.climbAt === Infinity) this.climbAt = now + this.#pause;
  }

  /** An attach by `kind` had none, or its connection failed at once; what to try next. @param {Kind} kind */
  failed(kind) {
    this.#failures += 1;
    this.climbAt = Infinity;
    if (this.#failures < (this.#worked.has(kind) ? TRIES_OF_A_KNOWN_ONE : 1)) return kind;
    this.#failures = 0;
    return this.#after(kind);
  }

  /** An attachment by `kind` was lost behind its hello; what to try next.  `barren`: it brought nothing either way.
   * A page sees a WebSocket's message when it is whole, and so does a server inside an ASGI host: on a slow line a long
   * one is silence to them, each time anew.  A response and a request show how they come in.
   * @param {Kind} kind @param {boolean} barren */
  lost(kind, barren) {
    if (kind !== "websocket") return kind;
    this.#barren = barren ? this.#barren + 1 : 0;
    if (this.#barren < BARREN) return kind;
    this.#pause = Math.max(this.#pause, BARREN_CLIMB);
    return this.#after(kind);
  }

  /** @param {Kind} kind */
  #after(kind) {
    return this.kinds[(this.kinds.indexOf(kind) + 1) % this.kinds.length];
  }

  /** It is tried now; if that fails the next try comes later. @param {number} now */
  climb(now) {
    this.#pause = Math.min(LONGEST_CLIMB, this.#pause * 2);
    this.climbAt = now + this.#pause;
    return this.best;
  }
}
