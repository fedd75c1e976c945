// Keeps the state of a page while it is away, and takes it back when it is here, so that a duplicated tab finds none.
import { decodeState, storageSaver } from "./saved.js";

/** @typedef {import("./saved.js").Saver} Saver */
/** @typedef {{isOver: () => boolean, hasBegun: () => boolean, save: () => string, tell: (why: string) => void}} Kept */

const SAVE_PAUSE = 200; // milliseconds between two saves of a hidden page

export class Keeper {
  hidden = false;
  /** @type {Saver | null} */
  #saver = null;
  #saved = ""; // what the saver has of us
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #kept;
  #base;

  /** @param {Kept} kept @param {string} base the address of the endpoint's sessions */
  constructor(kept, base) {
    this.#kept = kept;
    this.#base = base;
  }

  /** Whether there is a place to keep it in. */
  get hasPlace() {
    return this.#saver !== null;
  }

  /** The predecessor's state, which was given or is kept there; null if there is none that can be used.  Throws an Error
   * for one that was given and cannot. @param {string | Storage | Saver | null | undefined} state @param {string} key */
  load(state, key) {
    if (state === undefined || state === null) return null;
    if (typeof state === "string") return decodeState(state, this.#base);
    this.#saver = "load" in state && typeof state.load === "function" ? /** @type {Saver} */ (state) : storageSaver(/** @type {Storage} */ (state), key);
    try {
      const text = this.#saver.load();
      return text ? decodeState(text, this.#base) : null;
    } catch (error) {
      this.#kept.tell(`no state: ${error instanceof Error ? error.message : error}`); // forbidden, or of another time: begin anew
      return null;
    }
  }

  /** Something happened to a page that may be hidden. */
  changed() {
    if (this.hidden && this.#saver) this.#timer ??= setTimeout(() => this.keep(), SAVE_PAUSE);
  }

  /** Keep the state, or forget it, as it is now. */
  keep() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    try {
      if (this.#kept.isOver() || !this.hidden) {
        if (this.#saved !== "") this.#saver?.clear(this.#saved);
        this.#saved = "";
      } else if (this.#kept.hasBegun()) {
        const [before, text] = [this.#saved, this.#kept.save()]; // without a hello too: its predecessor's state was taken
        this.#saver?.save(text, before);
        this.#saved = text;
      }
    } catch (error) {
      this.#kept.tell(`the state was not kept: ${error instanceof Error ? error.message : error}`); // full, or forbidden
    }
  }
}
