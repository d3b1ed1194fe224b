// A pool is a card with a table, a backend a row of it.

import { Each, Glyph, el, mark, say } from "./dom.js";
import { Line, Strip } from "./graph.js";
import { peak, recent } from "./samples.js";
import { NONE, amount, bytes, checks, count, duration, explanation, plural, verdict } from "./words.js";

const COLUMNS = [
  ["who", "Backend"],
  ["strip-cell", "Checks"],
  ["latency", "Check time"],
  ["rate", "Per second"],
  ["active", "Open"],
  ["streams", "Long streams"],
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
    this.line.draw(values, top);
  }
}

class BackendRow {
  constructor() {
    this.glyph = new Glyph();
    this.word = el("span", { class: "word" });
    this.address = el("span", { class: "address" });
    this.tags = el("span", { class: "tags" });
    this.why = el("span", { class: "why" });
    this.more = el("span", { class: "more" });
    this.strip = new Strip();
    this.latency = new Measured("latency", "Check time", "ms");
    this.rate = new Measured("rate", "Per second", "/s");
    this.active = el("b");
    this.streams = new Measured("streams", "Long streams");
    const name = el("span", { class: "name" }, this.address, this.word, this.tags);
    this.node = el(
      "tr",
      { role: "row", class: "backend" },
      el("th", { role: "rowheader", scope: "row", class: "who" }, this.glyph.node, name, this.why),
      el("td", { role: "cell", class: "strip-cell", "data-label": "Checks" }, this.strip.node),
      this.latency.node,
      this.rate.node,
      el("td", { role: "cell", class: "active", "data-label": "Open" }, el("span", { class: "number" }, this.active)),
      this.streams.node,
    );
  }

  show(backend, pool, page, tops) {
    const { kind, word } = verdict(backend);
    mark(this.node, "kind", kind);
    this.glyph.show(kind);
    say(this.address, backend.address);
    say(this.word, word);
    say(this.tags, tags(backend).join(" · "));
    say(this.why, explanation(backend, pool, page.now));
    this.strip.draw(backend.checks, checks(backend.checks));
    const of = (what) => page.samples.backend(pool.name, backend.address, what);
    const last = backend.check;
    this.latency.show(last && last.ok ? amount(last.latency_ms) : NONE, of("latency_ms"), tops.latency);
    this.rate.show(amount(recent(of("rate"))), of("rate"), tops.rate);
    say(this.active, count(backend.active));
    this.streams.show(count(backend.long_streams), of("long_streams"), tops.streams);
    const title = details(backend).join("\n");
    if (this.node.title !== title) this.node.title = title;
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
  const found = [`${count(backend.total)} in all, ${count(backend.failed)} failed`];
  found.push(`${bytes(backend.bytes_in)} to it, ${bytes(backend.bytes_out)} from it`);
  for (const [kind, one] of Object.entries(backend.streams)) {
    found.push(`${plural(one.count, kind)}, the oldest for ${duration(one.oldest_s)}`);
  }
  for (const [reason, number] of Object.entries(backend.retries)) found.push(`${plural(number, "retry")} (${reason})`);
  return found;
}

class PoolCard {
  constructor(pool) {
    const id = `pool-${pool.name}`;
    this.title = el("h2", { id }, pool.name);
    this.state = el("span", { class: "ready" });
    this.facts = el("span", { class: "facts" });
    this.glyph = new Glyph();
    const body = el("tbody", { role: "rowgroup" });
    this.rows = new Each(body, () => new BackendRow());
    const heads = COLUMNS.map(([name, text]) => el("th", { role: "columnheader", scope: "col", class: name }, text));
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads));
    this.node = el(
      "section",
      { class: "card pool", "aria-labelledby": id },
      el("header", {}, this.glyph.node, this.title, this.state, this.facts),
      el("table", { role: "table", "aria-labelledby": id }, head, body),
    );
  }

  show(pool, page) {
    const used = pool.backends.filter((backend) => backend.eligible).length;
    const sick = pool.backends.some((backend) => backend.state === "ready" && !backend.eligible);
    const kind = used === 0 ? (pool.fail_open ? "warn" : "down") : sick ? "warn" : used < pool.backends.length ? "rest" : "up";
    this.glyph.show(kind);
    mark(this.node, "kind", kind);
    say(this.state, `${used} of ${pool.backends.length} get connections${pool.fail_open ? ", fails open" : ""}`);
    say(this.facts, facts(pool).join(" · "));
    const all = (what) => pool.backends.map((backend) => page.samples.backend(pool.name, backend.address, what));
    const tops = { latency: Math.max(peak(all("latency_ms")), 4), rate: Math.max(peak(all("rate")), 2), streams: Math.max(peak(all("long_streams")), 2) };
    this.rows.show(pool.backends, (backend) => backend.address, pool, page, tops);
  }
}

function facts(pool) {
  const found = [pool.balance.replaceAll("_", " ")];
  const streams = pool.backends.reduce((total, backend) => total + backend.long_streams, 0);
  if (streams) found.push(`spread of long streams ${pool.spread.toFixed(2)}${pool.spread < 0.2 ? ", even" : ""}`);
  return found;
}

export class Pools {
  constructor(node) {
    this.node = node;
    this.cards = new Each(node, (pool) => new PoolCard(pool));
  }

  show(page) {
    mark(this.node, "many", String(page.data.pools.length > 1));
    this.cards.show(page.data.pools, (pool) => pool.name, page);
  }
}
