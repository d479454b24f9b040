// Mamba 2 (Dao & Gu 2024): a convolution, then a state per head that every token fades and adds to.

import { columns, heads, reshaped } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';
import type { Mixer } from './mixer.js';

export interface MambaDimensions {
  /** Hidden size. */
  readonly H: number;
  readonly heads: number;
  /** Dimensions of a head. */
  readonly P: number;
  /** Size of a state beside that. */
  readonly N: number;
  /** Runs of heads that share what they write and read their states with. */
  readonly groups: number;
  /** Runs of channels that are normed together. */
  readonly normGroups: number;
  /** Taps of the convolution. */
  readonly W: number;
  readonly convBias: boolean;
  readonly bias: boolean;
  readonly eps: number;
  /** Limits of a step. */
  readonly minStep: number;
  readonly maxStep: number;
}

/** @param name what the mixer is called below a layer */
export function mamba(name: string, d: MambaDimensions): Mixer {
  const { H, P, N, groups, normGroups, W, eps, minStep, maxStep } = d;
  const I = d.heads * P;
  const C = I + 2 * groups * N;
  const key = (part: string) => `${name}.${part}`;
  return {
    tensors: (path) =>
      tensorsUnder(path, {
        [key('in_proj.weight')]: [I + C + d.heads, H],
        [key('in_proj.bias')]: d.bias ? [I + C + d.heads] : undefined,
        [key('conv1d.weight')]: [C, 1, W],
        [key('conv1d.bias')]: d.convBias ? [C] : undefined,
        [key('dt_bias')]: [d.heads],
        [key('A_log')]: [d.heads],
        [key('D')]: [d.heads],
        [key('norm.weight')]: [I],
        [key('out_proj.weight')]: [H, I],
        [key('out_proj.bias')]: d.bias ? [H] : undefined,
      }),
    cache: {
      kind: 'recurrent',
      fields: [
        { name: 'inputs', shape: [W - 1, C], dtype: 'f32' },
        { name: 'memory', shape: [d.heads, N, P], dtype: 'f32' },
      ],
    },
    add(k, w, norm, x) {
      const normed = norm(); // [T, H]
      const projected = project(k, w, normed, key('in_proj')); // [T, I + C + heads]
      const [T = 0] = x.shape;
      const mixed = k.empty([T, C]);
      k.causalConv(heads(projected, 1, C, I), reshaped(w(key('conv1d.weight')), [C, W]), heads(mixed, 1, C), {
        state: k.state('inputs'),
        bias: w.optional(key('conv1d.bias')),
        activation: 'silu',
      });
      const shared = (first: number) => heads(columns(mixed, first, groups * N), groups, N); // [T, groups, N]
      const values = heads(columns(mixed, 0, I), d.heads, P); // [T, heads, P]
      const read = k.stateScan(shared(I + groups * N), shared(I), values, {
        state: k.state('memory'),
        step: heads(columns(projected, I + C, d.heads), groups, d.heads / groups), // [T, groups, heads / groups]
        stepBias: w(key('dt_bias')),
        decay: w(key('A_log')),
        skip: w(key('D')),
        minStep,
        maxStep,
      }); // [T, heads, P]
      const gate = heads(projected, normGroups, I / normGroups); // [T, normGroups, I / normGroups]
      const seen = reshaped(read, gate.shape);
      const normal = k.gatedRms(seen, gate, w(key('norm.weight')), { eps, gateFirst: true });
      project(k, w, reshaped(normal, [T, I]), key('out_proj'), x);
    },
  };
}

/** `time_step_limit` as two numbers, of which the second may be infinite. */
export function readStepLimits(config: ConfigReader): { readonly minStep: number; readonly maxStep: number } {
  const given = config.raw('time_step_limit');
  if (given === undefined) return { minStep: 0, maxStep: Number.POSITIVE_INFINITY };
  const limits = Array.isArray(given) ? given.map(stepLimit) : [];
  const [minStep, maxStep] = limits;
  if (limits.length !== 2 || minStep === undefined || maxStep === undefined || minStep > maxStep) {
    throw config.unsupported('time_step_limit', given, 'two numbers, the smaller one first');
  }
  return { minStep, maxStep };
}

/** Configurations write what JSON has no number for in a way of their own. */
function stepLimit(value: unknown): number | undefined {
  if (typeof value === 'number' && !Number.isNaN(value)) return value;
  const name = typeof value === 'object' && value !== null && '__float__' in value ? value.__float__ : value;
  return name === 'Infinity' ? Number.POSITIVE_INFINITY : undefined;
}
