// Runs a model's forward without data: how much scratch it needs and how much arithmetic it is.

import type { DeviceEvent, DeviceStream } from './backend.js';
import { assert, present } from './errors.js';
import { type BlockCache, Kernels, Workspace } from './kernels.js';
import { PAGE_TOKENS } from './kv-cache.js';
import type { LayerSpec } from './layout.js';
import type { ModelSpec, Weights } from './model.js';
import type { AttentionTables, Memory, Op, Tensor } from './ops.js';
import { dimension, tensor } from './tensor.js';

const NOWHERE: Memory = { id: -1, sizeBytes: Number.MAX_SAFE_INTEGER };
const REACHED: DeviceEvent = { timeMs: 0, reached: () => Promise.resolve() };

/** Counts what it is given. */
class CountingStream implements DeviceStream {
  flops = 0;
  launches = 0;
  launch(op: Op): void {
    this.launches++;
    // A row of the result is one product, also with experts: however many there are, each choice is computed once.
    if (op.op === 'linear' || op.op === 'expert_linear') {
      this.flops += 2 * dimension(op.out, 0) * dimension(op.out, 1) * dimension(op.x, 1);
    }
  }
  copy(): void {
    assert(false, 'a forward does not copy');
  }
  record(): DeviceEvent {
    return REACHED;
  }
  wait(): void {}
}

export interface DryRun {
  /** Scratch of the largest layer for one micro-batch. */
  readonly workspaceBytes: number;
  /** Of all blocks' products, for one token. */
  readonly blockFlopsPerToken: number;
}

/** @param tokens of a micro-batch; @param rows of it whose logits are wanted */
export function dryRun(model: ModelSpec, tokens: number, rows: number): DryRun {
  const stream = new CountingStream();
  const workspace = new Workspace(NOWHERE);
  const constants = new Map(
    Object.entries(model.constants).map(([name, values]) => [name, floats([values.length])] as const),
  );
  const k = new Kernels(stream, workspace, constants);
  const x = floats([tokens, model.hiddenSize]);
  const fixed = weightsOf(model.fixed);

  k.enter(undefined, undefined);
  model.forward.embed(k, fixed, (key) => lookedUp(model, key, tokens), x);
  stream.flops = 0;
  // Every block, since one may be wider than the others.
  model.blocks.forEach((block, index) => {
    k.enter(tablesFor(tokens), cacheFor(model));
    model.forward.block(k, weightsOf(block), x, index);
  });
  const blockFlopsPerToken = stream.flops / tokens;
  k.enter(undefined, undefined);
  const wanted = k.empty([rows, model.hiddenSize]);
  model.forward.headInput(k, fixed, wanted, floats([rows, headInputColumns(model)]));
  return { workspaceBytes: workspace.peakBytes, blockFlopsPerToken };
}

/** Shape of what the head's projection takes for `rows` rows. */
export function headInputColumns(model: ModelSpec): number {
  return present(model.head.projection.shape[1], 'columns of the head');
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
    maxContextTokens: tokens,
  };
}

function cacheFor(model: ModelSpec): BlockCache {
  const cache = floats([1, model.kvHeads, PAGE_TOKENS, model.headDim]);
  return { keys: cache, values: cache };
}

function weightsOf(layer: LayerSpec): Weights {
  // By key, because a mixture has hundreds of them.
  const byKey = new Map(layer.weights.map((weight) => [weight.key, weight]));
  const find = (key: string) => {
    const weight = byKey.get(key);
    return weight ? tensor(NOWHERE, 0, weight.dtype, weight.shape) : null;
  };
  return Object.assign((key: string) => present(find(key), `${layer.name}: weight ${key}`), {
    optional: find,
  });
}
