// Walks through a model's forward without data, layer by layer: whoever listens is told every operation.

import { present } from '../errors.js';
import type { FloatType } from '../port/dtype.js';
import type { AttentionTables, Memory, Op, Tensor, Weight } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { pagedCache } from './cache-spec.js';
import { ForwardOps } from './forward-ops.js';
import { type LayerCache, layerCache } from './kv-cache.js';
import type { KvDType } from './kv-type.js';
import type { LayerStates } from './layer-states.js';
import type { LayerSpec, MatrixSpec, TensorSpec } from './layout.js';
import type { ModelSpec, Weights } from './model.js';
import { stateFields } from './state-cache.js';
import { weightOf, weightsOf } from './weights.js';
import { Workspace } from './workspace.js';

/** Its id is that of no memory. */
const NOWHERE: Memory = { id: Number.MAX_SAFE_INTEGER, sizeBytes: Number.MAX_SAFE_INTEGER };

/** In which types a device computes, and keeps keys and values. */
export interface ForwardTypes {
  readonly activationType: FloatType;
  readonly kvType: KvDType;
}

export interface WalkPlace {
  readonly workspace: Memory;
  readonly weights?: (layer: LayerSpec) => Weights;
}

/** The order is the executor's: embedding, blocks, the head's input, pieces of the head, drawing from their logits. */
export class ForwardWalk {
  readonly #model: ModelSpec;
  readonly #kvType: KvDType;
  readonly #workspace: Workspace;
  readonly #ops: ForwardOps;
  readonly #fixed: Weights;
  readonly #weightsOf: (layer: LayerSpec) => Weights;

  /**
   * @param hear is called for every operation, before the call that makes it returns
   * @param place where results and the weights of blocks lie; by default nowhere
   */
  constructor(
    model: ModelSpec,
    { activationType, kvType }: ForwardTypes,
    hear: (op: Op) => void,
    place: WalkPlace = { workspace: NOWHERE },
  ) {
    this.#model = model;
    this.#kvType = kvType;
    this.#weightsOf = place.weights ?? layerWeights;
    this.#workspace = new Workspace(place.workspace, activationType);
    const constants = new Map(
      Object.entries(model.constants).map(([name, values]) => [name, floats([values.length])] as const),
    );
    const { shares } = model;
    const exchange = shares && { id: 0, rank: 0, count: shares.length, sizeBytes: 0 };
    this.#ops = new ForwardOps({ launch: hear }, this.#workspace, constants, exchange);
    this.#fixed = layerWeights(model.fixed);
  }

  /** Scratch of the largest step so far. */
  get workspaceBytes(): number {
    return this.#workspace.peakBytes;
  }

  embed(tokens: number): void {
    this.#ops.enter(undefined, undefined);
    const x = floats([tokens, this.#model.hiddenSize]);
    this.#model.forward.embed(this.#ops, this.#fixed, (key) => lookedUp(this.#model, key, tokens), x);
  }

  block(index: number, tokens: number): void {
    const block = present(this.#model.blocks[index], 'a block');
    const x = floats([tokens, this.#model.hiddenSize]);
    this.#ops.enter(
      tablesFor(tokens),
      cacheFor(this.#model, index, this.#kvType),
      [],
      statesFor(this.#model, index, tokens),
    );
    this.#model.forward.block(this.#ops, this.#weightsOf(block), x, index);
  }

  /** @param rows of which logits are wanted */
  headInput(rows: number): void {
    const k = this.#ops;
    k.enter(undefined, undefined);
    const wanted = k.floats([rows, this.#model.hiddenSize]);
    const out = floats([rows, headInputColumns(this.#model)]);
    this.#model.forward.headInput(k, this.#fixed, wanted, out);
  }

  headPiece(projection: MatrixSpec, rows: number): void {
    const k = this.#ops;
    k.enter(undefined, undefined);
    const out = floats([rows, projection.shape[0]]);
    k.linear(floats([rows, headInputColumns(this.#model)]), weightOf(projection, nowhere), {}, out);
    const { scale, softCap } = this.#model.logits;
    if (scale !== 1 || softCap !== 0) k.scaleCap(out, scale, softCap);
  }

  /** @param rows whose tokens are drawn */
  draw(rows: number): void {
    const k = this.#ops;
    k.enter(undefined, undefined);
    const ints = (shape: readonly number[]) => tensor(NOWHERE, 0, 'i32', shape);
    const tables = { settings: floats([rows, 4]), draws: ints([rows, 4]), history: ints([rows]) };
    k.sample(floats([rows, this.#model.vocabSize]), ints([rows]), tables);
  }
}

/** Shape of what the head's projection takes for `rows` rows. */
export function headInputColumns(model: ModelSpec): number {
  return model.head.projection.shape[1];
}

function floats(shape: readonly number[]): Tensor {
  return tensor(NOWHERE, 0, 'f32', shape);
}

function lookedUp(model: ModelSpec, key: string, tokens: number): { table: Tensor; rows: Tensor } {
  const table = present(
    model.tables.find((candidate) => candidate.key === key),
    `table ${key}`,
  );
  return {
    table: tensor(NOWHERE, 0, table.dtype, [table.rowCount, table.columns]),
    rows: tensor(NOWHERE, 0, 'i32', [tokens]),
  };
}

function tablesFor(tokens: number): AttentionTables {
  const ints = (shape: readonly number[]) => tensor(NOWHERE, 0, 'i32', shape);
  return {
    sequences: ints([1, 4]),
    pages: ints([1]),
    slots: ints([tokens]),
    positions: ints([tokens]),
    tokens: ints([tokens]),
    maxContextTokens: tokens,
  };
}

function cacheFor({ caches }: ModelSpec, block: number, dtype: KvDType): LayerCache | undefined {
  const cache = pagedCache(caches, block);
  return cache && layerCache(NOWHERE, 0, cache, { dtype, pageCount: 1 });
}

function statesFor({ caches }: ModelSpec, block: number, contextTokens: number): LayerStates | undefined {
  const fields = stateFields(NOWHERE, caches.slice(block, block + 1), { slots: 1, contextTokens })[0];
  const ints = (shape: readonly number[]) => tensor(NOWHERE, 0, 'i32', shape);
  return fields && { fields, tables: { sequences: ints([1, 4]), slots: ints([1]) } };
}

/** Experts are alike but for where they lie, and nowhere they all lie at the same place: one stands for hundreds. */
function layerWeights(layer: LayerSpec): Weights {
  // Some may lack an index of groups, and then they are not alike.
  if (layer.matrices.some(({ parts }) => parts.groups)) return weightsOf(layer, nowhere);
  const weights: Weights = weightsOf(layer, nowhere, (keys) => {
    const [first = ''] = keys;
    return new Array<Weight>(keys.length).fill(weights.matrix(first));
  });
  return weights;
}

function nowhere(spec: TensorSpec): Tensor {
  return tensor(NOWHERE, 0, spec.dtype, spec.shape);
}
