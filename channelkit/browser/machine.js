// A session of CK/1 as a client sees it (docs/protocol.md, sections 5 to 8): events in, actions out, time in seconds as an
// argument, chance as a function.  Pure, and the twin of channelkit/session/client/: the rules, and why they are so, are
// there and in the specification (F1 to F29); tests/browser compares the two, action by action.
//
// Its parts, which state.js joins, are the attaches (attaching.js), what is said (saying.js, uplink.js), who says it
// (instance.js), the two halves of a direction (halves.js) and how far it has come to its end (life.js).
//
// Use: start(kind, now); then tell what happens, and do what comes back, in order.  After each call pull until null if the
// application takes messages, then settle(now); and call tick(now) at `deadline`.
import { NEVER } from "./halves.js";
import { ClientState } from "./state.js";

export { CONFIG } from "./config.js";
export { nextInstance } from "./instance.js";

/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./frames.js").Numbered} Numbered */
/** @typedef {import("./frames.js").EndFrame} EndFrame */
/** @typedef {import("./frames.js").Hello} Hello */
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
 *   frames: Numbered[], line: number | null, verified: number, grace: number}} Saved
 */
/**
 * @typedef {{do: "create", a: number}
 *   | {do: "open", attachment: number}
 *   | {do: "attach", attachment: number, kind: Kind, a: number, ack: number, wait: number}
 *   | {do: "write", attachment: number, frames: Exclude<Frame, {kind: "h"}>[]}
 *   | {do: "drop", attachment: number}
 *   | import("./uplink.js").Post
 *   | {do: "delete", a: number}
 *   | {do: "room"} | {do: "attached"} | {do: "detached"} | {do: "drained"}
 *   | {do: "ended", ending: Ending}} Action
 */

/** One instance of one session, told what happens. */
export class ClientMachine extends ClientState {
  // -- attaching

  /** Begin: create the session if there is none, and attach by `kind`.  A WebSocket creates by itself, unless
   * `byPost`. @param {Kind} kind @param {number} now @param {boolean} byPost */
  start(kind, now, byPost = false) {
    if (this.closing) this.life.closeAt = now + this.terms.grace;
    this.attaching.start(kind, now, byPost);
    return this._taken();
  }

  /** Go on by another transport, or by a fresh connection of the same: just another attach.
   * @param {Kind} kind @param {number} now */
  switchTo(kind, now) {
    if (this.ending === null && !this.attaching.onlyPosts && !this.attaching.creating) {
      this.attaching.wanted = kind;
      this.attaching.connect(now);
    }
    return this._taken();
  }

  /** POST /ck was answered 201: this instance's own hello. @param {Hello} hello @param {number} now */
  created(hello, now) {
    if (this.attaching.creating && this.ending === null) {
      this.attaching.creating = false;
      this.attaching.contact(now);
      this.instance.named(hello);
      this.#firstHello(hello);
      this.attaching.connect(now);
    }
    return this._taken();
  }

  /** It was not, and nothing is known of it. @param {number} now @param {number} retryAfter */
  createFailed(now, retryAfter = 0) {
    if (this.attaching.creating && this.ending === null) {
      this.attaching.creating = false;
      this.attaching.fail(now, retryAfter);
    }
    return this._taken();
  }

  /** The WebSocket is open. @param {number} attachment @param {number} now */
  opened(attachment, now) {
    if (this.ending === null && attachment === this.attaching.candidate) this.attaching.opened(now);
    return this._taken();
  }

  // -- what an attachment brings

  /** A frame of a response or WebSocket.  Only those of the newest attach count.
   * @param {number} attachment @param {Frame} frame @param {number} now */
  received(attachment, frame, now) {
    if (!this.attaching.counts(attachment)) return this._taken();
    this.attaching.heard(now);
    if (this.ending !== null) return this._taken();
    if (frame.kind === "h") this.#hello(frame.hello, now);
    else if (this.link !== "up") this.attaching.lost(now, true); // a frame before hello: not our protocol
    else if (frame.kind === "a") {
      if (frame.n > this.sender.sent) this.attaching.lost(now, true);
      else this._acknowledged(frame.n, now);
    } else if (frame.kind === "p") {
      if (this.kind === "websocket") this.saying.writeAck(now);
    } else this.#receive(frame, now);
    return this._taken();
  }

  /** Bytes came, such as a comment: the connection lives. @param {number} attachment @param {number} now */
  heard(attachment, now) {
    if (this.attaching.counts(attachment)) this.attaching.heard(now);
  }

  /** @param {Hello} hello @param {number} now */
  #hello(hello, now) {
    const attaching = this.attaching;
    if (attaching.link === "up") return;
    this.instance.named(hello);
    attaching.link = "up";
    attaching.contact(now);
    attaching.askedAt = now;
    attaching.release();
    this.saying.told = Math.max(this.saying.told, attaching.presented);
    if (!this.instance.owns(hello, this.sender)) {
      this._over("lost", "network", 1006, "", now);
      return;
    }
    if (!this.hadHello) {
      attaching.progress = true;
      this.#firstHello(hello);
    }
    attaching.attach();
    this._acknowledged(hello.recv, now);
    if (this.ending !== null) return;
    if (attaching.onlyPosts) attaching.unlink(now, true);
    this.saying.sayAgain(now);
  }

  /** @param {Hello} hello */
  #firstHello(hello) {
    this.instance.firstHello(hello, this.sender, this.receiver);
    this.out.push({ do: "room" });
  }

  /** @param {Numbered} frame @param {number} now */
  #receive(frame, now) {
    if (this.closing !== null) {
      // Takes nothing more; but the peer's end, seen, closes both (F16).
      if (frame.kind === "e") this._over("ended", "local", this.closing.code, this.closing.reason, now);
      return;
    }
    const taken = this.receiver.take(frame);
    if (taken === "taken") this.attaching.progress = true;
    else if (taken === "duplicate") this.saying.ackSoon(now);
    else this.attaching.lost(now, true); // a gap inside a stream is a protocol error
  }

  // -- how an attachment ends

  /** A response or WebSocket is over, or could not be had.  `clean`: whole, a 204, a WebSocket close 1000.
   * @param {number} attachment @param {number} now @param {boolean} clean */
  ended(attachment, now, clean = false) {
    const attaching = this.attaching;
    if (attachment === attaching.candidate && attachment > 0) {
      attaching.candidateFailed(now);
    } else if (attaching.counts(attachment)) {
      if (this.ending !== null) this._farewellCut(now, clean);
      else if (clean && (this.kind === "poll" || (this.link === "up" && this.kind !== "websocket"))) attaching.turned(now);
      else attaching.lost(now, false);
    }
    return this._taken();
  }

  /** The newest attach was answered by a refusal: a status, or a WebSocket close of 4000 + status.
   * @param {number} attachment @param {number} status @param {string | null} code @param {number | null} ack
   * @param {number} now @param {number} retryAfter */
  refused(attachment, status, code, ack, now, retryAfter = 0) {
    const attaching = this.attaching;
    if (!attaching.counts(attachment) || this.ending !== null) return this._taken();
    attaching.contact(now);
    const superseded = status === 409 && code === "superseded"; // said once, true for ever
    if (attaching.link === "up" && !superseded) {
      attaching.lost(now, false); // behind a hello any other close is a detach
      return this._taken();
    }
    if (attaching.link === "up") attaching.unlink(now, false);
    attaching.link = "none";
    attaching.release();
    if (!this._judge(status, code, ack, now)) attaching.fail(now, retryAfter);
    return this._taken();
  }

  // -- how a batch ends

  /** A batch was answered. @param {number} number @param {number} status @param {string | null} code
   * @param {number | null} ack @param {number} now @param {number} retryAfter */
  posted(number, status, code, ack, now, retryAfter = 0) {
    const { uplink } = this;
    if (uplink.inFlight?.number !== number) return this._taken();
    const post = uplink.landed();
    this.attaching.contact(now);
    this.attaching.askedAt = now;
    if (this.saying.farewell) this._saidFarewell(post, now);
    if (this.ending !== null) return this._taken();
    if (status === 200 && ack !== null && ack <= this.sender.sent) {
      this.saying.told = Math.max(this.saying.told, post.ack);
      uplink.taken = Math.max(uplink.taken, post.frames.at(-1)?.n ?? 0);
      this._acknowledged(ack, now);
      if (this.sender.acked < uplink.taken) uplink.wait(now, this.terms.grace); // not in the inbox yet: ask again
    } else if (status === 413 && uplink.halve(post)) {
      // The same messages again, at once, in smaller batches.
    } else if (!this.#postRefused(status, code, ack, now)) {
      uplink.wait(now, this.terms.grace, retryAfter);
    }
    if (this.ending === null) {
      this.saying.oweAck(now);
      this.saying.post(now);
    }
    return this._taken();
  }

  /** @param {number} status @param {string | null} code @param {number | null} ack @param {number} now */
  #postRefused(status, code, ack, now) {
    if (status === 409 && (code === "gap" || code === "closing")) {
      this.uplink.taken = 0;
      this.saying.peerClosing ||= code === "closing";
      if (ack !== null && ack <= this.sender.sent) this._acknowledged(ack, now);
      return this.ending !== null;
    }
    return this._judge(status, code, ack, now);
  }

  /** A batch got no answer, or none that is ours. @param {number} number @param {number} now */
  postFailed(number, now) {
    if (this.uplink.inFlight?.number === number) this.saying.failed(now);
    return this._taken();
  }

  // -- the application

  /** Number a message and send it if that is possible now.  The caller looked at `isOpen` and `hasRoom`.
   * @param {string | Uint8Array} data @param {number} now */
  send(data, now) {
    this.saying.say(this.sender.number(data), now);
    return this._taken();
  }

  /** The next message for the application. @returns {import("./frames.js").Message | null} */
  pull() {
    return this.ending === null ? this.receiver.pull() : null;
  }

  /** After pulling: the peer's end takes effect, acknowledgements go out in time, a poller polls again.
   * @param {number} now */
  settle(now) {
    if (this.ending !== null) return this._taken();
    const end = this.receiver.pullEnd();
    if (end !== null) {
      this._takeEnd(end, now);
    } else {
      this.saying.oweAck(now);
      this.attaching.again(now);
    }
    return this._taken();
  }

  // -- closing

  /** Close in order.  Before this instance's own hello it may number nothing: DELETE.
   * @param {number} code @param {string} reason @param {number} now @param {number | null} timeout */
  close(code, reason, now, timeout = null) {
    if (!this.isOpen) return this._taken();
    if (!this.hadHello) {
      if (this.sid !== null) this.out.push({ do: "delete", a: this.a });
      this._over("killed", "local", code, reason, now);
      return this._taken();
    }
    this.saying.lastAck(now);
    const end = (this.life.closing = this.sender.end(code, reason));
    this.life.closeAt = now + (timeout ?? this.terms.grace);
    if (this.receiver.stop()) {
      this._over("ended", "local", code, reason, now); // the peer's end was here already: both are closed
      return this._taken();
    }
    const attaching = this.attaching;
    if (attaching.onlyPosts) {
      attaching.dropCandidate();
      if (attaching.link !== "none") attaching.unlink(now, true);
      attaching.retryAt = NEVER;
    }
    this.saying.say(end, now);
    return this._taken();
  }

  // -- what only a page knows

  /** There is no reason to wait any longer: the network is back, or the page is seen again. @param {number} now */
  hurry(now) {
    const attaching = this.attaching;
    if (attaching.retryAt !== NEVER && this.ending === null) {
      attaching.retryAt = Math.min(attaching.retryAt, now);
      attaching.failures = 0;
    }
    this.uplink.notBefore = 0;
    return this.tick(now);
  }

  /** The connection is in doubt: a WebSocket is asked for a sign of life within `pingTimeout`. @param {number} now */
  probe(now) {
    if (this.link === "up" && this.kind === "websocket" && this.ending === null) this.attaching.probe(now);
    return this._taken();
  }

  /** The page is put away and may come back: no connection until `hurry`. @param {number} now */
  pause(now) {
    const attaching = this.attaching;
    if (this.ending === null && !attaching.creating) {
      attaching.dropCandidate();
      if (attaching.link !== "none") attaching.unlink(now, true);
      attaching.detach();
      if (!attaching.onlyPosts) attaching.retryAt = Number.MAX_SAFE_INTEGER; // not NEVER: `hurry` is to find that it waits
    }
    return this._taken();
  }

  // -- time

  /** When `tick` must be called at the latest. */
  get deadline() {
    if (this.drained) return NEVER;
    const first = Math.min(this.attaching.graceAt, this.life.closeAt, this.saying.deadline);
    return this.ending === null ? Math.min(first, this.attaching.deadline) : first;
  }

  /** Do what is due. @param {number} now */
  tick(now) {
    if (this.drained) return this._taken();
    if (now >= Math.min(this.attaching.graceAt, this.life.closeAt)) {
      this._expire(now);
      return this._taken();
    }
    if (now >= this.uplink.until && this.uplink.inFlight !== null) {
      this.uplink.unanswered();
      this.saying.failed(now);
    }
    if (this.ending === null) {
      this.attaching.tick(now);
      if (now >= this.saying.ackAt) this.saying.sayAck(now);
      this.attaching.again(now);
    }
    this.saying.post(now);
    return this._taken();
  }
}
