// The weights of a layer by name, wherever its tensors lie.

import { present } from '../errors.js';
import { PART_NAMES } from '../port/formats.js';
import type { Memory, Tensor, Weight } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { ExpertWeights, SplitWeight } from './forward-options.js';
import type { LayerSpec, MatrixSpec, Placement, TensorSpec } from './layout.js';
import type { Weights } from './model.js';

/**
 * @param place says where a tensor of the layer lies; it is asked once for each that is used
 * @param inSlots says the same of experts by the keys of one of their matrices, where they lie in slots
 * @param split says which matrices are there in part
 */
export function weightsOf(
  layer: LayerSpec,
  place: (tensor: TensorSpec) => Tensor,
  inSlots?: InSlots,
  split?: SplitOf,
): Weights {
  const { tensors, matrices } = indexOf(layer);
  const placed = new Map<TensorSpec, Tensor>();
  const made = new Map<string, Weight>();
  const at = (spec: TensorSpec): Tensor => {
    const before = placed.get(spec);
    if (before) return before;
    const tensor = place(spec);
    placed.set(spec, tensor);
    return tensor;
  };
  const find = (key: string) => {
    const spec = tensors.get(key);
    return spec ? at(spec) : null;
  };
  const name = (key: string) => `${layer.name}: weight ${key}`;
  const matrix = (key: string) => {
    const before = made.get(key);
    if (before) return before;
    const weight = split?.(key) ?? weightOf(present(matrices.get(key), name(key)), at);
    made.set(key, weight);
    return weight;
  };
  return Object.assign((key: string) => present(find(key), name(key)), {
    optional: find,
    hasMatrix: (key: string) => matrices.has(key),
    matrix,
    experts: inSlots ?? ((keys: readonly string[]) => keys.map(matrix)),
  });
}

/** Experts that lie in slots, by the keys of one of their matrices. */
export type InSlots = (keys: readonly string[]) => ExpertWeights;

/** Matrices that are there in part, by key; undefined for all others. */
export type SplitOf = (key: string) => SplitWeight | undefined;

export interface LayerWeights {
  readonly layer: LayerSpec;
  readonly inSlots?: InSlots | undefined;
  readonly split?: SplitOf | undefined;
}

/** The layer's weights, where `placements` say they lie in `memory`. */
export function weightsAt(
  memory: Memory,
  placements: readonly Placement[],
  { layer, inSlots, split }: LayerWeights,
): Weights {
  return weightsOf(layer, placeIn(memory, placements), inSlots, split);
}

/** Where tensors of a layer lie in a memory. */
export function placeIn(memory: Memory, placements: readonly Placement[]): (spec: TensorSpec) => Tensor {
  const offsets = new Map(placements.map(({ weight, offsetBytes }) => [weight, offsetBytes]));
  return (spec) => tensor(memory, present(offsets.get(spec), spec.key), spec.dtype, spec.shape);
}

/** A matrix whose tensors lie where `place` says. */
export function weightOf(spec: MatrixSpec, place: (tensor: TensorSpec) => Tensor): Weight {
  const { format, shape, firstRow, isPartial = false } = spec;
  const parts: { -readonly [Name in keyof Weight['parts']]: Tensor } = {};
  for (const name of PART_NAMES) {
    const part = spec.parts[name];
    if (part) parts[name] = place(part);
  }
  return { format, shape, firstRow, parts, isPartial };
}

interface LayerIndex {
  readonly tensors: ReadonlyMap<string, TensorSpec>;
  readonly matrices: ReadonlyMap<string, MatrixSpec>;
}

/** By key, because a mixture has hundreds of them, and made once: streamed layers come again and again. */
function indexOf(layer: LayerSpec): LayerIndex {
  const before = known.get(layer);
  if (before) return before;
  const index = {
    tensors: new Map(layer.tensors.map((spec) => [spec.key, spec])),
    matrices: new Map(layer.matrices.map((spec) => [spec.key, spec])),
  };
  known.set(layer, index);
  return index;
}

const known = new WeakMap<LayerSpec, LayerIndex>();
