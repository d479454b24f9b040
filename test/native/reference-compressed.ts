// Entries of runs of tokens, attention over a window and such entries, and hyper-connections, in float64 and plain loops.

import type { Op, Tensor } from '../../offload/port/ops.js';
import { sequencesOf } from './reference-states.js';
import { Values, type Written } from './reference-values.js';
import type { Bytes } from './tensor-bytes.js';

type OpOf<Name extends Op['op']> = Extract<Op, { op: Name }>;

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** What has been seen of a run, by channel: largest gate, sum of weights, weighted sum. */
type Seen = readonly [number, number, number];
const NOTHING: Seen = [Number.NEGATIVE_INFINITY, 0, 0];

function seeing([largest, sum, weighted]: Seen, gate: number, value: number): Seen {
  const most = Math.max(largest, gate);
  const [kept, part] = [Math.exp(largest - most), Math.exp(gate - most)];
  return [most, sum * kept + part, weighted * kept + part * value];
}

export function compress(op: OpOf<'compress'>, bytes: Bytes): readonly Written[] {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [entries, values, gates, bias] = [read(op.entries), read(op.values), read(op.gates), read(op.bias)];
  const [norm, frequencies, state] = [read(op.norm), read(op.inverseFrequencies), read(op.state)];
  const [ratio, series, depth] = [bias.size(0), values.size(1), values.size(2)];
  const channels = Array.from({ length: depth }, (_, d) => d);
  for (const { first, tokens, start, slot, begins } of sequencesOf(op.tables, bytes)) {
    const stored = (part: number): Seen[] =>
      channels.map((d) =>
        begins ? NOTHING : ([0, 1, 2].map((which) => state.get(slot, part, which, d)) as unknown as Seen),
      );
    let [own, next] = [stored(0), series === 2 ? stored(1) : []];
    for (let t = 0; t < tokens; t++) {
      const [position, token] = [start + t, first + t];
      const take = (seen: readonly Seen[], which: number) =>
        seen.map((each, d) =>
          seeing(
            each,
            gates.get(token, which, d) + bias.get(position % ratio, which * depth + d),
            values.get(token, which, d),
          ),
        );
      own = take(own, series - 1);
      if (series === 2) next = take(next, 0);
      if ((position + 1) % ratio !== 0) continue;
      const run = Math.floor(position / ratio);
      writeEntry(
        own.map(([, sum, weighted]) => weighted / sum),
        run,
      );
      [own, next] = series === 2 ? [next, channels.map(() => NOTHING)] : [channels.map(() => NOTHING), []];
    }
    function writeEntry(mean: readonly number[], run: number): void {
      const size = Math.sqrt(mean.reduce((sum, x) => sum + x * x, 0) / depth + op.eps);
      const normed = mean.map((x, d) => (x / size) * norm.get(d));
      const plain = depth - 2 * frequencies.size(0);
      for (let i = 0; i < frequencies.size(0); i++) {
        const angle = run * ratio * frequencies.get(i);
        const [cosine, sine] = [Math.cos(angle) * op.rotaryScale, Math.sin(angle) * op.rotaryScale];
        const [a = 0, b = 0] = normed.slice(plain + 2 * i, plain + 2 * i + 2);
        normed[plain + 2 * i] = a * cosine - b * sine;
        normed[plain + 2 * i + 1] = b * cosine + a * sine;
      }
      for (const [d, x] of normed.entries()) entries.set(x, slot, run, d);
    }
    if (tokens === 0) continue;
    for (const [part, seen] of [own, next].slice(0, series).entries()) {
      for (const [d, each] of seen.entries())
        for (const [which, x] of each.entries()) state.set(x, slot, part, which, d);
    }
  }
  return [entries.written, state.written];
}

export function attendWindow(op: OpOf<'window_attention'>, bytes: Bytes): readonly Written[] {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [out, q, k, window] = [read(op.out), read(op.q), read(op.k), read(op.window)];
  const [entries, sinks] = [op.entries && read(op.entries), op.sinks && read(op.sinks)];
  const [heads, depth, width] = [q.size(1), q.size(2), window.size(1)];
  const channels = Array.from({ length: depth }, (_, d) => d);
  for (const { first, tokens, start, slot } of sequencesOf(op.tables, bytes)) {
    const keyAt = (position: number) =>
      position >= start
        ? channels.map((d) => k.get(first + position - start, d))
        : channels.map((d) => window.get(slot, position % width, d));
    for (let t = 0; t < tokens; t++) {
      const position = start + t;
      const keys: number[][] = [];
      for (let at = Math.max(0, position - width + 1); at <= position; at++) keys.push(keyAt(at));
      const ended = entries ? Math.floor((position + 1) / op.ratio) : 0;
      for (let run = 0; run < ended; run++)
        keys.push(channels.map((d) => entries?.get(slot, run, d) ?? Number.NaN));
      for (let h = 0; h < heads; h++) {
        const scores = keys.map(
          (key) => op.scale * key.reduce((sum, x, d) => sum + x * q.get(first + t, h, d), 0),
        );
        const sink = sinks?.get(h) ?? Number.NEGATIVE_INFINITY;
        const largest = Math.max(sink, ...scores);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((sum, weight) => sum + weight, Math.exp(sink - largest));
        for (const d of channels) {
          const sum = keys.reduce((all, key, i) => all + (weights[i] ?? 0) * (key[d] ?? 0), 0);
          out.set(sum / total, first + t, h, d);
        }
      }
    }
    const kept = Array.from({ length: Math.min(tokens, width) }, (_, i) => start + tokens - 1 - i);
    for (const position of kept)
      for (const [d, x] of keyAt(position).entries()) window.set(x, slot, position % width, d);
  }
  return [out.written, window.written];
}

export function weighStreams(op: OpOf<'hyper_weights'>, bytes: Bytes): readonly Written[] {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [gather, logits, base, scale] = [read(op.gather), read(op.logits), read(op.base), read(op.scale)];
  const [spread, mix] = [op.spread && read(op.spread), op.mix && read(op.mix)];
  const [tokens, n] = [gather.size(0), gather.size(1)];
  const streams = Array.from({ length: n }, (_, j) => j);
  for (let t = 0; t < tokens; t++) {
    const at = (i: number, part: number) => logits.get(t, i) * scale.get(part) + base.get(i);
    for (const j of streams) gather.set(sigmoid(at(j, 0)) + op.eps, t, j);
    if (!spread || !mix) continue;
    for (const j of streams) spread.set(2 * sigmoid(at(n + j, 1)), t, j);
    const rows = streams.map((i) => {
      const row = streams.map((j) => at(2 * n + i * n + j, 2));
      const largest = Math.max(...row);
      const parts = row.map((x) => Math.exp(x - largest));
      const sum = parts.reduce((all, x) => all + x, 0);
      return parts.map((x) => x / sum + op.eps);
    });
    const divideRows = () => {
      for (const row of rows) {
        const sum = row.reduce((all, x) => all + x, op.eps);
        for (const j of streams) row[j] = (row[j] ?? 0) / sum;
      }
    };
    const divideColumns = () => {
      for (const j of streams) {
        const sum = rows.reduce((all, row) => all + (row[j] ?? 0), op.eps);
        for (const row of rows) row[j] = (row[j] ?? 0) / sum;
      }
    };
    divideColumns();
    for (let round = 1; round < op.iterations; round++) {
      divideRows();
      divideColumns();
    }
    for (const [i, row] of rows.entries()) for (const [j, x] of row.entries()) mix.set(x, t, i, j);
  }
  return [gather, spread, mix].flatMap((values) => values?.written ?? []);
}

export function mixStreams(op: OpOf<'hyper_mix'>, bytes: Bytes): Written {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [x, y, spread, mix] = [read(op.x), read(op.y), read(op.spread), read(op.mix)];
  const streams = Array.from({ length: x.size(1) }, (_, j) => j);
  for (let t = 0; t < x.size(0); t++) {
    for (let i = 0; i < x.size(2); i++) {
      const before = streams.map((j) => x.get(t, j, i));
      for (const j of streams) {
        const mixed = before.reduce((sum, value, from) => sum + mix.get(t, from, j) * value, 0);
        x.set(spread.get(t, j) * y.get(t, i) + mixed, t, j, i);
      }
    }
  }
  return x.written;
}
