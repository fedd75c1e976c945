// One timer, which tells whether it came late: then this computer slept.

const LONGEST_TIMER = 3600; // seconds; setTimeout takes no more than 2^31 milliseconds
const SLEPT = 5; // seconds by which a timer may be late before the connection is in doubt

export class Alarm {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #armed = Infinity;
  #now;
  #ring;

  /** @param {() => number} now in seconds @param {(slept: boolean) => void} ring may be called too early */
  constructor(now, ring) {
    this.#now = now;
    this.#ring = ring;
  }

  /** Ring at that time, or before. @param {number} at */
  set(at) {
    if (this.#timer !== undefined && at >= this.#armed) return; // it comes earlier, and whoever hears it sets it again
    this.stop();
    const wait = Math.min(LONGEST_TIMER, at - this.#now());
    this.#armed = this.#now() + wait;
    this.#timer = setTimeout(() => this.#came(), Math.max(0, wait * 1000));
  }

  #came() {
    this.#timer = undefined;
    this.#ring(this.#now() - this.#armed > SLEPT);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
