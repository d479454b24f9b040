// What simulated kernels compute: not the arithmetic, but values that depend on every input and on no address.

import { present } from '../../offload/errors.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { ELSEWHERE } from '../../offload/port/host-ops.js';
import { cacheTensors, type Op, type Tensor } from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { sample, topTokens } from './draw-ops.js';
import {
  type CachedSequence,
  cachedSequences,
  chosen,
  innerRows,
  integers,
  slotByte,
  slotRuns,
  tableRow,
} from './footprint.js';
import { elementHashes, HASHES_OF_BYTES, hashOf, mix, rowHashes, type WeightHashes } from './hashes.js';
import { askHost, takeHost } from './host-ops.js';
import { contentHash, HazardError, simulated } from './memory.js';
import { fillRows, floatBits, floatRows, idWords, perElement, perRow, wordRows } from './op-rows.js';
import { SlotCall } from './slots.js';
import { causalConv, stateScan } from './state-ops.js';

/** Results of a token depend on that token's inputs only, as in the real kernels, so batching cannot change them. */
export function applyOp(op: Op, hashes: WeightHashes = HASHES_OF_BYTES): void {
  switch (op.op) {
    case 'gather_rows':
      gatherRows(op);
      break;
    case 'layer_norm':
      perRow(op.out, op.x, hashOf([op.weight, op.bias], [op.eps, op.weightOffset ?? 0]));
      break;
    case 'rms_norm':
      perRow(op.out, op.x, hashOf([op.weight], [op.eps, op.weightOffset, 1]));
      break;
    case 'linear':
      linear(op, hashes);
      break;
    case 'head_linear':
      headLinear(op, hashes);
      break;
    case 'gated':
      perElement(
        op.out,
        [op.gate, op.up],
        hashOf([], [op.activation.length, op.limit, Number(op.limitAfter), 2]),
      );
      break;
    case 'scale_rows':
      scaleRows(op);
      break;
    case 'gate_sigmoid':
      gateSigmoid(op);
      break;
    case 'route':
      route(op);
      break;
    case 'expert_linear':
      expertLinear(op, hashes);
      break;
    case 'bring_experts':
      new SlotCall(op).write();
      break;
    case 'find_experts':
      throw new Error('a worker finds experts, since that takes as long as a drive does');
    case 'ask_host':
      askHost(op);
      break;
    case 'take_host':
      takeHost(op);
      break;
    case 'reduce':
      throw new HazardError('devices sum together: see rank-exchange.ts');
    case 'expert_bias':
      expertBias(op);
      break;
    case 'gated_pairs':
      perRow(op.out, op.x, hashOf([], [op.alpha, op.limit, 7]));
      break;
    case 'combine':
      combine(op);
      break;
    case 'add':
      perElement(op.out, [op.a, op.b], op.factor ? hashOf([op.factor], [3]) : SUM);
      break;
    case 'rotary':
      rotary(op);
      break;
    case 'causal_conv':
      causalConv(op, fillRows);
      break;
    case 'state_scan':
      stateScan(op, fillRows);
      break;
    case 'gated_rms':
      gatedRms(op);
      break;
    case 'kv_store':
      storeCache(op);
      break;
    case 'attention':
      attention(op);
      break;
    case 'argmax':
      argmax(op);
      break;
    case 'token_rows':
      tokenRows(op);
      break;
    case 'sample':
      sample(op);
      break;
    case 'top_tokens':
      topTokens(op);
      break;
    case 'nll_fold':
      foldNll(op);
      break;
    case 'note_not_finite':
      noteNotFinite(op);
      break;
    case 'scale_cap':
      perElement(op.x, [op.x], hashOf([], [op.scale, op.softCap]));
      break;
    case 'position_scale':
      perToken(op.x, op.positions, hashOf([], [op.beta, op.offset, op.length]));
      break;
    case 'clamp':
      perElement(op.x, [op.x], hashOf([], [op.limit, 8]));
      break;
  }
}

/** What a sum without a factor begins with. */
const SUM = hashOf([null], [3]);

type OpOf<Name extends Op['op']> = Extract<Op, { op: Name }>;

function gatherRows({ out, table, rows, accumulate, scale }: OpOf<'gather_rows'>): void {
  const wanted = integers(rows);
  const factor = hashOf([], [scale]);
  // Two tokens may want the same row, but each must get its own copy before any is written.
  const hashes = Array.from(wanted, (row) => contentHash(tableRow(table, row)));
  fillRows(out, (row) => mix(hashes[row] ?? 0, factor), accumulate);
}

function linear(op: OpOf<'linear'>, { ofOutputs }: WeightHashes): void {
  const { out, x, weight, bias, activation, accumulate } = op;
  const outputs = dimension(out, 1);
  const columns = ofOutputs(weight);
  const biases = bias ? elementHashes(bias) : [];
  const xs = rowHashes(x);
  const { words, starts } = wordRows(out);
  starts.forEach((start, row) => {
    for (let n = 0; n < outputs; n++) {
      let hash = mix(mix(xs[row] ?? 0, columns[n] ?? 0), activation.length);
      if (bias) hash = mix(hash, biases[n] ?? 0);
      // What is added is what the product would be, so that it may come from elsewhere.
      if (accumulate) hash = mix(mix(SUM, words[start + n] ?? 0), floatBits(hash));
      words[start + n] = floatBits(hash);
    }
  });
}

/** One gate for a whole row, or one for each of its values. */
function gateSigmoid({ x, gate }: OpOf<'gate_sigmoid'>): void {
  const [to, by] = [wordRows(x), wordRows(gate)];
  to.starts.forEach((start, row) => {
    for (let i = 0; i < to.length; i++) {
      const factor = by.words[(by.starts[row] ?? 0) + (by.length === 1 ? 0 : i)] ?? 0;
      to.words[start + i] = floatBits(mix(mix(8, to.words[start + i] ?? 0), factor));
    }
  });
}

function route(op: OpOf<'route'>): void {
  const { experts, weights, logits, bias, expertScale, rule } = op;
  const { floats, starts, length } = floatRows(logits);
  const [ids, each] = [wordRows(experts), dimension(experts, 1)];
  starts.forEach((start, row) => {
    const order = namedExperts(op, row) ?? Array.from({ length }, (_, e) => e);
    if (!op.table) order.sort((a, b) => (floats[start + b] ?? 0) - (floats[start + a] ?? 0) || a - b);
    ids.words.set(order.slice(0, each), ids.starts[row] ?? 0);
  });
  perRow(
    weights,
    logits,
    hashOf([bias, expertScale], [...Object.values(rule).map(Number), rule.score.length, 6]),
  );
}

function namedExperts({ table, rows, experts }: OpOf<'route'>, row: number): number[] | undefined {
  if (!table || !rows) return undefined;
  const [width, each] = [dimension(table, 1) / dimension(experts, 1), dimension(experts, 1)];
  const { memory, start } = tableRow(table, integers(rows)[row] ?? 0);
  return Array.from({ length: each }, (_, j) => memory.words[start / 4 + j * width] ?? 0);
}

function expertLinear(op: OpOf<'expert_linear'>, { ofAll }: WeightHashes): void {
  const { out, x, experts } = op;
  const ids = integers(experts);
  const shared = dimension(out, 0) / dimension(x, 0);
  const weights = new Map<number, number>();
  for (const expert of new Set(ids)) {
    if (expert !== ELSEWHERE) weights.set(expert, ofAll(chosen(op, expert)));
  }
  const xs = rowHashes(x);
  fillRows(out, (row) => mix(xs[Math.floor(row / shared)] ?? 0, weights.get(ids[row] ?? -1) ?? 0));
}

function headLinear(
  { out, x, weight, headRows, firstRow, transposed }: OpOf<'head_linear'>,
  { ofAll }: WeightHashes,
): void {
  perRow(out, x, mix(ofAll(weight), hashOf([], [headRows, firstRow, Number(transposed)])));
}

function expertBias({ x, experts, bias }: OpOf<'expert_bias'>): void {
  const ids = integers(experts);
  const hashes = Array.from(ids, (expert) =>
    expert === ELSEWHERE ? 0 : contentHash(tableRow(bias, expert)),
  );
  fillRows(x, (row) => hashes[row] ?? 0, true);
}

function scaleRows({ x, weights }: OpOf<'scale_rows'>): void {
  const { words, starts } = wordRows(weights);
  const each = dimension(weights, 1);
  fillRows(x, (row) => mix(9, words[(starts[Math.floor(row / each)] ?? 0) + (row % each)] ?? 0), true);
}

function combine({ x, y, weights, accumulate }: OpOf<'combine'>): void {
  const [ys, each] = [rowHashes(y), dimension(y, 0) / Math.max(1, dimension(x, 0))];
  const shares = weights ? rowHashes(weights) : [];
  fillRows(x, (row) => ys.slice(row * each, (row + 1) * each).reduce(mix, shares[row] ?? 0), accumulate);
}

function rotary({ x, positions, inverseFrequencies, interleaved, scale }: OpOf<'rotary'>): void {
  perToken(x, positions, hashOf([inverseFrequencies], [Number(interleaved), scale]));
}

/** Values of x [T, heads, D] depend on each token's position. */
function perToken(x: Tensor, positions: Tensor, parameters: number): void {
  const hashes = rowHashes(x);
  const at = integers(positions);
  const headCount = dimension(x, 1);
  fillRows(x, (row) => mix(mix(hashes[row] ?? 0, at[Math.floor(row / headCount)] ?? 0), parameters));
}

function gatedRms({ out, x, gate, weight, eps, gateFirst }: OpOf<'gated_rms'>): void {
  const parameters = hashOf([weight], [eps, Number(gateFirst)]);
  const [xs, gates] = [rowHashes(x), rowHashes(gate)];
  fillRows(out, (row) => mix(mix(xs[row] ?? 0, gates[row] ?? 0), parameters));
}

/** A row of another type is as many bytes of noise as it has, and its scales are more of them. */
function storeCache(op: OpOf<'kv_store'>): void {
  const at = integers(op.slots);
  const kvHeads = dimension(op.k, 1);
  const each = [
    [op.k, op.keys, op.keyScales],
    [op.v, op.values, op.valueScales],
  ] as const;
  for (const [from, ...caches] of each) {
    if (!from) continue;
    const { offsets, lengthBytes } = innerRows(from);
    const source = simulated(from.memory);
    for (const cache of caches.filter((tensor) => tensor !== null)) {
      at.forEach((slot, token) => {
        slotRuns(cache, slot).forEach(({ memory, start, end }, head) => {
          const begin = present(offsets[token * kvHeads + head], 'row');
          const row = { memory: source, start: begin, end: begin + lengthBytes };
          const kept = cache.dtype === from.dtype;
          memory.bytes.set(
            kept ? source.bytes.subarray(begin, row.end) : noise(contentHash(row), end - start),
            start,
          );
        });
      });
    }
  }
}

function noise(hash: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count);
  for (let i = 0; i < count; i++) bytes[i] = mix(hash, i);
  return bytes;
}

function attention(op: OpOf<'attention'>): void {
  const { out, q, keys, tables, score } = op;
  const { scale, alibi, windowTokens = 0, chunkTokens = 0, softCap = 0 } = score;
  const sinks = score.sinks ? elementHashes(score.sinks) : [];
  const [headCount, kvHeads] = [dimension(q, 1), dimension(keys, 1)];
  const slopes = alibi ? elementHashes(alibi.slopes) : [];
  const parameters = hashOf([], [scale, softCap, Number(alibi?.rounded ?? false)]);
  const positions = integers(tables.positions);
  const queries = rowHashes(q);
  const results: number[] = [];
  for (const sequence of cachedSequences(op)) {
    const { first, count } = sequence;
    const cached = cacheHashes(op, sequence);
    for (let token = first; token < first + count; token++) {
      const last = positions[token] ?? 0;
      const window = windowTokens > 0 ? Math.max(0, last - windowTokens + 1) : 0;
      const from = Math.max(window, chunkTokens > 0 ? last - (last % chunkTokens) : 0);
      for (let head = 0; head < headCount; head++) {
        const row = token * headCount + head;
        let hash = mix(mix(queries[row] ?? 0, parameters), mix(slopes[head] ?? 0, sinks[head] ?? 0));
        const kvHead = Math.floor((head * kvHeads) / headCount);
        for (let position = from; position <= last; position++) {
          hash = mix(hash, cached[position * kvHeads + kvHead] ?? 0);
        }
        results[row] = hash;
      }
    }
  }
  fillRows(out, (row) => results[row] ?? 0);
}

/** The hash of key and value at each position that is read, for each head: [context, kvHeads]. */
function cacheHashes(op: OpOf<'attention'>, { pages, context, firstRead }: CachedSequence): Int32Array {
  const [kvHeads, pageTokens] = [dimension(op.keys, 1), dimension(op.keys, 2)];
  const tensors = cacheTensors(op).map((cache) => ({
    cache,
    memory: simulated(cache.memory),
    rowBytes: dimension(cache, 3) * DTYPE_BYTES[cache.dtype],
  }));
  const result = new Int32Array(context * kvHeads);
  for (let position = firstRead; position < context; position++) {
    const page = pages[Math.floor(position / pageTokens)] ?? 0;
    for (let head = 0; head < kvHeads; head++) {
      const slot = page * pageTokens + (position % pageTokens);
      let hash: number | undefined;
      for (const { cache, memory, rowBytes } of tensors) {
        const start = slotByte(cache, slot, head);
        hash = contentHash({ memory, start, end: start + rowBytes }, hash);
      }
      result[position * kvHeads + head] = hash ?? 0;
    }
  }
  return result;
}

function tokenRows({ rows, tokens }: OpOf<'token_rows'>): void {
  const [{ words: from, starts }, { words, starts: to }] = [idWords(tokens), idWords(rows)];
  for (let row = 0; row < dimension(tokens, 0); row++) words[to + row] = Math.max(0, from[starts + row] ?? 0);
}

function argmax({ out, logits }: OpOf<'argmax'>): void {
  const { floats, starts, length } = floatRows(logits);
  const { words, starts: to } = idWords(out);
  starts.forEach((start, row) => {
    let best = 0;
    for (let i = 1; i < length; i++) {
      if ((floats[start + i] ?? 0) > (floats[start + best] ?? 0)) best = i;
    }
    words[to + row] = best;
  });
}

function noteNotFinite({ found, x, place, first }: OpOf<'note_not_finite'>): void {
  const { floats, starts, length } = floatRows(x);
  const { words, starts: to } = idWords(found);
  starts.forEach((start, row) => {
    if (first) words[to + row] = -1;
    const finite = floats.subarray(start, start + length).every(Number.isFinite);
    if (!finite && (words[to + row] ?? 0) < 0) words[to + row] = place;
  });
}

function foldNll({ state, logits, targets, firstColumn, first }: OpOf<'nll_fold'>): void {
  const { floats, starts, length } = floatRows(logits);
  const to = floatRows(state);
  const wanted = integers(targets);
  starts.forEach((start, row) => {
    const at = to.starts[row] ?? 0;
    let [maximum, total, target] = first
      ? [Number.NEGATIVE_INFINITY, 0, 0]
      : [to.floats[at] ?? 0, to.floats[at + 1] ?? 0, to.floats[at + 2] ?? 0];
    const logitsOfRow = floats.subarray(start, start + length);
    const largest = logitsOfRow.reduce((most, logit) => Math.max(most, logit), maximum);
    total *= Math.exp(maximum - largest);
    for (const logit of logitsOfRow) total += Math.exp(logit - largest);
    const column = (wanted[row] ?? -1) - firstColumn;
    if (column >= 0 && column < length) target = logitsOfRow[column] ?? 0;
    to.floats.set([largest, total, target], at);
  });
}
