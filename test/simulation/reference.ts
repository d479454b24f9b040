// What a pass must yield: the same forward, one token batch after the other, on memory that nothing else touches.

import { assert, present } from '../../offload/errors.js';
import { ForwardOps } from '../../offload/model/forward-ops.js';
import { headInputColumns } from '../../offload/model/forward-walk.js';
import { type KvShape, type LayerCache, layerCaches, pageBytes } from '../../offload/model/kv-cache.js';
import { type LayerSpec, layerOf, type TensorSpec } from '../../offload/model/layout.js';
import type { Weights } from '../../offload/model/model.js';
import { type StateFields, stateFields, statesBytes } from '../../offload/model/state-cache.js';
import { weightsOf } from '../../offload/model/weights.js';
import { Workspace } from '../../offload/model/workspace.js';
import type { Plan } from '../../offload/plan/plan.js';
import type { OpStream } from '../../offload/port/backend.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import type { Tensor } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';
import { type MicroBatch, tokenCount, writeControl } from '../../offload/run/pass.js';
import { lastingHashes, tensorHash } from '../simulator/hashes.js';
import { SimulatedMemory } from '../simulator/memory.js';
import { applyOp } from '../simulator/ops.js';
import type { ToyModel } from './toy-model.js';

/** Per output of a micro-batch. */
export interface ReferenceOutput {
  readonly token: number;
  /** The token's log-probability; NaN where the micro-batch does not ask. */
  readonly logProb: number;
  readonly nll: number;
  readonly logits: Float32Array;
}

/** How keys and values are cached. */
type CachePlan = Pick<Plan, 'kvPages' | 'kvType' | 'pageTokens' | 'sequences'>;

/** On weights that stay as they were loaded. */
function immediate(): OpStream {
  const hashes = lastingHashes();
  return { launch: (op) => applyOp(op, hashes) };
}

/** A memory's worth of zeros. */
function memory(sizeBytes: number): SimulatedMemory {
  return new SimulatedMemory(0, Math.max(1, sizeBytes), 'reference', 'control', undefined, 0);
}

function floats(...shape: number[]): Tensor {
  return tensor(memory(shape.reduce((product, size) => product * size, 4)), 0, 'f32', shape);
}

export class Reference {
  readonly #toy: ToyModel;
  readonly #ops: ForwardOps;
  readonly #weights = new Map<string, Weights>();
  readonly #hashes = new Map<string, number>();
  /** Device → its sequences' keys and values. */
  readonly #caches = new Map<number, readonly (LayerCache | undefined)[]>();
  /** Device → its sequences' states, by block. */
  readonly #states = new Map<number, (StateFields | undefined)[]>();
  readonly #tables: Tensor[] = [];
  readonly #plan: CachePlan;

  constructor(toy: ToyModel, plan: CachePlan) {
    this.#toy = toy;
    this.#plan = plan;
    const { model } = toy;
    const constants = new Map(
      Object.entries(model.constants).map(([name, values]) => {
        const constant = floats(values.length);
        (constant.memory as SimulatedMemory).floats.set(values);
        return [name, constant];
      }),
    );
    this.#ops = new ForwardOps(immediate(), new Workspace(memory(1 << 17), 'f32'), constants);
    for (const layer of [...model.blocks, model.fixed]) {
      this.#weights.set(layer.name, this.#load(layer));
    }
    const { projection, bias } = model.head;
    const named = [{ ...projection, key: 'projection' }, ...(bias ? [{ ...bias, key: 'bias' }] : [])];
    this.#weights.set('head', this.#load(layerOf('head', named)));
  }

  /** The hash of the bytes that a weight has in its file; no bytes have that of one that the layer does not have. */
  hash(layerName: string, key: string): number {
    return this.#hashes.get(`${layerName}/${key}`) ?? Number.NaN;
  }

  run(device: number, microBatch: MicroBatch): ReferenceOutput[] {
    const { model } = this.#toy;
    const k = this.#ops;
    const tokens = tokenCount(microBatch);
    const words = memory(4 * (32 * tokens + 512)); // pages are padded to 256
    const rowsOf = model.tables.map(({ rowsFrom, rowOffset }) =>
      Int32Array.from(
        microBatch.slices.flatMap(({ startPosition, tokens: ids }) =>
          Array.from(ids, (id, index) => (rowsFrom === 'token' ? id : startPosition + index + rowOffset)),
        ),
      ),
    );
    // All pages of a sequence, also those that nobody reads any more.
    const whole = {
      ...microBatch,
      slices: microBatch.slices.map((slice) => ({ ...slice, latestPages: [] })),
    };
    const control = writeControl(whole, {
      rows: rowsOf,
      words: words.words,
      firstWord: 0,
      memory: words,
      pageTokens: this.#plan.pageTokens,
    });
    const x = floats(tokens, model.hiddenSize);
    k.enter(undefined, undefined);
    const find = (key: string) => {
      const index = model.tables.findIndex((table) => table.key === key);
      return { table: this.#table(index), rows: present(control.rows[index], 'rows') };
    };
    model.forward.embed(k, this.#of('fixed'), find, x);
    model.blocks.forEach(({ name }, index) => {
      const fields = this.#statesOf(device)[index];
      const states = fields && { fields, tables: present(control.states, 'slots of states') };
      k.enter(control.attention[0], this.#cache(device, index), [], states);
      model.forward.block(k, this.#of(name), x, index);
    });
    const count = microBatch.outputs.length;
    return count === 0 ? [] : this.#outputs(x, control.outputs, microBatch);
  }

  #outputs(x: Tensor, wanted: Tensor, { outputs, targets, logProbs }: MicroBatch): ReferenceOutput[] {
    const { model } = this.#toy;
    const count = outputs.length;
    const k = this.#ops;
    k.enter(undefined, undefined);
    const taken = floats(count, model.hiddenSize);
    k.gather(taken, x, wanted);
    const headRows = floats(count, headInputColumns(model));
    model.forward.headInput(k, this.#of('fixed'), taken, headRows);
    const logits = floats(count, model.vocabSize);
    const w = this.#of('head');
    k.linear(headRows, w.matrix('projection'), { bias: w.optional('bias') }, logits);
    const { scale, softCap } = model.logits;
    if (scale !== 1 || softCap !== 0) k.scaleCap(logits, scale, softCap);
    const values = (logits.memory as SimulatedMemory).floats;
    return Array.from({ length: count }, (_, row) => {
      const line = values.slice(row * model.vocabSize, (row + 1) * model.vocabSize);
      const most = Math.max(...line);
      const total = line.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
      const target = line[targets?.[row] ?? 0] ?? 0;
      const logProb = logProbs ? -Math.log(total) : Number.NaN;
      return { token: line.indexOf(most), logProb, nll: most + Math.log(total) - target, logits: line };
    });
  }

  #load(layer: LayerSpec): Weights {
    const places = new Map<TensorSpec, Tensor>();
    for (const weight of layer.tensors) {
      const { fileIndex, fileOffset, sizeBytes } = weight.extent;
      const place = memory(sizeBytes);
      place.bytes.set(this.#file(fileIndex).subarray(fileOffset, fileOffset + sizeBytes));
      const loaded = tensor(place, 0, weight.dtype, weight.shape);
      places.set(weight, loaded);
      this.#hashes.set(`${layer.name}/${weight.key}`, tensorHash(loaded));
    }
    return weightsOf(layer, (spec) => present(places.get(spec), spec.key));
  }

  #table(index: number): Tensor {
    const before = this.#tables[index];
    if (before) return before;
    const { extent, dtype, rowCount, columns } = present(this.#toy.model.tables[index], 'table');
    const place = memory(extent.sizeBytes);
    place.bytes.set(
      this.#file(extent.fileIndex).subarray(extent.fileOffset, extent.fileOffset + extent.sizeBytes),
    );
    assert(extent.sizeBytes === rowCount * columns * DTYPE_BYTES[dtype], 'table size');
    const table = tensor(place, 0, dtype, [rowCount, columns]);
    this.#tables[index] = table;
    return table;
  }

  #statesOf(device: number): (StateFields | undefined)[] {
    const { caches } = this.#toy.model;
    const slots = { slots: this.#plan.sequences, contextTokens: 0 };
    const known = this.#states.get(device);
    const states = known ?? stateFields(memory(statesBytes(caches, slots)), caches, slots);
    this.#states.set(device, states);
    return states;
  }

  #cache(device: number, blockIndex: number) {
    const { model } = this.#toy;
    const { kvType: dtype, kvPages, pageTokens } = this.#plan;
    const shape: KvShape = { caches: model.caches, dtype, pageTokens };
    let caches = this.#caches.get(device);
    if (!caches) {
      caches = layerCaches(memory(kvPages * pageBytes(shape)), shape, { kvPages, horizons: [] });
      this.#caches.set(device, caches);
    }
    return caches[blockIndex];
  }

  #file(index: number): Uint8Array {
    return present(this.#toy.files.get(present(this.#toy.paths[index], 'path')), 'file');
  }

  #of(layerName: string): Weights {
    return present(this.#weights.get(layerName), layerName);
  }
}
