// A small random transformer whose weights, in any format, lie anywhere in a few random files: all the runtime sees of a real one.

import { present } from '../../offload/errors.js';
import { alikeCaches, type CacheSpec, pagedCache } from '../../offload/model/cache-spec.js';
import type { ForwardOps } from '../../offload/model/forward-ops.js';
import {
  type Extent,
  type LayerSpec,
  layerOf,
  type MatrixSpec,
  type TensorSpec,
} from '../../offload/model/layout.js';
import type { LayerForward, ModelSpec, RowTable, Weights } from '../../offload/model/model.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import { PART_NAMES } from '../../offload/port/formats.js';
import type { Tensor } from '../../offload/port/ops.js';
import { heads, reshaped } from '../../offload/port/tensor.js';
import { Random } from '../simulator/random.js';
import { mixExperts, mixtureWeights, type ToyMixture } from './toy-mixture.js';
import { drawMatrix, type Take } from './toy-weights.js';

export interface ToyModel {
  readonly model: ModelSpec;
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly paths: readonly string[];
  readonly contextTokens: number;
}

/** What a block keeps: pages, with values in their keys, those of an earlier block, or a state. */
export type BlockKind = 'pages' | 'in keys' | 'shared' | 'state' | 'window' | 'chunk';

/** What tokens of such blocks see. */
const SEEN = { window: { windowTokens: 7 }, chunk: { chunkTokens: 10 } };

export interface ToyOptions {
  readonly hook?: WeightHook | undefined;
  readonly kindOf?: (blockIndex: number) => BlockKind;
  readonly mixtureOf?: (blockIndex: number) => ToyMixture | undefined;
}

/** Called with each weight that a block's forward takes, so that a test can say what it must hold. */
export type WeightHook = (weight: Tensor, layerName: string, key: string) => void;

export const HIDDEN = 16;
const HEADS = 2;
const HEAD_DIM = 8;
export const CONTEXT_TOKENS = 40;

const NOISE_BYTES = 1 << 21;
let noise: Uint8Array | undefined;

/** Bytes of a file: nowhere the same as at other offsets or in other files. */
function content(random: Random, sizeBytes: number): Uint8Array {
  if (!noise) {
    const generator = new Random(7);
    const words = new Int32Array(NOISE_BYTES / 4).map(() => generator.bits());
    noise = new Uint8Array(words.buffer);
  }
  const start = random.between(0, NOISE_BYTES - sizeBytes);
  return noise.subarray(start, start + sizeBytes);
}

/** Hands out places in files: dense, with small odd gaps, or far apart. */
class Places {
  readonly #random: Random;
  readonly #used: number[];

  constructor(random: Random, fileCount: number) {
    this.#random = random;
    this.#used = Array.from({ length: fileCount }, () => random.between(0, 5000));
  }

  get sizes(): readonly number[] {
    return this.#used;
  }

  take(sizeBytes: number): Extent {
    const random = this.#random;
    const fileIndex = random.between(0, this.#used.length - 1);
    const gap = random.chance(0.7) ? 0 : random.chance(0.8) ? random.between(1, 700) : 17_000;
    const fileOffset = present(this.#used[fileIndex], 'file') + gap;
    this.#used[fileIndex] = fileOffset + sizeBytes;
    return { fileIndex, fileOffset, sizeBytes };
  }
}

export function makeToyModel(
  random: Random,
  blockCount: number,
  { hook = () => undefined, kindOf = () => 'pages', mixtureOf = () => undefined }: ToyOptions = {},
): ToyModel {
  const places = new Places(random, random.between(1, 3));
  const kvHeads = random.between(1, HEADS);
  const vocabSize = random.between(20, 90);
  const biased = random.chance(0.5);
  const take: Take = (key, dtype, shape) => {
    return { key, dtype, shape, extent: places.take(elementCount(shape) * DTYPE_BYTES[dtype]) };
  };
  const weight = (key: string, shape: readonly number[]) =>
    take(key, random.pick(['f32', 'f16', 'bf16']), shape);
  const matrix = (key: string, N: number, K: number) =>
    drawMatrix(random, { key, N, K, isCut: key === 'projection' }, take);
  const table = (key: string, rowCount: number, from: RowTable['rowsFrom'], rowOffset: number): RowTable => {
    const { dtype, extent } = weight(key, [rowCount, HIDDEN]);
    return { key, rowCount, columns: HIDDEN, dtype, extent, rowsFrom: from, rowOffset };
  };
  const parts = random.shuffled([
    ...Array.from({ length: blockCount }, (_, index) => ({ kind: 'block' as const, index })),
    { kind: 'tables' as const, index: 0 },
    { kind: 'fixed' as const, index: 0 },
    { kind: 'head' as const, index: 0 },
  ]);
  const blocks: LayerSpec[] = [];
  let tables: RowTable[] = [];
  let fixed: LayerSpec | undefined;
  let head: ModelSpec['head'] | undefined;
  for (const { kind, index } of parts) {
    if (kind === 'block') {
      const mixture = mixtureOf(index);
      const feeds = mixture ? mixtureWeights(mixture, HIDDEN, take) : undefined;
      const draws = { random, kvHeads, biased, weight, matrix, feeds };
      blocks[index] = layerOf(`block ${index}`, blockWeights(draws));
    } else if (kind === 'tables') {
      tables = [table('tokens', vocabSize, 'token', 0)];
      if (random.chance(0.5)) tables.push(table('positions', CONTEXT_TOKENS + 2, 'position', 2));
    } else if (kind === 'fixed') {
      fixed = layerOf('fixed', random.shuffled([weight('embed norm', [HIDDEN]), weight('norm', [HIDDEN])]));
    } else {
      const projection = matrix('projection', vocabSize, HIDDEN);
      head = random.chance(0.5) ? { projection, bias: weight('bias', [vocabSize]) } : { projection };
    }
  }
  const caches = toyCaches(blockCount, kvHeads, kindOf);
  const model: ModelSpec = {
    architecture: 'Toy',
    hiddenSize: HIDDEN,
    vocabSize,
    maxContextTokens: CONTEXT_TOKENS,
    caches,
    tables,
    fixed: present(fixed, 'fixed weights'),
    blocks,
    head: present(head, 'head'),
    logits: { scale: random.pick([1, 0.5]), softCap: random.pick([0, 30]) },
    constants: {
      frequencies: Float32Array.of(1, 0.1, 0.01, 0.001),
      slopes: Float32Array.of(0.5, 0.25),
      taps: new Float32Array(mixedChannels(kvHeads) * TAPS).fill(0.5),
      gains: new Float32Array(HEAD_DIM).fill(1),
    },
    forward: toyForward(
      { tables, kvHeads, blocks, caches, mixtures: blocks.map((_, index) => mixtureOf(index)) },
      hook,
    ),
  };
  const paths = places.sizes.map((_, index) => `/weights-${index}.safetensors`);
  const files = new Map(
    places.sizes.map((sizeBytes, index) => [
      present(paths[index], 'path'),
      // Files end anywhere, also right after the last weight.
      content(random, sizeBytes + (random.chance(0.5) ? 0 : random.between(1, 6000))),
    ]),
  );
  return { model, files, paths, contextTokens: CONTEXT_TOKENS };
}

/** What blocks keep; the first one that is to share has nobody to share with, and keeps pages. */
function toyCaches(
  blockCount: number,
  kvHeads: number,
  kindOf: (blockIndex: number) => BlockKind,
): CacheSpec[] {
  let owner: number | undefined;
  return alikeCaches(blockCount, kvHeads, HEAD_DIM).map((pages, block) => {
    const kind = kindOf(block);
    if (kind === 'state') return stateCache(kvHeads);
    if (kind === 'shared' && owner !== undefined) return { kind, block: owner };
    owner = block;
    if (kind === 'window' || kind === 'chunk') return { ...pages, ...SEEN[kind] };
    return kind === 'in keys' ? { ...pages, valuesInKeys: true } : pages;
  });
}

interface BlockDraws {
  readonly random: Random;
  readonly kvHeads: number;
  readonly biased: boolean;
  readonly weight: (key: string, shape: readonly number[]) => TensorSpec;
  readonly matrix: (key: string, N: number, K: number) => MatrixSpec;
  /** A mixture's, in place of those of a dense block. */
  readonly feeds: readonly (() => MatrixSpec)[] | undefined;
}

function blockWeights({
  random,
  kvHeads,
  biased,
  weight,
  matrix,
  feeds,
}: BlockDraws): (TensorSpec | MatrixSpec)[] {
  // Now and then a layer is several times larger than its neighbours.
  const inner = random.chance(0.15) ? 96 : random.between(8, 32);
  const keyValue = kvHeads * HEAD_DIM;
  const dense = [
    () => matrix('gate', inner, HIDDEN),
    () => matrix('up', inner, HIDDEN),
    () => matrix('down', HIDDEN, inner),
  ];
  const weights: (() => TensorSpec | MatrixSpec)[] = [
    () => weight('norm', [HIDDEN]),
    () => matrix('qkv', HIDDEN + 2 * keyValue, HIDDEN),
    () => matrix('out', HIDDEN, HIDDEN),
    ...(feeds ?? dense),
  ];
  if (biased) weights.push(() => weight('qkv bias', [HIDDEN + 2 * keyValue]));
  return random.shuffled(weights).map((make) => make());
}

/** Taps of a convolution. */
const TAPS = 3;

function mixedChannels(kvHeads: number): number {
  return HIDDEN + 2 * kvHeads * HEAD_DIM;
}

function stateCache(kvHeads: number): CacheSpec {
  return {
    kind: 'recurrent',
    fields: [
      { name: 'inputs', shape: [TAPS - 1, mixedChannels(kvHeads)], dtype: 'f32' },
      { name: 'memory', shape: [HEADS, HEAD_DIM, HEAD_DIM], dtype: 'f32' },
    ],
  };
}

/** In place of attention, with the same weights: a convolution, a recurrence and a gated norm [T, HIDDEN]. */
function remember(k: ForwardOps, qkv: Tensor, kvHeads: number): Tensor {
  const [T = 0, C = 0] = qkv.shape;
  const mixed = k.empty([T, C]);
  const taps = reshaped(k.constant('taps'), [C, TAPS]);
  k.causalConv(heads(qkv, 1, C), taps, heads(mixed, 1, C), { state: k.state('inputs'), activation: 'silu' });
  const [q, key] = [heads(mixed, kvHeads, HEAD_DIM), heads(mixed, kvHeads, HEAD_DIM, HIDDEN)];
  const read = k.stateScan(q, key, heads(mixed, HEADS, HEAD_DIM), {
    state: k.state('memory'),
    step: heads(mixed, kvHeads, HEADS / kvHeads, 3),
    beta: heads(mixed, kvHeads, HEADS / kvHeads, 7),
    stepBias: k.constant('slopes'),
    decay: k.constant('slopes'),
    normEps: 1e-6,
  });
  const gate = heads(qkv, HEADS, HEAD_DIM);
  return reshaped(k.gatedRms(read, gate, k.constant('gains'), { eps: 1e-6, gateFirst: false }), [T, HIDDEN]);
}

interface ToyShape {
  readonly tables: readonly RowTable[];
  readonly kvHeads: number;
  readonly blocks: readonly LayerSpec[];
  readonly caches: readonly CacheSpec[];
  /** By block; undefined where it is dense. */
  readonly mixtures: readonly (ToyMixture | undefined)[];
}

function toyForward({ tables, kvHeads, blocks, caches, mixtures }: ToyShape, hook: WeightHook): LayerForward {
  const keyValue = kvHeads * HEAD_DIM;
  return {
    embed(k, w, rows, x) {
      tables.forEach(({ key }, index) => {
        const { table, rows: wanted } = rows(key);
        k.gather(x, table, wanted, { accumulate: index > 0 });
      });
      k.rmsNorm(x, w('embed norm'), 1e-5, 0, x);
    },
    block(k, weights, x, blockIndex) {
      const name = present(blocks[blockIndex], 'block').name;
      const watch = (key: string, tensor: Tensor | null) => {
        if (tensor) hook(tensor, name, key);
        return tensor;
      };
      const w = Object.assign((key: string) => present(watch(key, weights(key)), key), {
        optional: (key: string) => watch(key, weights.optional(key)),
        hasMatrix: weights.hasMatrix,
        experts: weights.experts,
        matrix: (key: string) => {
          const matrix = weights.matrix(key);
          // No hash is known beforehand where some rows are elsewhere; they show in the results.
          if ('there' in matrix) return matrix;
          for (const name of PART_NAMES) {
            watch(name === 'codes' ? key : `${key} ${name}`, matrix.parts[name] ?? null);
          }
          return matrix;
        },
      }) satisfies Weights;
      const norm = w('norm');
      const qkv = k.linear(k.rmsNorm(x, norm, 1e-5), w.matrix('qkv'), { bias: w.optional('qkv bias') });
      const attend = () => {
        const q = heads(qkv, HEADS, HEAD_DIM);
        const key = heads(qkv, kvHeads, HEAD_DIM, HIDDEN);
        const value = heads(qkv, kvHeads, HEAD_DIM, HIDDEN + keyValue);
        k.rotary(q, k.constant('frequencies'));
        k.rotary(key, k.constant('frequencies'));
        const cache = caches[blockIndex];
        const { windowTokens = 0, chunkTokens = 0 } = pagedCache(caches, blockIndex) ?? {};
        const score = { scale: 0.3, alibi: { slopes: k.constant('slopes') }, windowTokens, chunkTokens };
        if (cache?.kind === 'shared') return k.attention(q, null, null, score);
        return k.attention(q, key, cache?.kind === 'paged' && cache.valuesInKeys ? null : value, score);
      };
      const attended = caches[blockIndex]?.kind === 'recurrent' ? remember(k, qkv, kvHeads) : attend();
      const projected = k.linear(attended, w.matrix('out'));
      k.add(projected, x, x);
      const y = k.layerNorm(x, norm, null, 1e-5);
      const mixture = mixtures[blockIndex];
      if (mixture) return mixExperts({ k, w, y, x }, mixture);
      const inner = k.gated(k.linear(y, w.matrix('gate')), k.linear(y, w.matrix('up')), 'silu');
      k.linear(inner, w.matrix('down'), { addTo: x });
    },
    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm'), 1e-5, 1, out);
    },
  };
}
