// Every operation in float64 and plain loops: what the kernels are compared with.

import { type Activation, NO_TOKEN, type Op, type Tensor, type Weight } from '../../offload/port/ops.js';
import { cached, storedCache } from './reference-cache.js';
import { attendWindow, compress, mixStreams, weighStreams } from './reference-compressed.js';
import { biasedChoices, combineChoices, expertProducts } from './reference-experts.js';
import { routeTokens } from './reference-route.js';
import { drawTokens, topTokens } from './reference-sample.js';
import { broughtExperts } from './reference-slots.js';
import { convolve, gatedRms, scan } from './reference-states.js';
import { Values, type Written } from './reference-values.js';
import { weightValues } from './reference-weights.js';
import type { Bytes } from './tensor-bytes.js';

export function referenceOp(op: Op, bytes: Bytes): readonly Written[] {
  const read = (tensor: Tensor): Values => new Values(tensor, bytes);
  const readWeight = (weight: Weight) => weightValues(weight, read);
  const readOptional = (tensor: Tensor | null): Values | null => (tensor ? read(tensor) : null);
  switch (op.op) {
    case 'gather_rows': {
      const [out, table, rows] = [read(op.out), read(op.table), read(op.rows)];
      for (let t = 0; t < out.size(0); t++) {
        for (let i = 0; i < out.size(1); i++) {
          const base = op.accumulate ? out.get(t, i) : 0;
          out.set(base + table.get(rows.get(t), i) * op.scale, t, i);
        }
      }
      return [out.written];
    }
    case 'layer_norm':
      return [
        normRows(read(op.out), read(op.x), {
          weight: read(op.weight),
          bias: readOptional(op.bias),
          eps: op.eps,
          center: true,
          weightOffset: op.weightOffset ?? 0,
        }),
      ];
    case 'rms_norm':
      return [
        normRows(read(op.out), read(op.x), {
          weight: readOptional(op.weight),
          bias: null,
          eps: op.eps,
          center: false,
          weightOffset: op.weightOffset,
        }),
      ];
    case 'head_linear': {
      const [out, x, weight] = [read(op.out), read(op.x), readWeight(op.weight)];
      for (let t = 0; t < out.size(0); t++) {
        for (let h = 0; h < out.size(1); h++) {
          const first = h * op.headRows + op.firstRow;
          for (let n = 0; n < out.size(2); n++) {
            let sum = 0;
            for (let k = 0; k < x.size(2); k++) {
              sum += x.get(t, h, k) * (op.transposed ? weight(first + k, n) : weight(first + n, k));
            }
            out.set(sum, t, h, n);
          }
        }
      }
      return [out.written];
    }
    case 'linear': {
      const [out, x, weight] = [read(op.out), read(op.x), readWeight(op.weight)];
      const bias = readOptional(op.bias);
      for (let t = 0; t < out.size(0); t++) {
        for (let n = 0; n < out.size(1); n++) {
          let sum = bias?.get(n) ?? 0;
          for (let k = 0; k < x.size(1); k++) {
            sum += x.get(t, k) * weight(n, k);
          }
          out.set(activate(op.activation, sum) + (op.accumulate ? out.get(t, n) : 0), t, n);
        }
      }
      return [out.written];
    }
    case 'gated': {
      const [out, gate, up] = [read(op.out), read(op.gate), read(op.up)];
      const limit = op.limit > 0 ? op.limit : Number.POSITIVE_INFINITY;
      const [before, after] = op.limitAfter
        ? [Number.POSITIVE_INFINITY, limit]
        : [limit, Number.POSITIVE_INFINITY];
      map(out, (i) => {
        const active = Math.min(activate(op.activation, Math.min(gate.values[i] ?? 0, before)), after);
        return active * Math.max(-limit, Math.min(up.values[i] ?? 0, limit));
      });
      return [out.written];
    }
    case 'route':
      return routeTokens(op, read);
    case 'gate_sigmoid': {
      const [x, gate] = [read(op.x), read(op.gate)];
      const each = x.values.length / Math.max(1, gate.values.length);
      map(x, (i) => (x.values[i] ?? 0) / (1 + Math.exp(-(gate.values[Math.floor(i / each)] ?? 0))));
      return [x.written];
    }
    case 'expert_linear':
      return [expertProducts(read(op.out), read(op.x), read(op.experts), op.weights.map(readWeight))];
    case 'bring_experts':
      return broughtExperts(op, read);
    case 'reduce':
      throw new Error('what devices sum together is compared bit for bit: see reduce-cases.ts');
    case 'ask_host':
    case 'take_host':
    case 'find_experts':
      throw new Error(`${op.op} depends on what the host does meanwhile`);
    case 'expert_bias':
      return [biasedChoices(read(op.x), read(op.experts), read(op.bias))];
    case 'gated_pairs': {
      const [out, x] = [read(op.out), read(op.x)];
      for (let r = 0; r < out.size(0); r++) {
        for (let i = 0; i < out.size(1); i++) {
          const gate = Math.min(x.get(r, 2 * i), op.limit);
          const up = Math.max(-op.limit, Math.min(x.get(r, 2 * i + 1), op.limit));
          out.set(((up + 1) * gate) / (1 + Math.exp(-op.alpha * gate)), r, i);
        }
      }
      return [out.written];
    }
    case 'combine':
      return [combineChoices(op, read)];
    case 'scale_rows': {
      const [x, weights] = [read(op.x), read(op.weights)];
      map(x, (i) => (x.values[i] ?? 0) * (weights.values[Math.floor(i / x.size(1))] ?? 0));
      return [x.written];
    }
    case 'causal_conv':
      return convolve(op, bytes, (x) => activate(op.activation, x));
    case 'state_scan':
      return scan(op, bytes);
    case 'gated_rms':
      return [gatedRms(op, bytes)];
    case 'compress':
      return compress(op, bytes);
    case 'window_attention':
      return attendWindow(op, bytes);
    case 'hyper_weights':
      return weighStreams(op, bytes);
    case 'hyper_mix':
      return [mixStreams(op, bytes)];
    case 'add': {
      const [out, a, b] = [read(op.out), read(op.a), read(op.b)];
      const factor = op.factor ? read(op.factor).get(0) : 1;
      map(out, (i) => ((a.values[i] ?? 0) + (b.values[i] ?? 0)) * factor);
      return [out.written];
    }
    case 'rotary':
      return [rotate(read(op.x), read(op.positions), read(op.inverseFrequencies), op.interleaved, op.scale)];
    case 'kv_store':
      return storedCache(op, bytes);
    case 'attention':
      return [attend(op, bytes)];
    case 'argmax': {
      const [out, logits] = [read(op.out), read(op.logits)];
      for (let r = 0; r < logits.size(0); r++) {
        const row = Array.from({ length: logits.size(1) }, (_, c) => logits.get(r, c));
        out.set(row.every(Number.isFinite) ? row.indexOf(Math.max(...row)) : NO_TOKEN, r);
      }
      return [out.written];
    }
    case 'token_rows': {
      const [rows, tokens] = [read(op.rows), read(op.tokens)];
      for (let r = 0; r < tokens.size(0); r++) rows.set(tokens.get(r) === NO_TOKEN ? 0 : tokens.get(r), r);
      return [rows.written];
    }
    case 'top_tokens':
      return topTokens(read(op.tokens), read(op.values), read(op.logits));
    case 'sample': {
      const { settings, draws, history, added: given, allowed } = op.tables;
      const added = given && {
        entriesOf: read(given.entriesOf),
        tokens: read(given.tokens),
        values: read(given.values),
      };
      const masks = allowed && { maskOf: read(allowed.maskOf), masks: read(allowed.masks) };
      const tables = { settings: read(settings), draws: read(draws), history: read(history) };
      return [drawTokens(read(op.out), read(op.logits), { ...tables, added, allowed: masks })];
    }
    case 'nll_fold': {
      const [state, logits, targets] = [read(op.state), read(op.logits), read(op.targets)];
      for (let r = 0; r < logits.size(0); r++) {
        const row = Array.from({ length: logits.size(1) }, (_, c) => logits.get(r, c));
        const before = op.first ? Number.NEGATIVE_INFINITY : state.get(r, 0);
        if (!row.every(Number.isFinite) || Number.isNaN(before)) {
          for (let i = 0; i < 3; i++) state.set(Number.NaN, r, i);
          continue;
        }
        const maximum = row.reduce((a, b) => Math.max(a, b), before);
        const kept = op.first || state.get(r, 1) === 0 ? 0 : state.get(r, 1) * Math.exp(before - maximum);
        const column = targets.get(r) - op.firstColumn;
        if (op.first) state.set(0, r, 2);
        if (column >= 0 && column < row.length) state.set(row[column] ?? 0, r, 2);
        state.set(maximum, r, 0);
        state.set(
          row.reduce(
            (sum, logit) => sum + (logit === Number.NEGATIVE_INFINITY ? 0 : Math.exp(logit - maximum)),
            kept,
          ),
          r,
          1,
        );
      }
      return [state.written];
    }
    case 'note_not_finite': {
      const [found, x] = [read(op.found), read(op.x)];
      for (let t = 0; t < x.size(0); t++) {
        const finite = Array.from({ length: x.size(1) }, (_, i) => x.get(t, i)).every(Number.isFinite);
        const before = op.first ? -1 : found.get(t);
        found.set(before < 0 && !finite ? op.place : before, t);
      }
      return [found.written];
    }
    case 'scale_cap': {
      const x = read(op.x);
      map(x, (i) => capped((x.values[i] ?? 0) * op.scale, op.softCap));
      return [x.written];
    }
    case 'position_scale': {
      const [x, positions] = [read(op.x), read(op.positions)];
      const each = x.size(1) * x.size(2);
      map(x, (i) => {
        const steps = Math.floor((positions.get(Math.floor(i / each)) + op.offset) / op.length);
        return (x.values[i] ?? 0) * (1 + op.beta * Math.log(1 + steps));
      });
      return [x.written];
    }
    case 'clamp': {
      const x = read(op.x);
      map(x, (i) => Math.min(Math.max(x.values[i] ?? 0, -op.limit), op.limit));
      return [x.written];
    }
  }
}

function map(out: Values, value: (index: number) => number): void {
  for (let i = 0; i < out.values.length; i++) out.values[i] = value(i);
}

function capped(x: number, cap: number): number {
  return cap === 0 ? x : cap * Math.tanh(x / cap) + x * 0;
}

interface Norm {
  readonly weight: Values | null;
  readonly bias: Values | null;
  readonly eps: number;
  readonly center: boolean;
  readonly weightOffset: number;
}

function normRows(out: Values, x: Values, { weight, bias, eps, center, weightOffset }: Norm): Written {
  const length = x.shape.at(-1) ?? 1;
  for (let start = 0; start < x.values.length; start += length) {
    const row = x.values.slice(start, start + length);
    const mean = center ? row.reduce((sum, v) => sum + v, 0) / length : 0;
    const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / length;
    for (let i = 0; i < length; i++) {
      const normal = ((row[i] ?? 0) - mean) / Math.sqrt(variance + eps);
      // A weight of several heads goes on where the head's ends.
      const factor = weight ? (weight.values[(start + i) % weight.values.length] ?? 0) + weightOffset : 1;
      out.values[start + i] = normal * factor + (bias?.get(i) ?? 0);
    }
  }
  return out.written;
}

function rotate(
  x: Values,
  positions: Values,
  frequencies: Values,
  interleaved: boolean,
  scale: number,
): Written {
  const pairs = frequencies.size(0);
  for (let t = 0; t < x.size(0); t++) {
    for (let h = 0; h < x.size(1); h++) {
      for (let i = 0; i < pairs; i++) {
        const [first, second] = interleaved ? [2 * i, 2 * i + 1] : [i, i + pairs];
        const angle = positions.get(t) * frequencies.get(i);
        const [cosine, sine] = [Math.cos(angle) * scale, Math.sin(angle) * scale];
        const [a, b] = [x.get(t, h, first), x.get(t, h, second)];
        x.set(a * cosine - b * sine, t, h, first);
        x.set(b * cosine + a * sine, t, h, second);
      }
    }
  }
  return x.written;
}

/** Ties to even, as the kernels must do it. */
function roundToBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = ((bits[0] ?? 0) + 0x7fff + (((bits[0] ?? 0) >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0] ?? 0;
}

function attend(op: Extract<Op, { op: 'attention' }>, bytes: Bytes): Written {
  const read = (tensor: Tensor): Values => new Values(tensor, bytes);
  const [out, q] = [read(op.out), read(op.q)];
  const key = cached(op.keys, op.keyScales, q.size(2), bytes);
  const value = cached(op.values, op.valueScales, out.size(2), bytes);
  const { scale, alibi, softCap = 0, windowTokens = 0, chunkTokens = 0 } = op.score;
  const [kvHeads = 0, pageTokens = 0] = op.keys.shape.slice(1);
  const [sequences, pages, positions] = [op.tables.sequences, op.tables.pages, op.tables.positions].map(
    read,
  ) as [Values, Values, Values];
  const slopes = alibi ? read(alibi.slopes) : null;
  const sinks = op.score.sinks ? read(op.score.sinks) : null;
  for (let s = 0; s < sequences.size(0); s++) {
    const [firstToken, count, context, firstPage] = [0, 1, 2, 3].map((i) => sequences.get(s, i)) as [
      number,
      number,
      number,
      number,
    ];
    for (let t = firstToken; t < firstToken + count; t++) {
      const last = Math.min(positions.get(t), context - 1);
      const window = windowTokens > 0 ? Math.max(0, positions.get(t) - windowTokens + 1) : 0;
      const chunk = chunkTokens > 0 ? Math.floor(positions.get(t) / chunkTokens) * chunkTokens : 0;
      const first = Math.max(window, chunk);
      for (let h = 0; h < q.size(1); h++) {
        const kvHead = Math.floor((h * kvHeads) / q.size(1));
        const pageOf = (j: number): number => pages.get(firstPage + Math.floor(j / pageTokens));
        const scores: number[] = [];
        for (let j = first; j <= last; j++) {
          const [page, offset] = [pageOf(j), j % pageTokens];
          let product = 0;
          for (let d = 0; d < q.size(2); d++) product += q.get(t, h, d) * key(page, kvHead, offset, d);
          const slope = slopes?.get(h) ?? 0;
          const bias = alibi?.rounded ? scale * roundToBf16(slope * roundToBf16(j)) : slope * j;
          scores.push(capped(scale * product + bias, softCap));
        }
        const sink = sinks?.get(h) ?? Number.NEGATIVE_INFINITY;
        const maximum = scores.reduce((a, b) => Math.max(a, b), sink);
        const weights = scores.map((score) => Math.exp(score - maximum));
        const total = weights.reduce((a, b) => a + b, sinks ? Math.exp(sink - maximum) : 0);
        const sums = new Float64Array(out.size(2));
        weights.forEach((weight, i) => {
          const [page, offset] = [pageOf(first + i), (first + i) % pageTokens];
          for (let d = 0; d < sums.length; d++) {
            sums[d] = (sums[d] ?? 0) + weight * value(page, kvHead, offset, d);
          }
        });
        sums.forEach((sum, d) => {
          out.set(weights.length === 0 ? 0 : sum / total, t, h, d);
        });
      }
    }
  }
  return out.written;
}

function activate(activation: Activation, x: number): number {
  switch (activation) {
    case 'none':
      return x;
    case 'relu':
      return Math.max(0, x);
    case 'relu2':
      return Math.max(0, x) ** 2;
    case 'gelu':
      return 0.5 * x * erfc(-x / Math.SQRT2);
    case 'gelu_tanh':
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    case 'gelu_quick':
      return x / (1 + Math.exp(-1.702 * x));
    case 'silu':
      return x / (1 + Math.exp(-x));
  }
}

/** Maclaurin series of erf near 0; the continued fraction of erfc (Abramowitz & Stegun 7.1.14) beyond. */
function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  if (x < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = x;
  for (let n = 80; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / fraction / Math.sqrt(Math.PI);
}
