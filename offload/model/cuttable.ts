// Which matrices of a layer may be cut: those that the forward multiplies with whole, by nothing but `linear`.

import { present } from '../errors.js';
import type { Memory, Op, Tensor, Weight } from '../port/ops.js';
import { effects } from '../port/ops.js';
import { dimension, tensor } from '../port/tensor.js';
import { canBeCut } from './cut-layer.js';
import { ForwardWalk } from './forward-walk.js';
import { type LayerSpec, layoutLayer, type TensorSpec, tensorsOf } from './layout.js';
import type { ModelSpec, Weights } from './model.js';
import { weightsOf } from './weights.js';

/** Their ids are those of no memory. */
const LAYER: Memory = { id: Number.MAX_SAFE_INTEGER - 1, sizeBytes: Number.MAX_SAFE_INTEGER };
const WORKSPACE: Memory = { id: Number.MAX_SAFE_INTEGER - 2, sizeBytes: Number.MAX_SAFE_INTEGER };

/** Keys of matrices of a block. */
export function cuttableOfBlock(model: ModelSpec, index: number): readonly string[] {
  const layer = present(model.blocks[index], 'a block');
  const before = known.get(layer);
  if (before) return before;
  const heard = new Heard(layer);
  const types = { activationType: 'f32', kvType: 'f32' } as const;
  const place = { workspace: WORKSPACE, weights: () => heard.weights };
  new ForwardWalk(model, types, (op) => heard.hear(op), place).block(index, 1);
  const found = heard.keys();
  known.set(layer, found);
  return found;
}

const known = new WeakMap<LayerSpec, readonly string[]>();

/** The same of a piece of the head, which is one product. */
export function cuttableOfPiece({ matrices }: LayerSpec): readonly string[] {
  return matrices.filter((matrix) => canBeCut(matrix, matrices)).map(({ key }) => key);
}

/** Listens to what a forward does with the matrices of a layer. */
class Heard {
  readonly weights: Weights;
  readonly #layer: LayerSpec;
  readonly #made = new Map<Weight, string>();
  /** By where a tensor begins, the matrices that are stored as it. */
  readonly #owners = new Map<number, string[]>();
  readonly #multiplied = new Set<string>();
  readonly #otherwise = new Set<string>();

  constructor(layer: LayerSpec) {
    this.#layer = layer;
    const { placements } = layoutLayer(layer).device;
    const offsets = new Map(placements.map(({ weight, offsetBytes }) => [weight, offsetBytes]));
    const place = (spec: TensorSpec) =>
      tensor(LAYER, present(offsets.get(spec), spec.key), spec.dtype, spec.shape);
    const weights = weightsOf(layer, place);
    const matrix = (key: string) => {
      const weight = weights.matrix(key);
      this.#made.set(weight, key);
      return weight;
    };
    this.weights = Object.assign((key: string) => weights(key), { ...weights, matrix });
    for (const start of offsets.values()) this.#owners.set(start, []);
    for (const spec of layer.matrices) {
      for (const part of tensorsOf(spec)) {
        const start = present(offsets.get(part), part.key);
        this.#owners.set(start, [...(this.#owners.get(start) ?? []), spec.key]);
      }
    }
  }

  hear(op: Op): void {
    const key = op.op === 'linear' && this.#isOfLayer(op) ? this.#made.get(op.weight) : undefined;
    if (key !== undefined) this.#multiplied.add(key);
    for (const read of effects(op).reads) {
      if (read.memory !== LAYER) continue;
      for (const owner of this.#ownersOf(read)) if (owner !== key) this.#otherwise.add(owner);
    }
  }

  keys(): readonly string[] {
    const { matrices } = this.#layer;
    return matrices
      .filter(({ key }) => this.#multiplied.has(key) && !this.#otherwise.has(key))
      .filter((matrix) => canBeCut(matrix, matrices))
      .map(({ key }) => key);
  }

  /** The host finds a bias where it finds the layer. */
  #isOfLayer({ bias, out }: Extract<Op, { op: 'linear' }>): boolean {
    return !bias || (bias.memory === LAYER && dimension(bias, 0) === dimension(out, 1));
  }

  /** Those of the tensor that a view begins in: tensors do not overlap. */
  #ownersOf({ offsetBytes }: Tensor): readonly string[] {
    const exact = this.#owners.get(offsetBytes);
    if (exact) return exact;
    let [start, owners]: [number, readonly string[]] = [-1, []];
    for (const [from, keys] of this.#owners) {
      if (from <= offsetBytes && from > start) [start, owners] = [from, keys];
    }
    return owners;
  }
}
