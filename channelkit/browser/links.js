// The machine's actions on the network: fetch, WebSocket, EventSource.  Each tells the machine what came of it.
import {
  BadFrame,
} from "./frames.js";
import {
  EventFrames,
  LineFrames,
  decodeAnswer,
  decodeEvent,
  decodeWebSocket,
  encodeClientHello,
  encodeLine,
  encodeWebSocket,
  readCloseReason,
  readHello,
} from "./codec.js";

/** @typedef {import("./machine.js").ClientMachine} ClientMachine */
/** @typedef {import("./machine.js").Action} Action */
/** @typedef {import("./frames.js").Frame} Frame */
/**
 * What the links need of a channel: to run actions, to hand over what came, and to be told why something failed.
 * @typedef {{machine: ClientMachine, now: () => number, run: (actions: Action[]) => void, pull: () => void,
 *   tell: (why: string) => void, fail: (why: string) => void, blame: (why: string) => void}} Host
 */
/**
 * @typedef {{base: string, headers: Record<string, string>, credentials: RequestCredentials, cookie: boolean,
 *   fetch: typeof fetch, WebSocket: typeof WebSocket | undefined, EventSource: typeof EventSource | undefined}} Network
 */

const NDJSON = { "Content-Type": "application/x-ndjson" };
/** The most that browsers let a page say while it goes (64 KiB, less what its head needs). */
const KEEPALIVE_BYTES = 60 * 1024;
const NO_COOKIE =
  "the session's cookie did not come back: browsers keep it from https only (Chromium and Firefox from http on this " +
  "machine too), and as `credentials` allow";

export class Links {
  /** @type {Map<number, {drop: () => void, write?: (message: string | Uint8Array) => void}>} */
  #open = new Map();
  /** @type {AbortController | null} */
  #posting = null; // of the newest POST, answered or not
  #plainEvents = true; // the last EventSource had its hello: a fetch is needed to see what is wrong with one that had not
  #onlyCookie = false; // we are known by a cookie that was set, and has not been seen to come back

  /** @param {Host} host @param {Network} network */
  constructor(host, network) {
    this.host = host;
    this.network = network;
  }

  /** @param {Action} action */
  act(action) {
    switch (action.do) {
      case "write": {
        const link = this.#open.get(action.attachment);
        for (const frame of action.frames) link?.write?.(encodeWebSocket(frame));
        break;
      }
      case "drop":
        this.#open.get(action.attachment)?.drop();
        this.#open.delete(action.attachment);
        break;
      case "attach":
        if (action.kind === "websocket") this.#greet(action);
        else if (action.kind === "events" && this.#usesEventSource) this.#listen(action);
        else void this.#get(action);
        break;
      case "open": this.#websocket(action.attachment); break;
      case "post": void this.#post(action); break;
      case "create": void this.#create(action.a); break;
      case "delete": this.#fetch(`?a=${action.a}`, { method: "DELETE", keepalive: true }).catch(() => {}); break;
      default: break;
    }
  }

  /** @param {number} attachment @param {number} status @param {{code: string | null, ack: number | null}} refusal */
  #refused(attachment, status, { code, ack }, wait = 0) {
    const { machine, now, run, blame } = this.host;
    if (code === "unknown" && this.#onlyCookie && attachment === machine.attachment) blame(NO_COOKIE);
    run(machine.refused(attachment, status, code, ack, now(), wait));
  }

  /** @param {number} attachment @param {import("./codec.js").Frame} frame */
  #received(attachment, frame) {
    const { machine, now, run } = this.host;
    this.#onlyCookie = false; // it came with the attach
    run(machine.received(attachment, frame, now()));
  }

  // -- requests

  /** @param {string} rest behind the session's address @param {RequestInit & {headers?: Record<string, string>}} options */
  #fetch(rest, options = {}) {
    const { sid, secret } = this.host.machine;
    const { base, headers, credentials } = this.network;
    /** @type {Record<string, string>} */
    const authority = secret === null ? {} : { Authorization: `Bearer ${secret}` };
    const { fetch } = this.network;
    return fetch(`${base}/${sid}${rest}`, {
      cache: "no-store",
      credentials,
      ...options,
      headers: { ...headers, ...options.headers, ...authority },
    });
  }

  /** @param {number} a */
  async #create(a) {
    const { machine, now, run, tell, fail } = this.host;
    const { base, headers, credentials, cookie, fetch } = this.network;
    let response;
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), machine.config.openTimeout * 1000);
    try {
      const url = `${base}?a=${a}${cookie ? "&cookie=1" : ""}`;
      response = await fetch(url, { method: "POST", cache: "no-store", credentials, headers, signal: stop.signal });
      const body = await response.text();
      if (response.status === 201) {
        const hello = readHello(JSON.parse(body));
        this.#onlyCookie = cookie;
        run(machine.created(cookie ? { ...hello, secret: null } : hello, now()));
        return;
      }
      tell(`${base} answered ${said(response.status, decodeAnswer(body).code)}`);
      const { status } = response;
      if (status >= 400 && status < 500 && status !== 429) {
        fail(`${base} answered ${said(status, decodeAnswer(body).code)}; is that the URL of an Endpoint?`);
      }
    } catch (error) {
      tell(`${base}: ${message(error)}`);
    } finally {
      clearTimeout(timer);
    }
    run(machine.createFailed(now(), retryAfter(response)));
  }

  /** @param {import("./uplink.js").Post} post */
  async #post({ number, a, ack, frames }) {
    const { machine, now, run, tell } = this.host;
    const stop = (this.#posting = new AbortController());
    const timer = setTimeout(() => stop.abort(), (machine.uplink.until + 1 - now()) * 1000); // given up by then
    let [answer, status, wait] = [{ code: /** @type {string | null} */ (null), ack: /** @type {number | null} */ (null) }, 0, 0];
    try {
      const body = frames.map(encodeLine).join("");
      const options = { method: "POST", headers: NDJSON, body, signal: stop.signal };
      const response = await this.#fetch(`?a=${a}&ack=${ack}`, options);
      [status, wait] = [response.status, retryAfter(response)];
      answer = decodeAnswer(await response.text());
    } catch (error) {
      tell(`POST: ${message(error)}`);
    } finally {
      clearTimeout(timer);
    }
    if (status === 413) answer.code ??= "size"; // whoever says it, with whatever body: the same batch will never pass
    if ((status === 200 && answer.ack !== null) || answer.code !== null) {
      if (status !== 200) tell(`POST answered ${said(status, answer.code)}`);
      run(machine.posted(number, status, answer.code, answer.ack, now(), wait));
    } else {
      run(machine.postFailed(number, now())); // none, cut, or a proxy's own
    }
  }

  /** The connection is in doubt: a POST that was under way may hang for long; it is given up, and repeated (which is safe:
   * its messages have numbers). */
  doubtPost() {
    this.#posting?.abort();
  }

  /** All that is not acknowledged, as far as a page that goes may say: nobody waits for the answer. */
  lastWords() {
    const { machine } = this.host;
    if (machine.sid === null || !machine.hadHello) return;
    let [body, size] = ["", 0];
    for (const frame of machine.sender.after(machine.sender.acked)) {
      const line = encodeLine(frame);
      size += new TextEncoder().encode(line).length;
      if (size > KEEPALIVE_BYTES) break;
      body += line;
    }
    if (body === "" && machine.ack <= machine.told) return;
    const options = { method: "POST", headers: NDJSON, body, keepalive: true };
    this.#fetch(`?a=${machine.a}&ack=${machine.ack}`, options).catch(() => {});
  }

  /** @param {{attachment: number, kind: string, a: number, ack: number, wait: number}} attach */
  async #get({ attachment, kind, a, ack, wait }) {
    const { machine, now, run, tell } = this.host;
    const stop = new AbortController();
    this.#open.set(attachment, { drop: () => stop.abort() });
    let clean = false;
    try {
      const query = `?a=${a}&ack=${ack}${kind === "poll" ? `&wait=${wait}` : ""}`;
      const response = await this.#fetch(`/${kind}${query}`, { signal: stop.signal });
      if (response.status === 200) {
        clean = await this.#read(attachment, kind, response);
        this.#plainEvents = true;
        tell(clean ? "the response ended" : `${kind} answered 200, and nothing of a session`);
      } else if (response.status === 204 && kind === "poll") {
        clean = true;
      } else {
        // An event stream that is over, or another's now, is refused by one 204: a batch of nothing is told which.
        const options = { method: "POST", headers: NDJSON, body: "", signal: stop.signal };
        const refusal = response.status === 204 ? await this.#fetch(`?a=${a}&ack=${ack}`, options) : response;
        const { code, ack: theirs } = decodeAnswer(await refusal.text());
        tell(`${kind} answered ${said(refusal.status, code)}`);
        if (code !== null) this.#refused(attachment, refusal.status, { code, ack: theirs }, retryAfter(refusal));
      }
    } catch (error) {
      if (!stop.signal.aborted) tell(`${kind}: ${message(error)}`);
      stop.abort(); // what is not our protocol is not read on
    }
    this.#open.delete(attachment);
    run(machine.ended(attachment, now(), clean));
  }

  /** Read a response to its end; whether any frames came. @param {number} attachment @param {string} kind
   * @param {Response} response */
  async #read(attachment, kind, response) {
    const { machine, now, pull } = this.host;
    let came = false;
    const { max } = machine.terms;
    const frames = kind === "events" ? new EventFrames(max) : new LineFrames(max);
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    for (let piece; !(piece = await reader.read()).done; ) {
      machine.heard(attachment, now());
      for (const frame of frames.feed(piece.value)) {
        came = true;
        this.#received(attachment, frame);
      }
      pull();
    }
    return came;
  }

  // -- EventSource: only where the authority is a cookie, since it can set no header

  get #usesEventSource() {
    return this.host.machine.secret === null && this.network.EventSource !== undefined && this.#plainEvents;
  }

  /** @param {{attachment: number, a: number, ack: number}} attach */
  #listen({ attachment, a, ack }) {
    const { machine, now, run, pull, tell } = this.host;
    const { base, credentials } = this.network;
    const Source = /** @type {typeof EventSource} */ (this.network.EventSource);
    const url = `${base}/${machine.sid}/events?a=${a}&ack=${ack}`;
    const source = new Source(url, { withCredentials: credentials === "include" });
    this.#plainEvents = false;
    const over = (/** @type {string} */ why, clean = false) => {
      source.close(); // it would come again by itself, but not with our numbers
      this.#open.delete(attachment);
      tell(why);
      run(machine.ended(attachment, now(), clean));
    };
    for (const type of ["ck-hello", "message", "ck-j", "ck-b", "ck-end"]) {
      source.addEventListener(type, (event) => {
        const { data, lastEventId } = /** @type {MessageEvent} */ (event);
        try {
          const frame = decodeEvent(type, data, lastEventId, machine.terms.max);
          if (type === "ck-hello") this.#plainEvents = true;
          if (frame !== null) this.#received(attachment, frame);
          pull();
        } catch (error) {
          over(`events: ${message(error)}`);
        }
      });
    }
    source.addEventListener("ck-refused", () => over("events: the server is busy"));
    // Rotated or cut, it does not say; it is closed already (2) if coming again would be of no use.
    source.onerror = () => over("events: the connection ended", source.readyState !== 2);
    this.#open.set(attachment, { drop: () => source.close() });
  }

  // -- WebSocket

  /** @param {number} attachment */
  #websocket(attachment) {
    const { machine, now, run, pull, tell } = this.host;
    const { base, WebSocket: Socket } = this.network;
    const path = machine.sid === null ? "/ws" : `/${machine.sid}/ws`;
    if (Socket === undefined) {
      queueMicrotask(() => run(machine.ended(attachment, now())));
      tell("there is no WebSocket here");
      return;
    }
    const socket = new Socket((base + path).replace(/^http/, "ws"), "ck.v1");
    socket.binaryType = "arraybuffer";
    const drop = () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    };
    const over = (/** @type {string} */ why) => {
      drop();
      this.#open.delete(attachment);
      tell(why);
      run(machine.ended(attachment, now()));
    };
    socket.onopen = () => {
      if (socket.protocol === "ck.v1") run(machine.opened(attachment, now()));
      else over("the server does not speak ck.v1");
    };
    socket.onmessage = ({ data }) => {
      try {
        const frame = decodeWebSocket(typeof data === "string" ? data : new Uint8Array(data), machine.terms.max);
        if (frame === null) machine.heard(attachment, now());
        else this.#received(attachment, frame);
        pull();
      } catch (error) {
        over(`websocket: ${message(error)}`);
      }
    };
    socket.onclose = ({ code, reason }) => {
      this.#open.delete(attachment);
      tell(`websocket closed with ${said(code, reason)}`);
      if (code >= 4400 && code < 4600) {
        const refusal = readCloseReason(reason);
        this.#refused(attachment, code - 4000, refusal);
      }
      run(machine.ended(attachment, now(), code === 1000));
    };
    const write = (/** @type {string | Uint8Array} */ data) => {
      if (socket.readyState === 1) socket.send(/** @type {string} */ (data));
    };
    this.#open.set(attachment, { drop, write });
  }

  /** The client's hello. @param {{attachment: number, a: number, ack: number}} attach */
  #greet({ attachment, a, ack }) {
    const { sid, secret } = this.host.machine;
    this.#open.get(attachment)?.write?.(encodeClientHello({ a, recv: ack, sid, secret }));
  }
}

/** @param {number} status @param {string | null} code */
const said = (status, code) => (code ? `${status} ${code}` : String(status));

/** @param {unknown} error */
function message(error) {
  if (error instanceof BadFrame) return `not CK/1: ${error.message}`;
  return (error instanceof Error ? error.message : String(error)).replace(/\.$/, ""); // Firefox ends its sentences
}

/** Seconds, as the server asked. @param {Response | undefined} response */
function retryAfter(response) {
  const text = response?.headers.get("Retry-After") ?? "";
  return /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
}
