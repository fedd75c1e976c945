// Sessions of channelkit in a browser (docs/browser.md): messages in order and exactly once over a WebSocket, streams or
// polls, through lost networks, switched transports and reloads; or a loss that is told.
//
//     import { connect } from "./channelkit.js";
//     const channel = connect("/chat");
//     channel.onmessage = (message) => show(message);
//     await channel.send("hello");
import { Alarm } from "./alarm.js";
import { makeClock } from "./clock.js";
import { mayEnd } from "./frames.js";
import { Inbox } from "./inbox.js";
import { Keeper } from "./keeper.js";
import { Ladder } from "./ladder.js";
import { Links } from "./links.js";
import { ClientMachine, nextInstance } from "./machine.js";
import { NAMES, baseOf, kindOf, kindsOf } from "./options.js";
import { Outbox, carried } from "./outbox.js";
import { watchPage } from "./page.js";
import { report } from "./report.js";
import { encodeState } from "./saved.js";

/** @typedef {import("./machine.js").Kind} Kind */
/** @typedef {import("./machine.js").Action} Action */
/** @typedef {import("./saved.js").Saver} Saver */
/** @typedef {import("./options.js").Transport} Transport */
/** @typedef {"connecting" | "attached" | "detached" | "closing" | "closed"} State */
/**
 * What `onchange` is told.  `why` says what happened last, for people; `nextTry` is when the next attach begins, in
 * milliseconds since 1970, if it is waited for.
 * @typedef {{state: State, transport: Transport, why: string, nextTry: number | null}} Change
 */
/**
 * How a session ended.  `outcome`: "ended" (either side closed, in order), "superseded" (another page took this session
 * over), "lost" (it could not be continued), "abandoned" (our close was not answered in time), "killed" (closed before it
 * began), "refused" (that URL has no sessions).  `delivered`: everything sent has arrived; else `unacknowledged` messages
 * may not have.
 * @typedef {{code: number, reason: string, by: "local" | "peer" | "network",
 *   outcome: import("./machine.js").Outcome | "refused", delivered: boolean, unacknowledged: number}} CloseInfo
 */
/**
 * @typedef {object} Options
 * @property {string} [transport] the one to begin with
 * @property {string[]} [transports] those to use, in this order: when one fails to attach the next is tried
 * @property {Record<string, string>} [headers] go with every request; a WebSocket and an EventSource cannot have any
 * @property {RequestCredentials} [credentials] of fetch
 * @property {boolean} [cookie] keep the session's secret in an HttpOnly cookie, where scripts cannot read it
 * @property {string | Storage | Saver} [state] what a predecessor's `save()` gave; or where the state is kept over a reload
 * @property {string} [key] its name in that Storage
 * @property {AbortSignal} [signal] closes the channel
 * @property {Partial<typeof import("./machine.js").CONFIG>} [config] times, in seconds
 * @property {typeof fetch} [fetch]
 * @property {typeof WebSocket} [WebSocket]
 * @property {typeof EventSource} [EventSource]
 * @property {any} [page] in place of the window
 * @property {() => number} [random] in place of Math.random
 */

/** A session of the `Endpoint` at `url`, new or continued; begins to connect at once, and returns before it has.
 * Throws TypeError for options that cannot work. @param {string | URL} url @param {Options} [options] */
export function connect(url, options = {}) {
  return new Channel(url, options);
}

/** An open session.  Made by `connect`. */
export class Channel {
  /** Called with every change of `status`. @type {((change: Change) => void) | null} */
  onchange = null;
  /** Called once, with how the session ended. @type {((info: CloseInfo) => void) | null} */
  onclose = null;
  /** Fulfilled when the session is over, whoever ended it; never rejected. @type {Promise<CloseInfo>} */
  closed;

  /** @type {ClientMachine} */
  #machine;
  #links;
  #ladder;
  #inbox;
  #outbox;
  /** @type {Keeper} */
  #keeper;
  #alarm;
  #base;
  #now = makeClock();
  #page;
  /** @type {Action[]} */
  #todo = [];
  #running = false;
  /** @type {CloseInfo | null} */
  #info = null;
  /** @type {(info: CloseInfo) => void} */
  #finish = () => {};
  #life = new AbortController();
  #why = "";
  #failure = "";
  #attachedBy = ""; // the transport, while attached
  /** @type {Kind | null} */
  #trying = null;
  #told = "";
  #attaches = 0;
  #tries = 0;

  /** @param {string | URL} url @param {Options} options */
  constructor(url, options) {
    const page = (this.#page = options.page ?? globalThis);
    const random = options.random ?? Math.random;
    this.#base = baseOf(url, page);
    this.#ladder = new Ladder(kindsOf(options.transport, options.transports));
    const kept = {
      isOver: () => this.#info !== null,
      hasBegun: () => machine.sid !== null,
      save: () => this.save(),
      tell: (/** @type {string} */ why) => void (this.#why = why),
    };
    this.#keeper = new Keeper(kept, this.#base);
    const saved = this.#keeper.load(options.state, options.key ?? `channelkit ${this.#base}`);
    const a = saved ? nextInstance(saved.a, Date.now(), Math.floor(random() * 1000)) : 1;
    const machine = (this.#machine = new ClientMachine({ a, saved, config: options.config, jitter: random }));
    this.#alarm = new Alarm(this.#now, (slept) => this.#tick(slept));
    this.#inbox = new Inbox(machine, () => this.#run(machine.settle(this.#now())));
    this.#outbox = new Outbox(machine, (data) => this.#run(machine.send(data, this.#now())));
    /** Whether it goes on with a predecessor's session. */
    this.resumed = saved !== null;
    this.closed = new Promise((resolve) => (this.#finish = resolve));
    const { headers = {}, credentials = "same-origin", cookie = false } = options;
    /** @type {import("./links.js").Host} */
    const host = {
      machine,
      now: this.#now,
      run: (actions) => this.#run(actions),
      pull: () => this.#inbox.pull(),
      tell: (why) => (this.#why = why),
      fail: (why) => this.#fail(why),
      blame: (why) => (this.#failure = why),
    };
    this.#links = new Links(host, {
      base: this.#base,
      headers,
      credentials,
      cookie,
      fetch: options.fetch ?? globalThis.fetch,
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      EventSource: options.EventSource ?? globalThis.EventSource,
    });
    this.#watch();
    const { signal } = options;
    if (signal?.aborted) queueMicrotask(() => void this.close());
    else signal?.addEventListener("abort", () => void this.close(), { signal: this.#life.signal });
    // Behind the caller's first lines, so that an onchange set there hears everything.
    queueMicrotask(() => this.#run(machine.start(this.#ladder.kinds[0], this.#now(), cookie && machine.sid === null)));
  }

  // -- what can be asked

  /** The session's public id; null before it has one. */
  get sessionId() {
    return this.#machine.sid;
  }

  /** Whether a message may be sent. */
  get isOpen() {
    return this.#machine.isOpen;
  }

  /** How it ended; null before. */
  get closeInfo() {
    return this.#info;
  }

  /** What carries the newest attachment, or will carry the next. @returns {Transport} */
  get transport() {
    const { attached, kind, wanted } = this.#machine;
    return NAMES[attached ? kind : wanted];
  }

  /** @returns {Change} */
  get status() {
    const { ending, closing, retryAt, connecting, attached } = this.#machine;
    const waits = ending === null && !connecting && retryAt < Number.MAX_SAFE_INTEGER;
    const nextTry = waits ? Date.now() + Math.max(0, retryAt - this.#now()) * 1000 : null;
    const state = ending ? "closed" : closing ? "closing" : attached ? "attached" : waits ? "detached" : "connecting";
    return { state, transport: this.transport, why: this.#why, nextTry: state === "detached" ? nextTry : null };
  }

  /** The numbers. */
  statistics() {
    const { a, sender, receiver } = this.#machine;
    return {
      transport: this.transport,
      instance: a,
      sent: sender.sent, // numbered
      acked: sender.acked, // of these, what the server has in its inbox
      waiting: this.#outbox.length, // not numbered yet: the window is full, or there was no hello yet
      received: this.#inbox.received, // handed to this page
      held: receiver.hold.length, // arrived, and not taken by this page yet
      recv: receiver.recv, // the number of the last message received by this page or its predecessors
      attaches: this.#attaches,
      tries: this.#tries,
    };
  }

  // -- sending

  /** Send a message; waits for the session's window, detached too.  True once it is numbered: from then on it arrives, or
   * its loss is told.  False if the session is over.  Rejects with TypeError or RangeError for what cannot be carried.
   * @param {string | Uint8Array | ArrayBuffer} data @returns {Promise<boolean>} */
  async send(data) {
    const message = carried(data);
    if (!this.#machine.isOpen) return false;
    return new Promise((done, fail) => {
      this.#outbox.add(message, done, fail);
      this.#told === "" || this.#arm();
    });
  }

  /** The same without waiting: false if it would have to, or the session is over; then nothing was sent.
   * @param {string | Uint8Array | ArrayBuffer} data */
  sendNow(data) {
    return this.#outbox.addNow(carried(data));
  }

  /** Wait until everything sent so far is in the server's inbox; false if the session ended before that. */
  async flush() {
    return this.#outbox.flush();
  }

  // -- receiving

  /** Called with every message, a string or a Uint8Array.  Without it, iterate; a message is acknowledged when it was
   * handed over in one of the two ways, and the session's window holds the server back until then. */
  get onmessage() {
    return this.#inbox.callback;
  }

  set onmessage(callback) {
    this.#inbox.callback = callback;
  }

  /** Messages, until the session is over.  Leaving the loop leaves the session open. */
  [Symbol.asyncIterator]() {
    return this.#inbox.messages();
  }

  // -- closing, moving, saving

  /** Close in order: what was sent arrives first.  Waits at most `timeout` (default: the session's grace) seconds.
   * @param {number} [code] @param {string} [reason] @param {{timeout?: number}} [options] @returns {Promise<CloseInfo>} */
  close(code = 1000, reason = "", { timeout } = {}) {
    if (!mayEnd(code, reason)) throw new RangeError("a close code is 1000-1003, 1007-1014 or 3000-4999, a reason 123 bytes at most");
    this.#run(this.#machine.close(code, reason, this.#now(), timeout ?? null));
    return this.closed;
  }

  /** Go on by another transport, or by a fresh connection of the same; nothing is lost. @param {string} transport */
  switchTransport(transport) {
    const kind = kindOf(transport);
    this.#why = "the transport was switched";
    this.#ladder.prefer(kind); // or it would climb back by itself
    this.#run(this.#machine.switchTo(kind, this.#now()));
  }

  /** The state for a successor: `connect(url, {state})` goes on where this channel is, which is superseded by it.
   * Throws if the session has not begun or is over. */
  save() {
    if (this.#machine.sid === null || this.#info !== null) throw new Error("a session that has not begun, or is over, cannot be saved");
    return encodeState(this.#machine.save(), this.#base);
  }

  // -- the machine's actions

  /** Do what the machine says, in order, before it is asked anything else. @param {Action[]} actions */
  #run(actions) {
    this.#todo.push(...actions);
    if (this.#running) return;
    this.#running = true;
    for (let action; (action = this.#todo.shift()) !== undefined; ) this.#act(action);
    this.#running = false;
    this.#next();
    this.#arm();
    this.#tellChange();
    this.#keeper.changed();
  }

  /** @param {Action} action */
  #act(action) {
    switch (action.do) {
      case "room":
        this.#outbox.number();
        this.#outbox.wake();
        break;
      case "attached": break;
      case "detached":
        this.#lost();
        break;
      case "ended": this.#over(action.ending); break;
      case "drained":
        this.#life.abort();
        this.#alarm.stop();
        break;
      case "attach":
      case "open":
        if (action.do === "open" || action.kind !== "websocket") {
          this.#tries += 1;
          this.#trying = action.do === "open" ? "websocket" : action.kind;
        }
        this.#links.act(action);
        break;
      default:
        this.#links.act(action);
    }
  }

  /** After everything was done: if an attach came to nothing, choose what is tried next. */
  #next() {
    const machine = this.#machine;
    if (machine.link === "up" && machine.kind === this.#trying) this.#trying = null;
    if (machine.ending !== null || machine.connecting || this.#trying === null) return;
    const tried = this.#trying;
    this.#trying = null;
    if (machine.wanted === tried && machine.failures > 0) machine.wanted = this.#ladder.failed(tried);
  }

  /** If an attachment was lost, choose what follows it. */
  #lost() {
    const { link, kind, barren, connecting, ending } = this.#machine;
    if (link !== "none" || ending !== null) return; // it was replaced, or the session is over
    const next = this.#ladder.lost(kind, barren);
    if (!connecting) this.#machine.wanted = next;
  }

  /** @param {import("./machine.js").Ending} ending */
  #over({ outcome, by, code, reason, clean, unacknowledged }) {
    const info = { code, reason, by, outcome, delivered: clean, unacknowledged };
    this.#info = this.#failure ? { ...info, outcome: "refused", by: "network", code: 1006, reason: this.#failure } : info;
    this.#why = this.#info.reason || outcome;
    this.#outbox.number();
    this.#keeper.keep();
    this.#inbox.wake();
    this.#outbox.wake();
    this.#finish(this.#info);
    this.#call(this.onclose, this.#info);
  }

  /** That URL has no sessions: whoever mistyped it learns it now, not after a grace of retries. @param {string} why */
  #fail(why) {
    if (this.#machine.hadHello) return;
    this.#failure = why;
    this.#run(this.#machine.close(1000, "", this.#now()));
  }

  #tellChange() {
    const { attached, kind, retryAt } = this.#machine;
    if (attached && this.#attachedBy !== kind) {
      this.#attachedBy = kind;
      this.#attaches += 1;
      this.#why = "";
      this.#ladder.attached(kind, this.#now());
    } else if (!attached) {
      this.#attachedBy = "";
    }
    const status = this.status;
    const said = `${status.state} ${status.transport} ${status.state === "detached" ? retryAt : ""}`;
    if (said === this.#told) return;
    this.#told = said;
    this.#call(this.onchange, status);
  }

  /** @template T @param {((value: T) => void) | null} callback @param {T} value */
  #call(callback, value) {
    try {
      callback?.(value);
    } catch (error) {
      report(error);
    }
  }

  /** See that `tick` is called in time. */
  #arm() {
    if (!this.#machine.drained) this.#alarm.set(Math.min(this.#machine.deadline, this.#ladder.climbAt));
  }

  /** @param {boolean} slept the computer did */
  #tick(slept) {
    const now = this.#now();
    if (now >= this.#ladder.climbAt) {
      const better = this.#ladder.climb(now);
      if (better !== this.#machine.kind) this.#run(this.#machine.switchTo(better, now));
    }
    this.#run(this.#machine.tick(now));
    if (slept) this.#doubt("this computer slept");
  }

  // -- the page

  #watch() {
    watchPage(
      {
        wake: () => this.#wake(),
        doubt: (why) => this.#doubt(why),
        hidden: () => this.#away(true),
        shown: () => this.#away(false),
        leave: (comesBack) => this.#leave(comesBack),
      },
      this.#page,
      this.#life.signal,
    );
  }

  #wake() {
    const { link, connecting, ending } = this.#machine;
    if (ending === null && link === "none" && !connecting) this.#machine.wanted = this.#ladder.best;
    this.#run(this.#machine.hurry(this.#now()));
  }

  /** Whether the connection still lives is not known: a WebSocket is asked, anything else is begun anew.
   * @param {string} why */
  #doubt(why) {
    this.#links.doubtPost();
    const { link, kind } = this.#machine;
    if (link === "none") return;
    this.#why = why;
    this.#run(kind === "websocket" ? this.#machine.probe(this.#now()) : this.#machine.switchTo(kind, this.#now()));
  }

  /** @param {boolean} hidden */
  #away(hidden) {
    this.#keeper.hidden = hidden;
    if (this.#keeper.hasPlace) this.#keeper.keep();
  }

  /** The page goes: say what is left, and keep the state, or close if there is nowhere to keep it.
   * @param {boolean} comesBack it may be shown again as it is (bfcache), which an open WebSocket would forbid */
  #leave(comesBack) {
    if (this.#info !== null) return;
    if (!comesBack && !this.#keeper.hasPlace) {
      this.#run(this.#machine.close(1001, "the page was left", this.#now()));
    }
    this.#links.lastWords();
    this.#away(true);
    if (comesBack) {
      this.#why = "the page was put away";
      this.#run(this.#machine.pause(this.#now()));
      this.#keeper.keep();
    }
  }
}
