// Rows of simulated tensors, and filling them: what simulated kernels are written with.

import type { Tensor } from '../../offload/port/ops.js';
import { innerRows } from './footprint.js';
import { mix, rowHashes } from './hashes.js';
import { type SimulatedMemory, simulated } from './memory.js';

/** The bits of a float in [1, 2): finite, so that the largest of them is well defined. */
export function floatBits(hash: number): number {
  return 0x3f800000 | (hash & 0x7fffff);
}

export interface WordRows {
  readonly words: Int32Array;
  /** Index of each row's first word. */
  readonly starts: readonly number[];
  readonly length: number;
}

/** Rows of an activation, which is f32 and aligned. */
export function wordRows(tensor: Tensor): WordRows {
  const { offsets, lengthBytes } = innerRows(tensor);
  return {
    words: simulated(tensor.memory).words,
    starts: offsets.map((offset) => offset / 4),
    length: lengthBytes / 4,
  };
}

/** Fills row r of `out` from `hash(r)`; `accumulate` takes what was there into account. */
export function fillRows(out: Tensor, hash: (row: number) => number, accumulate = false): void {
  const { words, starts, length } = wordRows(out);
  starts.forEach((start, row) => {
    const rowHash = hash(row);
    for (let i = 0; i < length; i++) {
      const mixed = mix(rowHash, i);
      words[start + i] = floatBits(accumulate ? mix(mixed, words[start + i] ?? 0) : mixed);
    }
  });
}

export function perRow(out: Tensor, x: Tensor, parameters: number): void {
  const hashes = rowHashes(x);
  fillRows(out, (row) => mix(hashes[row] ?? 0, parameters));
}

export function perElement(out: Tensor, inputs: readonly Tensor[], parameters: number): void {
  const to = wordRows(out);
  const from = inputs.map(wordRows);
  to.starts.forEach((start, row) => {
    for (let i = 0; i < to.length; i++) {
      let hash = parameters;
      for (const { words, starts } of from) hash = mix(hash, words[(starts[row] ?? 0) + i] ?? 0);
      to.words[start + i] = floatBits(hash);
    }
  });
}

export function floatRows(tensor: Tensor): {
  floats: Float32Array;
  starts: readonly number[];
  length: number;
} {
  const { starts, length } = wordRows(tensor);
  return { floats: simulated(tensor.memory).floats, starts, length };
}

/** Ids, one a row. */
export function idWords(out: Tensor): { words: Int32Array; starts: number } {
  const memory: SimulatedMemory = simulated(out.memory);
  return { words: memory.words, starts: out.offsetBytes / 4 };
}
