// Small pictures: lines of the last minutes, and a strip of checks. What they show stands beside them as text.

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
    this.node.append(this.area, this.stroke);
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
      if (run.length === 1) run.unshift([Math.max(run[0][0] - 0.6, 0), run[0][1]]); // a point alone would not be seen
      const line = run.map(([x, y]) => `${x} ${y}`).join("L");
      stroke += `M${line}`;
      area += `M${run[0][0]} ${HEIGHT}L${line}L${run.at(-1)[0]} ${HEIGHT}Z`;
      run = [];
    };
    points.forEach((value, index) => {
      if (value === null) finish();
      else run.push([((index * WIDTH) / (points.length - 1)).toFixed(1), height(value)]);
    });
    finish();
    this.stroke.setAttribute("d", stroke);
    this.area.setAttribute("d", area);
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
      const kind = check ? check.verdict : "empty";
      if (bar.dataset.verdict !== kind) bar.dataset.verdict = kind;
    });
    if (this.node.getAttribute("aria-label") !== words) this.node.setAttribute("aria-label", words);
  }
}
