// A page, its Storage and its network, played by a test.
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.env.CHANNELKIT_MODULES}/`);
export const load = (name) => import(new URL(name, folder));
export const TERMS = { window: [4, 4000], max: 1000, ping: 20, grace: 30 };

// A page that is closed takes its timers along; node would wait for them.
const { setTimeout: later } = globalThis;
globalThis.setTimeout = (...args) => later(...args).unref();

/** Let everything happen that is not waiting for the network or for time. */
export async function settled() {
  for (let at = 0; at < 5; at += 1) await new Promise((resolve) => setImmediate(resolve));
}

export class Page extends EventTarget {
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  location = { href: "https://site.example/page?x=1" };

  say(type, more = {}) {
    this.dispatchEvent(Object.assign(new Event(type), more));
  }

  show(visibilityState) {
    this.document.visibilityState = visibilityState;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }
}

export class Store extends Map {
  getItem = (key) => this.get(key) ?? null;
  setItem = (key, value) => void this.set(key, value);
  removeItem = (key) => void this.delete(key);
}

/** A network whose other end is the test: `sockets`, `requests` and `sources` are what the channel opened, in order. */
export function network() {
  const [sockets, requests, sources] = [[], [], []];

  class WebSocket {
    readyState = 0;
    protocol = "";
    sent = [];
    constructor(url, protocol) {
      Object.assign(this, { url, asked: protocol });
      sockets.push(this);
    }
    send(data) {
      this.sent.push(data);
    }
    close() {
      this.readyState = 3;
      this.closed = true;
    }
    open(protocol = "ck.v1") {
      [this.readyState, this.protocol] = [1, protocol];
      this.onopen?.({});
    }
    say(data) {
      this.onmessage?.({ data });
    }
    hello(members = {}) {
      this.open();
      this.say(`h ${JSON.stringify({ v: 1, sid: "S".repeat(22), a: 1, recv: 0, ...TERMS, ...members })}`);
    }
    drop(code = 1006, reason = "") {
      this.readyState = 3;
      this.onclose?.({ code, reason });
    }
  }

  class EventSource extends EventTarget {
    constructor(url) {
      super();
      this.url = url;
      sources.push(this);
    }
    close() {
      this.closed = true;
    }
    say(type, data, lastEventId) {
      this.dispatchEvent(Object.assign(new Event(type), { data, lastEventId }));
    }
  }

  function fetch(url, options) {
    return new Promise((resolve, reject) => {
      const request = { url, ...options, path: new URL(url).pathname + new URL(url).search, fail: () => reject(new TypeError("no network")) };
      request.answer = (status, body = null, headers = {}) => {
        const text = body === null || typeof body === "string" ? body : JSON.stringify(body);
        resolve(new Response(text, { status, headers }));
      };
      options.signal?.addEventListener("abort", () => reject(options.signal.reason));
      requests.push(request);
    });
  }

  return { sockets, requests, sources, options: { WebSocket, EventSource, fetch } };
}

/** Answer a creation. */
export const created = (request, more = {}) =>
  request.answer(201, { v: 1, sid: "S".repeat(22), secret: "K", a: 1, recv: 0, ...TERMS, ...more });
