// A backend is two rows of its pool's table: what one looks at, and what one asks for with a button.

import { Each, Glyph, el, mark, put, say } from "./dom.js";
import { Line, Strip } from "./graph.js";
import { recent } from "./samples.js";
import { NONE, amount, bytes, checks, clock, count, duration, explanation, plural, since, verdict } from "./words.js";

export const COLUMNS = [
  ["who", "Backend"],
  ["strip-cell", "Checks"],
  ["latency", "Check time"],
  ["rate", "Per second"],
  ["active", "Open"],
  ["streams", "Long streams"],
  ["toggle", "Details"],
];

/** A number above the line of its last minutes. */
class Measured {
  constructor(name, label, unit = "") {
    this.value = el("b");
    this.line = new Line();
    this.unit = el("small");
    this.suffix = unit && ` ${unit}`;
    const number = el("span", { class: "number" }, this.value, this.unit);
    this.node = el("td", { role: "cell", class: name, "data-label": label }, number, this.line.node);
  }

  show(text, values, top) {
    say(this.value, text);
    say(this.unit, text === NONE ? "" : this.suffix);
    mark(this.node, "idle", String(text === NONE || text === "0"));
    this.line.draw(values, top);
  }
}

/** A word or two with what it means, in the second row. */
class Detail {
  constructor({ label }) {
    this.text = el("dd");
    this.node = el("div", {}, el("dt", {}, label), this.text);
  }

  show({ text }) {
    say(this.text, text);
  }
}

let made = 0; // rows, to name them

export class Backend {
  constructor() {
    made += 1;
    this.glyph = new Glyph();
    this.word = el("b", { class: "word" });
    this.since = el("span", { class: "since" });
    this.address = el("span", { class: "address" });
    this.tags = el("span", { class: "tags" });
    this.why = el("span", { class: "why" });
    this.strip = new Strip();
    this.latency = new Measured("latency", "Check time", "ms");
    this.rate = new Measured("rate", "Per second");
    this.active = new Measured("active", "Open");
    this.streams = new Measured("streams", "Long streams");
    this.button = el("button", { type: "button", "aria-expanded": "false", "aria-controls": `details-${made}` });
    const state = el("span", { class: "state" }, this.word, this.since);
    const name = el("span", { class: "name" }, this.address, " ", state, this.tags);
    const row = el(
      "tr",
      { role: "row", class: "backend" },
      el("th", { role: "rowheader", scope: "row", class: "who" }, el("div", {}, this.glyph.node, name, " ", this.why)),
      el("td", { role: "cell", class: "strip-cell" }, this.strip.node),
      this.latency.node,
      this.rate.node,
      this.active.node,
      this.streams.node,
      el("td", { role: "cell", class: "toggle" }, this.button),
    );
    const list = el("dl");
    this.details = new Each(list, (one) => new Detail(one));
    this.more = el("tr", { role: "row", class: "details", id: `details-${made}`, hidden: "" }, el("td", { role: "cell", colspan: COLUMNS.length }, list));
    this.node = el("tbody", { role: "rowgroup" }, row, this.more);
    // The button is for a keyboard and for whoever is told what is there; a finger or a mouse may hit the row anywhere.
    row.addEventListener("click", () => {
      if (getSelection().isCollapsed) this.open(this.more.hidden);
    });
  }

  open(whether) {
    this.more.hidden = !whether;
    put(this.button, "aria-expanded", String(whether));
    this.fill();
  }

  show(backend, pool, page, tops) {
    const { kind, word } = verdict(backend);
    mark(this.node, "kind", kind);
    this.glyph.show(kind);
    say(this.address, backend.address);
    say(this.word, word);
    // The spaces are theirs: one between two nodes, of which the second was empty, Chromium may leave out of the name.
    say(this.since, ` ${since(backend, page.now)}`);
    say(this.tags, ` ${tags(backend).join(" · ")}`);
    say(this.why, explanation(backend, pool, page.now));
    put(this.button, "aria-label", `Details of ${backend.address}`);
    this.strip.draw(backend.checks, checks(backend.checks));
    const of = (what) => page.samples.backend(pool.name, backend.address, what);
    this.latency.show(backend.check?.ok ? amount(backend.check.latency_ms) : NONE, of("latency_ms"), tops.latency_ms);
    put(this.rate.node, "data-label", page.rates(pool.name));
    this.rate.show(amount(recent(of("rate"))), of("rate"), tops.rate);
    this.active.show(count(backend.active), of("active"), tops.active);
    this.streams.show(count(backend.long_streams), of("long_streams"), tops.long_streams);
    this.backend = backend;
    this.fill();
  }

  /** What nobody sees is not made. */
  fill() {
    if (!this.more.hidden) this.details.show(details(this.backend), (one) => one.label);
  }
}

function tags(backend) {
  const found = [];
  if (backend.backup) found.push("backup");
  if (backend.weight !== 1) found.push(`weight ${backend.weight}`);
  if (backend.set_at_runtime) found.push("set at run time");
  return found;
}

function details(backend) {
  const found = [{ label: "Reason", text: backend.reason }];
  const { check } = backend;
  if (check) {
    const what = check.error ?? (check.status ? `answered ${check.status}` : "passed");
    found.push({ label: "Last check", text: `${what} in ${amount(check.latency_ms)} ms, at ${clock(check.at)}` });
  }
  const [totals, moved] = [[count(backend.total), count(backend.failed)], [bytes(backend.bytes_in), bytes(backend.bytes_out)]];
  found.push({ label: "In all", text: `${totals[0]}, ${totals[1]} failed\n${moved[0]} to it, ${moved[1]} from it` });
  const streams = Object.entries(backend.streams).filter(([, one]) => one.count);
  const named = streams.map(([kind, one]) => `${plural(one.count, kind)}, the oldest ${duration(one.oldest_s)}`);
  found.push({ label: "Long streams", text: named.join("\n") || "none" });
  const retries = Object.entries(backend.retries).filter(([, number]) => number);
  const reasons = retries.map(([reason, number]) => `${count(number)} (${reason.replaceAll("_", " ")})`);
  found.push({ label: "Retries elsewhere", text: reasons.join("\n") || "none" });
  return found;
}
