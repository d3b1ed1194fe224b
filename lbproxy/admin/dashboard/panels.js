// What stands around the pools: banners, the headline with its figures, listeners, events.

import { Each, Glyph, el, mark, put, say } from "./dom.js";
import { Line } from "./graph.js";
import { peak, recent, sum } from "./samples.js";
import { amount, clock, count, headline, plural } from "./words.js";

class Figure {
  constructor({ label }) {
    this.value = el("b");
    this.unit = el("small");
    this.more = el("span", { class: "more" });
    this.line = new Line();
    this.node = el("div", { class: "figure" }, el("dt", {}, label), el("dd", {}, this.value, this.unit, this.more), this.line.node);
  }

  show({ value, unit, more, line }) {
    say(this.value, value);
    say(this.unit, unit ? ` ${unit}` : "");
    say(this.more, more ?? "");
    this.line.draw(line, Math.max(peak([line]), 2) * 1.05);
  }
}

/** The numbers that a wall is looked at for. */
function figures({ data, samples }) {
  const backends = data.pools.flatMap((pool) => pool.backends.map((backend) => ({ pool: pool.name, ...backend })));
  const lines = (what, of) => sum(of.map((one) => (one.pool && one.address ? samples.backend(one.pool, one.address, what) : samples.listener(one.name, what))));
  const found = [];
  for (const [mode, label] of [["http", "Requests"], ["tcp", "New connections"]]) {
    const listeners = data.listeners.filter((listener) => listener.mode === mode);
    if (!listeners.length) continue;
    const line = lines("rate", listeners);
    found.push({ label, value: amount(recent(line)), unit: "/s", line, more: `peak ${amount(peak([line]))}` });
  }
  const open = data.listeners.reduce((total, listener) => total + listener.active, 0);
  const workers = data.workers.filter((worker) => worker.ready).length;
  found.push({ label: "Open connections", value: count(open), line: lines("active", data.listeners), more: `in ${plural(workers, "worker")}` });
  const kinds = new Map();
  for (const backend of backends) {
    for (const [kind, one] of Object.entries(backend.streams)) kinds.set(kind, (kinds.get(kind) ?? 0) + one.count);
  }
  const streams = backends.reduce((total, backend) => total + backend.long_streams, 0);
  if (!streams && !data.listeners.some((listener) => listener.mode === "http")) return found; // tcp mode knows of none
  const named = [...kinds].filter(([, number]) => number).map(([kind, number]) => (kind === "watch" ? plural(number, kind) : `${count(number)} ${kind}`));
  found.push({ label: "Long streams", value: count(streams), line: lines("long_streams", backends), more: named.join(", ") });
  return found;
}

export class Summary {
  constructor() {
    this.text = document.getElementById("headline");
    this.more = document.getElementById("headline-more");
    this.glyph = document.getElementById("headline-glyph");
    this.icon = document.getElementById("icon");
    this.figures = new Each(document.getElementById("figures"), (one) => new Figure(one));
  }

  /** Returns the sentence when it is another one than before. */
  show(page) {
    const { level, text, more } = headline(page.data);
    const before = this.text.textContent;
    this.look(level, text);
    say(this.more, more);
    this.figures.show(figures(page), (one) => one.label);
    return text === before ? "" : `${text}. ${more}`;
  }

  look(level, text) {
    mark(document.body, "level", level);
    put(this.glyph, "href", `#${level}`);
    put(this.icon, "href", `dashboard/${level}.svg`);
    say(this.text, text);
    document.title = `${text} · lbproxy`;
  }
}

class Banner {
  constructor() {
    this.title = el("strong");
    this.text = el("span");
    this.node = el("div", { class: "banner" }, this.title, this.text);
  }

  show({ kind, title, text }) {
    mark(this.node, "kind", kind);
    say(this.title, title);
    say(this.text, text);
  }
}

export class Banners {
  constructor(node) {
    this.each = new Each(node, () => new Banner());
  }

  show(data, silence) {
    const found = [];
    if (silence) found.push({ key: "stale", kind: "down", title: "The balancer does not answer", text: silence });
    if (data?.draining) found.push({ key: "drain", kind: "rest", title: "Shutting down", text: "New connections are refused; open ones may end until shutdown.drain is over." });
    if (data?.config.error) {
      const text = `What was loaded at ${clock(data.config.loaded_at)} stays in force.\n${data.config.error}`;
      found.push({ key: "config", kind: "warn", title: "The last reload was refused", text });
    }
    this.each.show(found, (one) => one.key);
  }
}

class ListenerItem {
  constructor() {
    this.name = el("b", { class: "address" });
    this.facts = el("span", { class: "facts" });
    this.rate = el("b");
    this.unit = el("small");
    this.line = new Line();
    const number = el("span", { class: "number" }, this.rate, this.unit);
    this.node = el("li", {}, this.name, number, this.facts, this.line.node);
  }

  show(listener, page) {
    const bind = listener.bind.join(", ");
    const line = page.samples.listener(listener.name, "rate");
    say(this.name, listener.name);
    const found = [`${listener.mode} → ${listener.pool}`, `${count(listener.active)} open`];
    if (bind !== listener.name) found.unshift(bind);
    if (listener.refused) found.push(`${count(listener.refused)} refused`);
    if (listener.watches.resumed) found.push(`${plural(listener.watches.resumed, "watch")} resumed`);
    say(this.facts, found.join(" · "));
    say(this.rate, amount(recent(line)));
    say(this.unit, listener.mode === "http" ? " requests/s" : " new/s");
    this.line.draw(line, Math.max(peak([line]), 2));
  }
}

export class Listeners {
  constructor(node) {
    this.each = new Each(node, () => new ListenerItem());
  }

  show(page) {
    this.each.show(page.data.listeners, (listener) => listener.name, page);
  }
}

const KINDS = { error: "down", warning: "warn", info: "unknown" };
const GOOD = new Set(["health", "ready", "fail_open"]); // if they are told as info
const DOWN = /^backend \S+ of pool \S+ is down/;

function sign({ level, event, msg }) {
  if (level === "info" && GOOD.has(event)) return "up";
  if (event === "health" && DOWN.test(msg)) return "down";
  return KINDS[level] ?? "unknown";
}

class EventItem {
  constructor(event) {
    const glyph = new Glyph();
    glyph.show(sign(event));
    const time = el("time", { datetime: event.ts }, clock(event.ts));
    this.node = el("li", { "data-level": event.level }, glyph.node, el("p", {}, time, event.msg));
  }

  show() {}
}

const SHOWN = 50; // events, as many as lbproxy keeps

export class Events {
  constructor(node) {
    this.each = new Each(node, (event) => new EventItem(event));
    this.clear();
  }

  clear() {
    this.last = 0;
    this.known = [];
  }

  /** Returns what is new and worth to be said aloud. */
  add(events) {
    const first = this.last === 0;
    this.known = [...events.toReversed(), ...this.known].slice(0, SHOWN);
    this.last = this.known[0]?.number ?? 0;
    this.each.show(this.known, (event) => event.number);
    return first ? [] : events.filter((event) => event.level !== "info" || event.event === "health").map((event) => event.msg);
  }
}
