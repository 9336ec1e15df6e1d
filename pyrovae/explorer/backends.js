// ---- who answers the page: a server, the networks in the page itself, or what was decoded beforehand.
// A backend's methods give plain data; what it cannot do it does not have, and the page does not show

async function asked(path, question) {
  const request = question === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(question) };
  document.body.dataset.asking = 1 + Number(document.body.dataset.asking || 0);
  try {
    const response = await fetch("api/" + path, request), answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  } finally { document.body.dataset.asking -= 1; }
}

const server = {
  words: "", ellipse: true, draws: true,
  about: () => asked("about"),
  decode: (question) => asked("decode", question), // { z, given }
  datum: (index) => asked("datum/" + index),
  data: (indices) => asked("data", { indices }),
  posterior: (question) => asked("posterior", question), // { x, given }
  impute: (question) => asked("impute", question),
  path: (question) => asked("path", question), // { start, end, steps }
  samples: (question) => asked("samples", question), // { n, seed, given }
};

async function inflated(text) {
  if (!window.DecompressionStream) throw new Error("this browser is too old for the page: it needs one of 2023 or later");
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

// data as an exported page holds them: numbers, or shades of pictures

async function unpacked(kept) {
  if (Array.isArray(kept)) return kept;
  const { low, step, size, bytes } = kept, shades = new Uint8Array(await inflated(bytes));
  return Array.from({ length: shades.length / (size || 1) }, (_, k) => Array.from(shades.subarray(k * size, (k + 1) * size), (shade) => (shade === 255 ? null : low + shade * step)));
}

// what both kinds of exported pages have

async function exported(kept) {
  const data = await unpacked(kept.data), { codes } = kept;
  const far = (z) => z.flatMap((value, k) => (Math.abs(value) > 3 ? [k] : []));
  const common = (index) => {
    const code = codes[index];
    if (!code) throw new Error(`the data shown are 0 to ${codes.length - 1}, got ${index}`);
    const distances = codes.map((other, k) => [k === index ? Infinity : Math.hypot(...other.map((v, j) => v - code[j])), k]);
    const neighbours = distances.sort((a, b) => a[0] - b[0]).slice(0, Math.min(6, codes.length - 1)).map(([, k]) => k);
    return { index, code, label: kept.about.labels && kept.about.labels[index], x: [data[index]], neighbours, numbers: {} };
  };
  return { about: () => kept.about, data: (indices) => ({ x: indices.map((k) => data[k]) }), ...(kept.live ? await live(kept, far, common) : await plane(kept, far, common)) };
}

async function live({ about, codes, samples, live: held }, far, common) {
  const bytes = await inflated(held.bytes), decoder = network(held.decoder, bytes), encoder = network(held.posterior, bytes);
  const project = (z) => about.map.rows.map((row) => row.reduce((sum, v, k) => sum + v * (z[k] - about.map.centre[k]), 0));
  const decoded = (z) => {
    let at = 0;
    const sites = Object.fromEntries(held.sites.map(([name, size]) => [name, z.slice(at, (at += size))]));
    return Array.from(decoder(sites)[held.x], (v) => (Number.isNaN(v) ? null : v));
  };
  const posterior = ({ x }) => {
    const wrong = about.columns && about.kind === "table" && about.columns.find(({ kind }, k) => x[k] !== null && ((kind === "count" && !(Number.isInteger(x[k]) && x[k] >= 0)) || (kind === "positive" && !(x[k] > 0))));
    if (x.length !== about.shape.reduce((a, b) => a * b, 1) || x.some(Number.isNaN)) throw new Error(`one datum has ${about.shape.join(" × ")} numbers`);
    if (wrong) throw new Error(`${wrong.name} takes ${wrong.kind === "count" ? "counts: 0, 1, 2 and so on" : "positive numbers"}`);
    const found = encoder({ [held.given]: x.map((v) => (v === null ? NaN : v)) }), laid = (ending) => held.sites.flatMap(([name]) => Array.from(found[name + ending] || []));
    const code = laid(""), variance = laid(".variance");
    if (!code.every(Number.isFinite)) throw new Error("the encoder makes no code of these values" + (x.includes(null) ? ": it takes none that are missing" : ""));
    const spread = held.ellipse && { sd: variance.map(Math.sqrt), covariance: about.map.rows.map((a) => about.map.rows.map((b) => variance.reduce((sum, v, k) => sum + v * a[k] * b[k], 0))) };
    return { x: [x], reconstruction_x: [decoded(code)], code, place: project(code), ...spread, numbers: {} };
  };
  return {
    words: "This page computes by itself, without a server. For the ELBO, the log evidence and filling in what is missing: pyrovae explore RUN.",
    prompt: true, ellipse: held.ellipse, draws: Boolean(held.prior), posterior, // prompt: while one draws
    decode: ({ z }) => ({ x: [decoded(z)], outside: far(z) }),
    datum: (index) => { const found = common(index); return { ...posterior({ x: found.x[0] }), ...found, reconstruction_x: [decoded(found.code)] }; },
    path: ({ start, end, steps }) => {
      const z = Array.from({ length: steps }, (_, k) => codes[start].map((v, j) => v + (k / (steps - 1)) * (codes[end][j] - v)));
      return { x: z.map(decoded), z };
    },
    samples: ({ n, seed }) => ({ x: held.prior ? Array.from({ length: n }, (_, k) => decoded(held.prior[(seed * n + k) % held.prior.length])) : samples }),
  };
}

async function plane(kept, far, common) {
  const [grid, decoded, samples] = await Promise.all([kept.grid, kept.decoded, kept.samples].map(unpacked)), { codes, across, up } = kept;
  return {
    words: `Decoded beforehand on the plane of the map, and at each datum's own code${kept.why ? `: ${kept.why}` : ""}.`,
    ellipse: false, draws: false,
    decode: ({ z }) => {
      if (state.datum !== null && codes[state.datum].every((v, k) => Math.abs(v - z[k]) < 1e-3)) return { x: [decoded[state.datum]], outside: far(z) };
      const [u, v] = place(z), nearest = (axis, value) => axis.reduce((best, _, k) => (Math.abs(axis[k] - value) < Math.abs(axis[best] - value) ? k : best), 0);
      return { x: [grid[nearest(up, v) * across.length + nearest(across, u)]], outside: far(z) };
    },
    datum: (index) => ({ ...common(index), reconstruction_x: [decoded[index]] }),
    samples: () => ({ x: samples }),
  };
}
