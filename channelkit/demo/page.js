// The chat's page: one channel to the server, and what is said over it (chat.py).  The channel's module does the rest: it
// comes back when the network does, by another transport if need be, and after a reload; nothing is lost or repeated.
import { connect } from "./channelkit/channelkit.js";
import * as show from "./show.js";

const $ = show.$;
const TRANSPORTS = ["websocket", "http_stream", "events", "long_poll"]; // the order in which they are tried
const AGAIN = 1000; // milliseconds between the end of a session and the next one

let channel = null;
let name = "";
let me = 0; // my number
let room = ""; // changes when the server was started anew, and
let last = 0; // the number of the latest message begins again
let welcomed = false; // what comes before belongs to the page that was here before us, and the welcome contains it
let told = ""; // the transport that others see
let unanswered = []; // what I said and have not heard yet, oldest first: answers come in the same order
let why = ""; // I leave
let detachedAt = 0;
let timer = 0;

// -- the channel

function join() {
  welcomed = false;
  told = chosen();
  channel = connect("chat", { transport: told, transports: TRANSPORTS, state: sessionStorage });
  channel.onmessage = (message) => heard(JSON.parse(message));
  channel.onchange = changed;
  channel.onclose = ended;
  tell({ name, transport: told });
}

function tell(message) {
  channel.send(JSON.stringify(message)); // waits until there is room; should the session end before, `ended` is told
}

function changed({ state, transport, why, nextTry }) {
  if (state === "attached") attached(transport);
  else if (state === "detached" && detachedAt === 0) detachedAt = Date.now();
  show.state(state, transport, why, nextTry);
  show.numbers(channel.statistics());
}

function attached(transport) {
  if (detachedAt > 0) show.notice(`Back after ${((Date.now() - detachedAt) / 1000).toFixed(1)} s. Nothing was lost.`);
  detachedAt = 0;
  document.querySelector(`input[value=${transport}]`).checked = true;
  if (transport !== told) tell({ transport });
  told = transport;
}

function ended({ outcome, by, reason }) {
  detachedAt = 0;
  for (const message of unanswered.splice(0)) message.failed("may not have arrived");
  if (by === "local") return left(why);
  if (outcome === "superseded") return left("This chat goes on in another tab.");
  if (outcome === "refused") return left(reason);
  show.notice(outcome === "lost" ? "The connection could not be continued; joining anew." : "The server ended the session; joining anew.");
  timer = setTimeout(join, AGAIN);
}

function leave(because) {
  why = because;
  channel.close(1000, "", { timeout: 3 }); // without a network nobody waits for long
}

function left(why) {
  clearTimeout(timer);
  sessionStorage.removeItem("name");
  show.outside(why);
}

// -- what the server tells

function heard(event) {
  if (event.type === "welcome") welcome(event);
  else if (event.type === "error") refused(event.text);
  else if (!welcomed) return;
  else if (event.type === "message") message(event);
  else if (event.type === "people") show.someone(event.what, event.who);
  show.numbers(channel.statistics());
}

function welcome(event) {
  if (room !== event.room) last = 0;
  room = event.room;
  welcomed = true;
  me = event.you.number;
  show.people(event.people, me);
  for (const one of event.messages) if (one.n > last) message(one);
}

function message(event) {
  last = event.n;
  if (event.who.number === me) unanswered.shift()?.arrived();
  show.message(event, me);
}

function refused(text) {
  if (welcomed) unanswered.shift()?.failed(text);
  else leave(text); // it was my name
}

// -- what the person does

function chosen() {
  return document.querySelector("input[name=transport]:checked").value;
}

function begin(called) {
  name = called;
  sessionStorage.setItem("name", name); // a reloaded page goes on by itself
  show.inside();
  join();
}

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  begin($("name").value.trim());
});

$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text === "" || !channel.isOpen) return; // between two sessions it stays in its field
  $("text").value = "";
  unanswered.push(show.pending(text));
  tell({ text });
});

$("transports").addEventListener("change", () => {
  if (!channel?.isOpen) return;
  channel.switchTransport(chosen());
  tell({ transport: (told = chosen()) });
});
$("cut").addEventListener("click", () => tell({ cut: true }));
$("leave").addEventListener("click", () => leave(""));

setInterval(() => {
  if (channel === null) return;
  const { state, transport, why, nextTry } = channel.status;
  if (state === "detached") show.state(state, transport, why, nextTry); // the seconds to the next try
  show.numbers(channel.statistics());
}, 250);

const before = sessionStorage.getItem("name");
if (before) begin(before);
