// The life of the page around a channel: shown, hidden, frozen, put away, asleep, offline.

/**
 * What is done about it.  `wake`: there is no reason to wait; `doubt`: the connection may be dead without our knowing.
 * @typedef {{wake: () => void, doubt: (why: string) => void, hidden: () => void, shown: () => void,
 *   leave: (comesBack: boolean) => void}} Life
 */

/** Watch until `signal` is aborted. @param {Life} life @param {EventTarget & {document?: Document}} page
 * @param {AbortSignal} signal */
export function watchPage(life, page, signal) {
  const on = (/** @type {EventTarget | undefined} */ target, /** @type {string} */ type, /** @type {(event: any) => void} */ act) =>
    target?.addEventListener?.(type, act, { signal });
  const { document } = page;
  const back = () => {
    life.shown();
    life.wake();
  };
  on(page, "online", () => {
    life.wake();
    life.doubt("the network changed"); // it may have come back elsewhere, where the old connection leads nowhere
  });
  on(page, "offline", () => life.doubt("the network is gone")); // perhaps; a local server is there all the same
  on(page, "pageshow", ({ persisted }) => persisted && back());
  on(page, "pagehide", ({ persisted }) => life.leave(persisted));
  on(document, "visibilitychange", () => (document?.visibilityState === "hidden" ? life.hidden() : back()));
  on(document, "freeze", () => life.hidden()); // a frozen page may be discarded without another word
  on(document, "resume", () => {
    life.wake();
    life.doubt("the page was frozen");
  });
}
