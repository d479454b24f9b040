// Values of random weights: the same bytes for the same seed on every machine, in memory of one pattern per type.

import { elementCount, MiB } from '../../offload/index.js';
import { bf16Bits, e2m1Bits, e4m3Bits, e8m0Bits, f16Bits, f32Bits } from './encode.js';

export type SafetensorsType = 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'U8' | 'I32' | 'I64';
/** Integers are stored with half of their range added; of four bits there are two to a byte, the lower half first. */
export type CodeKind = 'e4m3' | 'int8' | 'int4' | 'e2m1';

export interface DummyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: SafetensorsType;
  /** Whole numbers from 0 up to but not including it, not values. */
  readonly below?: number;
  /** A part of a matrix that is stored in fewer bits; undefined: values. */
  readonly part?: { readonly is: 'codes' | 'scales'; readonly of: CodeKind };
}

const DEVIATION = 0.02;
const LARGEST = 2 * Math.sqrt(3) * DEVIATION;

const TYPE_BYTES: Readonly<Record<SafetensorsType, number>> = {
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  U8: 1,
  I32: 4,
  I64: 8,
};
/**
 * A prime: rows of a matrix then begin at different places of the pattern. With a power of two, the rows of most
 * matrices would repeat each other and the matrix would have almost no rank.
 */
const PATTERN_ELEMENTS = 2 ** 19 - 1;
const SLICE_BYTES = 2 * MiB;

/** Bytes that the tensor has in its file. */
export function tensorBytes(tensor: DummyTensor): number {
  return elementCount(tensor.shape) * TYPE_BYTES[tensor.dtype];
}

/** What makes the elements of a pattern. */
interface Fill {
  readonly key: string;
  readonly unitBytes: number;
  readonly elements: number;
  readonly draw: (seed: number) => () => number;
}

function fillOf({ name, dtype, part, below }: DummyTensor): Fill {
  if (below !== undefined) {
    const draw = (seed: number) => {
      const uniform = uniformSource(seed);
      return () => Math.floor(uniform() * below);
    };
    const unitBytes = TYPE_BYTES[dtype];
    return { key: `${dtype} below ${below}`, unitBytes, elements: PATTERN_ELEMENTS, draw };
  }
  if (part?.is === 'codes') {
    const draw = (seed: number) => CODES[part.of].draw(normalSource(seed));
    return { key: `${part.of} codes`, unitBytes: 1, elements: PATTERN_ELEMENTS, draw };
  }
  const unitBytes = TYPE_BYTES[dtype];
  const encode = ENCODERS[dtype];
  if (part?.is === 'scales') {
    const { scale } = CODES[part.of];
    const draw = (seed: number) => {
      const uniform = uniformSource(seed);
      return () => encode(scale * (0.75 + uniform() / 2));
    };
    return { key: `${dtype} ${part.of} scales`, unitBytes, elements: PATTERN_ELEMENTS, draw };
  }
  const constant = constantOf(name);
  if (constant !== undefined)
    return { key: `${dtype} ${constant}`, unitBytes, elements: 1, draw: () => () => encode(constant) };
  const draw = (seed: number) => {
    const normal = normalSource(seed);
    return () => encode(normal());
  };
  return { key: dtype, unitBytes, elements: PATTERN_ELEMENTS, draw };
}

/** Norms pass their input on, biases add nothing, and all else is small: activations stay finite at any depth. */
function constantOf(name: string): number | undefined {
  const parts = name.split('.');
  const owner = parts.at(-2) ?? '';
  if (parts.at(-1) === 'bias') return 0;
  return /norm|^ln_/.test(owner) && parts.at(-1) === 'weight' ? 1 : undefined;
}

/** Pattern bytes per fill, made once and then sliced: drawing every weight would be CPU-bound. */
export class Patterns {
  private readonly made = new Map<string, Uint8Array>();
  private readonly nextStart: () => number;

  constructor(private readonly seed: number) {
    this.nextStart = uniformSource(seed ^ 0x5bd1e995);
  }

  /** The tensor's bytes in order, in pieces of at most SLICE_BYTES. */
  *slices(tensor: DummyTensor): Generator<Uint8Array> {
    const fill = fillOf(tensor);
    const pattern = this.pattern(fill);
    const { unitBytes } = fill;
    const periodBytes = pattern.length - SLICE_BYTES;
    // Drawn for every tensor, so that a tensor's values do not depend on how others are filled.
    let at = Math.floor(this.nextStart() * (periodBytes / unitBytes)) * unitBytes;
    for (let left = tensorBytes(tensor); left > 0; ) {
      const count = Math.min(left, SLICE_BYTES);
      yield pattern.subarray(at, at + count);
      at = (at + count) % periodBytes;
      left -= count;
    }
  }

  /** One period, and as much of its beginning again as a slice needs to run over the end. */
  private pattern({ key, unitBytes, elements, draw }: Fill): Uint8Array {
    const known = this.made.get(key);
    if (known) return known;
    const next = draw(this.seed);
    const bytes = Buffer.alloc(elements * unitBytes + SLICE_BYTES);
    // What is longer holds small numbers.
    const writtenBytes = Math.min(unitBytes, 6);
    for (let index = 0; index < elements; index++) bytes.writeUIntLE(next(), index * unitBytes, writtenBytes);
    // Copies what is there again and again: doubling for a short period, one partial copy for a long one.
    for (let filled = elements * unitBytes; filled < bytes.length; filled *= 2)
      bytes.copy(bytes, filled, 0, filled);
    this.made.set(key, bytes);
    return bytes;
  }
}

/** Uniform in [0, 1): a counter scrambled by multiplications and shifts, each a bijection of 32 bits. */
function uniformSource(seed: number): () => number {
  let counter = seed | 0;
  return () => {
    counter = (counter + 0x9e3779b9) | 0;
    let bits = counter;
    bits = Math.imul(bits ^ (bits >>> 16), 0x21f0aaad);
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97);
    return ((bits ^ (bits >>> 15)) >>> 0) / 2 ** 32;
  };
}

/**
 * Nearly normal, mean 0, deviation DEVIATION: a sum of four uniforms, whose variance is 1/3. Bounded by LARGEST, and exact
 * arithmetic only, so that all machines agree, which logarithms and cosines do not promise.
 */
function normalSource(seed: number): () => number {
  const uniform = uniformSource(seed);
  const scale = DEVIATION * Math.sqrt(3);
  return () => (uniform() + uniform() + uniform() + uniform() - 2) * scale;
}

const ENCODERS: Readonly<Record<SafetensorsType, (value: number) => number>> = {
  F32: f32Bits,
  F16: f16Bits,
  BF16: bf16Bits,
  F8_E4M3: e4m3Bits,
  U8: e8m0Bits,
  I32: (value) => Math.round(value) >>> 0,
  I64: (value) => Math.round(value) >>> 0,
};

/** How a value becomes codes: what a scale is near, so that codes use their range, and the bytes of values one after the other. */
interface Coding {
  readonly scale: number;
  readonly draw: (next: () => number) => () => number;
}

const CODES: Readonly<Record<CodeKind, Coding>> = {
  e4m3: oneToAByte(LARGEST / 448, e4m3Bits),
  int8: oneToAByte(LARGEST / 127, (value) => Math.round(value) + 128),
  int4: twoToAByte(LARGEST / 7, (value) => Math.round(value) + 8),
  e2m1: twoToAByte(LARGEST / 6, e2m1Bits),
};

function oneToAByte(scale: number, encode: (value: number) => number): Coding {
  return { scale, draw: (next) => () => encode(next() / scale) };
}

function twoToAByte(scale: number, encode: (value: number) => number): Coding {
  const draw = (next: () => number) => () => encode(next() / scale) + 16 * encode(next() / scale);
  return { scale, draw };
}
