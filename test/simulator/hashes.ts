// Hashes of tensors' bytes, which stand for values in simulated kernels, and of a stored weight's outputs.

import { present } from '../../offload/errors.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { PART_NAMES } from '../../offload/port/formats.js';
import { partsOf, type Tensor, type Weight } from '../../offload/port/ops.js';
import { innerRows, runsOf } from './footprint.js';
import { contentHash, simulated } from './memory.js';
import { rowsOfOutput, sharedParts } from './weight-rows.js';

/** The hash of all bytes of a tensor. */
export function tensorHash(tensor: Tensor, seed?: number): number {
  return runsOf(tensor).reduce((hash, run) => contentHash(run, hash), seed ?? 0x811c9dc5);
}

const scratch = new Float64Array(1);
const scratchWords = new Int32Array(scratch.buffer);

export function mix(hash: number, value: number): number {
  let mixed = Math.imul(hash ^ value, 0x85ebca6b);
  mixed ^= mixed >>> 13;
  mixed = Math.imul(mixed, 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

export function hashOf(tensors: readonly (Tensor | null)[], numbers: readonly number[]): number {
  let hash = 0x1b873593;
  for (const tensor of tensors) hash = tensor ? tensorHash(tensor, hash) : mix(hash, 17);
  for (const number of numbers) {
    scratch[0] = number;
    hash = mix(mix(hash, scratchWords[0] ?? 0), scratchWords[1] ?? 0);
  }
  return hash;
}

export function rowHashes(tensor: Tensor): number[] {
  const memory = simulated(tensor.memory);
  const { offsets, lengthBytes } = innerRows(tensor);
  return offsets.map((start) => contentHash({ memory, start, end: start + lengthBytes }));
}

/** The hash of each element of a vector of any type, at any address. */
export function elementHashes({ memory, offsetBytes, dtype, shape }: Tensor): number[] {
  const elementBytes = DTYPE_BYTES[dtype];
  return Array.from({ length: shape[0] ?? 0 }, (_, index) => {
    const start = offsetBytes + index * elementBytes;
    return contentHash({ memory: simulated(memory), start, end: start + elementBytes });
  });
}

/** Output n depends on row n only, where rows are stored apart, so that pieces of the head give what the whole gives. */
export function outputHashes(weight: Weight): number[] {
  const rows = rowsOfOutput(weight);
  if (!rows) {
    const whole = weightHash(weight);
    return Array.from({ length: weight.shape[0] }, (_, n) => mix(whole, n));
  }
  const shared = sharedParts(weight, rows).reduce((hash, part) => mix(hash, tensorHash(part)), 5);
  const parts = PART_NAMES.flatMap((name) => {
    const [part, rowOf] = [weight.parts[name], rows[name]];
    return part && rowOf ? [{ hashes: rowHashes(part), rowOf }] : [];
  });
  const outputs = new Array<number>(weight.shape[0]).fill(shared);
  for (const { hashes, rowOf } of parts) {
    for (let n = 0; n < outputs.length; n++)
      outputs[n] = mix(outputs[n] ?? 0, present(hashes[rowOf(n)], 'a row'));
  }
  return outputs;
}

/** The hash of all bytes of a weight's parts. */
export function weightHash(weight: Weight): number {
  const [first, ...others] = partsOf(weight).map((part) => tensorHash(part));
  return others.reduce(mix, first ?? 0);
}

/** How an operation comes by the hashes of its weights. */
export interface WeightHashes {
  readonly ofOutputs: (weight: Weight) => readonly number[];
  readonly ofAll: (weight: Weight) => number;
}

/** From the bytes that lie there now. */
export const HASHES_OF_BYTES: WeightHashes = { ofOutputs: outputHashes, ofAll: weightHash };

/** For weights whose bytes never change: each is hashed once. */
export function lastingHashes(): WeightHashes {
  return { ofOutputs: once(outputHashes), ofAll: once(weightHash) };
}

function once<T>(hash: (weight: Weight) => T): (weight: Weight) => T {
  const known = new WeakMap<Weight, { readonly value: T }>();
  return (weight) => {
    const found = known.get(weight) ?? { value: hash(weight) };
    known.set(weight, found);
    return found.value;
  };
}
