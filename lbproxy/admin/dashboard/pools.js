// A pool is a card with a table.

import { COLUMNS, Backend } from "./backend.js";
import { Each, Glyph, el, mark, say } from "./dom.js";
import { peak } from "./samples.js";

const DENSE = 8; // backends; more of them are shown on a line each
const LEAST = { latency_ms: 4, rate: 2, active: 2, long_streams: 2 }; // at the top of a line: noise is no mountain

class PoolCard {
  constructor(pool) {
    const id = `pool-${pool.name}`;
    this.title = el("h2", { id }, pool.name);
    this.state = el("span", { class: "ready" });
    this.facts = el("span", { class: "facts" });
    this.glyph = new Glyph();
    const heads = COLUMNS.map(([name, text]) => el("th", { role: "columnheader", scope: "col", class: name }, el("span", {}, text)));
    this.rate = heads.find((head) => head.className === "rate").firstChild;
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads));
    const table = el("table", { role: "table", "aria-labelledby": id }, head);
    this.backends = new Each(table, () => new Backend(), 1);
    this.node = el(
      "section",
      { class: "card pool", "aria-labelledby": id },
      el("header", {}, this.glyph.node, this.title, this.state, this.facts),
      table,
    );
  }

  show(pool, page) {
    const used = pool.backends.filter((backend) => backend.eligible).length;
    const sick = pool.backends.some((backend) => backend.state === "ready" && !backend.eligible);
    const kind = used === 0 ? (pool.fail_open ? "warn" : "down") : sick ? "warn" : used < pool.backends.length ? "rest" : "up";
    this.glyph.show(kind);
    mark(this.node, "kind", kind);
    mark(this.node, "dense", String(pool.backends.length > DENSE));
    mark(this.node, "streams", String(page.modes(pool.name).has("http") || streams(pool) > 0));
    say(this.state, `${used} of ${pool.backends.length} get connections${pool.fail_open ? ", fails open" : ""}`);
    say(this.facts, facts(pool).join(" · "));
    say(this.rate, page.rates(pool.name));
    const top = (what) => Math.max(peak(pool.backends.map((one) => page.samples.backend(pool.name, one.address, what))), LEAST[what]);
    const tops = Object.fromEntries(Object.keys(LEAST).map((what) => [what, top(what)]));
    this.backends.show(pool.backends, (backend) => backend.address, pool, page, tops);
  }
}

function streams(pool) {
  return pool.backends.reduce((total, backend) => total + backend.long_streams, 0);
}

function facts(pool) {
  const found = [pool.balance.replaceAll("_", " ")];
  const how = pool.spread < 0.2 ? "even" : pool.spread < 0.5 ? "uneven" : "very uneven";
  if (streams(pool)) found.push(`long streams ${how}, spread ${Math.round(pool.spread * 100)}%`);
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
