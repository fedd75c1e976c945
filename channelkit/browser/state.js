// What a client's session is made of, what can be asked of it, and what an event may come to: an ack, the end.  Events are
// machine.js.
import { Attaching } from "./attaching.js";
import { CONFIG } from "./config.js";
import { NEVER, Receiver, Sender } from "./halves.js";
import { FIRST_TERMS, Instance } from "./instance.js";
import { Life } from "./life.js";
import { Saying } from "./saying.js";
import { Uplink } from "./uplink.js";

/** @typedef {import("./frames.js").EndFrame} EndFrame */
/** @typedef {import("./machine.js").Action} Action */
/** @typedef {import("./machine.js").Saved} Saved */
/** @typedef {import("./machine.js").Outcome} Outcome */
/** @typedef {import("./machine.js").By} By */

/** One instance of one session. */
export class ClientState {
  drained = false; // nothing is left to do

  instance;
  life = new Life();
  attaching;
  saying;
  /** @type {Action[]} */
  out = [];

  /**
   * @param {{config?: Partial<typeof CONFIG>, jitter?: () => number, a?: number, saved?: Saved | null,
   *   sid?: string | null, secret?: string | null}} [options] `saved` is a predecessor's state, to be taken over by an
   *   `a` larger than its; `sid` and `secret` alone are for whoever has received and sent nothing
   */
  constructor({ config = {}, jitter = Math.random, a = 1, saved = null, sid = null, secret = null } = {}) {
    this.config = { ...CONFIG, ...config };
    this.sender = new Sender(FIRST_TERMS.window, FIRST_TERMS.windowBytes);
    this.receiver = new Receiver(FIRST_TERMS.window, FIRST_TERMS.windowBytes, saved?.recv ?? 0);
    this.uplink = new Uplink(jitter);
    const instance = (this.instance = new Instance(a, saved, sid, secret));
    if (saved) this.#takeOver(saved);
    const attaching = new Attaching(this.config, jitter, instance, this.life, this.receiver, this.out);
    this.attaching = attaching;
    this.saying = new Saying(this.config, instance, this.life, this.sender, this.receiver, attaching, this.uplink, this.out);
  }

  /** @param {Saved} saved */
  #takeOver(saved) {
    this.sender.sent = this.sender.acked = saved.acked;
    for (const frame of saved.frames) this.sender.keep(frame);
    this.sender.sent = saved.sent;
    const last = saved.frames.at(-1);
    if (last?.kind === "e") this.life.closing = last;
  }

  // -- what can be asked

  /** The session's id, once there is one. */
  get sid() {
    return this.instance.sid;
  }

  /** What proves that the session is ours; null where a cookie does. */
  get secret() {
    return this.instance.secret;
  }

  /** This instance. */
  get a() {
    return this.instance.a;
  }

  /** Whether this instance had a hello of its own. */
  get hadHello() {
    return this.instance.hadHello;
  }

  /** What both ends go by. */
  get terms() {
    return this.instance.terms;
  }

  /** The newest attach's carrier. */
  get kind() {
    return this.attaching.kind;
  }

  /** The newest attach's number. */
  get attachment() {
    return this.attaching.number;
  }

  /** How far the newest attach has come. */
  get link() {
    return this.attaching.link;
  }

  /** Whether it is attached: from a hello until something failed. */
  get attached() {
    return this.attaching.attached;
  }

  /** The next attach's carrier. */
  get wanted() {
    return this.attaching.wanted;
  }

  set wanted(kind) {
    this.attaching.wanted = kind;
  }

  /** Whether the attachment that was lost last had brought nothing, and lived no longer than silence is suffered. */
  get barren() {
    return this.attaching.barren;
  }

  /** How many attaches have failed in a row. */
  get failures() {
    return this.attaching.failures;
  }

  /** When the next attach is due. */
  get retryAt() {
    return this.attaching.retryAt;
  }

  /** Whether a WebSocket is being opened, a session created, or an attach without hello. */
  get connecting() {
    return this.link === "sent" || this.attaching.candidate > 0 || this.attaching.creating;
  }

  /** Our own end, once it is numbered. */
  get closing() {
    return this.life.closing;
  }

  /** How it ended. */
  get ending() {
    return this.life.ending;
  }

  /** Whether a message may ever be numbered again. */
  get isOpen() {
    return this.life.isOpen;
  }

  /** What may be acknowledged now. */
  get ack() {
    return this.saying.ack;
  }

  /** The highest number the server was surely, or by a WebSocket, told of. */
  get told() {
    return this.saying.told;
  }

  /** @param {number} size */
  hasRoom(size) {
    return this.hadHello && !this.saying.peerClosing && this.sender.hasRoom(size);
  }

  /** The state for a successor, once there is a `sid`.  What was not pulled is the server's to send again.
   * @returns {Saved} */
  save() {
    return this.instance.save(this.sender, this.receiver.recv);
  }

  // -- what an event may come to

  /** What is to be done, in order. */
  _taken() {
    return this.out.splice(0);
  }

  /** What a refusal means; true if the session is over.
   * @param {number} status @param {string | null} code @param {number | null} ack @param {number} now */
  _judge(status, code, ack, now) {
    if (ack !== null && this.hadHello && ack <= this.sender.sent) this._acknowledged(ack, now);
    if (this.ending === null) {
      if (status === 409 && (code === null || code === "superseded")) {
        this._over("superseded", "network", 1006, "another instance took over", now);
      } else if ([400, 403, 404, 410, 413].includes(status)) {
        this._over("lost", "network", 1006, code ?? "", now);
      }
    }
    return this.ending !== null;
  }

  /** The server has everything up to `n` <= sent; a lower number than before is old news (F9b).
   * @param {number} n @param {number} now */
  _acknowledged(n, now) {
    if (!this.sender.acknowledge(n)) return;
    this.attaching.progress = true;
    this.uplink.progress();
    this.out.push({ do: "room" });
    if (this.closing !== null && n === this.closing.n) {
      this._over("ended", "local", this.closing.code, this.closing.reason, now);
    }
  }

  /** Who takes the peer's end is closed at once, and acknowledges it until any answer comes.
   * @param {EndFrame} end @param {number} now */
  _takeEnd(end, now) {
    this.saying.farewell = true;
    this._over("ended", "peer", end.code, end.reason, now);
    if (this.link === "up") {
      this.saying.writeAck(now);
    } else {
      this.uplink.progress();
      this.saying.post(now);
    }
  }

  /** Any answer to the acknowledgement will do (F19), but not one to a batch of before it.
   * @param {import("./uplink.js").Post} post @param {number} now */
  _saidFarewell(post, now) {
    if (post.ack >= this.receiver.recv) this._drain();
    else this.saying.post(now);
  }

  /** @param {number} now @param {boolean} clean */
  _farewellCut(now, clean) {
    this.attaching.link = "none";
    if (clean || !this.saying.farewell) this._drain();
    else this.saying.post(now);
  }

  /** The only way to the end, and there is no way back.
   * @param {Outcome} outcome @param {By} by @param {number} code @param {string} reason @param {number} now */
  _over(outcome, by, code, reason, now) {
    const [attaching, { farewell }] = [this.attaching, this.saying];
    const ending = this.life.end(outcome, by, code, reason, this.sender, this.receiver);
    this.saying.ackAt = attaching.retryAt = NEVER;
    attaching.alone = now;
    attaching.dropCandidate();
    const stays = farewell && attaching.byWebSocket && attaching.link === "up";
    if (attaching.link !== "none" && !stays) attaching.unlink(now, true);
    if (!stays) attaching.detach();
    this.out.push({ do: "ended", ending });
    if (!farewell) this._drain();
  }

  _drain() {
    this.saying.farewell = false;
    if (!this.drained) {
      this.drained = true;
      this.out.push({ do: "drained" });
    }
  }

  /** @param {number} now */
  _expire(now) {
    if (this.ending !== null) this._drain(); // the farewell found nobody
    else if (this.closing !== null) this._over("abandoned", "local", this.closing.code, this.closing.reason, now);
    else this._over("lost", "network", 1006, "", now);
  }
}
