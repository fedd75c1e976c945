// What a page keeps for its successor: the state as JSON, and where it is kept.
import { decodeLine, encodeLine } from "./codec.js";
import { FIRST_TERMS } from "./instance.js";

/** @typedef {import("./machine.js").Saved} Saved */
/**
 * Keeps one state.  `load` *takes* it: a second `load` finds nothing, so that no two pages go on from the same one.
 * `save` puts `text` in the place of `before`, what this page saved last ("" at first): not if that was taken.  `clear`
 * forgets `text`, and nothing that another page has saved since.
 * @typedef {{load: () => string | null, save: (text: string, before: string) => void, clear: (text: string) => void}} Saver
 */

/** @param {Saved} saved @param {string} base the address of the endpoint's sessions */
export function encodeState(saved, base) {
  return JSON.stringify({ channelkit: 1, base, ...saved, frames: saved.frames.map(encodeLine) });
}

/** Throws an Error that says what is wrong. @param {string} text @param {string} base @returns {Saved} */
export function decodeState(text, base) {
  let state;
  try {
    state = JSON.parse(text);
  } catch {
    state = null;
  }
  if (state?.channelkit !== 1) throw new Error("state is not what channel.save() gave, or of another version");
  if (state.base !== base) throw new Error(`state belongs to ${state.base}, not to ${base}`);
  const { sid, secret, a, recv, sent, acked, line, verified, grace = FIRST_TERMS.grace } = state;
  const numbers = [a, recv, sent, acked, line ?? 0, verified];
  const frames = state.frames.map((/** @type {string} */ one) => decodeLine(one.trimEnd(), Infinity));
  const whole = frames.every((/** @type {any} */ frame, /** @type {number} */ at) => frame?.n === acked + 1 + at);
  if (typeof sid !== "string" || !(grace > 0) || !numbers.every(Number.isSafeInteger) || !whole || acked + frames.length !== sent) {
    throw new Error("state is damaged");
  }
  return { sid, secret: secret ?? null, a, recv, sent, acked, frames, line: line ?? null, verified, grace };
}

/** A `Saver` over a Storage: sessionStorage for one tab, localStorage for whichever page comes next.
 * @param {Pick<Storage, "getItem" | "setItem" | "removeItem">} storage @param {string} key @returns {Saver} */
export function storageSaver(storage, key) {
  return {
    load() {
      const text = storage.getItem(key);
      storage.removeItem(key);
      return text;
    },
    save(text, before) {
      if (before === "" || storage.getItem(key) === before) storage.setItem(key, text);
    },
    clear: (text) => storage.getItem(key) === text && storage.removeItem(key),
  };
}
