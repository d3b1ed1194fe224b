// Small pictures: lines of the last minutes, and a strip of checks. What they show stands beside them as text.

import { mark, put } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 100; // drawn of a line, whatever the number of samples
const SHORTEST = 60; // samples that a line has room for, though there are not as many yet
const [WIDTH, HEIGHT] = [100, 24];

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Fewer values: the largest of each group, so that a peak of a second is not lost. */
function thinned(values, points) {
  const result = [];
  const step = values.length / points;
  for (let point = 0; point < points; point += 1) {
    const group = values.slice(Math.floor(point * step), Math.floor((point + 1) * step)).filter((one) => one !== null);
    result.push(group.length ? Math.max(...group) : null);
  }
  return result;
}

/** A line of the samples that there are, the newest at the right; null is a gap. `top` is at the upper edge. */
export class Line {
  constructor() {
    this.node = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "line", "aria-hidden": "true" });
    this.area = shape("path", { class: "area" });
    this.stroke = shape("path", { class: "stroke", "vector-effect": "non-scaling-stroke" });
    this.now = shape("path", { class: "now", "vector-effect": "non-scaling-stroke" });
    this.node.append(this.area, this.stroke, this.now);
  }

  draw(values, top) {
    const padded = [...Array(Math.max(0, SHORTEST - values.length)).fill(null), ...values];
    const points = thinned(padded, Math.min(POINTS, padded.length));
    const height = (value) => (HEIGHT - 1.5 - (Math.min(value / (top || 1), 1) * (HEIGHT - 4))).toFixed(1);
    let stroke = "";
    let area = "";
    let run = [];
    const finish = () => {
      if (!run.length) return;
      const line = run.map(([x, y]) => `${x} ${y}`).join("L");
      stroke += `M${line}${run.length === 1 ? "h0" : ""}`; // a point alone is a dot
      if (run.length > 1) area += `M${run[0][0]} ${HEIGHT}L${line}L${run.at(-1)[0]} ${HEIGHT}Z`;
      run = [];
    };
    points.forEach((value, index) => {
      if (value === null) finish();
      else run.push([((index * WIDTH) / (points.length - 1)).toFixed(1), height(value)]);
    });
    finish();
    const last = points.at(-1) ?? null;
    put(this.stroke, "d", stroke);
    put(this.area, "d", area);
    put(this.now, "d", last === null ? "" : `M${WIDTH} ${height(last)}h0`);
  }
}

const BARS = 20; // checks that lbproxy remembers

/** The last checks. Their shape differs as well as their colour: whole is up, half not ready, hollow down. */
export class Strip {
  constructor() {
    this.node = document.createElement("span");
    this.node.className = "strip";
    this.node.setAttribute("role", "img");
    this.bars = Array.from({ length: BARS }, () => this.node.appendChild(document.createElement("i")));
  }

  draw(checks, words) {
    const shown = checks.slice(-BARS);
    this.bars.forEach((bar, index) => {
      const check = shown[index - BARS + shown.length];
      mark(bar, "verdict", check ? check.verdict : "empty");
    });
    put(this.node, "aria-label", words);
  }
}
