// Asks the balancer every second what is going on, and shows it; and says so when there is no answer.

import { say } from "./dom.js";
import { Banners, Events, Listeners, Summary } from "./panels.js";
import { Pools } from "./pools.js";
import { Samples } from "./samples.js";
import { duration } from "./words.js";

const INTERVAL = 1000; // ms from one question to the next
const HIDDEN = 10_000; // ms while nobody looks
const PATIENCE = 3000; // ms for an answer
const STALE = 2500; // ms after the last answer
const SHARE = 10; // an answer that takes long is asked for less often: it may cost a tenth of the time ...
const TOLD = 3; // events at once that are said aloud one by one
const RAREST = 5000; // ... but not less often than that, in ms

const byId = (id) => document.getElementById(id);
const [summary, pools, listeners] = [new Summary(), new Pools(byId("pools")), new Listeners(byId("listeners"))];
const [banners, events, samples] = [new Banners(byId("banners")), new Events(byId("events")), new Samples()];
let data = null;
let seen = performance.now(); // of the last answer
let seenAt = null; // the same as a time of day
let timer = null;
let asking = false;

async function ask() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  const began = performance.now();
  const answer = await answered();
  const took = performance.now() - began;
  asking = false;
  const pause = answer ? Math.min(Math.max(INTERVAL - took, SHARE * took), RAREST) : INTERVAL;
  timer = setTimeout(ask, document.hidden ? HIDDEN : pause);
  if (answer) show(answer);
  watch();
}

/** What the balancer says, or null. */
async function answered() {
  const options = { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" };
  try {
    const answer = await fetch(`overview?after=${samples.last}&event=${events.last}`, options);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null; // refused, silent, or cut off: watch() says so
  }
}

function show(answer) {
  if (data && data.version !== answer.version) {
    location.reload(); // upgraded: this page is the old version's
    return;
  }
  if (data && data.started_at !== answer.started_at) {
    samples.clear();
    events.clear();
    data = null;
    return;
  }
  [data, seen, seenAt] = [answer, performance.now(), new Date()];
  samples.add(answer.history);
  const page = new Shown(data, samples);
  const sentence = summary.show(page);
  pools.show(page);
  listeners.show(page);
  const said = events.add(answer.events);
  if (sentence || said.length) say(byId("announcer"), aloud(sentence, said));
  say(byId("where"), answer.config.path);
  const pids = answer.workers.map((worker) => worker.pid).join(", ");
  const workers = answer.workers.length === 1 ? "worker" : "workers";
  say(byId("about"), `lbproxy ${answer.version} · up for ${duration(answer.uptime_s)} · ${workers} ${pids}`);
}

/** When much happens at once it is counted: a speaker that cannot keep up says nothing any more. */
function aloud(sentence, said) {
  const events = said.length > TOLD ? [`${said.length} events, the last: ${said.at(-1)}`] : said;
  return [sentence, ...events].filter(Boolean).join(". ");
}

/** What all parts of the page are made from. */
class Shown {
  constructor(data, samples) {
    this.data = data;
    this.samples = samples;
    this.now = Date.parse(data.now);
  }

  /** How a pool is used: tcp, http, both, or not at all. */
  modes(pool) {
    return new Set(this.data.listeners.filter((listener) => listener.pool === pool).map((listener) => listener.mode));
  }

  /** What is counted by the second. */
  rates(pool) {
    const modes = this.modes(pool);
    return modes.size !== 1 ? "Per second" : modes.has("tcp") ? "New/s" : "Requests/s";
  }
}

/** Whether what is shown is still true. */
function watch() {
  const silent = performance.now() - seen;
  const stale = silent > (document.hidden ? HIDDEN + PATIENCE : 0) + STALE;
  document.body.classList.toggle("stale", stale);
  say(byId("live-text"), stale ? `last seen ${seenAt ? `${seenAt.toLocaleTimeString("en-GB")}` : "never"}` : data ? "live" : "connecting");
  const since = seenAt ? `Last seen at ${seenAt.toLocaleTimeString("en-GB")}; what is below is from then.` : "It has not answered yet.";
  banners.show(data, stale ? since : "");
  if (stale) summary.look("unknown", "The balancer does not answer");
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) ask();
});
setInterval(watch, 500);
ask();
