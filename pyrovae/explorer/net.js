// ---- networks: operations on flat arrays of one datum's values, in their order; pyrovae/explorer/live.py writes them

const entrywise = {
  abs: Math.abs, cos: Math.cos, exp: Math.exp, expm1: Math.expm1, floor: Math.floor, log: Math.log, log1p: Math.log1p, sign: Math.sign, sin: Math.sin, sqrt: Math.sqrt, tanh: Math.tanh, trunc: Math.trunc,
  neg: (a) => -a, reciprocal: (a) => 1 / a, relu: (a) => (a < 0 ? 0 : a), rsqrt: (a) => 1 / Math.sqrt(a), sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  round: (a) => { const near = Math.round(a); return near - a === 0.5 && near % 2 ? near - 1 : near; }, // halves to the even
  isnan: (a) => Number(Number.isNaN(a)), logical_not: (a) => Number(!a), erf,
  add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b, pow: (a, b) => a ** b, maximum: (a, b) => Math.max(a, b), minimum: (a, b) => Math.min(a, b),
  eq: (a, b) => Number(a === b), ne: (a, b) => Number(a !== b), lt: (a, b) => Number(a < b), le: (a, b) => Number(a <= b), gt: (a, b) => Number(a > b), ge: (a, b) => Number(a >= b),
  logical_and: (a, b) => Number(Boolean(a) && Boolean(b)), logical_or: (a, b) => Number(Boolean(a) || Boolean(b)),
  where: (a, b, c) => (a ? b : c),
};

function erf(a) { // a series near 0, a continued fraction beyond
  const size = Math.abs(a), square = a * a;
  if (Number.isNaN(a)) return a;
  if (size > 6) return Math.sign(a);
  if (size < 2.5) {
    let sum = a, part = a;
    for (let n = 1; Math.abs(part) > 1e-17; n++) { part *= -square / n; sum += part / (2 * n + 1); }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let below = size;
  for (let n = 60; n > 0; n--) below = size + n / 2 / below;
  return Math.sign(a) * (1 - Math.exp(-square) / (Math.sqrt(Math.PI) * below));
}

function applied(name, given) {
  const f = entrywise[name], size = Math.max(...given.map((v) => v.length)), out = new Float32Array(size);
  const [a, b, c] = given, [i, j, k] = given.map((v) => Number(v.length > 1)); // one number goes with all
  if (given.length === 1) for (let n = 0; n < size; n++) out[n] = f(a[n]);
  else if (given.length === 2) for (let n = 0; n < size; n++) out[n] = f(a[n * i], b[n * j]);
  else for (let n = 0; n < size; n++) out[n] = f(a[n * i], b[n * j], c[n * k]);
  return out;
}

// of rows: one number each, or a row

const total = (row) => { let sum = 0; for (let k = 0; k < row.length; k++) sum += row[k]; return sum; };
const most = (row) => { let best = 0; for (let k = 1; k < row.length; k++) if (row[k] > row[best] || (Number.isNaN(row[k]) && !Number.isNaN(row[best]))) best = k; return best; };
const single = (f) => ([a], { length }) => Float32Array.from({ length: a.length / length }, (_, r) => f(a.subarray(r * length, (r + 1) * length)));

function each(a, length, change) {
  const out = Float32Array.from(a);
  for (let r = 0; r < out.length; r += length) change(out.subarray(r, r + length));
  return out;
}

const operations = {
  sum: single(total), mean: single((row) => total(row) / row.length), argmax: single(most), amax: single((row) => row[most(row)]), amin: single((row) => -Math.max(...row.map((v) => -v))),
  variance: ([a], { length, correction }) => single((row) => { const mean = total(row) / length; return row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (length - correction); })([a], { length }),
  softmax: ([a], { length }) => each(a, length, (row) => {
    const top = row[most(row)];
    for (let k = 0; k < length; k++) row[k] = Math.exp(row[k] - top);
    const sum = total(row); for (let k = 0; k < length; k++) row[k] /= sum;
  }),
  standardise: ([a], { length, eps }) => each(a, length, (row) => {
    const mean = total(row) / length; let square = 0;
    for (let k = 0; k < length; k++) square += (row[k] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / length + eps);
    for (let k = 0; k < length; k++) row[k] = (row[k] - mean) * scale;
  }),
  strided: ([a], { size, stride, offset }) => {
    const out = new Float32Array(size.reduce((product, n) => product * n, 1)), last = size.length - 1;
    const wide = last < 0 ? 1 : size[last], step = last < 0 ? 0 : stride[last];
    for (let start = 0; start < out.length; start += wide) {
      let from = offset;
      for (let rest = start / wide, d = last - 1; d >= 0; d--) { from += (rest % size[d]) * stride[d]; rest = Math.floor(rest / size[d]); }
      for (let k = 0; k < wide; k++) out[start + k] = a[from + k * step];
    }
    return out;
  },
  take: ([a, places], { fill }) => Float32Array.from(places, (place) => (place < 0 ? fill : a[place])),
  cat: (given, { lengths }) => {
    const wide = lengths.reduce((sum, n) => sum + n, 0), out = new Float32Array(given.reduce((sum, v) => sum + v.length, 0));
    for (let start = 0, r = 0; start < out.length; start += wide, r++) given.reduce((at, v, k) => { out.set(v.subarray(r * lengths[k], (r + 1) * lengths[k]), at); return at + lengths[k]; }, start);
    return out;
  },
  product: ([a, b], { batch, rows, inner, columns }) => {
    const out = new Float32Array(batch * rows * columns), part = (v, k) => v.subarray((k * v.length) / batch, ((k + 1) * v.length) / batch);
    for (let k = 0; k < batch; k++) multiply(part(out, k), part(a, k), part(b, k), { rows, inner, columns, down: inner, along: 1 });
    return out;
  },
  convolution,
};

// out += a b, where a[r, k] stands at r * down + k * along: four rows of b at a time, none where a is 0

function multiply(out, a, b, { rows, inner, columns, down, along }) {
  for (let r = 0; r < rows; r++) for (let k = 0, to = r * columns; k < inner; k += 4) {
    const at = r * down + k * along, left = inner - k, p = k * columns;
    const f = a[at], g = left > 1 ? a[at + along] : 0, h = left > 2 ? a[at + 2 * along] : 0, i = left > 3 ? a[at + 3 * along] : 0;
    if (f === 0 && g === 0 && h === 0 && i === 0) continue;
    if (left > 3) for (let n = 0, q = p + columns, s = q + columns, t = s + columns; n < columns; n++) out[to + n] += f * b[p + n] + g * b[q + n] + h * b[s + n] + i * b[t + n];
    else for (let j = 0; j < left; j++) for (let n = 0, from = p + j * columns; n < columns; n++) out[to + n] += a[at + j * along] * b[from + n];
  }
}

// patches [channels, taps, small] of an image [channels, large]: small (y, x) sees large (y * stride + tap * dilation - padding, ...).
// A convolution is the weights times the patches of its input, a transposed one adds up patches, the weights times its input

function patches(image, columns, small, large, { kernel, stride, padding, dilation }, gather) {
  const place = small[0] * small[1], space = large[0] * large[1], taps = kernel[0] * kernel[1];
  const reach = (d, tap) => { const shift = tap * dilation[d] - padding[d]; return [shift, Math.max(0, Math.ceil(-shift / stride[d])), Math.min(small[d], Math.floor((large[d] - 1 - shift) / stride[d]) + 1)]; };
  for (let line = 0; line < columns.length / place; line++) {
    const tap = line % taps, [down, top, bottom] = reach(0, Math.floor(tap / kernel[1])), [right, left, end] = reach(1, tap % kernel[1]), step = stride[1];
    for (let y = top; y < bottom; y++) {
      const inner = line * place + y * small[1], outer = Math.floor(line / taps) * space + (y * stride[0] + down) * large[1] + right;
      if (gather) for (let x = left; x < end; x++) columns[inner + x] = image[outer + x * step];
      else for (let x = left; x < end; x++) image[outer + x * step] += columns[inner + x];
    }
  }
}

function convolution([a, weights, bias], settings) {
  const { shape: [before, ...source], result: [after, ...target], kernel, groups, transposed } = settings;
  const size = source[0] * source[1], space = target[0] * target[1], taps = kernel[0] * kernel[1], [from, to] = [before / groups, after / groups];
  const out = new Float32Array(after * space);
  if (bias) for (let o = 0; o < after; o++) out.fill(bias[o], o * space, (o + 1) * space);
  for (let g = 0; g < groups; g++) {
    const x = a.subarray(g * from * size, (g + 1) * from * size), y = out.subarray(g * to * space, (g + 1) * to * space), w = weights.subarray(g * from * to * taps, (g + 1) * from * to * taps);
    const columns = new Float32Array(transposed ? to * taps * size : from * taps * space);
    if (transposed) {
      multiply(columns, w, x, { rows: to * taps, inner: from, columns: size, down: 1, along: to * taps });
      patches(y, columns, source, target, settings, false);
    } else {
      patches(x, columns, target, source, settings, true);
      multiply(y, w, columns, { rows: to, inner: from * taps, columns: space, down: from * taps, along: 1 });
    }
  }
  return out;
}

// constants: half precision, single, or whole numbers

function constant(bytes, [offset, count, kind]) {
  if (kind === "f4") return new Float32Array(bytes, offset, count);
  if (kind === "i4") return new Int32Array(bytes, offset, count);
  return Float32Array.from(new Uint16Array(bytes, offset, count), (half) => {
    const sign = half & 0x8000 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
}

// a function of values by name, each flat

function network({ inputs, constants, steps, outputs }, bytes) {
  const held = Object.entries(constants).map(([number, place]) => [number, constant(bytes, place)]);
  return (given) => {
    const values = [];
    for (const [number, value] of held) values[number] = value;
    for (const [name, number] of Object.entries(inputs)) values[number] = Float32Array.from(given[name]);
    for (const [number, name, from, settings] of steps) values[number] = (operations[name] || applied.bind(null, name))(from.map((k) => values[k]), settings);
    return Object.fromEntries(Object.entries(outputs).map(([name, number]) => [name, values[number]]));
  };
}
