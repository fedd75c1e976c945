// What a client says, and by which way: messages and acknowledgements, over the WebSocket or by POST (docs/protocol.md,
// section 6).  What is to be done goes into `out`.
import { NEVER } from "./halves.js";

/** @typedef {import("./frames.js").Numbered} Numbered */

export class Saying {
  farewell = false; // the session is over, and the peer's end must still be acknowledged, until any answer comes
  peerClosing = false; // the server takes no message any more
  ackAt = NEVER; // when an acknowledgement goes at the latest

  #toldBytes = 0;
  #config;
  #instance;
  #life;
  #sender;
  #receiver;
  #attaching;
  #out;

  /** @param {import("./config.js").Config} config @param {import("./instance.js").Instance} instance
   * @param {import("./life.js").Life} life @param {import("./halves.js").Sender} sender
   * @param {import("./halves.js").Receiver} receiver @param {import("./attaching.js").Attaching} attaching
   * @param {import("./uplink.js").Uplink} uplink @param {import("./machine.js").Action[]} out */
  constructor(config, instance, life, sender, receiver, attaching, uplink, out) {
    this.uplink = uplink;
    this.told = receiver.recv; // the highest recv the server was surely, or by a WebSocket, told
    this.#config = config;
    this.#instance = instance;
    this.#life = life;
    this.#sender = sender;
    this.#receiver = receiver;
    this.#attaching = attaching;
    this.#out = out;
  }

  /** What may be acknowledged now: nothing above the number of an attach that has no answer yet (F8b). */
  get ack() {
    const { recv } = this.#receiver;
    return this.#attaching.link === "sent" ? Math.min(recv, this.#attaching.presented) : recv;
  }

  // -- messages

  /** Send a frame that was just numbered, if that is possible now. @param {Numbered} frame @param {number} now */
  say(frame, now) {
    if (!this.#attaching.byWebSocket) this.post(now);
    else if (this.#attaching.link === "up") this.#write([frame], now);
  }

  /** Behind a hello: everything the server is not known to have. @param {number} now */
  sayAgain(now) {
    if (!this.#attaching.byWebSocket) {
      this.post(now);
      return;
    }
    const frames = this.#sender.after(Math.max(this.#sender.acked, this.uplink.taken));
    if (frames.length > 0) this.#write(frames, now);
  }

  /** @param {(Numbered | {kind: "a", n: number})[]} frames @param {number} now */
  #write(frames, now) {
    this.#attaching.wrote = now;
    this.#out.push({ do: "write", attachment: this.#attaching.number, frames });
  }

  // -- acknowledgements

  /** More may have been received: an acknowledgement waits at most `ackDelay`, and goes at once when a quarter of a window
   * is owed.  A poller's next poll says it. @param {number} now */
  oweAck(now) {
    const [receiver, attaching] = [this.#receiver, this.#attaching];
    const owed = this.ack - this.told;
    const owedBytes = receiver.recvBytes - this.#toldBytes;
    if (owed <= 0 || (attaching.wanted === "poll" && attaching.kind === "poll" && !attaching.holdsPoll)) return;
    if (owed * 4 >= receiver.window || owedBytes * 4 >= receiver.windowBytes) {
      this.ackAt = now;
      this.sayAck(now);
    } else {
      this.ackSoon(now);
    }
  }

  /** @param {number} now */
  ackSoon(now) {
    this.ackAt = Math.min(this.ackAt, now + this.#config.ackDelay);
  }

  /** Acknowledge now, or as soon as a batch can go. @param {number} now */
  sayAck(now) {
    if (!this.#attaching.byWebSocket) {
      this.#toldBytes = this.#receiver.recvBytes;
      this.post(now);
    } else if (this.#attaching.link === "up") {
      this.writeAck(now);
    } else {
      this.ackAt = NEVER; // the next hello presents it
    }
  }

  /** Before a close over the WebSocket: or the server would count what arrived among what may be lost. @param {number} now */
  lastAck(now) {
    const up = this.#attaching.byWebSocket && this.#attaching.link === "up";
    if (up && this.#receiver.recv > this.told) this.writeAck(now);
  }

  /** Acknowledge over the WebSocket. @param {number} now */
  writeAck(now) {
    this.ackAt = NEVER;
    this.told = this.#receiver.recv;
    this.#toldBytes = this.#receiver.recvBytes;
    this.#write([{ kind: "a", n: this.told }], now);
  }

  // -- batches

  get #mayPost() {
    if (this.uplink.inFlight !== null || this.#instance.sid === null || !this.#instance.hadHello) return false;
    if (this.farewell) return this.#attaching.link === "none";
    return this.#life.ending === null && !this.#attaching.byWebSocket;
  }

  /** Whether there are messages to post. */
  get #owes() {
    if (this.farewell || (this.peerClosing && this.#life.closing === null)) return false;
    return this.uplink.owes(this.#sender);
  }

  /** When a batch is due, back-off aside: now if there are messages or a question. */
  get #dueAt() {
    if (this.#owes || this.farewell || (this.uplink.failures > 0 && this.uplink.asks(this.#sender))) return 0;
    return Math.min(this.ackAt, this.#contactAt);
  }

  /** A poller stays in contact while it does not poll, since its application is slow or an answer takes so long. */
  get #contactAt() {
    const attaching = this.#attaching;
    if (this.#life.ending !== null) return NEVER;
    const pause = this.#instance.terms.grace / 3;
    if (attaching.holdsPoll && attaching.link === "none") return attaching.contacted + pause;
    return attaching.kind === "poll" && attaching.link === "up" ? attaching.askedAt + pause : NEVER;
  }

  /** POST what is owed: messages, else an empty batch if an acknowledgement or a contact is due. @param {number} now */
  post(now) {
    if (!this.#mayPost || now < Math.max(this.uplink.notBefore, this.#dueAt)) return;
    // The server's limit, with which no line and no escape can make a batch too large for it.
    const most = Math.min(this.#config.batchBytes, this.#instance.terms.max);
    const frames = this.#owes ? this.uplink.batch(this.#sender, most) : [];
    this.ackAt = NEVER;
    this.#out.push(this.uplink.begin(this.#instance.a, this.ack, frames, now, this.#config.postTimeout));
  }

  /** The batch got no answer, or none that is ours. @param {number} now */
  failed(now) {
    this.uplink.landed();
    this.uplink.wait(now, this.#instance.terms.grace);
    if (this.#life.ending === null) this.oweAck(now);
  }

  // -- time

  /** When `tick` must be called at the latest. */
  get deadline() {
    let first = this.uplink.until;
    if (this.#mayPost) first = Math.min(first, Math.max(this.uplink.notBefore, this.#dueAt));
    if (this.#life.ending === null && this.#attaching.byWebSocket) first = Math.min(first, this.ackAt);
    return first;
  }
}
