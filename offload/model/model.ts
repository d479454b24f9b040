// What the runtime needs to know of a model: its layers' bytes, its tables, and the forward of each kind of layer.

import { DTYPE_BYTES, type DType, elementCount } from '../port/dtype.js';
import type { Tensor, Weight } from '../port/ops.js';
import { roundUp } from '../units.js';
import type { CacheSpec } from './cache-spec.js';
import { canShareOutputs, sliceLayer } from './device-slices.js';
import type { ForwardOps } from './forward-ops.js';
import type { ExpertWeights } from './forward-options.js';
import {
  type Extent,
  type LayerSpec,
  layerOf,
  type MatrixSpec,
  type TensorSpec,
  tensorsOf,
} from './layout.js';
import { rowsBetweenCuts, sliceMatrix, sliceRows } from './slice-matrix.js';

/** Weights of the layer that is being computed, by the keys of its tensors and matrices. */
export interface Weights {
  /** A vector. */
  (key: string): Tensor;
  /** Null where the layer has no such vector. */
  optional(key: string): Tensor | null;
  matrix(key: string): Weight;
  hasMatrix(key: string): boolean;
  /** The same matrix of every expert. */
  experts(keys: readonly string[]): ExpertWeights;
}

/** An embedding table: rows are looked up where they rest, one per token; the table is never streamed. */
export interface RowTable {
  readonly key: string;
  readonly rowCount: number;
  readonly columns: number;
  readonly dtype: DType;
  readonly extent: Extent;
  /** The row of a token: its id, or its position plus `rowOffset`. */
  readonly rowsFrom: 'token' | 'position';
  readonly rowOffset: number;
}

/** Looked-up rows of one table for a micro-batch: `table[rows[t]]` is token t's row. */
export interface LookedUpRows {
  readonly table: Tensor;
  readonly rows: Tensor;
}

/** The arithmetic, written once per architecture. T tokens, H hidden size, R rows whose logits are wanted. */
export interface LayerForward {
  /** Fills x [T, H] from the looked-up rows, by table key. */
  embed(k: ForwardOps, w: Weights, rows: (key: string) => LookedUpRows, x: Tensor): void;
  /** Updates x [T, H] in place. */
  block(k: ForwardOps, w: Weights, x: Tensor, blockIndex: number): void;
  /** x [R, H] of the last block → out [R, K], what the head's projection takes. */
  headInput(k: ForwardOps, w: Weights, x: Tensor, out: Tensor): void;
}

export interface ModelSpec {
  readonly architecture: string;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Longest sequence the positions allow; undefined where nothing limits it. */
  readonly maxContextTokens: number | undefined;
  /** Rotations of longer sequences depend on their length, and so do their cached keys; undefined where none do. */
  readonly lengthDependentAfterTokens?: number | undefined;
  /** A sequence that reaches this length is computed again from its start: its cached keys no longer hold. */
  readonly recomputeAtTokens?: number | undefined;
  /** Blocks ask for the tokens themselves, not only for what has become of them. */
  readonly blocksReadTokens?: boolean | undefined;
  /** What each block keeps of the tokens it has seen. */
  readonly caches: readonly CacheSpec[];
  readonly tables: readonly RowTable[];
  /** Small weights that stay on the device: norms of the embedding and of the head. */
  readonly fixed: LayerSpec;
  readonly blocks: readonly LayerSpec[];
  /** [V, K], streamed in pieces of rows; `bias` [V]. */
  readonly head: { readonly projection: MatrixSpec; readonly bias?: TensorSpec };
  /** Applied to logits: · scale, then softCap · tanh(x / softCap) unless 0. */
  readonly logits: { readonly scale: number; readonly softCap: number };
  /** f32 vectors the forward names: rotary frequencies, ALiBi slopes. */
  readonly constants: Readonly<Record<string, Float32Array>>;
  /**
   * Where devices compute a pass together, each with its slices of the blocks' matrices: their constants, by device. Shapes, caches
   * and the forward are then those of one of them.
   */
  readonly shares?: readonly Pick<ModelSpec, 'constants'>[];
  readonly forward: LayerForward;
}

/** The type that most of the blocks' values have, once they are expanded: what their products are best fed with. */
export function weightType(model: ModelSpec): DType {
  const bytes = new Map<DType, number>();
  const add = (type: DType, shape: readonly number[]) =>
    bytes.set(type, (bytes.get(type) ?? 0) + elementCount(shape) * DTYPE_BYTES[type]);
  for (const { matrices } of model.blocks) for (const { format, shape } of matrices) add(format.type, shape);
  const [most] = [...bytes].sort(([, a], [, b]) => b - a);
  return most?.[0] ?? 'f32';
}

/** A piece of the head: logits of columns [firstColumn, firstColumn + columns). */
export interface HeadPiece {
  readonly layer: LayerSpec;
  readonly firstColumn: number;
  /** Those of all devices together. */
  readonly columns: number;
  /** Each device has an equal share of the columns, in the order of the devices; otherwise all of them. */
  readonly isShared: boolean;
}

/** Cuts the head into equal pieces of at most `maxBytes` each (one row at least), where its rows can be cut apart. */
export function cutHead(model: ModelSpec, maxBytes: number): HeadPiece[] {
  const { projection, bias } = model.head;
  const storedBytes = tensorsOf(projection).reduce((sum, { extent }) => sum + extent.sizeBytes, 0);
  const rowBytes = storedBytes / model.vocabSize;
  const devices = model.shares?.length ?? 1;
  const between = rowsBetweenCuts(projection);
  const step = between === undefined ? model.vocabSize : between * devices;
  const rowsAtMost = Math.max(1, Math.floor(maxBytes / rowBytes));
  const pieceCount = Math.ceil(model.vocabSize / rowsAtMost);
  const rowsEach = roundUp(Math.ceil(model.vocabSize / pieceCount), step);
  const pieces: HeadPiece[] = [];
  let columns = 0;
  for (let firstColumn = 0; firstColumn < model.vocabSize; firstColumn += columns) {
    const left = Math.min(rowsEach, model.vocabSize - firstColumn);
    // Devices share a multiple of their number; what is left is a piece that each has whole.
    columns = left > step ? left - (left % step) : left;
    const weights: (MatrixSpec | TensorSpec)[] = [
      { ...sliceMatrix(projection, firstColumn, columns), key: 'projection' },
    ];
    if (bias) weights.push({ ...sliceRows(bias, firstColumn, columns), key: 'bias' });
    pieces.push({ ...shareRows(layerOf(`head ${pieces.length}`, weights), devices), firstColumn, columns });
  }
  return pieces;
}

/** A piece of the head as each of several devices has it: an equal share of its rows, or all of them. */
function shareRows(layer: LayerSpec, devices: number): Pick<HeadPiece, 'layer' | 'isShared'> {
  if (devices === 1 || !layer.matrices.every((matrix) => canShareOutputs(matrix, devices)))
    return { layer, isShared: false };
  const [rows = 0] = layer.matrices[0]?.shape ?? [];
  const how = { dimension: 0, runs: [{ whole: rows, share: rows / devices }] };
  return { layer: sliceLayer(layer, () => how, devices), isShared: true };
}
