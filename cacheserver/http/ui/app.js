// The live page: shows what ui/events tells, once a second, and changes namespaces when asked to.
//
// - Whatever comes from the server is put in as text: keys and namespaces are chosen by strangers.
// - All addresses are relative, so that the page works where the server is mounted under a prefix.
// - Charts: uPlot 1.6.32 by Leon Sorokin (uplot.js, uplot.css, unmodified), MIT: LICENSE-uplot.txt.
"use strict";

const POINTS = 300; // seconds that the charts show
const SILENCE = 35_000; // ms without a byte, at least two signs of life missed, after which a stream is dead
const LONGEST_PAUSE = 15_000; // ms between two tries
const LASTING = 10_000; // ms after which the end of a stream is no failure yet
const ACT = 0.1; // the wait ratio that is worth acting on
const WATCH = 0.02;
const CONFLICTS = 0.1; // the conflict ratio that is worth a look
const LATE = 0.1; // seconds of lag that are worth a look
const TOKEN = "cacheserver.token";
const THEME = "cacheserver.theme";
const POLICIES = ["sieve", "s3fifo", "lru", "lfu", "fifo", "ttl", "random", "none"];
const MAX_STRIPES = 4096;

// ---------------------------------------------------------------------------------------- elements

const byId = (id) => document.getElementById(id);

/** Make an element; properties are set as such, names with a dash as attributes, text stays text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Set text where it is another: what did not change is not drawn again, and stays selected. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Show `items` as children of `parent`, one each, keeping the elements of those that were there. */
function keyed(parent, items, keyOf, create, update) {
  const before = parent.byKey ?? new Map();
  parent.byKey = new Map();
  items.forEach((item, index) => {
    const key = keyOf(item, index);
    const element = before.get(key) ?? create(item);
    before.delete(key);
    parent.byKey.set(key, element);
    update(element, item, index);
    // Moving an element takes the focus from it, so only what stands elsewhere is moved.
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  for (const element of before.values()) element.remove();
}

// ----------------------------------------------------------------------------------------- figures

const NONE = "–";
const THIN = "\u202f"; // a narrow space that does not break, between a figure and its unit

/** Three digits that count: 1.23, 12.3, 123. */
function digits(value) {
  const places = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return value.toFixed(places).replace(/\.0+$|(\.\d*[1-9])0+$/, "$1");
}

function scaled(value, units, step) {
  let index = 0;
  // 999.6 would be shown as 1000, so it takes the next unit already.
  while (value >= step - 0.5 && index < units.length - 1) {
    value /= step;
    index += 1;
  }
  return digits(value) + (units[index] ? THIN + units[index] : "");
}

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const count = (value) => (known(value) ? scaled(value, ["", "k", "M", "G", "T"], 1000) : NONE);
const exact = (value) => (known(value) ? Math.round(value).toLocaleString("en") : NONE);
const bytes = (value) => (known(value) ? scaled(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024) : NONE);

function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds === 0) return `0${THIN}s`;
  if (seconds < 0.9995) return scaled(seconds * 1e9, ["ns", "µs", "ms"], 1000);
  return seconds < 120 ? `${digits(seconds)}${THIN}s` : span(seconds);
}

/** A long time in its two largest units. */
function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, units.findIndex(([, size]) => seconds >= size));
  const parts = units.slice(first, first + 2).map(([unit, size], index, two) => {
    const rest = index ? seconds % two[0][1] : seconds;
    return `${Math.floor(rest / size)}${THIN}${unit}`;
  });
  return seconds < 1 ? `0${THIN}s` : parts.join(" ");
}

function percent(ratio) {
  if (!known(ratio)) return NONE;
  const value = ratio * 100;
  // What is not quite nothing, or not quite all, must not look as if it were.
  if (value > 0 && value < 0.01) return `<${THIN}0.01${THIN}%`;
  if (value < 100 && value >= 99.95) return `>${THIN}99.9${THIN}%`;
  return `${value >= 99.95 ? value.toFixed(0) : value >= 1 ? +value.toFixed(1) : +value.toFixed(2)}${THIN}%`;
}

function clock(date, parts = {}) {
  return date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", ...parts });
}

/** Text of a stranger, with what would be invisible or turn the line around written out. */
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

function severityOf(ratio) {
  if (!known(ratio)) return "none";
  return ratio > ACT ? "act" : ratio >= WATCH ? "watch" : "fine";
}

// ------------------------------------------------------------------------------------------- theme

// Storage may be forbidden; then a choice lasts as long as the page.
function remembered(storage, name, value) {
  try {
    if (value === undefined) return window[storage].getItem(name);
    if (value === null) window[storage].removeItem(name);
    else window[storage].setItem(name, value);
  } catch {
    // see above
  }
  return value ?? null;
}

const darkPreferred = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (darkPreferred.matches ? "dark" : "light")) === "dark";
const chosenTheme = remembered("localStorage", THEME);
if (chosenTheme === "light" || chosenTheme === "dark") document.documentElement.dataset.theme = chosenTheme;

function startTheme(changed) {
  const button = byId("theme");
  const show = () => {
    say(button, isDark() ? "Light" : "Dark");
    attribute(button, "aria-label", `${button.textContent} theme`);
    changed();
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    remembered("localStorage", THEME, document.documentElement.dataset.theme);
    show();
  });
  darkPreferred.addEventListener("change", show);
  show();
}

// -------------------------------------------------------------------------------------- the server

let token = remembered("sessionStorage", TOKEN);

/** What the server refused, in its own words (RFC 9457), or that it did not answer. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  static async of(answer) {
    const problem = await answer.json().catch(() => null);
    const words = problem?.detail ?? problem?.title ?? answer.statusText;
    return new Refusal(answer.status, `${words} (${answer.status})`);
  }
}

/** Ask the server; raises Refusal for every answer that is no success. */
async function ask(path, { headers = {}, ...options } = {}) {
  if (token) headers = { ...headers, Authorization: `Bearer ${token}` };
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "same-origin", redirect: "error", ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal(0, "the server does not answer");
  }
  if (!answer.ok) throw await Refusal.of(answer);
  return answer;
}

const namespacePath = (name) => `v1/namespaces/${encodeURIComponent(name)}`;

const clearNamespace = async (name) => (await ask(`${namespacePath(name)}/clear`, { method: "POST" })).json();

function changeLimits(name, changes) {
  return ask(namespacePath(name), {
    method: "PATCH",
    headers: { "Content-Type": "application/merge-patch+json" },
    body: JSON.stringify(changes),
  });
}

/** Hand each server-sent event of `body` on as (name, data), until the stream ends. */
async function readEvents(body, heard, handle) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        const [, name, rest] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name in fields) fields[name] = name === "data" ? fields.data + rest : rest;
      }
      if (fields.data) handle(fields.event, JSON.parse(fields.data));
    }
  }
}

const AGAIN = Symbol("a stream is to be opened again at once");

/** The connection to ui/events, which is opened again, later and later, whenever it is lost. */
class Live {
  constructor(handle) {
    this.handle = handle;
    this.failures = 0;
    this.since = null; // when the figures stopped
    this.nextTry = null;
    this.wake = () => {};
    this.abort = null;
    byId("retry").addEventListener("click", () => this.wake());
    addEventListener("online", () => this.wake());
    // A page that was left may be kept for the way back, and must not keep its connection.
    this.shown = Promise.resolve();
    addEventListener("pagehide", () => {
      this.shown = new Promise((resolve) => addEventListener("pageshow", resolve, { once: true }));
      this.abort?.abort(AGAIN);
    });
    byId("token-form").addEventListener("submit", (event) => this.takeToken(event));
    byId("forget").addEventListener("click", () => this.forgetToken());
    setInterval(() => this.tellAway(), 250);
  }

  async run() {
    for (;;) {
      await this.shown;
      const opened = Date.now();
      try {
        await this.stream();
        if (Date.now() - opened > LASTING) continue; // proxies end what lasts long: no cause for alarm
        this.lost("The connection to the server ended.");
      } catch (error) {
        if (error === AGAIN) continue;
        if (error.status === 401 || error.status === 403) {
          await this.locked(error);
          continue;
        }
        this.lost(error.status > 0 ? `The server answers, but not with figures: ${error.message}.` : "The server is away.");
      }
      const pause = Math.min(LONGEST_PAUSE, 1000 * 2 ** this.failures) * (0.9 + 0.2 * Math.random());
      this.failures += 1;
      this.nextTry = Date.now() + pause;
      this.tellAway();
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, pause);
      });
      this.nextTry = null;
    }
  }

  async stream() {
    this.abort = new AbortController();
    let watchdog;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => this.abort.abort(), SILENCE);
    };
    heard();
    try {
      const answer = await ask("ui/events", { signal: this.abort.signal });
      await readEvents(answer.body, heard, (name, data) => {
        if (name === "overview") this.arrived();
        try {
          this.handle(name, data);
        } catch (error) {
          reportError(error); // a mistake of this page, which must not look as if the server were away
        }
      });
    } finally {
      clearTimeout(watchdog);
    }
  }

  arrived() {
    document.body.dataset.figures = "";
    this.failures = 0;
    this.since = null;
    byId("away").hidden = true;
    byId("token-form").hidden = true;
    byId("forget").hidden = !token;
    connection("live", "live");
  }

  lost(what) {
    this.since ??= new Date();
    say(byId("away-what"), what);
    byId("away").hidden = false;
    connection("away", "away");
    document.title = "away · cacheserver";
  }

  /** Tell since when, and until when; not as an alert, which would be read out each second. */
  tellAway() {
    if (this.since === null) return;
    const gone = span((Date.now() - this.since) / 1000);
    const wait = this.nextTry === null ? 0 : Math.ceil((this.nextTry - Date.now()) / 1000);
    const next = wait > 0 ? `Next try in ${wait}${THIN}s.` : "Trying now.";
    say(byId("away-when"), `Since ${clock(this.since)}, for ${gone}. What is shown below is from before. ${next}`);
  }

  /** Wait for another token. */
  locked(refusal) {
    this.since = null;
    byId("away").hidden = true;
    const why =
      refusal.status === 403
        ? "The server knows this token, but does not let it see these figures; give another one"
        : token
          ? "The server does not know this token"
          : "This server shows its figures only with a token";
    say(byId("token-why"), `${why}. The server says: ${refusal.message}.`);
    byId("token-form").hidden = false;
    byId("forget").hidden = !token;
    byId("token").focus();
    connection("locked", "token needed");
    document.title = "token needed · cacheserver";
    return new Promise((resolve) => (this.wake = resolve));
  }

  takeToken(event) {
    event.preventDefault();
    token = byId("token").value.trim();
    byId("token").value = "";
    remembered("sessionStorage", TOKEN, token);
    connection("connecting", "connecting");
    this.wake();
  }

  forgetToken() {
    token = null;
    remembered("sessionStorage", TOKEN, null);
    this.abort?.abort(AGAIN);
    this.wake();
  }
}

function connection(state, words) {
  document.body.dataset.connection = state;
  say(byId("connection-text"), words);
}

// ------------------------------------------------------------------------------------------ charts

/** The colour as canvas understands it: a variable of light-dark() has to be resolved first. */
function resolved(name) {
  const probe = make("i", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const linear = (least) => ({ range: (_, __, max) => [0, Math.max(least, (max ?? 0) * 1.1)] });

const decades = {
  distr: 3,
  range: (_, min, max) => (min > 0 ? [10 ** Math.floor(Math.log10(min)), 10 ** Math.ceil(Math.log10(max * 1.01))] : [1e-5, 1e-2]),
};
const wholeDecades = (_, splits) => splits.map((value) => (Math.abs(Math.log10(value) % 1) < 1e-6 ? value : null));

const CHARTS = [
  { title: "Requests per second", scale: linear(10), format: count, series: [{ label: "requests/s", column: "requests_per_second", fill: true }] },
  { title: "Wait ratio", scale: linear(0.125), format: percent, series: [{ label: "waiting", column: "wait_ratio", colour: "--second" }], limit: ACT },
  { title: "Latency", note: "log scale", scale: decades, filter: wholeDecades, format: duration,
    series: [{ label: "p50", column: "p50_seconds" }, { label: "p99", column: "p99_seconds", colour: "--second" }] },
  { title: "Hit ratio", scale: { range: [0, 1] }, format: percent, series: [{ label: "hits of reads", column: "hit_ratio", fill: true }] },
];

/** Draw a dashed line from one end to the other, also where there are no points yet. */
function limitLine(limit, stroke) {
  return ({ ctx, bbox, valToPos }) => {
    const y = Math.round(valToPos(limit, "y", true));
    ctx.save();
    ctx.strokeStyle = stroke;
    ctx.lineWidth = 1.25 * devicePixelRatio;
    ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  };
}

class Chart {
  constructor(parent, definition) {
    this.definition = definition;
    this.plotted = make("div", { className: "plot", role: "img" });
    this.values = definition.series.map(() => make("b", {}, NONE));
    const legend = make("p", { className: "series" });
    definition.series.forEach((series, index) => {
      const name = make("span", { className: series.colour ? "second" : "" }, make("i"), series.label, " ", this.values[index]);
      legend.append(name);
    });
    if (definition.limit) legend.append(make("span", { className: "limit" }, make("i"), `${percent(definition.limit)}: act`));
    const title = make("h2", {}, definition.title);
    if (definition.note) title.append(make("span", { className: "muted" }, ` · ${definition.note}`));
    parent.append(make("div", { className: "panel chart" }, make("div", { className: "head" }, title, legend), this.plotted));
    new ResizeObserver(() => this.resize()).observe(this.plotted);
  }

  resize() {
    const size = { width: this.plotted.clientWidth, height: this.plotted.clientHeight };
    if (this.plot && size.width) this.plot.setSize(size);
  }

  /** Draw anew, in the colours of the theme as it is now. */
  build(columns) {
    this.plot?.destroy();
    const { series, scale, format, limit, filter } = this.definition;
    const lines = series.map((each) => {
      const stroke = resolved(each.colour ?? "--accent");
      return { stroke, width: 1.75, points: { show: false }, fill: each.fill ? resolved("--accent-fill") : undefined };
    });
    const axis = { stroke: resolved("--muted"), font: "12px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: resolved("--grid"), width: 1 } };
    this.plot = new uPlot(
      {
        width: this.plotted.clientWidth || 300,
        height: this.plotted.clientHeight,
        legend: { show: false },
        padding: [8, 12, 0, 0],
        cursor: { sync: { key: "time" }, drag: { x: false, y: false }, y: false },
        scales: { x: { range: (_, __, max) => [(max ?? 0) - POINTS + 1, max ?? 0] }, y: scale },
        series: [{}, ...lines],
        axes: [
          { ...axis, size: 30, space: 84, incrs: [15, 30, 60, 120, 300], values: (_, splits) => splits.map((at) => clock(new Date(at * 1000), { second: at % 60 ? "2-digit" : undefined })) },
          { ...axis, size: 62, space: 34, filter, values: (_, splits) => splits.map((value) => (value === null ? "" : format(value))) },
        ],
        hooks: { setCursor: [() => this.tell()], draw: limit ? [limitLine(limit, resolved("--act"))] : [] },
      },
      this.data(columns),
      this.plotted,
    );
  }

  data(columns) {
    this.columns = columns;
    return [columns.time, ...this.definition.series.map(({ column }) => columns[column])];
  }

  update(columns) {
    if (!this.plot) this.build(columns);
    else this.plot.setData(this.data(columns));
    this.tell();
  }

  /** Say the values under the cursor, else the latest. */
  tell() {
    const latest = this.columns.time.length - 1;
    const index = this.plot?.cursor.idx ?? latest;
    const words = this.definition.series.map(({ label, column }, line) => {
      const text = this.definition.format(this.columns[column][index]);
      say(this.values[line], text);
      return `${label} ${text}`;
    });
    if (index === latest) attribute(this.plotted, "aria-label", `${this.definition.title}, the last five minutes; now ${words.join(", ")}`);
  }
}

/** The points that all charts show, as columns of equal length. */
class History {
  constructor() {
    this.columns = { time: [] };
    for (const { series } of CHARTS) for (const { column } of series) this.columns[column] = [];
  }

  replace(columns) {
    for (const name of Object.keys(this.columns)) this.columns[name] = (columns[name] ?? []).slice(-POINTS);
  }

  add(point) {
    const { time } = this.columns;
    if (time.length && point.time <= time.at(-1)) return; // the first overview repeats the last point
    for (const [name, values] of Object.entries(this.columns)) {
      values.push(point[name] ?? null);
      if (values.length > POINTS) values.shift();
    }
  }
}

// ------------------------------------------------------------------------------------------ tables

/** A table whose rows keep their elements, so that focus and selection outlive an update. */
class Table {
  /** Columns: label, className, and `text(item)` or `fill(cell, item)`. */
  constructor(element, columns, keyOf) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.body = make("tbody");
    const heads = columns.map(({ label, className = "" }) => make("th", { className, scope: "col" }, label));
    element.append(make("thead", {}, make("tr", {}, ...heads)), this.body);
    this.element = element;
  }

  render(items) {
    this.element.hidden = items.length === 0;
    keyed(this.body, items, this.keyOf, () => this.row(), (row, item, index) => {
      this.columns.forEach((column, at) => {
        if (column.fill) column.fill(row.cells[at], item, index);
        else say(row.cells[at], column.text(item, index));
      });
    });
  }

  row() {
    const cells = this.columns.map(({ label, className = "" }) => make("td", { className, "data-label": label }));
    return make("tr", {}, ...cells);
  }
}

/** A cell with a bar as long as a share. Its figure stands beside it, so the bar says nothing itself. */
function shareCell(cell, share) {
  const bar = cell.firstChild ?? cell.appendChild(make("span", { className: "share", "aria-hidden": "true" }, make("span")));
  bar.firstChild.style.width = `${Math.min(1, share ?? 0) * 100}%`;
}

/** A cell with a key on one line, cut off where it is too long, and where it is from below it. */
function keyCell(cell, key, where) {
  if (!cell.firstChild) cell.append(make("span", { className: "key clip" }), make("span", { className: "where" }));
  const shown = visible(key);
  say(cell.firstChild, shown);
  say(cell.lastChild, where);
  if (cell.title !== shown) cell.title = shown;
}

function severityCell(cell, text, severity) {
  say(cell, text);
  cell.classList.toggle("act", severity === "act");
  cell.classList.toggle("watch", severity === "watch");
}

// ------------------------------------------------------------------------------- header, verdict, tiles

function showServer({ server }) {
  say(byId("version"), server.version);
  const facts = [
    ["", `CPython ${server.python}`],
    ["GIL ", server.gil_enabled ? "on" : "off"],
    ["", `${server.threads} ${server.threads === 1 ? "thread" : "threads"}`],
    ["", `${server.stripes} stripes`],
    ["up ", span(server.uptime_seconds)],
    ["state ", server.state],
  ];
  keyed(byId("facts"), facts, (_, index) => index,
    () => make("li", {}, make("span"), make("b")),
    (item, [label, value]) => {
      say(item.firstChild, label);
      say(item.lastChild, value);
    });
}

const SEVERITIES = { act: "▲ Act", watch: "● Watch", fine: "✓ Fine" };

function showVerdict({ locks }, showStripes) {
  const severity = severityOf(locks.wait_ratio);
  attribute(byId("ratio"), "data-severity", severity);
  say(byId("wait-ratio"), percent(locks.wait_ratio));
  byId("wait-bar").style.width = `${Math.min(1, (locks.wait_ratio ?? 0) / (2 * ACT)) * 100}%`;
  say(byId("wait-words"), known(locks.wait_ratio)
    ? `of the time spent on requests: ${duration(locks.wait_seconds)} of ${duration(locks.request_seconds)}, in the last ${Math.round(locks.seconds)}${THIN}s`
    : `No request in the last ${Math.round(locks.seconds)}${THIN}s.`);
  byId("advice-empty").hidden = locks.advice.length > 0;
  const heated = new Set(locks.namespaces.filter(isHeated).map(({ name }) => name));
  keyed(byId("advice"), locks.advice, ({ rule, namespace }) => `${rule} ${namespace}`,
    ({ namespace }) => {
      const words = make("p", {}, make("span"));
      if (namespace !== null) {
        const button = make("button", { type: "button", className: "link" }, "Show its stripes");
        button.addEventListener("click", () => showStripes(namespace));
        words.append(" ", button);
      }
      return make("li", {}, make("span", { className: "severity" }), words);
    },
    (item, { severity: grade, text, namespace }) => {
      attribute(item, "data-severity", grade);
      attribute(item.firstChild, "data-severity", grade);
      say(item.firstChild, SEVERITIES[grade] ?? grade);
      say(item.lastChild.firstChild, visible(text));
      if (namespace !== null) item.lastChild.lastChild.hidden = !heated.has(namespace);
    });
  const ratio = percent(locks.wait_ratio);
  document.title = `${known(locks.wait_ratio) ? `${ratio} waiting` : "no requests"} · cacheserver`;
}

function methodsOf({ methods, errors_per_second: errors }) {
  const busiest = Object.entries(methods).filter(([, rate]) => rate > 0).sort((a, b) => b[1] - a[1]).slice(0, 2);
  const words = busiest.map(([method, rate]) => `${method} ${count(rate)}`);
  if (errors > 0) words.unshift(`${count(errors)} errors/s`);
  return words.join(" · ") || "none now";
}

const TILES = [
  { label: "Requests per second", text: (o) => count(o.requests_per_second), detail: methodsOf, alarm: (o) => o.errors_per_second > 0 },
  { label: "Hit ratio", text: (o) => percent(o.hit_ratio), detail: (o) => (known(o.hit_ratio) ? `${percent(1 - o.hit_ratio)} of reads miss` : "no reads now") },
  { label: "Latency p99", text: (o) => duration(o.p99_seconds), detail: (o) => `p50 ${duration(o.p50_seconds)}` },
  { label: "Memory", text: (o) => bytes(o.bytes), detail: (o) => `of ${bytes(o.server.max_memory)}, ${percent(o.bytes / o.server.max_memory)}`, share: (o) => o.bytes / o.server.max_memory },
  { label: "Entries", text: (o) => count(o.entries), detail: (o) => `evicted ${count(o.evictions_per_second)}/s · expired ${count(o.expirations_per_second)}/s` },
  { label: "Connections", text: (o) => exact(o.connections), detail: (o) => `${count(o.conflicts_per_second)} conflicts/s` },
];

function showTiles(overview) {
  keyed(byId("tiles"), TILES, ({ label }) => label,
    ({ label, share }) => make("div", { className: "panel tile" }, make("h2", {}, label), make("p", { className: "figure" }), make("p", { className: "detail" }),
      share ? make("span", { className: "share", "aria-hidden": "true" }, make("span")) : null),
    (tile, { text, detail, share, alarm }) => {
      say(tile.children[1], text(overview));
      say(tile.children[2], detail(overview));
      tile.children[2].classList.toggle("act-text", Boolean(alarm?.(overview)));
      if (share) tile.children[3].firstChild.style.width = `${Math.min(1, share(overview)) * 100}%`;
    });
}

// ------------------------------------------------------------------------------------------- heat map

const isHeated = (namespace) => namespace.stripe_contended.some((waits) => waits > 0);
const HEATS = 7;

/** The step of the ramp: 0 for none, else as many sevenths of the most as were begun. */
const heatOf = (waits, most) => (waits === 0 ? 0 : Math.max(1, Math.ceil((waits / most) * HEATS)));

function columnsFor(stripes) {
  if (stripes <= 16) return stripes;
  return stripes <= 128 ? 16 : stripes <= 512 ? 32 : 64;
}

class HeatMap {
  constructor() {
    this.select = byId("heat-namespace");
    this.grid = byId("heat");
    this.cells = [];
    this.waits = [];
    this.chosen = null;
    this.current = 0; // the cell that Tab goes to
    this.pointed = -1; // the cell that the tip is for
    this.tip = byId("tip");
    this.select.addEventListener("change", () => this.choose(this.select.value));
    this.grid.addEventListener("keydown", (event) => this.key(event));
    for (const [event, show] of [["pointerover", true], ["focusin", true], ["pointerout", false], ["focusout", false]]) {
      this.grid.addEventListener(event, ({ target }) => this.point(show ? this.cells.indexOf(target) : -1));
    }
    addEventListener("scroll", () => this.point(this.pointed), { passive: true });
    this.hottest = new Table(byId("hottest"), [
      { label: "Stripe", text: ({ stripe }) => String(stripe) },
      { label: "Waits", className: "number", text: ({ contended }) => exact(contended) },
      { label: "Waited", className: "number", text: ({ wait_seconds: waited }) => duration(waited) },
      { label: "Share", className: "number", text: ({ share }) => percent(share) },
      { label: "", className: "bar", fill: (cell, { share }) => shareCell(cell, share) },
    ], ({ stripe }) => stripe);
    this.locks = new Table(byId("locks"), [
      { label: "Lock", text: ([name]) => name.replace("_", " ") },
      { label: "Waits", className: "number", text: ([, lock]) => exact(lock.contended) },
      { label: "Waited", className: "number", text: ([, lock]) => duration(lock.wait_seconds) },
    ], ([name]) => name);
    const legend = [make("span", {}, "no wait"), make("i", { "data-heat": "0" })];
    for (let heat = 1; heat <= HEATS; heat += 1) legend.push(make("i", { "data-heat": String(heat) }));
    this.most = make("span");
    byId("legend").append(...legend, this.most);
  }

  choose(name) {
    this.chosen = name;
    if (this.latest) this.render(this.latest);
  }

  show(name) {
    this.choose(name);
    byId("heat-title").scrollIntoView({ block: "start" });
    this.select.focus({ preventScroll: true });
  }

  render({ locks }) {
    this.latest = { locks };
    const heated = locks.namespaces.filter(isHeated);
    let namespace = locks.namespaces.find(({ name }) => name === this.chosen);
    // What a reader chose stays, also while nobody waits there.
    if (!namespace) {
      namespace = heated[0] ?? locks.namespaces[0];
      this.chosen = heated.length ? namespace.name : null;
    }
    this.options([...new Set([...heated.map(({ name }) => name), ...(namespace ? [namespace.name] : [])])].sort(), namespace?.name);
    const cold = !namespace || !isHeated(namespace);
    byId("heat-body").hidden = cold;
    byId("heat-empty").hidden = !cold;
    byId("heat-tables").hidden = !namespace;
    say(byId("heat-empty"), namespace
      ? `Nobody waited for a stripe of ${namespace.name} in the last ${Math.round(locks.seconds)}${THIN}s.`
      : "There is no namespace yet.");
    if (!namespace) return;
    this.paint(cold ? [] : namespace.stripe_contended, namespace.stripes);
    this.hottest.render(namespace.hottest);
    this.locks.render(Object.entries(namespace.locks));
  }

  options(names, selected) {
    const list = names.join(" ");
    if (this.select.dataset.names !== list) {
      this.select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
      this.select.dataset.names = list;
    }
    if (this.select.value !== (selected ?? "")) this.select.value = selected ?? "";
  }

  paint(waits, stripes) {
    this.waits = waits;
    if (!waits.length) return;
    if (this.cells.length !== waits.length) this.layOut(waits.length);
    const most = Math.max(...waits);
    this.total = waits.reduce((sum, each) => sum + each, 0);
    waits.forEach((each, stripe) => {
      attribute(this.cells[stripe], "data-heat", String(heatOf(each, most)));
      attribute(this.cells[stripe], "aria-label", this.words(stripe));
    });
    const waited = waits.filter((each) => each > 0).length;
    say(byId("heat-words"), `${exact(this.total)} waits at ${exact(waited)} of ${exact(stripes)} stripes. Each cell is a stripe; one alone stands for a hot key, all alike for too few stripes.`);
    say(this.most, `${exact(most)} waits`);
    this.point(this.pointed);
  }

  layOut(size) {
    const width = columnsFor(size);
    const rows = [];
    this.cells = Array.from({ length: size }, () => make("span", { role: "gridcell", tabIndex: -1 }));
    for (let at = 0; at < size; at += width) {
      const row = make("div", { role: "row" }, ...this.cells.slice(at, at + width));
      row.style.setProperty("--columns", width);
      rows.push(row);
    }
    this.width = width;
    this.current = 0;
    this.point(-1);
    this.cells[0].tabIndex = 0;
    this.grid.dataset.size = size <= 128 ? "small" : size <= 512 ? "medium" : "large";
    this.grid.replaceChildren(...rows);
  }

  words(stripe) {
    const waits = this.waits[stripe];
    return `Stripe ${stripe}: ${exact(waits)} ${waits === 1 ? "wait" : "waits"}, ${percent(waits / this.total)} of all`;
  }

  point(stripe) {
    this.pointed = stripe;
    this.tip.hidden = stripe < 0;
    if (stripe < 0) return;
    say(this.tip, this.words(stripe));
    const cell = this.cells[stripe].getBoundingClientRect();
    const left = cell.left + cell.width / 2 - this.tip.offsetWidth / 2;
    const above = cell.top - this.tip.offsetHeight - 8;
    this.tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - this.tip.offsetWidth - 8))}px`;
    this.tip.style.top = `${above > 0 ? above : cell.bottom + 8}px`;
  }

  key(event) {
    const last = this.cells.length - 1;
    const rowStart = this.current - (this.current % this.width);
    const to = {
      ArrowLeft: this.current - 1,
      ArrowRight: this.current + 1,
      ArrowUp: this.current - this.width,
      ArrowDown: this.current + this.width,
      Home: event.ctrlKey ? 0 : rowStart,
      End: event.ctrlKey ? last : Math.min(last, rowStart + this.width - 1),
    }[event.key];
    if (event.key === "Escape") this.point(-1);
    if (to === undefined || to < 0 || to > last) return;
    event.preventDefault();
    this.cells[this.current].tabIndex = -1;
    this.current = to;
    this.cells[to].tabIndex = 0;
    this.cells[to].focus();
  }
}

// ------------------------------------------------------------------------------------------- hot keys

const KINDS = ["waits", "conflicts", "writes", "reads"];

/** A count with what it may be off by: the margin of the sample and the bound of the sketch. */
function bounded(value, off, format) {
  return off > 0 ? `${format(value)} ± ${format(off)}` : format(value);
}

class HotKeys {
  constructor() {
    this.kind = null;
    this.tabs = KINDS.map((kind) => {
      const tab = make("button", { type: "button", role: "tab", id: `hot-tab-${kind}`, tabIndex: -1, "aria-controls": "hot-panel", "aria-selected": "false" }, kind[0].toUpperCase() + kind.slice(1));
      tab.addEventListener("click", () => this.choose(kind));
      return tab;
    });
    byId("hot-tabs").append(...this.tabs);
    byId("hot-tabs").addEventListener("keydown", (event) => this.key(event));
    this.table = new Table(byId("hot"), [
      { label: "", className: "rank number", text: (_, index) => String(index + 1) },
      { label: "Key", fill: (cell, item) => keyCell(cell, item.key, item.namespace) },
      { label: "Count", className: "count number", text: (item) => (this.kind === "waits" ? bounded(item.seconds, item.overcount_seconds, duration) : bounded(item.count, item.margin + item.overcount, exact)) },
      { label: "Share", className: "part number", text: ({ share }) => percent(share) },
      { label: "", className: "bar", fill: (cell, { share }) => shareCell(cell, share) },
    ], (_, index) => index);
    this.select(KINDS[0]);
  }

  choose(kind) {
    this.select(kind);
    if (this.latest) this.render(this.latest);
  }

  select(kind) {
    this.kind = kind;
    KINDS.forEach((each, index) => {
      attribute(this.tabs[index], "aria-selected", String(each === kind));
      this.tabs[index].tabIndex = each === kind ? 0 : -1;
    });
    attribute(byId("hot-panel"), "aria-labelledby", `hot-tab-${kind}`);
    say(byId("hot").tHead.rows[0].cells[2], kind === "waits" ? "Time waited" : "Count");
  }

  render(overview) {
    // Open with what there is; from then on the reader chooses.
    if (!this.latest) this.select(KINDS.find((kind) => overview.hotkeys[kind].length) ?? KINDS[0]);
    this.latest = overview;
    const { hotkeys } = overview;
    const every = hotkeys.sampled[this.kind];
    const window = `In the last ${Math.round(hotkeys.seconds)}${THIN}s. `;
    say(byId("hot-words"), window + {
      waits: "Every wait for a stripe counts for the key that was waited with; ± is what the list may be off by.",
      conflicts: "Every write that was refused because its condition did not hold; ± is what the list may be off by.",
      writes: `One write in ${every} is counted; ± is the 95${THIN}% margin and what the list may be off by.`,
      reads: `One read in ${every} is counted, hit or miss; ± is the 95${THIN}% margin and what the list may be off by.`,
    }[this.kind]);
    const items = hotkeys[this.kind];
    this.table.render(items);
    byId("hot-empty").hidden = items.length > 0;
    say(byId("hot-empty"), `No ${this.kind} noted.`);
  }

  key(event) {
    const at = KINDS.indexOf(this.kind);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: KINDS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const index = (to + KINDS.length) % KINDS.length;
    this.choose(KINDS[index]);
    this.tabs[index].focus();
  }
}

// ----------------------------------------------------------------------------------------- namespaces

class Namespaces {
  constructor(clearing, limiting) {
    this.order = [];
    this.ordered = 0;
    this.table = new Table(byId("namespaces"), [
      { label: "Namespace", className: "wide name", fill: (cell, { name }) => say(cell.firstChild ?? cell.appendChild(make("b")), name) },
      { label: "Entries", className: "number", text: ({ entries, config }) => (config.max_entries === null ? count(entries) : `${count(entries)} of ${count(config.max_entries)}`) },
      { label: "Bytes", className: "number", text: ({ bytes: size, config }) => (config.max_bytes === null ? bytes(size) : `${bytes(size)} of ${bytes(config.max_bytes)}`) },
      { label: "Reads/s", className: "number", text: (item) => count(item.reads_per_second) },
      { label: "Writes/s", className: "number", text: (item) => count(item.writes_per_second) },
      { label: "Hit ratio", className: "number", text: (item) => percent(item.hit_ratio) },
      { label: "Conflicts", className: "number", fill: (cell, { conflict_ratio: ratio }) => severityCell(cell, percent(ratio), ratio > CONFLICTS ? "watch" : "") },
      { label: "Wait ratio", className: "number", fill: (cell, { wait_ratio: ratio }) => severityCell(cell, percent(ratio), severityOf(ratio)) },
      { label: "Actions", className: "actions", fill: (cell, item) => this.actions(cell, item, clearing, limiting) },
    ], ({ name }) => name);
  }

  actions(cell, item, clearing, limiting) {
    if (!cell.firstChild) {
      const clear = make("button", { type: "button", className: "small", "aria-label": `Clear ${item.name}` }, "Clear…");
      const limit = make("button", { type: "button", className: "small", "aria-label": `Limits of ${item.name}` }, "Limits…");
      if (/^\.\.?$/.test(item.name)) {
        // Browsers fold these names out of a URL, in whatever way they are written.
        for (const button of [clear, limit]) {
          button.disabled = true;
          button.title = "a browser cannot name this namespace: use curl --path-as-is";
        }
      }
      clear.addEventListener("click", () => clearing.open(cell.item));
      limit.addEventListener("click", () => limiting.open(cell.item));
      cell.append(limit, clear);
    }
    cell.item = item;
  }

  render({ namespaces, namespaces_total: total, config }) {
    byId("namespaces-empty").hidden = namespaces.length > 0;
    say(byId("namespaces-words"), total > namespaces.length ? `the ${namespaces.length} busiest of ${exact(total)}` : "");
    const items = new Map(namespaces.map((item) => [item.name, item]));
    // Rows that changed places each second could not be read, nor their buttons be pressed.
    const body = this.table.body;
    const used = body.matches(":hover") || body.contains(document.activeElement) || document.querySelector("dialog[open]");
    if (!used && Date.now() - this.ordered > 10_000) {
      this.order = [];
      this.ordered = Date.now();
    }
    this.order = [...this.order.filter((name) => items.has(name)), ...[...items.keys()].filter((name) => !this.order.includes(name))];
    this.table.render(this.order.map((name) => items.get(name)));
  }
}

// ------------------------------------------------------------------------------------ slow operations

function waitWords({ lock, stripe, seconds, cause }) {
  const what = { stripe: `stripe ${stripe}`, namespace_read: "the namespace", namespace_write: "the whole namespace" }[lock] ?? lock;
  return `${duration(seconds)} for ${what}${cause ? `, held by ${cause === "write" ? "a write" : cause}` : ""}`;
}

class SlowOperations {
  constructor() {
    this.table = new Table(byId("slow"), [
      { label: "At", className: "time", text: ({ at }) => clock(new Date(at), { fractionalSecondDigits: 3 }) },
      { label: "Operation", text: ({ operation, requests }) => (requests > 1 ? `${requests} together, the first: ${operation}` : operation) },
      { label: "Key", className: "wide target", fill: (cell, { namespace, key }) => keyCell(cell, key || "(the whole namespace)", namespace) },
      { label: "Status", className: "number", text: ({ status }) => String(status) },
      { label: "Took", className: "number", text: ({ seconds }) => duration(seconds) },
      { label: "Of it waiting", className: "number", text: (item) => (item.lock_wait_seconds > 0 ? `${duration(item.lock_wait_seconds)} (${percent(item.lock_wait_seconds / item.seconds)})` : "none") },
      { label: "Waited for", className: "wide waits", text: ({ waits, trace_id: trace }) => [...waits.map(waitWords), ...(trace ? [`trace ${trace}`] : [])].join("; ") || NONE },
    ], ({ id }) => id);
  }

  render({ slowlog }) {
    const { operations, total, threshold_seconds: threshold } = slowlog;
    this.table.render(operations);
    byId("slow-empty").hidden = operations.length > 0;
    say(byId("slow-words"), `${threshold > 0 ? `${duration(threshold)} or more` : "every one"}; ${exact(total)} since the start, newest first`);
  }
}

class Loops {
  constructor() {
    this.table = new Table(byId("loops"), [
      { label: "Thread", text: ({ thread }) => thread },
      { label: "Lag", className: "number", fill: (cell, { lag_seconds: lag }) => severityCell(cell, duration(lag), lag > LATE ? "act" : "") },
    ], ({ thread }) => thread);
  }

  render({ loops }) {
    this.table.render(loops);
  }
}

// -------------------------------------------------------------------------------------------- dialogs

let noteTimer;
function note(text) {
  say(byId("note"), text);
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => say(byId("note"), ""), 6000);
}

/** A dialog that asks the server for something, stays open when that is refused, and says why. */
class Dialog {
  constructor(element) {
    this.element = element;
    this.form = element.querySelector("form");
    this.problem = element.querySelector(".problem");
    this.submit = element.querySelector("[type=submit]");
    element.querySelector(".cancel").addEventListener("click", () => element.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
  }

  show() {
    this.problem.hidden = true;
    this.element.showModal();
  }

  async run() {
    this.submit.disabled = true;
    this.problem.hidden = true;
    try {
      const done = await this.act();
      this.element.close();
      note(done);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      say(this.problem, error.message);
      this.problem.hidden = false;
    } finally {
      this.submit.disabled = false;
    }
  }
}

class ClearDialog extends Dialog {
  open(item) {
    this.name = item.name;
    const entries = `${exact(item.entries)} ${item.entries === 1 ? "entry" : "entries"}`;
    say(byId("clear-title"), `Clear ${item.name}?`);
    say(byId("clear-words"), `All ${entries} of namespace ${item.name} (${bytes(item.bytes)}) go at once, and do not come back. Its limits stay.`);
    say(this.submit, `Clear ${entries}`);
    this.show();
  }

  async act() {
    const { entries } = await clearNamespace(this.name);
    return `${this.name}: ${exact(entries)} entries cleared`;
  }
}

const UNITS = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };

/** The number that was written, null for nothing; what is no number goes as text for the server to judge. */
function written(text) {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  const [, number, unit] = /^(-?\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?$/i.exec(trimmed) ?? [];
  return number === undefined ? trimmed : Number(number) * (UNITS[unit?.toLowerCase()] ?? 1);
}

class LimitsDialog extends Dialog {
  constructor(element) {
    super(element);
    const { policy, stripes } = this.form.elements;
    policy.append(...POLICIES.map((name) => make("option", {}, name)));
    for (let size = 1; size <= MAX_STRIPES; size *= 2) stripes.append(make("option", {}, String(size)));
  }

  open({ name, config }) {
    this.name = name;
    this.config = config;
    say(byId("limits-title"), `Limits of ${name}`);
    for (const field of ["max_bytes", "max_entries", "default_ttl", "policy", "stripes"]) {
      this.form.elements[field].value = config[field] ?? "";
    }
    this.show();
  }

  /** The fields that differ from what they were: nobody else's change is undone. */
  changes() {
    const { max_bytes, max_entries, default_ttl, policy, stripes } = this.form.elements;
    const wanted = {
      max_bytes: written(max_bytes.value),
      max_entries: written(max_entries.value),
      default_ttl: written(default_ttl.value) ?? 0,
      policy: policy.value,
      stripes: Number(stripes.value),
    };
    return Object.fromEntries(Object.entries(wanted).filter(([field, value]) => value !== this.config[field]));
  }

  async act() {
    const changes = this.changes();
    if (!Object.keys(changes).length) return `${this.name}: nothing changed`;
    await changeLimits(this.name, changes);
    return `${this.name}: ${Object.keys(changes).join(", ")} changed`;
  }
}

// ---------------------------------------------------------------------------------------------- start

addEventListener("DOMContentLoaded", () => {
  const history = new History();
  const charts = CHARTS.map((definition) => new Chart(byId("charts"), definition));
  const heat = new HeatMap();
  const tables = [new HotKeys(), new SlowOperations(), new Loops(), new Namespaces(new ClearDialog(byId("clear")), new LimitsDialog(byId("limits")))];
  let latest = null;

  const draw = () => {
    // Nobody sees a hidden page, and its figures are as good when it is seen again.
    if (document.hidden) return;
    for (const chart of charts) chart.update(history.columns);
    if (latest === null) return;
    showServer(latest);
    showVerdict(latest, (name) => heat.show(name));
    showTiles(latest);
    heat.render(latest);
    for (const table of tables) table.render(latest);
  };

  document.addEventListener("visibilitychange", draw);
  startTheme(() => charts.forEach((chart) => chart.build(history.columns)));
  new Live((name, data) => {
    if (name === "history") history.replace(data);
    if (name !== "overview") return;
    latest = data;
    history.add(data);
    draw();
  }).run();
});
