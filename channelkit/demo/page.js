// The chat's page.  A link is one way to the server, and both kinds look the same from outside: say(text) and close(),
// and they call message(event) and end().  Everything foreign becomes text by textContent, never markup.

const $ = (id) => document.getElementById(id);

const TRANSPORTS = {
  websocket: { label: "WebSocket", open: openWebSocket, moved: "talks over a WebSocket now" },
  http_stream: { label: "Stream", open: openStream, moved: "talks over a stream now" },
};
const MAX_SHOWN = 500; // lines kept in the page
const FIRST_WAIT = 500; // milliseconds before the first attempt to reconnect, doubled with each one
const LONGEST_WAIT = 15000;

let name = "";
let secret = ""; // says who we are when we come back, and with POST /say
let me = 0;
let people = new Map(); // who is here, by number
let room = ""; // changes when the server was started anew
let last = 0; // number of the latest message shown: around a move some arrive on both links
let current = null; // the link that is up
let opening = null; // the link that is to take its place
let attempts = 0;
let timer = 0;
let following = true; // the log is at its end, and stays there when more comes

// -- links

function address(path) {
  const url = new URL(path, location.href);
  url.search = new URLSearchParams({ name, person: secret });
  return url;
}

function openWebSocket(on) {
  const url = address("chat");
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onmessage = (event) => on.message(JSON.parse(event.data));
  socket.onclose = on.end;
  return {
    async say(text) {
      if (socket.readyState !== WebSocket.OPEN) throw new Error("the connection is gone");
      socket.send(JSON.stringify({ text }));
    },
    close() {
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
    },
  };
}

function openStream(on) {
  const source = new EventSource(address("chat"));
  let posted = Promise.resolve(); // one POST after the other, so what is said keeps its order
  source.onmessage = (event) => on.message(JSON.parse(event.data));
  source.onerror = () => {
    source.close(); // or the browser would reconnect by itself, every few seconds and without jitter
    on.end();
  };
  return {
    say(text) {
      const said = posted.then(() => post(text));
      posted = said.catch(() => {});
      return said;
    },
    close() {
      source.onmessage = source.onerror = null;
      source.close();
    },
  };
}

async function post(text) {
  const response = await fetch("say", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ person: secret, text }),
  }).catch(() => {
    throw new Error("the server does not answer");
  });
  if (!response.ok) throw new Error((await response.text()).trim());
}

// -- connecting, switching, coming back

function chosen() {
  return document.querySelector("input[name=transport]:checked").value;
}

function connect() {
  clearTimeout(timer);
  opening?.close();
  const kind = chosen();
  const link = TRANSPORTS[kind].open({ message: (event) => heard(link, event), end: () => ended(link) });
  link.kind = kind;
  opening = link;
  showState("connecting", `Connecting by ${TRANSPORTS[kind].label}…`);
}

function arrived(link) {
  current?.close();
  current = link;
  opening = null;
  attempts = 0;
  showState("connected", `Connected by ${TRANSPORTS[link.kind].label}`);
}

function ended(link) {
  if (link === opening) opening = null;
  if (link === current) current = null;
  if (opening !== null) return;
  if (current === null) return comeBack();
  problem(`${TRANSPORTS[link.kind].label} did not work; you are still on ${TRANSPORTS[current.kind].label}.`);
  document.querySelector(`input[value=${current.kind}]`).checked = true;
  showState("connected", `Connected by ${TRANSPORTS[current.kind].label}`);
}

function comeBack() {
  // Half fixed, half random: a crowd that lost its server together does not come back together.
  const longest = Math.min(FIRST_WAIT * 2 ** attempts, LONGEST_WAIT);
  const wait = longest / 2 + (Math.random() * longest) / 2;
  attempts += 1;
  showState("waiting", `Connection lost, trying again in ${Math.ceil(wait / 1000)} s`);
  timer = setTimeout(connect, wait);
}

// -- what the server tells

function heard(link, event) {
  if (event.type === "welcome") welcomed(link, event);
  else if (event.type === "message") showMessage(event);
  else if (event.type === "error") problem(event.text);
  else if (event.type === "people" && link === current) peopleChanged(event);
}

function welcomed(link, event) {
  if (link !== opening) return;
  arrived(link);
  if (room !== event.room) {
    $("log").replaceChildren();
    last = 0;
  }
  room = event.room;
  secret = event.secret;
  me = event.you.number;
  event.messages.forEach(showMessage);
  people = new Map(event.people.map((person) => [person.number, person]));
  showPeople();
}

function peopleChanged({ what, who }) {
  const subject = who.number === me ? "You" : who.name;
  const verb = what === "moved" ? TRANSPORTS[who.transport].moved : what;
  notice(`${subject} ${who.number === me ? verb.replace("talks", "talk") : verb}`);
  if (what === "left") people.delete(who.number);
  else people.set(who.number, who);
  showPeople();
}

// -- showing

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function append(line) {
  const log = $("log");
  log.append(line);
  while (log.childElementCount > MAX_SHOWN) log.firstElementChild.remove();
  follow();
}

function follow() {
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

function notice(text) {
  append(element("p", "notice", text));
}

function showMessage({ n, who, text, at }) {
  if (n <= last) return;
  last = n;
  const time = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const head = element("header", "", "");
  head.append(element("b", "", who.name), ` ${time} · ${TRANSPORTS[who.transport].label}`);
  const message = element("article", who.number === me ? "message mine" : "message", "");
  message.append(head, element("p", "", text));
  append(message);
}

function showPeople() {
  const lines = [...people.values()].map((person) => {
    const line = document.createElement("li");
    const who = element("span", "who", person.name);
    if (person.number === me) who.append(element("span", "you", " (you)"));
    line.append(who, element("span", `badge ${person.transport}`, TRANSPORTS[person.transport].label));
    return line;
  });
  $("people").replaceChildren(...lines);
  $("count").textContent = people.size;
}

function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
  $("send").disabled = current === null;
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = text === "";
}

// -- what the person does

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  name = $("name").value.trim();
  if (name === "") return problem("Please enter a name.");
  problem("");
  $("join").hidden = true;
  $("compose").hidden = false;
  $("text").focus();
  connect();
});

$("compose").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text === "" || current === null) return;
  $("text").value = "";
  problem("");
  try {
    await current.say(text);
  } catch (error) {
    problem(`Not sent: ${error.message}`);
    $("text").value ||= text;
  }
});

$("transports").addEventListener("change", () => {
  if (name === "") return;
  problem("");
  if (opening === null && current !== null && current.kind === chosen()) return;
  connect();
});

$("log").addEventListener("scroll", (event) => {
  const log = event.target;
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
});

new ResizeObserver(follow).observe($("log")); // a turned phone, a keyboard that comes up

addEventListener("online", () => {
  if (name !== "" && current === null && opening === null) connect();
});

// A browser may keep a page that was left, frozen, to come back to: say goodbye, so that nobody talks to a frozen page.
addEventListener("pagehide", () => {
  clearTimeout(timer);
  current?.close();
  opening?.close();
  current = opening = null;
});

addEventListener("pageshow", (event) => {
  if (event.persisted && name !== "") connect();
});
