// What `connect` is given: transports by their names, and the address of an endpoint.

/** @typedef {import("./machine.js").Kind} Kind */
/** @typedef {"websocket" | "http_stream" | "events" | "long_poll"} Transport */

/** @type {Record<string, Kind>} */
const KINDS = { websocket: "websocket", http_stream: "stream", events: "events", long_poll: "poll", ndjson: "stream", sse: "events" };
/** @type {Record<Kind, Transport>} */
export const NAMES = { websocket: "websocket", stream: "http_stream", events: "events", poll: "long_poll" };
const DEFAULT_TRANSPORTS = ["websocket", "http_stream", "long_poll"];

/** Throws TypeError for a name that there is not. @param {string} transport @returns {Kind} */
export function kindOf(transport) {
  if (Object.hasOwn(KINDS, transport)) return KINDS[transport];
  throw new TypeError(`transport must be one of ${Object.values(NAMES).join(", ")}, not ${transport}`);
}

/** The kinds to use, in this order, each once.  Throws TypeError. @param {string} [transport] the one to begin with
 * @param {string[]} [transports] */
export function kindsOf(transport, transports) {
  const given = transports ?? (transport ? [] : DEFAULT_TRANSPORTS);
  const names = transport ? [transport, ...given.filter((name) => name !== transport)] : given;
  if (names.length === 0) throw new TypeError("transports is empty");
  return [...new Set(names.map(kindOf))];
}

/** The address of the sessions of the endpoint at `url`.  Throws TypeError. @param {string | URL} url @param {any} page */
export function baseOf(url, page) {
  const { protocol, host, pathname, search, hash, username } = new URL(url, page?.location?.href);
  if (!/^(http|ws)s?:$/.test(protocol)) throw new TypeError(`${url} is not a URL that can be reached`);
  if (search || hash || username) throw new TypeError("the URL of an endpoint has no query, fragment or user");
  const path = pathname.replace(/\/+$/, "");
  return `${protocol.replace("ws", "http")}//${host}${path.endsWith("/ck") ? path : `${path}/ck`}`;
}
