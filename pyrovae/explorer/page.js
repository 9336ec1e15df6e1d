const CLASSES = ["#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#AA4499", "#44AA99", "#882255", "#999933", "#666666"];
if (matchMedia("(prefers-color-scheme: dark)").matches) CLASSES.splice(0, 1, "#8A7FE0"), CLASSES.splice(2, 1, "#3FA35A"), CLASSES.splice(7, 1, "#C2547F");
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e; };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const state = { z: [], given: 0, datum: null, a: null, b: null, seed: 0, hidden: [], pinned: [] };
let about, found = null, decoded = [], own = [];

// ---- the server, or what an exported page holds in its place

async function ask(path, body) {
  if (EXPORTED) return answers[path.split("/")[0]](body, path);
  const asked = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  document.body.dataset.asking = 1 + Number(document.body.dataset.asking || 0);
  try {
    const response = await fetch("api/" + path, asked), answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  } finally { document.body.dataset.asking -= 1; }
}

function unpack({ low, high, size, bytes }) {
  const text = atob(bytes);
  return (k) => Array.from({ length: size }, (_, j) => { const shade = text.charCodeAt(k * size + j); return shade === 255 ? null : low + (shade * (high - low)) / 254; });
}

const held = EXPORTED && { grid: unpack(EXPORTED.grid), data: unpack(EXPORTED.data), decoded: unpack(EXPORTED.decoded) };

const answers = {
  about: () => EXPORTED.about,
  decode: ({ z }) => {
    const { codes, across, up } = EXPORTED, outside = z.flatMap((value, k) => (Math.abs(value) > 3 ? [k] : []));
    if (state.datum !== null && codes[state.datum].every((v, k) => Math.abs(v - z[k]) < 1e-3)) return { x: [held.decoded(state.datum)], outside };
    const [u, v] = place(z), nearest = (axis, value) => axis.reduce((best, _, k) => (Math.abs(axis[k] - value) < Math.abs(axis[best] - value) ? k : best), 0);
    return { x: [held.grid(nearest(up, v) * across.length + nearest(across, u))], outside };
  },
  datum: (_, path) => {
    const index = Number(path.split("/")[1]), code = EXPORTED.codes[index];
    if (!code) throw new Error(`the data shown are 0 to ${EXPORTED.codes.length - 1}, got ${index}`);
    const far = EXPORTED.codes.map((other, k) => [k === index ? Infinity : Math.hypot(...other.map((v, j) => v - code[j])), k]);
    const neighbours = far.sort((a, b) => a[0] - b[0]).slice(0, 6).map(([, k]) => k);
    return { index, code, label: about.labels && about.labels[index], x: [held.data(index)], reconstruction_x: [held.decoded(index)], neighbours, numbers: {} };
  },
  data: ({ indices }) => ({ x: indices.map(held.data) }),
};

const guarded = (work) => async (...given) => {
  try { $("problem").textContent = ""; await work(...given); } catch (error) { $("problem").textContent = error.message; }
};

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
  const size = canvas.classList.contains("big") || canvas.closest("figure") ? 240 : 64;
  canvas.width = canvas.height = size;
  pen.fillStyle = colour("--paper"); pen.fillRect(0, 0, size, size);
  const at = (value) => size - 6 - ((value - low) / (high - low || 1)) * (size - 12);
  if (about.kind === "series") {
    const [steps, features] = shape;
    for (let d = 0; d < features; d++) {
      pen.strokeStyle = CLASSES[d % CLASSES.length]; pen.lineWidth = size > 100 ? 2 : 1; pen.beginPath();
      for (let t = 0; t < steps; t++) pen.lineTo(4 + (t / Math.max(1, steps - 1)) * (size - 8), at(x[t * features + d]));
      pen.stroke();
    }
    return;
  }
  const zero = at(Math.min(high, Math.max(low, 0))), wide = size / x.length;
  pen.fillStyle = colour("--blue");
  x.forEach((value, k) => { if (value !== null) pen.fillRect(k * wide + wide * 0.1, Math.min(zero, at(value)), Math.max(1, wide * 0.8), Math.max(1, Math.abs(at(value) - zero))); });
}

function thumbnail(x, label, chosen) {
  const canvas = make("canvas"); canvas.style.width = about.kind === "image" ? "44px" : "64px";
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
  const canvas = $("map"), side = canvas.clientWidth, ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = backdrop.width = backdrop.height = side * ratio;
  const pen = backdrop.getContext("2d"); pen.scale(ratio, ratio);
  const prior = place(state.z.map(() => 0));
  const all = [...about.points, [prior[0] - 2, prior[1] - 2], [prior[0] + 2, prior[1] + 2]];
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
  drawCursor();
}

function drawCursor() {
  const pen = $("map").getContext("2d"), { side, span } = frame, ratio = devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0); pen.drawImage(backdrop, 0, 0, side, side);
  if (found && found.covariance) {
    const [[a, b], [, d]] = found.covariance, half = (a + d) / 2, root = Math.hypot((a - d) / 2, b);
    pen.strokeStyle = colour("--orange"); pen.lineWidth = 2.5; pen.beginPath();
    pen.ellipse(...frame.to(...found.place), (2 * Math.sqrt(half + root) * side) / span, (2 * Math.sqrt(Math.max(0, half - root)) * side) / span, -Math.atan2(2 * b, a - d) / 2, 0, 7);
    pen.stroke();
  }
  const [x, y] = frame.to(...place(state.z)); pen.strokeStyle = colour("--paper");
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
      const answer = await ask("decode", { z: state.z, given: state.given });
      decoded = answer.x[0]; draw($("decoded"), decoded);
      $("decoded").dataset.version = Number($("decoded").dataset.version || 0) + 1;
      const names = about.units.filter((u) => answer.outside.includes(u.index)).map((u) => u.name);
      $("outside").textContent = names.length ? `Beyond 3 standard deviations of the prior: ${names.join(", ")}. The model has hardly been there.` : "";
    } while (again);
  } finally { waiting = false; }
});

function setZ(z) {
  state.z = z;
  for (const { index } of about.units) {
    const slider = $("unit-" + index); slider.value = z[index]; slider.nextElementSibling.textContent = z[index].toFixed(2);
    slider.parentElement.classList.toggle("far", Math.abs(z[index]) > 3);
  }
  decode(); drawCursor(); remember();
}

function slider(unit) {
  const value = make("output", { textContent: "0.00" });
  const range = make("input", { type: "range", id: "unit-" + unit.index, min: -4, max: 4, step: 0.05, value: 0 });
  range.dataset.testid = "unit-" + unit.index; range.setAttribute("aria-label", unit.name);
  range.oninput = () => setZ(state.z.map((v, k) => (k === unit.index ? Number(range.value) : v)));
  const pin = make("input", { type: "checkbox", title: "keep when resetting or resampling", checked: state.pinned.includes(unit.index) });
  pin.setAttribute("aria-label", "pin " + unit.name);
  pin.onchange = () => { state.pinned = pin.checked ? [...state.pinned, unit.index] : state.pinned.filter((k) => k !== unit.index); remember(); };
  return make("div", { className: "unit" }, make("span", { textContent: unit.name }), range, value, make("small", { textContent: unit.kl === null ? "" : `KL ${unit.kl.toFixed(2)}` }), pin);
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
  draw($("datum-x"), answer.x[0], true); draw($("datum-r"), answer.reconstruction_x[0]);
  $("numbers").replaceChildren(...Object.entries(answer.numbers).filter(([, v]) => v !== null).map(([name, value]) => {
    const unit = name === "khat" ? (value > Math.min(1 - 1 / Math.log10(about.particles), 0.7) ? ": the log evidence is a lower bound that still rises with more particles (pyrovae evaluate RUN --evidence ais measures it)" : "") : name === "ess" ? ` of ${about.particles}` : " nats";
    const cell = make("td", { textContent: value.toFixed(2) + unit }); cell.dataset.testid = name; cell.dataset.value = value;
    return make("tr", {}, make("td", { textContent: WORDS[name] }), cell);
  }));
}

const choose = guarded(async (index) => {
  const answer = await ask("datum/" + index);
  Object.assign(state, { datum: index, given: about.conditional ? index : 0 }); $("number").value = index;
  show(answer);
  if (about.conditional && about.labels) $("given").value = about.labels[index];
  const near = answer.neighbours.length ? (await ask("data", { indices: answer.neighbours })).x : [];
  $("neighbours").replaceChildren(...near.map((x, k) => thumbnail(x, `datum ${answer.neighbours[k]}`, () => choose(answer.neighbours[k]))));
  setZ(answer.code);
});

const walk = guarded(async () => {
  $("ends").textContent = `A: ${state.a ?? "none yet"}, B: ${state.b ?? "none yet"}`;
  remember();
  if (state.a === null || state.b === null) return;
  const { x, z } = await ask("path", { start: state.a, end: state.b, steps: 10 });
  $("path").replaceChildren(...x.map((value, k) => thumbnail(value, `step ${k + 1} of 10`, () => setZ(z[k]))));
});

const drawSamples = guarded(async () => {
  state.seed = Number($("seed").value) || 0; remember();
  const { x } = await ask("samples", { n: 24, seed: state.seed, given: state.given });
  $("samples").replaceChildren(...x.map((value, k) => thumbnail(value, `sample ${k + 1}`, () => { own = [...value]; drawOwn(); })));
});

// ---- one's own

function drawOwn() {
  if (about.kind === "image") draw($("own"), own, true);
  else $("own-text").value = own.map((v) => (v === null ? "" : Number(v.toFixed(3)))).join(", ");
}

function paint(event) {
  if (!(event.buttons & 1)) return;
  const [, height, width] = about.shape.length === 3 ? about.shape : [1, ...about.shape];
  const box = $("own").getBoundingClientRect(), brush = document.querySelector("input[name=brush]:checked").value;
  const px = ((event.clientX - box.left) / box.width) * width, py = ((event.clientY - box.top) / box.height) * height;
  const reach = Math.max(0.75, width / (brush === "missing" ? 9 : 22)), value = { ink: about.range[1], paper: about.range[0], missing: null }[brush];
  for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) {
    if (Math.hypot(j + 0.5 - px, i + 0.5 - py) > reach) continue;
    for (let c = 0; c < own.length / (height * width); c++) own[c * height * width + i * width + j] = value;
  }
  drawOwn();
}

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
});

const readOwn = () => {
  if (about.kind !== "image") own = $("own-text").value.split(",").map((v) => (v.trim() === "" ? null : Number(v)));
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

async function start() {
  about = await ask("about");
  state.z = about.units.map(() => 0);
  const given = recall();
  const active = about.units.filter((u) => u.active).length;
  $("what").textContent = `${about.points.length} data of shape ${about.shape.join(" × ")}, ${active} of ${about.units.length} latent units active`;
  $("axis-x").textContent = "→ " + about.map.axes[0]; $("axis-y").textContent = "↑ " + about.map.axes[1];
  $("sliders").replaceChildren(...about.units.filter((u) => u.active).map(slider));
  $("idle-sliders").replaceChildren(...about.units.filter((u) => !u.active).map(slider));
  $("idle").hidden = active === about.units.length; $("idle").open = active === 0;
  const kinds = [...new Set(about.labels || [])].sort((a, b) => a - b), named = (k) => (about.names && about.names[k]) || String(k);
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
  if (EXPORTED) document.querySelectorAll(".server").forEach((e) => { e.hidden = true; });
  if (EXPORTED) {
    const more = active > 2;
    ["ellipse", "set-a", "set-b", "resample", "given-row"].concat(more ? ["sliders", "idle"] : []).forEach((id) => { $(id).hidden = true; });
    if (more) $("sliders").before(make("p", { className: "hint", textContent: "Decoded beforehand on the plane of the map, and at each datum's own code." }));
  }

  const map = $("map");
  const at = (event) => { const box = map.getBoundingClientRect(); return frame.from(event.clientX - box.left, event.clientY - box.top); };
  let pressed = null;
  map.onpointerdown = (event) => { pressed = [event.clientX, event.clientY]; map.setPointerCapture(event.pointerId); };
  map.onpointermove = (event) => { if (pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > 3) { pressed.dragged = true; setZ(moved(state.z, ...at(event))); } };
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
  own = Array(about.shape.reduce((a, b) => a * b, 1)).fill(about.range[0]);
  $("own").hidden = $("brushes").hidden = about.kind !== "image"; $("own-text").hidden = about.kind === "image"; document.querySelector(".file").hidden = about.kind !== "image";
  $("own").onpointerdown = (event) => { $("own").setPointerCapture(event.pointerId); paint(event); }; $("own").onpointermove = paint;
  $("own-clear").onclick = () => { own = own.map(() => about.range[0]); drawOwn(); };
  $("own-datum").onclick = () => { if (found) { own = [...found.x[0]]; drawOwn(); } };
  $("own-file").onchange = upload;
  $("own-posterior").onclick = guarded(async () => { const answer = await ask("posterior", readOwn()); state.datum = null; show(answer); $("neighbours").replaceChildren(); setZ(answer.code); });
  $("own-fill").onclick = guarded(async () => { own = (await ask("impute", readOwn())).x[0]; drawOwn(); });
  drawOwn();
  new ResizeObserver(drawPoints).observe(map);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPoints);
  drawPoints();
  setZ(state.z);
  if (state.datum !== null) { await choose(state.datum); if (given) setZ(given); }
  if (!EXPORTED) { if (state.a !== null || state.b !== null) walk(); await drawSamples(); }
  document.body.dataset.ready = "yes";
}

start().catch((error) => { $("problem").textContent = error.message; });
