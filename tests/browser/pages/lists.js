// A page that counts: it says c1, c2, ... and keeps what it hears.  With ?keep both go on over a reload, as the session does.
import { connect } from "/channelkit/channelkit.js";

const query = new URLSearchParams(location.search);
const keep = query.has("keep");
const url = query.get("url") ?? new URL("/lists", location).href;

window.heard = JSON.parse((keep && sessionStorage.heard) || "[]");
window.said = Number((keep && sessionStorage.said) || 0);
window.infos = [];
window.whys = [];
window.begun = heard.length;
const options = { transport: query.get("transport"), transports: ["websocket", "http_stream", "events", "long_poll"] };
window.channel = connect(url, keep ? { ...options, state: sessionStorage } : options);

channel.onmessage = (message) => {
  heard.push(message);
  if (keep) sessionStorage.heard = JSON.stringify(heard);
};
channel.onchange = ({ state, transport, why }) => {
  whys.push(`${state} by ${transport} ${why}`);
  document.body.textContent = whys.slice(-10).join("; "); // for whoever reads why a test failed
};
channel.onclose = (info) => infos.push(info);

function say(text) {
  if (!channel.sendNow(text)) return false; // true: it is numbered, and owed from then on
  said += 1;
  if (keep) sessionStorage.said = said;
  return true;
}

const talking = setInterval(() => say(`c${said + 1}`), 25);

/** The last word of both sides; then everything has arrived. */
window.finish = async () => {
  clearInterval(talking);
  await channel.send("done");
  while (heard.at(-1) !== "done" && channel.closeInfo === null) await new Promise((look) => setTimeout(look, 5));
  await channel.flush();
  return { heard, said, info: channel.closeInfo, statistics: channel.statistics() };
};

/** Both directions have moved on by some messages since. */
let mark = [0, 0];
window.flows = (down = 5, up = 5) => heard.length >= mark[0] + down && channel.statistics().acked >= mark[1] + up;
window.remember = () => (mark = [heard.length, channel.statistics().sent]);
window.id = Math.random();
addEventListener("pageshow", ({ persisted }) => persisted && (window.restored = true));
