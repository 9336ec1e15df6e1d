// ---- the page

// the figures' colours; on a dark page dark ones are lit
const light = (hex) => { const [r, g, b] = [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)), have = (0.21 * r + 0.72 * g + 0.07 * b) / 255, more = Math.max(0, (0.42 - have) / (1 - have)); return `rgb(${[r, g, b].map((v) => Math.round(v + more * (255 - v))).join(" ")})`; };
const CLASSES = matchMedia("(prefers-color-scheme: dark)").matches ? COLOURS.map(light) : COLOURS;
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e; };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const state = { z: [], given: 0, datum: null, a: null, b: null, seed: 0, hidden: [], pinned: [] };
let backend, about, found = null, decoded = [], own = [];

const guarded = (work) => async (...given) => {
  try { $("problem").textContent = ""; await work(...given); } catch (error) { $("problem").textContent = error.message; }
};

// ---- the columns of tables and series: values as they are written

const MOST = 60; // columns in a list
const sorted = (column) => column.kind === "category" || column.kind === "boolean";
const levels = (column) => (column.levels.length ? column.levels : ["0", "1"]).map((level) => ({ true: "True", false: "False" })[level] || String(level));
const unit = (column) => (column.kind === "date" ? "" : column.unit);
const utc = (text) => Date.parse(!text.includes("T") && !text.includes(" ") ? text : text.replace(" ", "T") + (/(Z|[+-]\d\d:?\d\d)$/i.test(text) ? "" : "Z"));
const tick = (column) => ({ h: 36e5, m: 6e4, s: 1e3, ms: 1 })[column.unit] || 864e5; // milliseconds

function day(column, value) {
  const time = new Date(utc(column.origin) + value * tick(column));
  return Number.isNaN(time.getTime()) ? "" : time.toISOString().slice(0, { h: 16, m: 16, s: 19, ms: 23 }[column.unit] || 10);
}

// the digits that the table has; more for what the model makes of it
function digits(column, value) {
  const { decimals } = column, size = Math.abs(value);
  if (decimals === null) return Math.max(0, Math.min(12, 3 - Math.floor(Math.log10(size || 1))));
  return Math.abs(value - Number(value.toFixed(decimals))) <= 1e-6 * size ? decimals : Math.min(12, decimals + (decimals || size >= 100 ? 1 : 2));
}

function words(column, value) {
  if (value === null || value === undefined) return "missing";
  if (sorted(column)) {
    const level = levels(column)[Math.round(value)] ?? "none of its levels";
    return column.kind === "boolean" && value % 1 ? `${level} ${Math.round(100 * Math.max(value, 1 - value))} %` : level; // a chance
  }
  if (column.kind === "date" && column.origin) return day(column, value).replace("T", " ") || "beyond any date";
  if (value !== 0 && (Math.abs(value) >= 1e9 || Math.abs(value) < 1e-4)) return value.toExponential(3);
  const count = digits(column, value);
  return value.toLocaleString("en", { minimumFractionDigits: column.decimals === null ? 0 : count, maximumFractionDigits: count });
}

function heading(column) {
  const name = column.name.split("_").flatMap((part, k) => (k ? ["_", make("wbr"), part] : [part])); // may break there
  return [...name, ...(unit(column) ? [" ", make("small", { textContent: unit(column) })] : [])];
}

function cell(tag, column, value, look = "") {
  const gone = value === null || value === undefined;
  return make(tag, { className: (gone ? "gone" : look) + (column.kind === "date" ? " when" : ""), textContent: words(column, value) });
}

const end = (column, value) => (column.kind === "date" && column.high - column.low > 100 * (864e5 / tick(column)) ? words(column, value).slice(0, 7) : words(column, value));

// where values lie on the column's own axis

function track(column, values) {
  if (sorted(column)) return "";
  const { low, high } = column, line = make("span", { className: "track" });
  values.forEach((value, k) => {
    if (value === null) return;
    const mark = make("i", { className: k ? "b" : "" });
    mark.style.left = 100 * Math.min(1, Math.max(0, (value - low) / (high - low || 1))) + "%";
    line.append(mark);
  });
  return make("span", {}, line, make("span", { className: "ends" }, make("span", { textContent: end(column, low) }), make("span", { textContent: end(column, high) })));
}

// rows of a table: its columns, below each other

function sheet(host, sets, heads) {
  const looks = sets.length > 1 ? ["first", "second"] : [""];
  const top = make("tr", {}, make("th"), ...heads.map((head, k) => make("th", { textContent: head, className: looks[k] })), make("th"));
  const rows = about.columns.slice(0, MOST).map((column, k) => make("tr", {}, make("th", {}, ...heading(column)), ...sets.map((x, j) => cell("td", column, x[k], looks[j])), make("td", {}, track(column, sets.map((x) => x[k])))));
  host.replaceChildren(make("table", {}, make("thead", {}, top), make("tbody", {}, ...rows)), ...rest());
}

const rest = () => (about.columns.length > MOST ? [make("p", { className: "hint", textContent: `The first ${MOST} of ${about.columns.length} columns.` })] : []);

// rows of a table: one below the other

function list(host, rows, labels, chosen) {
  const columns = about.columns.slice(0, MOST);
  const top = make("tr", {}, make("th"), ...columns.map((column) => make("th", {}, ...heading(column))));
  const lines = rows.map((x, j) => {
    const button = make("button", { textContent: labels[j], onclick: () => chosen(j) });
    return make("tr", {}, make("th", {}, button), ...columns.map((column, k) => cell("td", column, x[k])));
  });
  const area = make("div", { className: "list", tabIndex: 0 }, make("table", {}, make("thead", {}, top), make("tbody", {}, ...lines)));
  area.setAttribute("role", "region"); area.setAttribute("aria-label", "rows");
  host.replaceChildren(area, ...rest());
}

function gallery(host, rows, labels, chosen) {
  if (about.kind === "table") list(host, rows, labels.map(([short]) => short), chosen);
  else host.replaceChildren(...rows.map((x, k) => thumbnail(x, labels[k][1], () => chosen(k))));
}

// series over time: a panel per column, with axes

function chart(canvas, sets) {
  const [steps, features] = about.shape, shown = about.columns.slice(0, 6), pen = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
  const wide = canvas.parentElement.clientWidth || 300, tall = 128, left = 52, right = 8, top = 20, foot = 20;
  canvas.width = wide * ratio; canvas.height = tall * shown.length * ratio; canvas.style.width = "100%"; canvas.style.aspectRatio = `${wide} / ${tall * shown.length}`;
  pen.scale(ratio, ratio); pen.fillStyle = colour("--paper"); pen.fillRect(0, 0, wide, tall * shown.length); pen.font = "11px system-ui, sans-serif";
  shown.forEach((column, d) => {
    const values = sets.flatMap(({ x }) => Array.from({ length: steps }, (_, t) => x[t * features + d])).filter((v) => v !== null);
    const low = Math.min(column.low, ...values), high = Math.max(column.high, ...values), y0 = d * tall + top, height = tall - top - foot;
    const across = (t) => left + (t / Math.max(1, steps - 1)) * (wide - left - right), up = (v) => y0 + height - ((v - low) / (high - low || 1)) * height;
    pen.strokeStyle = colour("--line"); pen.lineWidth = 1; pen.strokeRect(left - 0.5, y0 - 0.5, wide - left - right + 1, height + 1);
    pen.fillStyle = colour("--ink"); pen.textAlign = "left"; pen.textBaseline = "bottom"; pen.fillText(column.name + (unit(column) ? ` (${unit(column)})` : ""), left, y0 - 4);
    pen.fillStyle = colour("--dim"); pen.textAlign = "right"; pen.textBaseline = "middle";
    for (const v of [low, (low + high) / 2, high]) pen.fillText(words({ ...column, decimals: null }, v), left - 5, Math.min(y0 + height - 4, Math.max(y0 + 4, up(v))));
    pen.textBaseline = "top";
    for (const t of [0, Math.floor((steps - 1) / 2), steps - 1]) { pen.textAlign = t === 0 ? "left" : t === steps - 1 ? "right" : "center"; pen.fillText((t === 0 ? "step " : "") + (t + 1), across(t), y0 + height + 4); }
    for (const { x, look, dots } of sets) {
      pen.strokeStyle = pen.fillStyle = colour(look); pen.lineWidth = 1.6; pen.beginPath();
      for (let t = 0, on = false; t < steps; t++) {
        const value = x[t * features + d];
        if (value === null) on = false;
        else if (dots) { pen.moveTo(across(t), up(value)); pen.arc(across(t), up(value), 2.2, 0, 7); }
        else { pen[on ? "lineTo" : "moveTo"](across(t), up(value)); on = true; }
      }
      if (dots) pen.fill(); else pen.stroke();
    }
  });
}

// ---- pictures of x

function draw(canvas, x, missing = false) {
  const shape = about.shape, pen = canvas.getContext("2d"), [low, high] = about.range;
  if (about.kind === "image") {
    const [channels, height, width] = shape.length === 3 ? shape : [1, ...shape];
    canvas.width = width; canvas.height = height; canvas.style.imageRendering = "pixelated";
    const pixels = pen.createImageData(width, height), area = height * width;
    for (let p = 0; p < area; p++) {
      for (let c = 0; c < 3; c++) {
        const value = x[channels === 3 ? c * area + p : p];
        const share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
        pixels.data[4 * p + c] = 255 * (channels === 3 ? share : 1 - share);
        if (missing && value === null) pixels.data[4 * p + c] = [213, 94, 0][c];
      }
      pixels.data[4 * p + 3] = 255;
    }
    pen.putImageData(pixels, 0, 0);
    return;
  }
  if (about.kind === "series") { sparks(canvas, x); return; }
  const size = canvas.classList.contains("big") || canvas.closest("figure") ? 240 : 64;
  canvas.width = canvas.height = size;
  pen.fillStyle = colour("--paper"); pen.fillRect(0, 0, size, size);
  const at = (value) => size - 6 - ((value - low) / (high - low || 1)) * (size - 12);
  const zero = at(Math.min(high, Math.max(low, 0))), wide = size / x.length;
  pen.fillStyle = colour("--blue");
  x.forEach((value, k) => { if (value !== null) pen.fillRect(k * wide + wide * 0.1, Math.min(zero, at(value)), Math.max(1, wide * 0.8), Math.max(1, Math.abs(at(value) - zero))); });
}

// small series: a line per column, each on its own scale

function sparks(canvas, x) {
  const [steps, features] = about.shape, shown = about.columns.slice(0, 4), wide = 88, tall = 26, pen = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
  canvas.width = wide * ratio; canvas.height = tall * shown.length * ratio;
  pen.scale(ratio, ratio); pen.fillStyle = colour("--paper"); pen.fillRect(0, 0, wide, tall * shown.length);
  shown.forEach(({ low, high }, d) => {
    pen.strokeStyle = CLASSES[d % CLASSES.length]; pen.lineWidth = 1.2; pen.beginPath();
    for (let t = 0; t < steps; t++) pen.lineTo(3 + (t / Math.max(1, steps - 1)) * (wide - 6), (d + 1) * tall - 3 - Math.min(1, Math.max(0, (x[t * features + d] - low) / (high - low || 1))) * (tall - 6));
    pen.stroke();
  });
}

function thumbnail(x, label, chosen) {
  const canvas = make("canvas"); canvas.style.width = { image: "44px", series: "88px" }[about.kind] || "64px";
  const button = make("button", { title: label, onclick: chosen }, canvas); button.setAttribute("aria-label", label);
  draw(canvas, x);
  return button;
}

// ---- the map

const dot = (a, b) => a.reduce((sum, v, k) => sum + v * b[k], 0);
const place = (z) => about.map.rows.map((row) => dot(row, z.map((v, k) => v - about.map.centre[k])));
let frame;

function moved(z, u, v) {
  const rows = about.map.rows, [u0, v0] = place(z), one = dot(rows[0], rows[1]) > 0.5;
  return z.map((value, k) => value + rows[0][k] * (u - u0) + (one ? 0 : rows[1][k] * (v - v0)));
}

// the points are drawn once, the cursor over them at every move

const backdrop = document.createElement("canvas");

function drawPoints() {
  if (!$("map").clientWidth) return;
  const canvas = $("map"), side = canvas.clientWidth, ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = backdrop.width = backdrop.height = side * ratio;
  const pen = backdrop.getContext("2d"); pen.scale(ratio, ratio);
  const prior = place(state.z.map(() => 0));
  const all = [...about.points, [prior[0] - 3, prior[1] - 3], [prior[0] + 3, prior[1] + 3], ...ends(), place(state.z)];
  const mid = [0, 1].map((d) => { const v = all.map((p) => p[d]); return [Math.min(...v), Math.max(...v)]; });
  const span = 1.08 * Math.max(...mid.map(([low, high]) => high - low));
  const [cx, cy] = mid.map(([low, high]) => (low + high) / 2);
  frame = { side, span, to: (u, v) => [side * (0.5 + (u - cx) / span), side * (0.5 - (v - cy) / span)], from: (x, y) => [cx + (x / side - 0.5) * span, cy - (y / side - 0.5) * span] };
  pen.fillStyle = colour("--paper"); pen.fillRect(0, 0, side, side);
  about.points.forEach((point, k) => {
    const label = about.labels ? about.labels[k] : 5;
    if (state.hidden.includes(label)) return;
    pen.fillStyle = about.labels ? CLASSES[label % CLASSES.length] : colour("--blue"); pen.globalAlpha = 0.75;
    pen.beginPath(); pen.arc(...frame.to(...point), side / 170, 0, 7); pen.fill();
  });
  pen.globalAlpha = 1; pen.strokeStyle = colour("--ink"); pen.setLineDash([4, 4]); pen.lineWidth = 0.8;
  for (const radius of [1, 2, 3]) { pen.beginPath(); pen.arc(...frame.to(...prior), (radius * side) / span, 0, 7); pen.stroke(); }
  pen.setLineDash([]); pen.font = "11px system-ui, sans-serif"; pen.textAlign = "center"; pen.textBaseline = "middle";
  for (const radius of [1, 2, 3]) {
    const [x, y] = frame.to(prior[0], prior[1] + radius), words = radius + " sd", wide = pen.measureText(words).width + 6;
    if (side / span < 14 && radius !== 3) continue; // no room between them
    pen.fillStyle = colour("--paper"); pen.fillRect(x - wide / 2, y - 7, wide, 14); pen.fillStyle = colour("--ink"); pen.fillText(words, x, y);
  }
  drawCursor();
}

// the corners around the ellipse, which is seen whole

function ends() {
  if (!found || !found.covariance) return [];
  const [[a], [, d]] = found.covariance, [u, v] = found.place, wide = 2 * Math.sqrt(a), tall = 2 * Math.sqrt(d);
  return [[u - wide, v - tall], [u + wide, v + tall]];
}

const inside = (u, v) => { const [x, y] = frame.to(u, v); return x >= 0 && y >= 0 && x <= frame.side && y <= frame.side; };

function drawCursor() {
  const pen = $("map").getContext("2d"), { side, span } = frame, ratio = devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0); pen.drawImage(backdrop, 0, 0, side, side);
  if (found && found.covariance) {
    const [[a, b], [, d]] = found.covariance, half = (a + d) / 2, root = Math.hypot((a - d) / 2, b);
    pen.strokeStyle = colour("--orange"); pen.lineWidth = 2.5; pen.beginPath();
    pen.ellipse(...frame.to(...found.place), (2 * Math.sqrt(half + root) * side) / span, (2 * Math.sqrt(Math.max(0, half - root)) * side) / span, -Math.atan2(2 * b, a - d) / 2, 0, 7);
    pen.stroke();
  }
  const [x, y] = frame.to(...place(state.z)); pen.lineCap = "round"; pen.strokeStyle = colour("--paper");
  for (const width of [5, 2]) { pen.lineWidth = width; pen.beginPath(); pen.arc(x, y, 8, 0, 7); pen.moveTo(x - 13, y); pen.lineTo(x + 13, y); pen.moveTo(x, y - 13); pen.lineTo(x, y + 13); pen.stroke(); pen.strokeStyle = colour("--ink"); }
}

function nearest(u, v) {
  let best = null, least = Infinity;
  about.points.forEach(([a, b], k) => {
    if (about.labels && state.hidden.includes(about.labels[k])) return;
    const far = Math.hypot(a - u, b - v); if (far < least) { least = far; best = k; }
  });
  return [best, least];
}

// ---- z

let waiting = false, again = false;
const decode = guarded(async () => {
  if (waiting) { again = true; return; }
  waiting = true;
  try {
    do {
      again = false;
      const answer = await backend.decode({ z: state.z, given: state.given });
      decoded = answer.x[0];
      if (about.kind === "table") sheet($("decoded-sheet"), [decoded], ["E[x|z]"]);
      else if (about.kind === "series") chart($("decoded"), [{ x: decoded, look: "--blue" }]);
      else draw($("decoded"), decoded);
      $("decoded").dataset.version = Number($("decoded").dataset.version || 0) + 1;
      const names = about.units.filter((u) => answer.outside.includes(u.index)).map((u) => u.name);
      $("outside").textContent = names.length ? `Beyond 3 standard deviations of a standard normal: ${names.join(", ")}. The model has hardly been there.` : "";
    } while (again);
  } finally { waiting = false; }
});

function setZ(z, dragging = false) {
  state.z = z;
  for (const { index } of about.units) {
    const slider = $("unit-" + index), row = slider.closest(".unit"); slider.value = z[index]; row.querySelector("output").textContent = z[index].toFixed(2);
    row.classList.toggle("far", Math.abs(z[index]) > 3);
  }
  decode(); remember();
  if (dragging || inside(...place(z))) drawCursor(); else drawPoints();
}

function slider(unit) {
  const value = make("output", { textContent: "0.00" });
  const range = make("input", { type: "range", id: "unit-" + unit.index, min: -4, max: 4, step: 0.05, value: 0 });
  range.dataset.testid = "unit-" + unit.index; range.setAttribute("aria-label", unit.name);
  range.oninput = () => setZ(state.z.map((v, k) => (k === unit.index ? Number(range.value) : v)));
  const pin = make("input", { type: "checkbox", title: "keep when resetting or resampling", checked: state.pinned.includes(unit.index) });
  pin.setAttribute("aria-label", "pin " + unit.name);
  pin.onchange = () => { state.pinned = pin.checked ? [...state.pinned, unit.index] : state.pinned.filter((k) => k !== unit.index); remember(); };
  return make("div", { className: "unit" }, make("span", { textContent: unit.name }), make("span", { className: "line" }, range, make("i", { id: "q-" + unit.index, hidden: true })), value, make("small", { textContent: unit.kl === null ? "" : `KL ${unit.kl.toFixed(2)}` }), pin);
}

// q(z|x) of each unit, two standard deviations to both sides, below its slider, which is inset by half its thumb

function drawSpread({ code, sd }) {
  for (const { index } of about.units) {
    const mark = $("q-" + index), at = (v) => 100 * Math.min(1, Math.max(0, (v + 4) / 8)); mark.hidden = !sd;
    if (sd) { const [low, high] = [at(code[index] - 2 * sd[index]), at(code[index] + 2 * sd[index])]; mark.style.left = `calc(.5rem + (100% - 1rem) * ${low / 100})`; mark.style.width = `calc((100% - 1rem) * ${(high - low) / 100})`; }
  }
  $("spread").hidden = !sd;
}

function random(seed) { // mulberry32, then Box and Muller: a seed gives the same z everywhere
  const next = () => { seed = (seed + 0x6d2b79f5) | 0; let t = Math.imul(seed ^ (seed >>> 15), 1 | seed); t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t; return ((t ^ (t >>> 14)) >>> 0) / 4294967296; };
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}

// ---- one datum

const WORDS = { elbo: "ELBO", reconstruction: "reconstruction", kl: "KL", log_evidence: "log evidence", khat: "k-hat", ess: "effective sample size" };

function show(answer) {
  found = answer;
  $("none").hidden = true; $("datum").hidden = false;
  const x = answer.x[0], reconstruction = answer.reconstruction_x[0], whose = answer.index === undefined ? "your own" : "datum";
  if (about.kind === "table") sheet($("datum-sheet"), [x, reconstruction], [whose, "recon\u00adstruction"]);
  else if (about.kind === "series") {
    chart($("datum-x"), [{ x: reconstruction, look: "--orange" }, { x, look: "--blue", dots: true }]);
    $("datum-words").replaceChildren(make("span", { className: "first", textContent: "\u25cf " + whose }), " ", make("span", { className: "second", textContent: "\u2014 reconstruction" }));
  } else { draw($("datum-x"), x, true); draw($("datum-r"), reconstruction); $("datum-words").textContent = whose; }
  const label = answer.label === null || answer.label === undefined ? [] : [make("tr", {}, make("td", { textContent: about.label }), make("td", { textContent: named(answer.label) }))];
  $("near").hidden = answer.index === undefined;
  answered(answer.index === undefined ? reconstruction : null);
  drawSpread(answer);
  drawPoints();
  $("numbers").replaceChildren(...label, ...Object.entries(answer.numbers).filter(([, v]) => v !== null).map(([name, value]) => {
    const unit = name === "khat" ? (value > Math.min(1 - 1 / Math.log10(about.particles), 0.7) ? ": the log evidence is a lower bound that still rises with more particles (pyrovae evaluate RUN --evidence ais measures it)" : "") : name === "ess" ? ` of ${about.particles}` : " nats";
    const cell = make("td", { textContent: value.toFixed(2) + unit }); cell.dataset.testid = name; cell.dataset.value = value;
    return make("tr", {}, make("td", { textContent: WORDS[name] }), cell);
  }));
}

const choose = guarded(async (index) => {
  const answer = await backend.datum(index);
  Object.assign(state, { datum: index, given: about.conditional ? index : 0 }); $("number").value = index;
  show(answer);
  if (about.conditional && about.labels) $("given").value = about.labels[index];
  const near = answer.neighbours.length ? (await backend.data(answer.neighbours)).x : [];
  gallery($("neighbours"), near, answer.neighbours.map((k) => [String(k), `datum ${k}`]), (k) => choose(answer.neighbours[k]));
  setZ(answer.code);
});

const walk = guarded(async () => {
  $("ends").textContent = `A: ${state.a ?? "none yet"}, B: ${state.b ?? "none yet"}`;
  remember();
  if (state.a === null || state.b === null) return;
  const { x, z } = await backend.path({ start: state.a, end: state.b, steps: 10 });
  gallery($("path"), x, x.map((_, k) => [k === 0 ? "A" : k === 9 ? "B" : String(k + 1), `step ${k + 1} of 10`]), (k) => setZ(z[k]));
});

const drawSamples = guarded(async () => {
  if (backend.draws) { state.seed = Math.max(0, Math.floor(Number($("seed").value)) || 0); remember(); }
  const { x } = await backend.samples({ n: 24, seed: state.seed, given: state.given });
  gallery($("samples"), x, x.map((_, k) => [String(k + 1), `sample ${k + 1}`]), (k) => { own = about.binary ? x[k].map(Math.round) : [...x[k]]; drawOwn(); prompted(); });
});

// ---- one's own

function drawOwn() {
  if (about.kind === "image") draw($("own"), own, true);
  else if (about.kind === "table") about.columns.forEach((column, k) => { $("own-" + k).value = written(column, own[k]); });
  else {
    const wide = about.kind === "series" ? about.shape[1] : own.length, text = own.map((v) => (v === null ? "" : Number(v.toPrecision(6))));
    $("own-text").value = Array.from({ length: own.length / wide }, (_, t) => text.slice(t * wide, (t + 1) * wide).join(", ")).join("\n");
  }
}

// a value as its field takes it, and back; an empty field is missing

function written(column, value) {
  if (value === null || value === undefined) return "";
  if (sorted(column)) return String(Math.round(value));
  if (column.kind === "date" && column.origin) return day(column, value);
  return String(Number(column.decimals === null ? value.toPrecision(6) : value.toFixed(column.decimals)));
}

function meant(column, text) {
  if (text.trim() === "") return null;
  return column.kind === "date" && column.origin ? (utc(text) - utc(column.origin)) / tick(column) : Number(text);
}

function field(column, k) {
  let input;
  if (sorted(column)) input = make("select", {}, make("option", { value: "", textContent: "(missing)" }), ...levels(column).map((level, j) => make("option", { value: j, textContent: level })));
  else if (column.kind === "date" && column.origin) input = make("input", day(column, 0).includes("T") ? { type: "datetime-local", step: "any" } : { type: "date" });
  else input = make("input", { type: "number", step: "any", ...(column.kind === "positive" || column.kind === "count" ? { min: 0 } : {}) });
  input.id = "own-" + k; input.dataset.column = column.name;
  const range = sorted(column) ? "" : ` ${words(column, column.low)} to ${words(column, column.high)}`;
  return make("label", {}, ...heading(column), input, make("small", { textContent: range }));
}

let last = null; // where the stroke is

function paint(event) {
  if (!(event.buttons & 1)) return;
  const [, height, width] = about.shape.length === 3 ? about.shape : [1, ...about.shape];
  const box = $("own").getBoundingClientRect(), brush = document.querySelector("input[name=brush]:checked").value;
  const at = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  const from = event.type === "pointerdown" || !last ? at : last, step = at.map((v, d) => v - from[d]), length = step[0] ** 2 + step[1] ** 2;
  const reach = Math.max(0.75, width / (brush === "missing" ? 9 : 22)), value = { ink: about.range[1], paper: about.range[0], missing: null }[brush];
  for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) {
    const [x, y] = [j + 0.5 - from[0], i + 0.5 - from[1]], share = length ? Math.min(1, Math.max(0, (x * step[0] + y * step[1]) / length)) : 0;
    if (Math.hypot(x - share * step[0], y - share * step[1]) > reach) continue;
    for (let c = 0; c < own.length / (height * width); c++) own[c * height * width + i * width + j] = value;
  }
  last = at;
  drawOwn();
  if (backend.prompt) { cancelAnimationFrame(sketching); sketching = requestAnimationFrame(sketch); }
}

// beside one's own its reconstruction; the rest of the page, which may grow, waits for the end of a stroke

let sketching = 0;
const sketch = guarded(async () => answered((await backend.posterior(readOwn())).reconstruction_x[0]));

function answered(reconstruction) {
  $("own-answer").hidden = about.kind !== "image" || !(reconstruction || backend.prompt);
  if (reconstruction && about.kind === "image") draw($("own-r"), reconstruction);
  else { const [height, width] = about.shape.slice(-2); Object.assign($("own-r"), { width, height: height || 1 }); }
}

// the posterior of one's own

const inquire = guarded(async () => {
  const answer = await backend.posterior(readOwn());
  state.datum = null; $("number").value = "";
  show(answer); setZ(answer.code);
});

const prompted = () => { if (backend.prompt) inquire(); };

const upload = guarded(async () => {
  const file = $("own-file").files[0]; if (!file) return;
  const [channels, height, width] = about.shape.length === 3 ? about.shape : [1, ...about.shape];
  const picture = await createImageBitmap(file), small = make("canvas", { width, height }), pen = small.getContext("2d");
  pen.fillStyle = "#fff"; pen.fillRect(0, 0, width, height);
  const scale = Math.min(width / picture.width, height / picture.height);
  pen.drawImage(picture, (width - picture.width * scale) / 2, (height - picture.height * scale) / 2, picture.width * scale, picture.height * scale);
  const data = pen.getImageData(0, 0, width, height).data, [low, high] = about.range, area = width * height;
  own = own.map((_, k) => {
    const p = 4 * (k % area), share = channels === 3 ? data[p + Math.floor(k / area)] / 255 : 1 - (data[p] + data[p + 1] + data[p + 2]) / 765;
    return low + (high - low) * (about.binary ? Math.round(share) : share);
  });
  drawOwn();
  prompted();
});

const readOwn = () => {
  if (about.kind === "table") own = about.columns.map((column, k) => meant(column, $("own-" + k).value));
  else if (about.kind !== "image") own = $("own-text").value.trimEnd().split(/[,\n]/).map((v) => (v.trim() === "" ? null : Number(v)));
  return { x: own, given: state.given };
};

// ---- the address repeats the view

let soon;
function remember() { clearTimeout(soon); soon = setTimeout(write, 150); }

function write() {
  const kept = { z: state.z.map((v) => Number(v.toFixed(3))).join(","), given: state.given, datum: state.datum, a: state.a, b: state.b, seed: state.seed, hidden: state.hidden.join(","), pinned: state.pinned.join(",") };
  const text = Object.entries(kept).filter(([, v]) => v !== null && v !== "" && v !== 0).map(([k, v]) => `${k}=${v}`).join("&");
  history.replaceState(null, "", "#" + text);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1)), whole = (name) => (/^\d+$/.test(kept.get(name) || "") ? Number(kept.get(name)) : null);
  const list = (name) => (kept.get(name) || "").split(",").filter((v) => v !== "").map(Number).filter(Number.isFinite);
  const z = list("z");
  if (z.length === about.units.length) state.z = z.map((v) => Math.max(-1e3, Math.min(1e3, v)));
  Object.assign(state, { given: whole("given") ?? 0, datum: whole("datum"), a: whole("a"), b: whole("b"), seed: whole("seed") ?? 0, hidden: list("hidden"), pinned: list("pinned") });
  return z.length === about.units.length ? state.z : null;
}

function save(name, url) { make("a", { href: url, download: name }).click(); }

const named = (k) => (about.names && about.names[k]) || String(k);

function size() {
  const [n, shape] = [about.points.length, about.shape];
  if (about.kind === "table") return `${n} rows of ${about.columns.length} columns`;
  if (about.kind === "series") return `${n} series of ${shape[0]} steps and ${shape[1]} columns`;
  return `${n} data of shape ${shape.join(" × ")}`;
}

// what is seen of the page depends on the kind of data

function dress() {
  const { kind } = about, active = about.units.filter((u) => u.active).length;
  document.body.dataset.kind = kind;
  $("what").textContent = `${size()}, ${active} of ${about.units.length} latent units active`;
  if (!active) $("collapsed").textContent = "No latent unit is active: q(z|x) is nearly the prior for every datum, so the map tells nothing of the data and every z decodes to about the same. The model has collapsed.";
  const table = kind === "table";
  for (const id of ["decoded", "png"]) $(id).hidden = table;
  for (const id of ["datum-x", "datum-r"]) $(id).parentElement.hidden = table;
  $("second").hidden = table || kind === "series";
  $("drawing").hidden = $("brushes").hidden = kind !== "image"; document.querySelector(".file").hidden = kind !== "image";
  $("own-text").hidden = kind === "image" || table;
  if (table) $("own-form").replaceChildren(...about.columns.map(field));
  $("own-hint").hidden = kind === "image";
  const columns = (about.columns || []).map((c) => c.name + (unit(c) ? ` (${unit(c)})` : "")).join(", ");
  $("own-hint").textContent = table ? "An empty field is missing." : kind === "series" ? `A line per step: ${columns}. An empty value is missing.` : "An empty value is missing.";
}

async function start() {
  backend = EXPORTED ? await exported(EXPORTED) : server;
  about = await backend.about();
  state.z = about.units.map(() => 0);
  const given = recall();
  const active = about.units.filter((u) => u.active).length;
  dress();
  $("axis-x").textContent = "→ " + about.map.axes[0]; $("axis-y").textContent = "↑ " + about.map.axes[1];
  $("sliders").replaceChildren(...about.units.filter((u) => u.active).map(slider));
  $("idle-sliders").replaceChildren(...about.units.filter((u) => !u.active).map(slider));
  $("idle").hidden = active === about.units.length; $("idle").open = active === 0;
  const kinds = [...new Set(about.labels || [])].sort((a, b) => a - b);
  $("classes").replaceChildren(...(kinds.length <= 30 ? kinds : []).map((kind) => {
    const swatch = make("i"); swatch.style.background = CLASSES[kind % CLASSES.length];
    const button = make("button", { className: "class" }, swatch, named(kind));
    const press = () => button.setAttribute("aria-pressed", !state.hidden.includes(kind));
    button.onclick = () => { state.hidden = state.hidden.includes(kind) ? state.hidden.filter((k) => k !== kind) : [...state.hidden, kind]; press(); drawPoints(); remember(); };
    press();
    return button;
  }));
  if (about.conditional && about.labels) {
    $("given-row").hidden = false;
    $("given").replaceChildren(...kinds.map((kind) => make("option", { value: kind, textContent: named(kind) })));
    $("given").value = about.labels[state.given];
    $("given").onchange = () => { state.given = about.labels.indexOf(Number($("given").value)); setZ(state.z); };
  }
  document.querySelectorAll("[data-needs]").forEach((e) => { e.hidden = !backend[e.dataset.needs]; });
  $("how").textContent = backend.words;
  if (!backend.posterior) ["resample", "given-row"].concat(active > 2 ? ["sliders", "idle"] : []).forEach((id) => { $(id).hidden = true; }); // the plane alone

  const map = $("map");
  const at = (event) => { const box = map.getBoundingClientRect(); return frame.from(event.clientX - box.left, event.clientY - box.top); };
  let pressed = null;
  map.onpointerdown = (event) => { pressed = [event.clientX, event.clientY]; map.setPointerCapture(event.pointerId); };
  map.onpointermove = (event) => { if (pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > 3) { pressed.dragged = true; setZ(moved(state.z, ...at(event)), true); } };
  map.onpointerup = (event) => {
    const [best, far] = nearest(...at(event)), reach = frame.from(10, 0)[0] - frame.from(0, 0)[0];
    if (pressed && !pressed.dragged) { if (far < reach) choose(best); else setZ(moved(state.z, ...at(event))); }
    pressed = null;
  };
  map.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key], [u, v] = place(state.z);
    if (step) { event.preventDefault(); setZ(moved(state.z, u + 0.1 * step[0], v + 0.1 * step[1])); }
    if (event.key === "Enter") choose(nearest(u, v)[0]);
  };
  $("reset").onclick = () => setZ(state.z.map((v, k) => (state.pinned.includes(k) ? v : 0)));
  $("resample").onclick = () => { state.seed += 1; const roll = random(state.seed); setZ(state.z.map((v, k) => { const r = roll(); return state.pinned.includes(k) ? v : r; })); };
  $("number").max = about.points.length - 1;
  $("number").onchange = () => choose(Number($("number").value));
  $("set-a").onclick = () => { state.a = state.datum; walk(); };
  $("set-b").onclick = () => { state.b = state.datum; walk(); };
  $("seed").value = state.seed; $("draw").onclick = drawSamples;
  $("png").onclick = () => save("decoded.png", $("decoded").toDataURL("image/png"));
  $("json").onclick = () => save("view.json", "data:application/json," + encodeURIComponent(JSON.stringify({ ...state, decoded, units: about.units, address: location.href })));
  const blank = about.columns ? null : about.range[0];
  own = Array(about.shape.reduce((a, b) => a * b, 1)).fill(blank);
  $("own").onpointerdown = (event) => { $("own").setPointerCapture(event.pointerId); paint(event); }; $("own").onpointermove = paint; $("own").onpointerup = prompted;
  $("own-clear").onclick = () => { own = own.map(() => blank); answered(null); drawOwn(); };
  $("own-datum").onclick = () => { if (found) { own = [...found.x[0]]; drawOwn(); prompted(); } };
  $("own-file").onchange = upload;
  $("own-form").onsubmit = async (event) => { event.preventDefault(); await inquire(); $("h-datum").scrollIntoView({ block: "nearest" }); };
  $("own-fill").onclick = guarded(async () => { own = (await backend.impute(readOwn())).x[0]; drawOwn(); });
  drawOwn(); answered(null);
  new ResizeObserver(drawPoints).observe(map);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPoints);
  drawPoints();
  setZ(state.z);
  if (state.datum !== null) { await choose(state.datum); if (given) setZ(given); }
  if (backend.path && (state.a !== null || state.b !== null)) walk();
  await drawSamples();
  document.body.dataset.ready = "yes";
}

start().catch((error) => { $("problem").textContent = error.message; });
