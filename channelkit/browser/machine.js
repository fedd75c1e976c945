// A session of CK/1 as a client sees it (docs/protocol.md, sections 5 to 8): events in, actions out, time in seconds as an
// argument, chance as a function.  Pure, and the twin of channelkit/session/client.py: the rules, and why they are so, are
// there and in the specification (F1 to F28); tests/browser compares the two, action by action.
//
// Use: start(kind, now); then tell what happens, and do what comes back, in order.  After each call pull until null if the
// application takes messages, then settle(now); and call tick(now) at `deadline`.
import { NEVER, Receiver, Sender, Uplink, backoff } from "./halves.js";

/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./frames.js").Numbered} Numbered */
/** @typedef {import("./frames.js").EndFrame} EndFrame */
/** @typedef {import("./frames.js").Hello} Hello */
/** @typedef {import("./frames.js").Terms} Terms */
/** @typedef {"websocket" | "stream" | "events" | "poll"} Kind what carries the downlink */
/** @typedef {"ended" | "abandoned" | "lost" | "killed" | "superseded"} Outcome */
/** @typedef {"local" | "peer" | "network"} By */
/**
 * How a session ended.  `clean`: everything this side numbered is in the other's inbox; else `unacknowledged` may be lost.
 * @typedef {{outcome: Outcome, by: By, code: number, reason: string, clean: boolean, unacknowledged: number}} Ending
 */
/**
 * What a page keeps for its successor, an instance with a larger `a`.
 * @typedef {{sid: string, secret: string | null, a: number, recv: number, sent: number, acked: number,
 *   frames: Numbered[], line: number | null, verified: number}} Saved
 */
/**
 * @typedef {{do: "create", a: number}
 *   | {do: "open", attachment: number}
 *   | {do: "attach", attachment: number, kind: Kind, a: number, ack: number, wait: number}
 *   | {do: "write", attachment: number, frames: Exclude<Frame, {kind: "h"}>[]}
 *   | {do: "drop", attachment: number}
 *   | import("./halves.js").Post
 *   | {do: "delete", a: number}
 *   | {do: "room"} | {do: "attached"} | {do: "detached"} | {do: "drained"}
 *   | {do: "ended", ending: Ending}} Action
 */

/** A client's own times, in seconds, and sizes, in bytes. */
export const CONFIG = Object.freeze({
  wait: 25, // of one poll, once there was a hello
  helloTimeout: 5, // a stream that shows no hello is behind a buffering proxy: poll instead
  openTimeout: 10, // for a WebSocket to open, or a session to be made
  postTimeout: 30, // an answer that has not come by then will not
  pollMargin: 10, // a poll's answer may come that much after its wait
  pingTimeout: 10, // silence beyond hello's ping
  ackDelay: 1, // the longest an acknowledgement waits for company
  steady: 30, // attached that long: the next failure counts as the first
  batchBytes: 1 << 20, // of one POST, or hello's `max` if that is less; a larger message goes alone
});

/** A response that lasted that long and brought nothing is followed at once all the same: as a poll, or a rotated stream. */
const TURN = 1;

/** Until a hello tells the real ones. @type {Terms} */
const FIRST_TERMS = { window: 1, windowBytes: 1 << 20, max: 1 << 20, ping: 20, grace: 30 };

/** The number of an instance that takes over from `a`: larger, and by the clock larger than any twin's.
 * @param {number} a @param {number} milliseconds since 1970 @param {number} digits 0 to 999 */
export const nextInstance = (a, milliseconds, digits) =>
  Math.min(Math.max(a + 1, Math.floor(milliseconds) * 1000 + digits), Number.MAX_SAFE_INTEGER);

/** One instance of one session. */
export class ClientMachine {
  hadHello = false;
  terms = FIRST_TERMS;
  /** @type {Kind} */
  kind = "poll"; // of the newest attach
  attachment = 0; // its number
  /** @type {"none" | "sent" | "up"} */
  link = "none"; // how far it has come: "sent" is without hello
  attached = false; // from a hello until something failed: between two turns of a poll or stream too
  /** @type {EndFrame | null} */
  closing = null;
  /** @type {Ending | null} */
  ending = null;
  drained = false; // nothing is left to do
  failures = 0;
  /** @type {Kind} */
  wanted = "poll"; // of the next attach
  retryAt = NEVER;

  #number = 0;
  #candidate = 0; // a WebSocket being opened while the older attachment still serves
  #candidateSince = 0;
  #creating = false;
  #progress = false; // since the newest attach: a number taken or acknowledged, or the first hello
  #since = 0;
  #heard = 0;
  #wrote = 0;
  #asked = 0; // when a sign of life was asked for
  #askedAt = 0; // when the server last answered a request: its own grace began no earlier
  #wait = 0;
  /** @type {number[]} */
  #older = []; // connections that the newest attach replaces, kept until it is answered
  #met = false; // since the newest attach was sent, anything of the server's came
  #firstSince = true; // the newest attach is the first since the last contact
  #contacted = 0;
  #alone = 0;
  #closeAt = NEVER;
  #toldBytes = 0;
  #ackAt = NEVER;
  #peerClosing = false;
  #farewell = false; // over, and the peer's end must still be acknowledged
  /** @type {Action[]} */
  #out = [];

  /**
   * @param {{config?: Partial<typeof CONFIG>, jitter?: () => number, a?: number, saved?: Saved | null,
   *   sid?: string | null, secret?: string | null}} [options] `saved` is a predecessor's state, to be taken over by an
   *   `a` larger than its; `sid` and `secret` alone are for whoever has received and sent nothing
   */
  constructor({ config = {}, jitter = Math.random, a = 1, saved = null, sid = null, secret = null } = {}) {
    this.config = { ...CONFIG, ...config };
    this.jitter = jitter;
    this.a = a;
    this.line = saved?.line ?? null;
    this.verified = saved?.verified ?? 0;
    this.sid = saved ? saved.sid : sid;
    this.secret = saved ? saved.secret : secret;
    const recv = saved?.recv ?? 0;
    this.sender = new Sender(FIRST_TERMS.window, FIRST_TERMS.windowBytes);
    this.receiver = new Receiver(FIRST_TERMS.window, FIRST_TERMS.windowBytes, recv);
    this.uplink = new Uplink(jitter);
    this.presented = recv; // the newest attach's ack
    this.told = recv; // the highest recv the server was surely, or by a WebSocket, told
    if (saved) this.#takeOver(saved);
  }

  /** @param {Saved} saved */
  #takeOver(saved) {
    this.sender.sent = this.sender.acked = saved.acked;
    for (const frame of saved.frames) this.sender.keep(frame);
    this.sender.sent = saved.sent;
    const last = saved.frames.at(-1);
    if (last?.kind === "e") this.closing = last;
  }

  // -- what can be asked

  /** Whether a message may ever be numbered again. */
  get isOpen() {
    return this.ending === null && this.closing === null;
  }

  /** What may be acknowledged now: nothing above the number of an attach that has no answer yet (F8b). */
  get ack() {
    return this.link === "sent" ? Math.min(this.receiver.recv, this.presented) : this.receiver.recv;
  }

  /** Whether a WebSocket is being opened, a session created, or an attach without hello. */
  get connecting() {
    return this.link === "sent" || this.#candidate > 0 || this.#creating;
  }

  /** @param {number} size */
  hasRoom(size) {
    return this.hadHello && !this.#peerClosing && this.sender.hasRoom(size);
  }

  /** The state for a successor, once there is a `sid`.  What was not pulled is the server's to send again.
   * @returns {Saved} */
  save() {
    const { sid, secret, a, verified } = this;
    const { sent, acked, frames } = this.sender;
    const line = this.hadHello ? a : this.line;
    return { sid: String(sid), secret, a, recv: this.receiver.recv, sent, acked, frames: [...frames], line, verified };
  }

  /** @param {Action} action */
  #do(action) {
    this.#out.push(action);
  }

  #taken() {
    const out = this.#out;
    this.#out = [];
    return out;
  }

  // -- attaching

  /** Begin: create the session if there is none, and attach by `kind`.  A WebSocket creates by itself, unless
   * `byPost`. @param {Kind} kind @param {number} now @param {boolean} byPost */
  start(kind, now, byPost = false) {
    this.wanted = this.kind = kind;
    this.#alone = now;
    this.#contact(now);
    if (this.closing) this.#closeAt = now + this.terms.grace;
    this.#connect(now, byPost);
    return this.#taken();
  }

  /** Go on by another transport, or by a fresh connection of the same: just another attach.
   * @param {Kind} kind @param {number} now */
  switchTo(kind, now) {
    if (this.ending === null && !this.#onlyPosts && !this.#creating) {
      this.wanted = kind;
      this.#connect(now);
    }
    return this.#taken();
  }

  /** @param {number} now @param {boolean} byPost */
  #connect(now, byPost = false) {
    this.retryAt = NEVER;
    this.#dropCandidate();
    if (this.sid === null && (byPost || this.wanted !== "websocket")) {
      this.#creating = true;
      this.#do({ do: "create", a: this.a });
      return;
    }
    this.#number += 1;
    if (this.wanted === "websocket") {
      this.#candidate = this.#number;
      this.#candidateSince = now;
      this.#do({ do: "open", attachment: this.#number });
    } else {
      this.#sendAttach(this.#number, now);
    }
  }

  /** POST /ck was answered 201: this instance's own hello. @param {Hello} hello @param {number} now */
  created(hello, now) {
    if (this.#creating && this.ending === null) {
      this.#creating = false;
      this.#contact(now);
      this.#named(hello);
      this.#firstHello(hello);
      this.#connect(now);
    }
    return this.#taken();
  }

  /** It was not, and nothing is known of it. @param {number} now @param {number} retryAfter */
  createFailed(now, retryAfter = 0) {
    if (this.#creating && this.ending === null) {
      this.#creating = false;
      this.#fail(now, retryAfter);
    }
    return this.#taken();
  }

  /** The WebSocket is open: the attach begins with sending its hello. @param {number} attachment @param {number} now */
  opened(attachment, now) {
    if (this.ending === null && attachment === this.#candidate) {
      this.#candidate = 0;
      this.#sendAttach(attachment, now);
    }
    return this.#taken();
  }

  /** @param {number} attachment @param {number} now */
  #sendAttach(attachment, now) {
    if (this.link !== "none") {
      this.#leave(now); // from here on nothing is taken from older attachments (F8)
      this.#older.push(this.attachment);
    }
    if (this.link !== "none" || this.kind !== this.wanted) this.#detach();
    this.attachment = attachment;
    this.kind = this.wanted;
    this.link = "sent";
    this.presented = this.receiver.recv;
    this.#progress = false;
    [this.#firstSince, this.#met] = [this.#met, false];
    this.#since = this.#heard = this.#asked = this.#wrote = now;
    this.#wait = this.kind === "poll" && this.attached ? this.config.wait : 0;
    this.#do({ do: "attach", attachment, kind: this.kind, a: this.a, ack: this.presented, wait: this.#wait });
  }

  // -- what an attachment brings

  /** A frame of a response or WebSocket.  Only those of the newest attach count.
   * @param {number} attachment @param {Frame} frame @param {number} now */
  received(attachment, frame, now) {
    if (attachment !== this.attachment || this.link === "none") return this.#taken();
    this.heard(attachment, now);
    if (this.ending !== null) return this.#taken();
    if (frame.kind === "h") this.#hello(frame.hello, now);
    else if (this.link !== "up") this.#lostLink(now, true); // a frame before hello: not our protocol
    else if (frame.kind === "a") {
      if (frame.n > this.sender.sent) this.#lostLink(now, true);
      else this.#acknowledged(frame.n, now);
    } else if (frame.kind === "p") {
      if (this.kind === "websocket") this.#writeAck(now);
    } else this.#receive(frame, now);
    return this.#taken();
  }

  /** Bytes came, such as a comment: the connection lives.  Before its hello they may be anybody's, as a network's login page.
   * @param {number} attachment @param {number} now */
  heard(attachment, now) {
    if (attachment !== this.attachment || this.link === "none") return;
    this.#heard = now;
    if (this.link === "up") this.#contact(now);
  }

  /** The server has answered something. @param {number} now */
  #contact(now) {
    this.#contacted = now;
    this.#met = true;
  }

  /** @param {Hello} hello @param {number} now */
  #hello(hello, now) {
    if (this.link === "up") return;
    this.#named(hello);
    this.link = "up";
    this.#contact(now);
    this.#askedAt = now;
    this.#release();
    this.told = Math.max(this.told, this.presented);
    if (!this.#isOurs(hello)) {
      this.#over("lost", "network", 1006, "", now);
      return;
    }
    if (!this.hadHello) {
      this.#progress = true;
      this.#firstHello(hello);
    }
    if (!this.attached) {
      this.attached = true;
      this.#do({ do: "attached" });
    }
    this.#acknowledged(hello.recv, now);
    if (this.ending !== null) return;
    if (this.#onlyPosts) this.#unlink(now, true);
    this.#sendAgain(now);
  }

  /** Whether the numbers hello has received can only be this instance's and its predecessors' (F3, F27).
   * @param {Hello} hello */
  #isOurs(hello) {
    const have = Math.max(hello.recv, hello.have ?? 0); // never below `recv`, says a server that tells the truth
    if (have > this.sender.sent) return false;
    if (this.hadHello || have <= Math.max(this.sender.acked, this.verified)) return true;
    this.verified = have;
    const by = hello.by ?? null;
    return by === null || by === this.a || by === this.line;
  }

  /** The session that a creation made is this instance's, unless it has one: of two answers the first counts.
   * @param {Hello} hello */
  #named(hello) {
    if (this.sid !== null) return;
    this.sid = hello.sid ?? null;
    this.secret = hello.secret ?? null;
  }

  /** From here on this instance may number (F2), within the terms it was told. @param {Hello} hello */
  #firstHello(hello) {
    this.hadHello = true;
    if (hello.terms) {
      this.terms = hello.terms;
      this.sender.window = this.receiver.window = hello.terms.window;
      this.sender.windowBytes = this.receiver.windowBytes = hello.terms.windowBytes;
    }
    this.#do({ do: "room" });
  }

  /** @param {number} now */
  #sendAgain(now) {
    if (this.kind !== "websocket") {
      this.#post(now);
      return;
    }
    const frames = this.sender.after(Math.max(this.sender.acked, this.uplink.taken));
    if (frames.length > 0) {
      this.#wrote = now;
      this.#do({ do: "write", attachment: this.attachment, frames });
    }
  }

  /** @param {Numbered} frame @param {number} now */
  #receive(frame, now) {
    if (this.closing !== null) {
      // Takes nothing more; but the peer's end, seen, closes both (F16).
      if (frame.kind === "e") this.#over("ended", "local", this.closing.code, this.closing.reason, now);
      return;
    }
    const taken = this.receiver.take(frame);
    if (taken === "taken") this.#progress = true;
    else if (taken === "duplicate") this.#ackAt = Math.min(this.#ackAt, now + this.config.ackDelay);
    else this.#lostLink(now, true); // a gap inside a stream is a protocol error
  }

  // -- how an attachment ends

  /** A response or WebSocket is over, or could not be had.  `clean`: whole, a 204, a WebSocket close 1000.
   * @param {number} attachment @param {number} now @param {boolean} clean */
  ended(attachment, now, clean = false) {
    if (attachment === this.#candidate && attachment > 0) {
      this.#candidateFailed(now);
    } else if (attachment === this.attachment && this.link !== "none") {
      if (this.ending !== null) this.#farewellCut(now, clean);
      else if (clean && (this.kind === "poll" || (this.link === "up" && this.kind !== "websocket"))) this.#turned(now);
      else this.#lostLink(now, false);
    }
    return this.#taken();
  }

  /** The newest attach was answered by a refusal: a status, or a WebSocket close of 4000 + status.
   * @param {number} attachment @param {number} status @param {string | null} code @param {number | null} ack
   * @param {number} now @param {number} retryAfter */
  refused(attachment, status, code, ack, now, retryAfter = 0) {
    if (attachment !== this.attachment || this.link === "none" || this.ending !== null) return this.#taken();
    this.#contact(now);
    const superseded = status === 409 && code === "superseded"; // said once, true for ever
    if (this.link === "up" && !superseded) {
      this.#lostLink(now, false); // behind a hello any other close is a detach
      return this.#taken();
    }
    if (this.link === "up") this.#unlink(now, false);
    this.link = "none";
    this.#release();
    if (!this.#judge(status, code, ack, now)) this.#fail(now, retryAfter);
    return this.#taken();
  }

  /** What a refusal means; true if the session is over.
   * @param {number} status @param {string | null} code @param {number | null} ack @param {number} now */
  #judge(status, code, ack, now) {
    if (ack !== null && this.hadHello && ack <= this.sender.sent) this.#acknowledged(ack, now);
    if (this.ending === null) {
      if (status === 409 && (code === null || code === "superseded")) {
        this.#over("superseded", "network", 1006, "another instance took over", now);
      } else if ([400, 403, 404, 410, 413].includes(status)) {
        this.#over("lost", "network", 1006, code ?? "", now);
      }
    }
    return this.ending !== null;
  }

  /** A poll was answered, or a stream rotated.  The next follows at once if this was worth it (a poll only once its messages
   * are pulled); else it is spaced like a failure, or a server that ends everything at once would be asked at network
   * speed.  The poll that only asks for a hello is worth the one that waits. @param {number} now */
  #turned(now) {
    const asked = this.kind === "poll" && this.#wait <= 0 && this.link === "up";
    this.#turn(now);
    if (this.#progress || now - this.#since >= TURN) {
      this.failures = 0;
      this.retryAt = now;
    } else if (asked) {
      this.retryAt = now;
    } else {
      this.#fail(now, 0);
    }
    this.#contact(now);
  }

  /** @param {number} now */
  #candidateFailed(now) {
    this.#candidate = 0;
    if (this.ending !== null) return;
    if (this.link === "none" && !this.attached) {
      this.#fail(now, 0);
      return;
    }
    this.wanted = this.kind; // what serves goes on serving
    if (this.link === "none") this.retryAt = now; // a turn came meanwhile
  }

  /** @param {number} now @param {boolean} drop */
  #lostLink(now, drop) {
    const steady = this.link === "up" && (this.#progress || now - this.#since >= this.config.steady);
    this.#unlink(now, drop);
    if (steady) this.failures = 0;
    if (!this.#onlyPosts && this.#candidate === 0) this.#fail(now, 0);
  }

  /** @param {number} now @param {boolean} drop */
  #unlink(now, drop) {
    if (drop) this.#do({ do: "drop", attachment: this.attachment });
    this.#turn(now);
    this.#detach();
  }

  /** The newest attachment is over, and whether that is a failure is to be seen. @param {number} now */
  #turn(now) {
    this.#leave(now);
    this.link = "none";
    this.#release();
  }

  /** There is no attachment, and none that is sure to follow. */
  #detach() {
    if (!this.attached) return;
    this.attached = false;
    this.#do({ do: "detached" });
  }

  /** Drop the older connections.  They are kept until the newest attach is answered, though nothing is taken from them:
   * the server ends them when it has the newer one, and never is without an attachment in between. */
  #release() {
    for (const attachment of this.#older) this.#do({ do: "drop", attachment });
    this.#older = [];
  }

  /** @param {number} now */
  #leave(now) {
    if (this.link === "up") {
      this.#alone = now;
    } else if (this.kind === "poll" && this.#firstSince) {
      // It may have been held in good faith; but not one more of those that follow it unanswered, or a poller would
      // never believe that its server is gone.
      this.#alone = Math.max(this.#alone, Math.min(now, this.#since + this.#wait));
    }
  }

  /** @param {number} now @param {number} retryAfter */
  #fail(now, retryAfter) {
    this.#detach();
    this.failures += 1;
    this.retryAt = now + Math.max(retryAfter, backoff(this.failures, this.jitter(), this.terms.grace));
  }

  /** Attach again if it is time and nothing is in the way. @param {number} now */
  #attachAgain(now) {
    if (now >= this.#againAt) this.#connect(now);
  }

  /** When to attach again, if nothing is in the way: a poll may have asked for it beside a WebSocket candidate. */
  get #againAt() {
    const busy = this.link !== "none" || this.#candidate > 0 || this.#creating;
    return busy || this.#onlyPosts || this.#holdsPoll ? NEVER : this.retryAt;
  }

  /** A poller whose messages wait would get them again; it keeps contact by empty batches (F9). */
  get #holdsPoll() {
    return this.wanted === "poll" && this.hadHello && this.receiver.hold.length > 0;
  }

  // -- the uplink

  /** Number a message and send it if that is possible now.  The caller looked at `isOpen` and `hasRoom`.
   * @param {string | Uint8Array} data @param {number} now */
  send(data, now) {
    this.#say(this.sender.number(data), now);
    return this.#taken();
  }

  /** @param {Numbered} frame @param {number} now */
  #say(frame, now) {
    if (this.kind !== "websocket") {
      this.#post(now);
    } else if (this.link === "up") {
      this.#wrote = now;
      this.#do({ do: "write", attachment: this.attachment, frames: [frame] });
    }
  }

  /** Closing over HTTP: the GET is ended, and the rest and the end are POSTed (F14). */
  get #onlyPosts() {
    return this.closing !== null && this.kind !== "websocket" && this.hadHello;
  }

  get #mayPost() {
    if (this.uplink.inFlight !== null || this.sid === null || !this.hadHello) return false;
    if (this.#farewell) return this.link === "none";
    return this.ending === null && this.kind !== "websocket";
  }

  #batch() {
    if (this.#farewell || (this.#peerClosing && this.closing === null)) return [];
    // The server's limit, with which no line and no escape can make a batch too large for it.
    return this.uplink.batch(this.sender, Math.min(this.config.batchBytes, this.terms.max));
  }

  get #asks() {
    return this.uplink.failures > 0 && this.uplink.asks(this.sender);
  }

  /** @param {number} now @param {Numbered[]} frames */
  #postDue(now, frames) {
    return frames.length > 0 || this.#farewell || now >= this.#ackAt || now >= this.#contactAt || this.#asks;
  }

  /** POST what is owed: messages, else an empty batch if an acknowledgement or a contact is due. @param {number} now */
  #post(now) {
    if (!this.#mayPost || now < this.uplink.notBefore) return;
    const frames = this.#batch();
    if (!this.#postDue(now, frames)) return;
    this.#ackAt = NEVER;
    this.#do(this.uplink.begin(this.a, this.ack, frames, now, this.config.postTimeout));
  }

  /** A batch was answered. @param {number} number @param {number} status @param {string | null} code
   * @param {number | null} ack @param {number} now @param {number} retryAfter */
  posted(number, status, code, ack, now, retryAfter = 0) {
    if (this.uplink.inFlight?.number !== number) return this.#taken();
    const post = this.uplink.landed();
    this.#contact(now);
    this.#askedAt = now;
    if (this.#farewell) this.#saidFarewell(post, now);
    if (this.ending !== null) return this.#taken();
    if (status === 200 && ack !== null && ack <= this.sender.sent) {
      this.told = Math.max(this.told, post.ack);
      this.uplink.taken = Math.max(this.uplink.taken, post.frames.at(-1)?.n ?? 0);
      this.#acknowledged(ack, now);
      // Taken, but not in the inbox yet: ask again.
      if (this.sender.acked < this.uplink.taken) this.uplink.wait(now, this.terms.grace);
    } else if (status === 413 && this.uplink.halve(post)) {
      // The same messages again, at once, in smaller batches.
    } else if (!this.#postRefused(status, code, ack, now)) {
      this.uplink.wait(now, this.terms.grace, retryAfter);
    }
    if (this.ending === null) {
      this.#oweAck(now);
      this.#post(now);
    }
    return this.#taken();
  }

  /** @param {number} status @param {string | null} code @param {number | null} ack @param {number} now */
  #postRefused(status, code, ack, now) {
    if (status === 409 && (code === "gap" || code === "closing")) {
      this.uplink.taken = 0;
      this.#peerClosing ||= code === "closing";
      if (ack !== null && ack <= this.sender.sent) this.#acknowledged(ack, now);
      return this.ending !== null;
    }
    return this.#judge(status, code, ack, now);
  }

  /** A batch got no answer, or none that is ours. @param {number} number @param {number} now */
  postFailed(number, now) {
    this.#postFailed(number, now);
    return this.#taken();
  }

  /** @param {number} number @param {number} now */
  #postFailed(number, now) {
    if (this.uplink.inFlight?.number !== number) return;
    this.uplink.landed();
    this.uplink.wait(now, this.terms.grace);
    if (this.ending === null) this.#oweAck(now);
  }

  /** The server has everything up to `n` <= sent; a lower number than before is old news (F9b).
   * @param {number} n @param {number} now */
  #acknowledged(n, now) {
    if (!this.sender.acknowledge(n)) return;
    this.#progress = true;
    this.uplink.progress();
    this.#do({ do: "room" });
    if (this.closing !== null && n === this.closing.n) {
      this.#over("ended", "local", this.closing.code, this.closing.reason, now);
    }
  }

  // -- the application

  /** The next message for the application. @returns {import("./frames.js").Message | null} */
  pull() {
    return this.ending === null ? this.receiver.pull() : null;
  }

  /** After pulling: the peer's end takes effect, acknowledgements go out in time, a poller polls again.
   * @param {number} now */
  settle(now) {
    if (this.ending !== null) return this.#taken();
    const end = this.receiver.pullEnd();
    if (end !== null) {
      this.#takeEnd(end, now);
    } else {
      this.#oweAck(now);
      this.#attachAgain(now);
    }
    return this.#taken();
  }

  /** An acknowledgement waits at most `ackDelay`, and goes at once when a quarter of a window is owed.
   * @param {number} now */
  #oweAck(now) {
    const { receiver } = this;
    const owed = this.ack - this.told;
    const owedBytes = receiver.recvBytes - this.#toldBytes;
    if (owed <= 0 || (this.wanted === "poll" && this.kind === "poll" && !this.#holdsPoll)) return; // the next poll says it
    if (owed * 4 >= receiver.window || owedBytes * 4 >= receiver.windowBytes) {
      this.#ackAt = now;
      this.#sayAck(now);
    } else {
      this.#ackAt = Math.min(this.#ackAt, now + this.config.ackDelay);
    }
  }

  /** @param {number} now */
  #sayAck(now) {
    if (this.kind !== "websocket") {
      this.#toldBytes = this.receiver.recvBytes;
      this.#post(now);
    } else if (this.link === "up") {
      this.#writeAck(now);
    } else {
      this.#ackAt = NEVER; // the next hello presents it
    }
  }

  /** @param {number} now */
  #writeAck(now) {
    this.#ackAt = NEVER;
    this.#wrote = now;
    this.told = this.receiver.recv;
    this.#toldBytes = this.receiver.recvBytes;
    this.#do({ do: "write", attachment: this.attachment, frames: [{ kind: "a", n: this.told }] });
  }

  // -- closing

  /** Close in order.  Before this instance's own hello it may number nothing: DELETE.
   * @param {number} code @param {string} reason @param {number} now @param {number | null} timeout */
  close(code, reason, now, timeout = null) {
    if (!this.isOpen) return this.#taken();
    if (!this.hadHello) {
      if (this.sid !== null) this.#do({ do: "delete", a: this.a });
      this.#over("killed", "local", code, reason, now);
      return this.#taken();
    }
    // Or the server would count what arrived among what may be lost.
    if (this.kind === "websocket" && this.link === "up" && this.receiver.recv > this.told) this.#writeAck(now);
    this.closing = this.sender.end(code, reason);
    this.#closeAt = now + (timeout ?? this.terms.grace);
    if (this.receiver.stop()) {
      this.#over("ended", "local", code, reason, now); // the peer's end was here already: both are closed
      return this.#taken();
    }
    if (this.#onlyPosts) {
      this.#dropCandidate();
      if (this.link !== "none") this.#unlink(now, true);
      this.retryAt = NEVER;
    }
    this.#say(this.closing, now);
    return this.#taken();
  }

  /** Who takes the peer's end is closed at once, and acknowledges it until any answer comes.
   * @param {EndFrame} end @param {number} now */
  #takeEnd(end, now) {
    this.#farewell = true;
    this.#over("ended", "peer", end.code, end.reason, now);
    if (this.link === "up") {
      this.#writeAck(now);
    } else {
      this.uplink.progress();
      this.#post(now);
    }
  }

  /** Any answer to the acknowledgement will do (F19), but not one to a batch of before it.
   * @param {import("./halves.js").Post} post @param {number} now */
  #saidFarewell(post, now) {
    if (post.ack >= this.receiver.recv) this.#drain();
    else this.#post(now);
  }

  /** @param {number} now @param {boolean} clean */
  #farewellCut(now, clean) {
    this.link = "none";
    if (clean || !this.#farewell) this.#drain();
    else this.#post(now);
  }

  /** The only way to the end, and there is no way back.
   * @param {Outcome} outcome @param {By} by @param {number} code @param {string} reason @param {number} now */
  #over(outcome, by, code, reason, now) {
    const left = this.sender.unacknowledged;
    this.ending = { outcome, by, code, reason, clean: left === 0 && outcome === "ended", unacknowledged: left };
    this.#alone = now;
    this.retryAt = this.#ackAt = this.#closeAt = NEVER;
    this.sender.clear();
    this.receiver.stop();
    this.#dropCandidate();
    const stays = this.#farewell && this.kind === "websocket" && this.link === "up";
    if (this.link !== "none" && !stays) this.#unlink(now, true);
    if (!stays) this.#detach();
    this.#do({ do: "ended", ending: this.ending });
    if (!this.#farewell) this.#drain();
  }

  #dropCandidate() {
    if (this.#candidate > 0) {
      this.#do({ do: "drop", attachment: this.#candidate });
      this.#candidate = 0;
    }
  }

  #drain() {
    this.#farewell = false;
    if (!this.drained) {
      this.drained = true;
      this.#do({ do: "drained" });
    }
  }

  // -- what only a page knows

  /** There is no reason to wait any longer: the network is back, or the page is seen again. @param {number} now */
  hurry(now) {
    if (this.retryAt !== NEVER && this.ending === null) {
      this.retryAt = Math.min(this.retryAt, now);
      this.failures = 0;
    }
    this.uplink.notBefore = 0;
    return this.tick(now);
  }

  /** The connection is in doubt: a WebSocket is asked for a sign of life within `pingTimeout`. @param {number} now */
  probe(now) {
    if (this.link === "up" && this.kind === "websocket" && this.ending === null) {
      this.#heard = Math.min(this.#heard, now - this.terms.ping);
      this.#wrote = this.#asked = now;
      this.#do({ do: "write", attachment: this.attachment, frames: [{ kind: "p" }] });
    }
    return this.#taken();
  }

  /** The page is put away and may come back: no connection until `hurry`. @param {number} now */
  pause(now) {
    if (this.ending === null && !this.#creating) {
      this.#dropCandidate();
      if (this.link !== "none") this.#unlink(now, true);
      if (!this.#onlyPosts) this.retryAt = Number.MAX_SAFE_INTEGER; // not NEVER: `hurry` is to find that it waits
    }
    return this.#taken();
  }

  // -- time

  /** When `tick` must be called at the latest. */
  get deadline() {
    if (this.drained) return NEVER;
    let first = Math.min(this.#graceAt, this.uplink.until, this.#closeAt);
    if (this.#mayPost && this.#postDue(NEVER, this.#batch())) {
      first = Math.min(first, Math.max(this.uplink.notBefore, this.#postAt));
    }
    if (this.ending !== null) return first;
    first = Math.min(first, this.#linkAt, this.#candidateAt, this.#againAt);
    return this.kind === "websocket" ? Math.min(first, this.#ackAt) : first;
  }

  /** When a batch is due, back-off aside: now if there are messages. */
  get #postAt() {
    return this.#farewell || this.#asks || this.#batch().length > 0 ? 0 : Math.min(this.#ackAt, this.#contactAt);
  }

  /** A poller stays in contact while it does not poll, since its application is slow or an answer takes so long. */
  get #contactAt() {
    if (this.ending !== null) return NEVER;
    if (this.#holdsPoll && this.link === "none") return this.#contacted + this.terms.grace / 3;
    return this.kind === "poll" && this.link === "up" ? this.#askedAt + this.terms.grace / 3 : NEVER;
  }

  get #graceAt() {
    if (this.ending === null && this.link === "up") return NEVER;
    const waiting = this.link === "sent" && this.#firstSince ? this.#since + this.#wait : 0;
    return Math.max(this.#contacted, this.#alone, waiting) + this.terms.grace;
  }

  /** When the newest attach is given up: without hello, or silent. */
  get #linkAt() {
    if (this.link === "sent") {
      return this.#since + (this.kind === "poll" ? this.#wait + this.config.pollMargin : this.config.helloTimeout);
    }
    return this.link === "up" ? Math.min(this.#silentAt, this.#pingAt) : NEVER;
  }

  get #silentAt() {
    return this.#heard + this.terms.ping + this.config.pingTimeout;
  }

  /** On a WebSocket each end asks for a sign of life, when nothing came, whatever it wrote since, and when it wrote nothing,
   * whatever comes in: that may be one long message.  A stream's server speaks by itself. */
  get #pingAt() {
    if (this.kind !== "websocket") return NEVER;
    return Math.max(this.#asked, Math.min(this.#heard, this.#wrote)) + this.terms.ping;
  }

  get #candidateAt() {
    return this.#candidate > 0 ? this.#candidateSince + this.config.openTimeout : NEVER;
  }

  /** Do what is due. @param {number} now */
  tick(now) {
    if (this.drained) return this.#taken();
    if (now >= this.#graceAt || now >= this.#closeAt) {
      this.#expire(now);
      return this.#taken();
    }
    if (now >= this.uplink.until && this.uplink.inFlight !== null) {
      this.uplink.unanswered();
      this.#postFailed(this.uplink.inFlight.number, now);
    }
    if (this.ending === null) {
      this.#tickLinks(now);
      if (now >= this.#ackAt) this.#sayAck(now);
      this.#attachAgain(now);
    }
    this.#post(now);
    return this.#taken();
  }

  /** @param {number} now */
  #tickLinks(now) {
    if (now >= this.#candidateAt) {
      this.#do({ do: "drop", attachment: this.#candidate });
      this.#candidateFailed(now);
    }
    if (now < this.#linkAt) return;
    if (this.link === "up" && now < this.#silentAt) {
      this.#wrote = this.#asked = now;
      this.#do({ do: "write", attachment: this.attachment, frames: [{ kind: "p" }] });
      return;
    }
    // A proxy holds the stream back until it ends.
    if (this.link === "sent" && (this.kind === "stream" || this.kind === "events")) this.wanted = "poll";
    this.#lostLink(now, true);
  }

  /** @param {number} now */
  #expire(now) {
    if (this.ending !== null) this.#drain(); // the farewell found nobody
    else if (this.closing !== null) this.#over("abandoned", "local", this.closing.code, this.closing.reason, now);
    else this.#over("lost", "network", 1006, "", now);
  }
}
