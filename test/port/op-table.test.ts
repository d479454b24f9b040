// The table of encoded operations: the encoder writes as it says, and the addon reads as it says.

import { describe, expect, it } from 'vitest';
import { encodeCopy, encodeFill, encodeOp } from '../../offload/backends/op-encoding.js';
import type { FilePieces } from '../../offload/port/file-pieces.js';
import { FORMATS, formatOf, PART_NAMES } from '../../offload/port/formats.js';
import { native } from '../../offload/port/native.js';
import {
  ENCODED_ACTIVATIONS,
  ENCODED_DTYPES,
  ENCODED_SCORES,
  OPERATIONS,
  operationTable,
} from '../../offload/port/op-table.js';
import { contiguousStrides, type Op, partsOf, type Tensor, type Weight } from '../../offload/port/ops.js';

let places = 0;
/** Each lies elsewhere, so that no two can be taken for each other. */
function operand(dtype: Tensor['dtype'] = 'f32', shape: readonly number[] = [2, 3]): Tensor {
  places += 1;
  return {
    memory: { id: 100 + places, sizeBytes: 1 << 20 },
    offsetBytes: 1000 * places,
    dtype,
    shape,
    strides: contiguousStrides(shape),
  };
}

const t = operand;
const mail = () => ({ words: t('i32', [1073]), state: t('i32', [8]) });
const tables = {
  sequences: t('i32'),
  pages: t('i32', [5]),
  slots: t('i32', [2]),
  positions: t('i32', [2]),
  maxContextTokens: 77,
};
const pieces = (id: number): FilePieces => ({ id, stats: () => ({ bytes: 0, busyMs: 0 }) });
const slotsOfFiles = { places: t('i32', [3, 4]), firstPart: 1, firstPiece: 2, pieces: pieces(6) };

/** Numbers differ, and so do flags of one operation. */
const SAMPLES: { readonly [Name in Op['op']]: Extract<Op, { op: Name }> } = {
  gather_rows: {
    op: 'gather_rows',
    out: t(),
    table: t('f16'),
    rows: t('i32', [2]),
    accumulate: true,
    scale: 3,
  },
  layer_norm: {
    op: 'layer_norm',
    out: t(),
    x: t(),
    weight: t('bf16', [3]),
    bias: null,
    eps: 0.5,
    weightOffset: 1,
  },
  rms_norm: { op: 'rms_norm', out: t(), x: t(), weight: t('f16', [3]), eps: 0.25, weightOffset: 1 },
  linear: {
    op: 'linear',
    out: t(),
    x: t('bf16'),
    weight: stored(),
    bias: t('f32', [3]),
    activation: 'gelu_quick',
    accumulate: false,
  },
  head_linear: {
    op: 'head_linear',
    out: t('f32', [2, 3, 4]),
    x: t('bf16', [2, 3, 4]),
    weight: stored(),
    headRows: 21,
    firstRow: 22,
    transposed: true,
  },
  gated: { op: 'gated', out: t(), gate: t(), up: t(), activation: 'silu', limit: 11, limitAfter: true },
  route: {
    op: 'route',
    experts: t('i32'),
    weights: t(),
    logits: t(),
    bias: t('f16', [3]),
    expertScale: t('bf16', [3]),
    table: t('i32'),
    rows: t('i32', [2]),
    rule: {
      score: 'sqrt_softplus',
      groups: 6,
      groupsKept: 5,
      groupBest: 2,
      normalize: true,
      addedToSum: 3,
      leastSum: 4,
      scale: 7,
      sparseMixer: 8,
    },
  },
  scale_rows: { op: 'scale_rows', x: t(), weights: t() },
  gate_sigmoid: { op: 'gate_sigmoid', x: t(), gate: t() },
  expert_linear: {
    op: 'expert_linear',
    out: t(),
    x: t(),
    experts: t('i32'),
    weights: [stored(), stored()],
    slots: { table: t('i32', [5]), memory: t('u8', [3, 64]), count: 3, bytes: 64, files: slotsOfFiles },
  },
  bring_experts: {
    op: 'bring_experts',
    experts: t('i32'),
    slots: t('u8', [3, 64]),
    home: t('u8', [99]),
    places: t('i32', [3, 4]),
    tables: {
      slotOf: t('i32', [2]),
      uses: t('i32', [2]),
      keyOf: t('i32', [3]),
      stamps: t('i32', [3]),
      calls: t('i32', [1]),
      list: t('i32', [5]),
    },
    counts: t('i32', [3]),
    files: pieces(7),
    firstKey: 0,
    ageCalls: 16,
    aside: {
      here: t('i32'),
      there: t('i32'),
      x: t('bf16', [2, 3]),
      hostX: t('f32', [2, 3]),
      weights: t('f32'),
      hostWeights: t('f32'),
      mail: mail(),
      job: 9,
    },
  },
  ask_host: { op: 'ask_host', from: t('f16'), to: t(), mail: mail(), job: 10 },
  take_host: { op: 'take_host', out: t('f16'), from: t(), choices: t('i32', [1, 2]), mail: mail() },
  expert_bias: { op: 'expert_bias', x: t(), experts: t('i32'), bias: t('bf16') },
  gated_pairs: { op: 'gated_pairs', out: t(), x: t(), alpha: 1.5, limit: 7 },
  combine: { op: 'combine', x: t(), y: t(), weights: t(), accumulate: true },
  causal_conv: {
    op: 'causal_conv',
    out: t('f32', [2, 3, 4]),
    x: t('f16', [2, 3, 4]),
    weight: t('bf16', [12, 4]),
    bias: t('f32', [12]),
    state: t('f32', [5, 3, 12]),
    tables: { sequences: t('i32'), slots: t('i32', [2]) },
    activation: 'silu',
  },
  state_scan: {
    op: 'state_scan',
    out: t('f32', [2, 4, 6]),
    q: t('f16', [2, 2, 5]),
    k: t('bf16', [2, 2, 5]),
    v: t('f16', [2, 4, 6]),
    step: t('f32', [2, 2, 2]),
    beta: t('f32', [2, 2, 2]),
    stepBias: t('bf16', [4]),
    decay: t('f32', [4]),
    skip: t('f16', [4]),
    state: t('f32', [5, 4, 5, 6]),
    tables: { sequences: t('i32'), slots: t('i32', [2]) },
    minStep: 0.25,
    maxStep: 3,
    normEps: 1e-6,
    queryScale: 0.5,
  },
  gated_rms: {
    op: 'gated_rms',
    out: t(),
    x: t('f16'),
    gate: t('bf16'),
    weight: t('f16', [3]),
    eps: 0.5,
    gateFirst: true,
  },
  compress: {
    op: 'compress',
    entries: t('f32', [5, 2, 3]),
    values: t('f16', [2, 2, 3]),
    gates: t('f16', [2, 2, 3]),
    bias: t('bf16', [4, 6]),
    norm: t('f16', [3]),
    inverseFrequencies: t('f32', [1]),
    state: t('f32', [5, 2, 3, 3]),
    tables: { sequences: t('i32'), slots: t('i32', [2]) },
    eps: 0.5,
    rotaryScale: 2,
  },
  window_attention: {
    op: 'window_attention',
    out: t('f32', [2, 4, 3]),
    q: t('f16', [2, 4, 3]),
    k: t('bf16', [2, 3]),
    window: t('f32', [5, 7, 3]),
    entries: t('f32', [5, 2, 3]),
    sinks: t('bf16', [4]),
    tables: { sequences: t('i32'), slots: t('i32', [2]) },
    ratio: 4,
    scale: 0.125,
  },
  hyper_weights: {
    op: 'hyper_weights',
    gather: t('f32', [2, 4]),
    spread: t('f32', [2, 4]),
    mix: t('f32', [2, 4, 4]),
    logits: t('f32', [2, 24]),
    base: t('bf16', [24]),
    scale: t('f16', [3]),
    iterations: 20,
    eps: 0.5,
  },
  hyper_mix: {
    op: 'hyper_mix',
    x: t('f32', [2, 4, 3]),
    y: t('bf16', [2, 3]),
    spread: t('f32', [2, 4]),
    mix: t('f32', [2, 4, 4]),
  },
  add: { op: 'add', out: t(), a: t(), b: t(), factor: t('bf16', [1]) },
  rotary: {
    op: 'rotary',
    x: t('f32', [2, 3, 4]),
    positions: t('i32', [2]),
    inverseFrequencies: t('f32', [2]),
    interleaved: true,
    scale: 2,
  },
  kv_store: {
    op: 'kv_store',
    k: t(),
    v: t(),
    keys: t('i8'),
    values: t('i8'),
    keyScales: t('bf16'),
    valueScales: t('bf16'),
    slots: t('i32', [2]),
  },
  attention: {
    op: 'attention',
    out: t(),
    q: t(),
    keys: t('e4m3'),
    values: t('e4m3'),
    keyScales: t('bf16'),
    valueScales: t('bf16'),
    tables,
    score: {
      scale: 0.125,
      alibi: { slopes: t('f32', [3]), rounded: true },
      sinks: t('bf16', [3]),
      windowTokens: 9,
      chunkTokens: 11,
      softCap: 30,
    },
  },
  argmax: { op: 'argmax', out: t('i32', [2]), logits: t() },
  sample: {
    op: 'sample',
    out: t('i32', [2]),
    logits: t(),
    tables: { settings: t(), draws: t('i32'), history: t('i32', [4]) },
  },
  nll_fold: {
    op: 'nll_fold',
    state: t(),
    logits: t(),
    targets: t('i32', [2]),
    firstColumn: 64,
    first: true,
  },
  note_not_finite: { op: 'note_not_finite', found: t('i32', [2]), x: t(), place: 12, first: true },
  scale_cap: { op: 'scale_cap', x: t(), scale: 4, softCap: 50 },
  position_scale: {
    op: 'position_scale',
    x: t('f32', [2, 3, 4]),
    positions: t('i32', [2]),
    beta: 0.5,
    offset: 1,
    length: 64,
  },
  clamp: { op: 'clamp', x: t(), limit: 6 },
};

/** Numbers differ. */
function stored(): Weight {
  const numbers = {
    rowGroup: 5,
    inputGroup: 6,
    product: 'f16',
    bits: 7,
    factor: 0.5,
    nestedOffset: 9,
  } as const;
  const format = formatOf('table4', 'bf16', { ...numbers, zeroPlusOne: true });
  return {
    format,
    shape: [2, 3],
    firstRow: 4,
    parts: { codes: t('u8', [3]), scales: t(), nestedTable: t() },
  };
}

function isWeight(value: unknown): value is Weight {
  return typeof value === 'object' && value !== null && 'format' in value;
}

/** A weight as the line "weights" of the table has it. */
function weightWords({ format, shape, firstRow, parts }: Weight): number[] {
  const line = operationTable().find((row) => row.startsWith('weights: ')) ?? '';
  const values: Readonly<Record<string, unknown>> = { shape, firstRow, ...format };
  const words = line
    .slice('weights: '.length)
    .split(' ')
    .flatMap((name) => {
      if (name === 'format') return [FORMATS.indexOf(format.name)];
      if (name === 'parts')
        return [PART_NAMES.reduce((mask, part, bit) => mask + (parts[part] ? 2 ** bit : 0), 0)];
      if (name === 'shape') return [...shape];
      if ((PART_NAMES as readonly string[]).includes(name)) {
        const part = parts[name as keyof typeof parts];
        return part ? written(part) : [];
      }
      const value = values[name];
      return [
        typeof value === 'string' ? (ENCODED_DTYPES as readonly string[]).indexOf(value) : Number(value),
      ];
    });
  return words;
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'strides' in value;
}

/** What the table names, by what it is. */
function written(value: unknown): number[] {
  if (value === null) return new Array<number>(12).fill(0);
  if (typeof value === 'number') return [value];
  if (typeof value === 'boolean') return [Number(value)];
  if (typeof value === 'string') {
    const lists: readonly (readonly string[])[] = [ENCODED_ACTIVATIONS, ENCODED_SCORES];
    return [lists.find((names) => names.includes(value))?.indexOf(value) ?? -1];
  }
  if (isWeight(value)) return weightWords(value);
  if (Array.isArray(value)) {
    const weights = value as Weight[];
    return [
      value.length,
      ...written(weights[0]),
      ...weights.flatMap(partsOf).flatMap(({ memory, offsetBytes }) => [memory.id, offsetBytes]),
    ];
  }
  if (!isTensor(value)) return [(value as { id: number }).id];
  const four = (sizes: readonly number[]) => [...sizes, 0, 0, 0, 0].slice(0, 4);
  const { memory, offsetBytes, dtype, shape, strides } = value;
  const type = ENCODED_DTYPES.indexOf(dtype);
  return [memory.id, offsetBytes, type, shape.length, ...four(shape), ...four(strides)];
}

function named(from: object, path: string): unknown {
  return path
    .split('.')
    .reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], from as unknown);
}

describe('the table of operations', () => {
  it.each(Object.values(SAMPLES))('$op is written as its row says', (sample) => {
    const code = OPERATIONS.findIndex(([name]) => name === sample.op);
    const operands = OPERATIONS[code]?.[1] ?? '';
    const words = operands.split(' ').flatMap((path) => written(named(sample, path)));
    expect([...encodeOp(sample)]).toEqual([code, ...words]);
  });

  it('copies and fills are written as their rows say', () => {
    const [to, from] = [operand().memory, operand().memory];
    const copy = { to, toOffsetBytes: 1, from, fromOffsetBytes: 2, sizeBytes: 3 };
    const fill = { to, offsetBytes: 4, sizeBytes: 5, byte: 6 };
    const rows = new Map<string, string>(OPERATIONS);
    const expected = (name: string, from: object) => [
      OPERATIONS.findIndex(([other]) => other === name),
      ...(rows.get(name) ?? '').split(' ').flatMap((path) => written(named(from, path))),
    ];
    expect([...encodeCopy(to, 1, from, 2, 3)]).toEqual(expected('copy', copy));
    expect([...encodeFill(to, 4, 5, 6)]).toEqual(expected('fill', fill));
  });

  it('is what the addon reads by', () => {
    expect(native().operationTable()).toEqual(operationTable());
    expect(new Set(OPERATIONS.map(([name]) => name)).size).toBe(OPERATIONS.length);
  });
});
