// A client's attaches (docs/protocol.md, section 5): the newest, the WebSocket that is being opened to follow it, and when
// the next is tried.  What is to be done goes into `out`.
import { NEVER, backoff } from "./halves.js";

/** @typedef {import("./machine.js").Kind} Kind */
/** @typedef {import("./machine.js").Action} Action */

/** A response that lasted that long and brought nothing is followed at once too: a poll, or a rotated stream. */
const TURN = 1;

/** `number`, `kind`, `link`, `presented` are of the newest attach: its number, carrier, how far it came, its ack. */
export class Attaching {
  number = 0;
  /** @type {Kind} */
  kind = "poll";
  /** @type {"none" | "sent" | "up"} */
  link = "none"; // "sent" is without hello
  attached = false; // from a hello until something failed: between two turns of a poll or stream too
  /** @type {Kind} */
  wanted = "poll"; // of the next attach
  candidate = 0; // a WebSocket being opened while the older attachment still serves
  creating = false;
  progress = false; // since the newest attach: a number taken or acknowledged, or the first hello
  retryAt = NEVER;
  failures = 0;
  barren = false; // the attachment lost last had brought nothing, and lived no longer than silence is suffered
  wrote = 0;
  contacted = 0;
  alone = 0;
  askedAt = 0; // when the server last answered a request: its own grace began no earlier

  #last = 0; // number given to an attach
  #candidateSince = 0;
  #since = 0;
  #heard = 0;
  #asked = 0; // when a sign of life was asked for
  #wait = 0;
  /** @type {number[]} */
  #older = []; // connections that the newest attach replaces, kept until it is answered
  #met = false; // since the newest attach was sent, anything of the server's came
  #firstSince = true; // the newest attach is the first since the last contact
  #config;
  #jitter;
  #instance;
  #life;
  #receiver;
  #out;

  /** @param {import("./config.js").Config} config @param {() => number} jitter
   * @param {import("./instance.js").Instance} instance @param {import("./life.js").Life} life
   * @param {import("./halves.js").Receiver} receiver @param {Action[]} out */
  constructor(config, jitter, instance, life, receiver, out) {
    this.#config = config;
    this.#jitter = jitter;
    this.#instance = instance;
    this.#life = life;
    this.#receiver = receiver;
    this.#out = out;
    this.presented = receiver.recv;
  }

  // -- what can be asked

  get byWebSocket() {
    return this.kind === "websocket";
  }

  /** Closing over HTTP: the GET is ended, and the rest and the end are POSTed (F14). */
  get onlyPosts() {
    return this.#life.closing !== null && this.kind !== "websocket" && this.#instance.hadHello;
  }

  /** A poller whose messages wait would get them again; it keeps contact by empty batches (F9). */
  get holdsPoll() {
    return this.wanted === "poll" && this.#instance.hadHello && this.#receiver.hold.length > 0;
  }

  /** Whether this attachment is the newest, of which alone anything is taken. @param {number} attachment */
  counts(attachment) {
    return attachment === this.number && this.link !== "none";
  }

  // -- attaching

  /** Begin. @param {Kind} kind @param {number} now @param {boolean} byPost */
  start(kind, now, byPost) {
    this.wanted = this.kind = kind;
    this.alone = now;
    this.contact(now);
    this.connect(now, byPost);
  }

  /** Attach by `wanted`; first create the session, if there is none and a WebSocket would not do that too.
   * @param {number} now @param {boolean} byPost */
  connect(now, byPost = false) {
    this.retryAt = NEVER;
    this.dropCandidate();
    if (this.#instance.sid === null && (byPost || this.wanted !== "websocket")) {
      this.creating = true;
      this.#out.push({ do: "create", a: this.#instance.a });
      return;
    }
    this.#last += 1;
    if (this.wanted === "websocket") {
      this.candidate = this.#last;
      this.#candidateSince = now;
      this.#out.push({ do: "open", attachment: this.#last });
    } else {
      this.#sendAttach(this.#last, now);
    }
  }

  /** The candidate is open: the attach begins with sending its hello. @param {number} now */
  opened(now) {
    const number = this.candidate;
    this.candidate = 0;
    this.#sendAttach(number, now);
  }

  /** @param {number} attachment @param {number} now */
  #sendAttach(attachment, now) {
    if (this.link !== "none") {
      this.#leave(now); // from here on nothing is taken from older attachments (F8)
      this.#older.push(this.number);
    }
    if (this.link !== "none" || this.kind !== this.wanted) this.detach();
    this.number = attachment;
    this.kind = this.wanted;
    this.link = "sent";
    this.presented = this.#receiver.recv;
    this.progress = false;
    [this.#firstSince, this.#met] = [this.#met, false];
    this.#since = this.#heard = this.#asked = this.wrote = now;
    this.#wait = this.kind === "poll" && this.attached ? this.#config.wait : 0;
    this.#out.push({ do: "attach", attachment, kind: this.kind, a: this.#instance.a, ack: this.presented, wait: this.#wait });
  }

  /** Bytes came on the newest attachment; before its hello they may be anybody's, as a network's login page.
   * @param {number} now */
  heard(now) {
    this.#heard = now;
    if (this.link === "up") this.contact(now);
  }

  /** The server has answered something. @param {number} now */
  contact(now) {
    this.contacted = now;
    this.#met = true;
  }

  /** A hello came. */
  attach() {
    if (this.attached) return;
    this.attached = true;
    this.#out.push({ do: "attached" });
  }

  // -- how an attachment ends

  /** There is no attachment, and none that is sure to follow. */
  detach() {
    if (!this.attached) return;
    this.attached = false;
    this.#out.push({ do: "detached" });
  }

  /** The newest attachment is over; `drop`: by us. @param {number} now @param {boolean} drop */
  unlink(now, drop) {
    if (drop) this.#out.push({ do: "drop", attachment: this.number });
    this.#turn(now);
    this.detach();
  }

  /** The newest attachment is over, and whether that is a failure is to be seen. @param {number} now */
  #turn(now) {
    this.#leave(now);
    this.link = "none";
    this.release();
  }

  /** Drop the older connections.  They are kept until the newest attach is answered, though nothing is taken from them:
   * the server ends them when it has the newer one, and never is without an attachment in between. */
  release() {
    for (const attachment of this.#older) this.#out.push({ do: "drop", attachment });
    this.#older = [];
  }

  /** @param {number} now */
  #leave(now) {
    if (this.link === "up") {
      this.alone = now;
    } else if (this.kind === "poll" && this.#firstSince) {
      // It may have been held in good faith; but not one more of those that follow it unanswered, or a poller would
      // never believe that its server is gone.
      this.alone = Math.max(this.alone, Math.min(now, this.#since + this.#wait));
    }
  }

  /** The newest attachment failed: try again later, if nothing else is under way. @param {number} now @param {boolean} drop */
  lost(now, drop) {
    const lived = now - this.#since;
    const steady = this.link === "up" && (this.progress || lived >= this.#config.steady);
    this.barren = this.link === "up" && !this.progress && lived < 2 * this.#silence;
    this.unlink(now, drop);
    if (steady) this.failures = 0;
    if (!this.onlyPosts && this.candidate === 0) this.fail(now);
  }

  /** A poll was answered, or a stream rotated.  The next follows at once if this was worth it (a poll only once its messages
   * are pulled); else it is spaced like a failure, or a server that ends everything at once would be asked at network
   * speed.  The poll that only asks for a hello is worth the one that waits. @param {number} now */
  turned(now) {
    const asked = this.kind === "poll" && this.#wait <= 0 && this.link === "up";
    this.#turn(now);
    if (this.progress || now - this.#since >= TURN) {
      this.failures = 0;
      this.retryAt = now;
    } else if (asked) {
      this.retryAt = now;
    } else {
      this.fail(now);
    }
    this.contact(now);
  }

  /** The WebSocket did not open: what serves goes on serving. @param {number} now */
  candidateFailed(now) {
    this.candidate = 0;
    if (this.link === "none" && !this.attached) {
      this.fail(now);
      return;
    }
    this.wanted = this.kind;
    if (this.link === "none") this.retryAt = now; // a turn came meanwhile
  }

  /** Open it no further. */
  dropCandidate() {
    if (this.candidate > 0) {
      this.#out.push({ do: "drop", attachment: this.candidate });
      this.candidate = 0;
    }
  }

  /** Back off. @param {number} now @param {number} retryAfter */
  fail(now, retryAfter = 0) {
    this.detach();
    this.failures += 1;
    this.retryAt = now + Math.max(retryAfter, backoff(this.failures, this.#jitter(), this.#instance.terms.grace));
  }

  /** Attach again if it is time and nothing is in the way. @param {number} now */
  again(now) {
    if (now >= this.#againAt) this.connect(now);
  }

  /** The connection is in doubt: a WebSocket is asked for a sign of life within `pingTimeout`. @param {number} now */
  probe(now) {
    this.#heard = Math.min(this.#heard, now - this.#instance.terms.ping);
    this.#ping(now);
  }

  /** @param {number} now */
  #ping(now) {
    this.wrote = this.#asked = now;
    this.#out.push({ do: "write", attachment: this.number, frames: [{ kind: "p" }] });
  }

  // -- time

  /** When `tick`, or `again`, must be called at the latest. */
  get deadline() {
    return Math.min(this.#linkAt, this.#candidateAt, this.#againAt);
  }

  /** When to attach again, if nothing is in the way: a poll may have asked for it beside a WebSocket candidate. */
  get #againAt() {
    const busy = this.link !== "none" || this.candidate > 0 || this.creating;
    return busy || this.onlyPosts || this.holdsPoll ? NEVER : this.retryAt;
  }

  /** When a client without attachment and contact must believe that the server has given it up. */
  get graceAt() {
    if (this.#life.ending === null && this.link === "up") return NEVER;
    const waiting = this.link === "sent" && this.#firstSince ? this.#since + this.#wait : 0;
    return Math.max(this.contacted, this.alone, waiting) + this.#instance.terms.grace;
  }

  /** When the newest attach is given up, without hello or silent, or asked for a sign of life. */
  get #linkAt() {
    if (this.link === "sent") {
      return this.#since + (this.kind === "poll" ? this.#wait + this.#config.pollMargin : this.#config.helloTimeout);
    }
    return this.link === "up" ? Math.min(this.#silentAt, this.#pingAt) : NEVER;
  }

  get #silentAt() {
    return this.#heard + this.#silence;
  }

  /** How long nothing may be heard of what is up. */
  get #silence() {
    return this.#instance.terms.ping + this.#config.pingTimeout;
  }

  /** On a WebSocket each end asks for a sign of life, when nothing came, whatever it wrote since, and when it wrote nothing,
   * whatever comes in: that may be one long message.  A stream's server speaks by itself. */
  get #pingAt() {
    if (this.kind !== "websocket") return NEVER;
    return Math.max(this.#asked, Math.min(this.#heard, this.wrote)) + this.#instance.terms.ping;
  }

  get #candidateAt() {
    return this.candidate > 0 ? this.#candidateSince + this.#config.openTimeout : NEVER;
  }

  /** Give up what shows no life; ask what may have some. @param {number} now */
  tick(now) {
    if (now >= this.#candidateAt) {
      this.#out.push({ do: "drop", attachment: this.candidate });
      this.candidateFailed(now);
    }
    if (now < this.#linkAt) return;
    if (this.link === "up" && now < this.#silentAt) {
      this.#ping(now);
      return;
    }
    // A proxy holds the stream back until it ends.
    if (this.link === "sent" && (this.kind === "stream" || this.kind === "events")) this.wanted = "poll";
    this.lost(now, true);
  }
}
