// The frames of CK/1 and the rules about their numbers and sizes (docs/protocol.md, sections 1 and 2).  Pure.

/**
 * @typedef {{kind: "m", n: number, data: string, size: number}} TextFrame
 * @typedef {{kind: "b", n: number, data: Uint8Array, size: number}} BinaryFrame
 * @typedef {{kind: "e", n: number, code: number, reason: string, size: 0}} EndFrame
 * @typedef {TextFrame | BinaryFrame} Message
 * @typedef {Message | EndFrame} Numbered
 * @typedef {{window: number, windowBytes: number, max: number, ping: number, grace: number}} Terms
 * @typedef {{recv: number, sid?: string | null, secret?: string | null, a?: number | null, by?: number | null,
 *   have?: number | null, terms?: Terms | null}} Hello
 * @typedef {Numbered | {kind: "a", n: number} | {kind: "p"} | {kind: "h", hello: Hello}} Frame
 */

export const MAX_REASON = 123; // bytes of UTF-8: what fits into a WebSocket's close frame (RFC 6455 5.5)

/** The peer said what CK/1 does not allow. */
export class BadFrame extends Error {}

/** Bytes of UTF-8, without making them; a lone surrogate counts three. @param {string} text */
export function utf8Size(text) {
  let size = text.length;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit > 0x7ff) size += unit >= 0xd800 && unit <= 0xdfff && isPair(text, at) ? 1 : 2;
    else if (unit > 0x7f) size += 1;
  }
  return size; // either half of a pair adds one byte to its own unit: four in all
}

/** @param {string} text @param {number} at */
function isPair(text, at) {
  const code = /** @type {number} */ (text.codePointAt(at));
  return code > 0xffff || (at > 0 && /** @type {number} */ (text.codePointAt(at - 1)) > 0xffff);
}

/** Whether every code unit is part of a character: what UTF-8 can carry. @param {string} text */
export const isWellFormed = (text) => !/\p{Surrogate}/u.test(text);

/** Bytes that count against the window. @param {string | Uint8Array} data */
export const sizeOf = (data) => (typeof data === "string" ? utf8Size(data) : data.byteLength);

/** `data` as message `n`. @param {number} n @param {string | Uint8Array} data @returns {Message} */
export function numbered(n, data) {
  return typeof data === "string"
    ? { kind: "m", n, data, size: utf8Size(data) }
    : { kind: "b", n, data, size: data.byteLength };
}

/** @param {number} n @param {number} code @param {string} reason @returns {EndFrame} */
export const endFrame = (n, code, reason) => ({ kind: "e", n, code, reason, size: 0 });

const SENDABLE = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];

/** Whether `code` and `reason` may stand in an end: what RFC 6455 allows in a close frame. @returns {boolean} */
export function mayEnd(/** @type {unknown} */ code, /** @type {unknown} */ reason) {
  if (typeof code !== "number" || !Number.isSafeInteger(code) || typeof reason !== "string") return false;
  if (!SENDABLE.includes(code) && !(code >= 3000 && code <= 4999)) return false;
  return isWellFormed(reason) && utf8Size(reason) <= MAX_REASON;
}
