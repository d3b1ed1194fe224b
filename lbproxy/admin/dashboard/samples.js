// The history as the page keeps it: /overview sends what is new, and this puts it behind what is known.

const SPAN = 300; // as many as lbproxy keeps

export class Samples {
  constructor() {
    this.clear();
  }

  clear() {
    this.last = 0;
    this.series = new Map();
  }

  /** Takes on what came; what has left the configuration is forgotten. */
  add(history) {
    const follows = history.first === this.last + 1;
    const number = history.last - history.first + 1;
    const series = new Map();
    const take = (key, one) => {
      for (const [name, values] of Object.entries(one)) {
        if (!Array.isArray(values)) continue;
        const known = (follows && this.series.get(`${key}\n${name}`)) || Array(follows ? Math.min(this.last, SPAN) : 0).fill(null);
        series.set(`${key}\n${name}`, [...known, ...values].slice(-SPAN));
      }
    };
    for (const listener of history.listeners) take(`\n${listener.name}`, listener);
    for (const pool of history.pools) for (const backend of pool.backends) take(`${pool.name}\n${backend.address}`, backend);
    if (number > 0 || !follows) this.last = history.last;
    this.series = series;
  }

  listener(name, what) {
    return this.series.get(`\n${name}\n${what}`) ?? [];
  }

  backend(pool, address, what) {
    return this.series.get(`${pool}\n${address}\n${what}`) ?? [];
  }
}

/** Several lines added up, aligned at their newest values. */
export function sum(lines) {
  const length = Math.max(0, ...lines.map((line) => line.length));
  return Array.from({ length }, (_, index) => {
    const values = lines.map((line) => line[index - length + line.length] ?? null).filter((value) => value !== null);
    return values.length ? values.reduce((total, value) => total + value, 0) : null;
  });
}

/** The mean of the last few: a number that changes wildly each second cannot be read. */
export function recent(line, seconds = 3) {
  const values = line.slice(-seconds).filter((value) => value !== null);
  return values.length ? values.reduce((total, value) => total + value, 0) / values.length : null;
}

export function peak(lines) {
  let most = 0;
  for (const line of lines) for (const value of line) if (value > most) most = value;
  return most;
}
