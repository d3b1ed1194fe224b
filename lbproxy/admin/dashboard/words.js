// Numbers, times and verdicts as people say them. Nothing here touches the page.

export const NONE = "–"; // there is no such number

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

/** A rate or a time: as many digits as one can read while passing by. */
export function amount(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 99.95) return count(value);
  if (value >= 9.95) return value.toFixed(0);
  return value === 0 ? "0" : value.toFixed(1);
}

export function plural(number, word) {
  const many = /[sh]$/.test(word) ? `${word}es` : word.endsWith("try") ? word.replace(/y$/, "ies") : `${word}s`;
  return `${count(number)} ${number === 1 ? word : many}`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit ? amount(value) : count(value)} ${units[unit]}`;
}

/** Two units at most: "3 h 20 min". */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return hours ? `${days} d ${hours} h` : `${days} d`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  if (minutes) return minutes < 10 && whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return `${whole} s`;
}

/** The time of day, with the date if that is another one. */
export function clock(stamp) {
  const when = new Date(stamp);
  const time = when.toLocaleTimeString("en-GB");
  if (when.toDateString() === new Date().toDateString()) return time;
  return `${when.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

const HEALTH = { up: ["up", "up"], not_ready: ["warn", "not ready"], down: ["down", "down"], unknown: ["unknown", "not checked"] };
const STATE = { drain: "drain", maint: "maintenance" };

/** How a backend is shown: `kind` is the glyph and the colour, `word` says the same. */
export function verdict(backend) {
  const [kind, word] = HEALTH[backend.health] ?? ["unknown", backend.health];
  if (backend.state === "ready") return { kind, word };
  return { kind: "rest", word: STATE[backend.state] ?? backend.state };
}

/** For how long the verdict has been this one. */
export function since(backend, now) {
  if (backend.state !== "ready" || backend.health === "unknown") return "";
  return `for ${duration((now - Date.parse(backend.since)) / 1000)}`;
}

/** Why; of what an operator has taken out, also what the checks say and for how long. */
export function explanation(backend, pool, now) {
  if (backend.state !== "ready") {
    const what = backend.state === "drain" ? "gets nothing new" : "out of use";
    const [, word] = HEALTH[backend.health] ?? [null, backend.health];
    return `${what}; ${word} ${since({ ...backend, state: "ready" }, now)}: ${backend.reason}`;
  }
  if (backend.health === "up") return backend.reason.replace(/ \(\d+ checks? in a row\)$/, "");
  const still = pool.fail_open && backend.health === "not_ready" ? "gets traffic, because nobody is ready: " : "";
  return still + backend.reason;
}

/** The checks in order, equal ones together: "18 up, 2 down". */
export function checks(list) {
  const runs = [];
  for (const { verdict } of list) {
    const word = HEALTH[verdict]?.[1] ?? "not made";
    if (runs.at(-1)?.word === word) runs.at(-1).number += 1;
    else runs.push({ word, number: 1 });
  }
  if (!runs.length) return "no checks yet";
  return `last ${plural(list.length, "check")}, oldest first: ${runs.map((run) => `${run.number} ${run.word}`).join(", ")}`;
}

/** The first few of many. */
function named(names) {
  const shown = names.slice(0, 3).join(", ");
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}

/** The same backend may be in several pools. */
function addresses(backends) {
  return [...new Set(backends.map((backend) => backend.address))];
}

/** The whole in a sentence: {level, text, more}. */
export function headline(data) {
  if (!data.workers.some((worker) => worker.ready)) {
    return { level: "down", text: "No worker accepts connections", more: "The log says why." };
  }
  if (data.draining) return { level: "rest", text: "Shutting down", more: "Nothing new is accepted; what is open may end." };
  const all = data.pools.flatMap((pool) => pool.backends);
  const off = data.pools.filter((pool) => !pool.backends.some((backend) => backend.eligible));
  const several = data.pools.length > 1;
  if (off.length) {
    const open = off.every((pool) => pool.fail_open);
    const fate = open ? "Those that are alive get the traffic all the same." : "Everybody is refused.";
    const who = off.length > 1 ? `${off.length} pools have no ready backend` : "No backend is ready";
    const text = several && off.length === 1 ? `No backend of pool ${off[0].name} is ready` : who;
    return { level: open ? "warn" : "down", text, more: off.length > 1 ? `${named(off.map((pool) => pool.name))}. ${fate}` : fate };
  }
  const used = all.filter((backend) => backend.eligible).length;
  const sick = all.filter((backend) => backend.state === "ready" && !backend.eligible);
  const resting = all.filter((backend) => backend.state !== "ready");
  const where = several ? ` in ${data.pools.length} pools` : "";
  if (used === all.length) {
    const text = all.length === 1 ? "The backend gets connections" : `All ${all.length} backends get connections`;
    return { level: "up", text: text + where, more: "" };
  }
  const more = [];
  const down = addresses(sick.filter((backend) => backend.health === "down"));
  const unready = addresses(sick.filter((backend) => backend.health !== "down"));
  if (down.length) more.push(`${named(down)} down`);
  if (unready.length) more.push(`${named(unready)} not ready`);
  if (resting.length) more.push(`${named(addresses(resting))} taken out by an operator`);
  return { level: sick.length ? "warn" : "rest", text: `${used} of ${all.length} backends get connections${where}`, more: more.join("; ") };
}
