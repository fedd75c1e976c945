// What one sees of the chat.  Everything foreign becomes text by textContent, never markup.

export const $ = (id) => document.getElementById(id);

const LABELS = { websocket: "WebSocket", http_stream: "Stream", events: "Events", long_poll: "Polling", post: "POST", session: "Session" };
const MAX_SHOWN = 500; // lines kept in the page
const here = new Map(); // people, by number
let following = true; // the log is at its end, and stays there when more comes

function element(tag, className, ...inside) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...inside);
  return made;
}

// -- the log

function append(line) {
  const log = $("log");
  log.append(line);
  while (log.childElementCount > MAX_SHOWN) log.firstElementChild.remove();
  follow();
  return line;
}

function follow() {
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

$("log").addEventListener("scroll", ({ target }) => {
  following = target.scrollHeight - target.scrollTop - target.clientHeight < 48;
});
new ResizeObserver(follow).observe($("log")); // a turned phone, a keyboard that comes up

export function notice(text) {
  append(element("p", "notice", text));
}

export function message({ who, text, at }, me) {
  const time = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const head = element("header", "", element("b", "", who.name), ` ${time} · ${LABELS[who.transport]}`);
  const line = append(element("article", "message", head, element("p", "", text)));
  line.classList.toggle("mine", who.number === me);
  const waiting = $("log").querySelectorAll(".waiting");
  waiting.forEach((one) => $("log").append(one)); // what has not arrived stays last
  follow();
}

/** Something I said that the server has not taken yet. */
export function pending(text) {
  const head = element("header", "", "on its way…");
  const line = append(element("article", "message mine waiting", head, element("p", "", text)));
  return {
    arrived: () => line.remove(), // it comes again as everybody sees it
    failed(why) {
      line.classList.replace("waiting", "failed");
      head.textContent = why;
    },
  };
}

// -- people

export function people(all, me) {
  here.clear();
  for (const person of all) here.set(person.number, { ...person, me: person.number === me });
  showPeople();
}

/** Somebody joined, left, is away, back, or changed. */
export function someone(what, who) {
  const before = here.get(who.number);
  const mine = before?.me ?? false;
  if (what === "left") here.delete(who.number);
  else here.set(who.number, { ...who, me: mine });
  showPeople();
  if (mine) return;
  if (what === "joined" || what === "left") notice(`${who.name} ${what}`);
  else if (before && before.name !== who.name) notice(`${before.name} is ${who.name} now`);
}

function showPeople() {
  const lines = [...here.values()].map(({ name, me, away, transport }) => {
    const badge = away ? element("span", "badge away", "away") : element("span", `badge ${transport}`, LABELS[transport]);
    return element("li", "", element("span", "who", name, element("span", "you", me ? " (you)" : "")), badge);
  });
  $("people").replaceChildren(...lines);
  $("count").textContent = here.size;
}

// -- the connection

const SAYS = {
  connecting: (by) => `Connecting by ${by}…`,
  attached: (by) => `Connected by ${by}`,
  detached: () => "Connection lost:",
  closing: () => "Leaving…",
  closed: () => "Not connected",
};

export function state(now, transport, why, nextTry) {
  const text = SAYS[now](LABELS[transport]);
  const says = $("state").querySelector("[role=status]");
  if (says.textContent !== text) says.textContent = text; // read out once, not with every second
  $("state").dataset.state = now;
  $("retry").textContent = now === "detached" ? retry(why, nextTry) : "";
}

function retry(why, nextTry) {
  const seconds = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
  return `${navigator.onLine ? why : "no network"}; ${nextTry === null ? "waiting" : `trying again in ${seconds} s`}`;
}

const NUMBERS = {
  sent: "what I sent got this number",
  acked: "the server has everything up to here",
  waiting: "not numbered yet: the window is full, or the session has not begun",
  received: "messages that came to this page",
  attaches: "connections that carried the session, in this page",
  tries: "connections that were tried",
  transport: "of the newest connection",
  instance: "of the session: a reloaded page is a new one",
};

export function numbers(statistics) {
  if (!$("numbers").open) return;
  const lines = Object.entries(NUMBERS).flatMap(([name, means]) => {
    const term = element("dt", "", name);
    term.title = means;
    return [term, element("dd", "", String(statistics[name]))];
  });
  $("numbers").querySelector("dl").replaceChildren(...lines);
}

// -- in and out

export function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = text === "";
}

export function inside() {
  problem("");
  $("join").hidden = true;
  $("compose").hidden = $("tools").hidden = false;
  $("text").focus();
}

export function outside(why) {
  problem(why);
  $("join").hidden = false;
  $("compose").hidden = $("tools").hidden = true;
  people([], 0);
}
