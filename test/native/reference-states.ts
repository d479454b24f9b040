// Layers with a state per sequence in float64 and plain loops: convolution, recurrence, and the norm behind it.

import type { Op, StateTables, Tensor } from '../../offload/port/ops.js';
import { Values, type Written } from './reference-values.js';
import type { Bytes } from './tensor-bytes.js';

type OpOf<Name extends Op['op']> = Extract<Op, { op: Name }>;

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const softplus = (x: number) => (x > 30 ? x : Math.log1p(Math.exp(x)));

interface StateSequence {
  readonly first: number;
  readonly tokens: number;
  readonly slot: number;
  /** Position of the first token. */
  readonly start: number;
  readonly begins: boolean;
}

export function sequencesOf({ sequences, slots }: StateTables, bytes: Bytes): StateSequence[] {
  const [table, slot] = [new Values(sequences, bytes), new Values(slots, bytes)];
  return Array.from({ length: table.size(0) }, (_, s) => ({
    first: table.get(s, 0),
    tokens: table.get(s, 1),
    slot: slot.get(s),
    start: table.get(s, 2) - table.get(s, 1),
    begins: table.get(s, 1) === table.get(s, 2),
  }));
}

export function convolve(
  op: OpOf<'causal_conv'>,
  bytes: Bytes,
  activate: (x: number) => number,
): readonly Written[] {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [out, x, weight, state] = [read(op.out), read(op.x), read(op.weight), read(op.state)];
  const bias = op.bias && read(op.bias);
  const [width, depth] = [weight.size(1), x.size(2)];
  for (const { first, tokens, slot, begins } of sequencesOf(op.tables, bytes)) {
    for (let channel = 0; channel < weight.size(0); channel++) {
      const [group, d] = [Math.floor(channel / depth), channel % depth];
      const before = Array.from({ length: width - 1 }, (_, j) => (begins ? 0 : state.get(slot, j, channel)));
      const inputs = [...before, ...Array.from({ length: tokens }, (_, t) => x.get(first + t, group, d))];
      for (let t = 0; t < tokens; t++) {
        let sum = bias?.get(channel) ?? 0;
        for (let j = 0; j < width; j++) sum += weight.get(channel, j) * (inputs[t + j] ?? 0);
        out.set(activate(sum), first + t, group, d);
      }
      for (let j = 0; j < width - 1; j++) state.set(inputs[tokens + j] ?? 0, slot, j, channel);
    }
  }
  return [out.written, state.written];
}

export function scan(op: OpOf<'state_scan'>, bytes: Bytes): readonly Written[] {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [out, v, state, step] = [read(op.out), read(op.v), read(op.state), read(op.step)];
  const [qs, ks, beta, skip] = [read(op.q), read(op.k), op.beta && read(op.beta), op.skip && read(op.skip)];
  const [stepBias, decay] = [read(op.stepBias), read(op.decay)];
  const [heads, columns, depth] = [v.size(1), v.size(2), ks.size(2)];
  const each = heads / ks.size(1);
  const counted = (from: Values, t: number, group: number, scale: number) => {
    const row = Array.from({ length: depth }, (_, i) => from.get(t, group, i));
    const length = op.normEps === 0 ? 1 : Math.sqrt(row.reduce((sum, x) => sum + x * x, op.normEps));
    return row.map((x) => (x * scale) / length);
  };
  for (const { first, tokens, slot, begins } of sequencesOf(op.tables, bytes)) {
    for (let h = 0; h < heads; h++) {
      const [group, within] = [Math.floor(h / each), h % each];
      const s = Array.from({ length: depth }, (_, i) =>
        Array.from({ length: columns }, (_, c) => (begins ? 0 : state.get(slot, h, i, c))),
      );
      for (let t = first; t < first + tokens; t++) {
        const [q, k] = [counted(qs, t, group, op.queryScale), counted(ks, t, group, 1)];
        const raw = softplus(step.get(t, group, within) + stepBias.get(h));
        const size = Math.min(Math.max(raw, op.minStep), op.maxStep);
        const kept = Math.exp(-Math.exp(decay.get(h)) * size);
        for (let c = 0; c < columns; c++) {
          const along = (by: readonly number[]) => by.reduce((sum, x, i) => sum + x * (s[i]?.[c] ?? 0), 0);
          for (const row of s) row[c] = (row[c] ?? 0) * kept;
          const value = v.get(t, h, c);
          const delta = beta ? sigmoid(beta.get(t, group, within)) * (value - along(k)) : size * value;
          for (const [i, row] of s.entries()) row[c] = (row[c] ?? 0) + (k[i] ?? 0) * delta;
          out.set(along(q) + (skip?.get(h) ?? 0) * value, t, h, c);
        }
      }
      for (const [i, row] of s.entries()) for (const [c, x] of row.entries()) state.set(x, slot, h, i, c);
    }
  }
  return [out.written, state.written];
}

export function gatedRms(op: OpOf<'gated_rms'>, bytes: Bytes): Written {
  const read = (tensor: Tensor) => new Values(tensor, bytes);
  const [out, x, gates, weight] = [read(op.out), read(op.x), read(op.gate), read(op.weight)];
  const length = x.shape.at(-1) ?? 0;
  for (let start = 0; start < x.values.length; start += length) {
    const gate = [...gates.values.slice(start, start + length)].map((z) => z * sigmoid(z));
    const row = [...x.values.slice(start, start + length)].map((value, i) =>
      op.gateFirst ? value * (gate[i] ?? 0) : value,
    );
    const size = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / length + op.eps);
    row.forEach((value, i) => {
      const normed = (value / size) * weight.get((start + i) % weight.size(0));
      out.values[start + i] = op.gateFirst ? normed : normed * (gate[i] ?? 0);
    });
  }
  return out.written;
}
