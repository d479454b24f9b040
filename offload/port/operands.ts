// What operations are made of: memories, views of them, weights in their formats.

import type { DType } from './dtype.js';
import { type Format, PART_NAMES, type Parts } from './formats.js';

/** Memory of one device (or of the host, where the device computes in place). Opaque to everything but its backend. */
export interface Memory {
  readonly id: number;
  readonly sizeBytes: number;
}

/** A view of memory: element (i, j, k) lies at `offsetBytes + (i·s0 + j·s1 + k·s2) · elementBytes`. */
export interface Tensor {
  readonly memory: Memory;
  readonly offsetBytes: number;
  readonly dtype: DType;
  /** One to four dimensions. */
  readonly shape: readonly number[];
  /** In elements, one per dimension; the innermost stride is always 1. */
  readonly strides: readonly number[];
}

/** A matrix [N outputs, K inputs] as it is stored: its parts, and the format that makes values of them. */
export interface Weight {
  readonly format: Format;
  readonly shape: readonly [number, number];
  /** Rows of its scales and zeros that lie before those of its first row. */
  readonly firstRow: number;
  /** As the format's row in formats.ts says. */
  readonly parts: Parts<Tensor>;
  /** Devices share its inputs: products are summands, which they sum. */
  readonly isPartial?: boolean;
}

export type Activation = 'none' | 'relu' | 'gelu' | 'gelu_tanh' | 'gelu_quick' | 'silu' | 'relu2';

/** What an operation reads and writes; what is written and read appears in both. */
export interface Effects {
  readonly reads: readonly Tensor[];
  readonly writes: readonly Tensor[];
}

/** The parts that there are, in the order of their names. */
export function partsOf({ parts }: Weight): Tensor[] {
  const found: Tensor[] = [];
  // A loop, as every operation of every layer asks.
  for (const name of PART_NAMES) {
    const part = parts[name];
    if (part) found.push(part);
  }
  return found;
}
