// Values of random weights: the same bytes for the same seed on every machine, in memory of one pattern per type.

import { elementCount, MiB } from '../../offload/index.js';

export type SafetensorsType = 'F32' | 'F16' | 'BF16';

export interface DummyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: SafetensorsType;
}

const TYPE_BYTES: Readonly<Record<SafetensorsType, number>> = { F32: 4, F16: 2, BF16: 2 };
const DEVIATION = 0.02;
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

type Fill = 'random' | 'one' | 'zero';

/** Norms pass their input on, biases add nothing, and all else is small: activations stay finite at any depth. */
function fillOf(name: string): Fill {
  const parts = name.split('.');
  const owner = parts.at(-2) ?? '';
  if (parts.at(-1) === 'bias') return 'zero';
  return /norm|^ln_/.test(owner) && parts.at(-1) === 'weight' ? 'one' : 'random';
}

/** Pattern bytes per element type and fill, made once and then sliced: drawing every weight would be CPU-bound. */
export class Patterns {
  private readonly made = new Map<string, Uint8Array>();
  private readonly nextStart: () => number;

  constructor(private readonly seed: number) {
    this.nextStart = uniformSource(seed ^ 0x5bd1e995);
  }

  /** The tensor's bytes in order, in pieces of at most SLICE_BYTES. */
  *slices(tensor: DummyTensor): Generator<Uint8Array> {
    const fill = fillOf(tensor.name);
    const pattern = this.pattern(tensor.dtype, fill);
    const unit = TYPE_BYTES[tensor.dtype];
    const periodBytes = pattern.length - SLICE_BYTES;
    // Drawn for every tensor, so that a tensor's values do not depend on how others are filled.
    let at = Math.floor(this.nextStart() * (periodBytes / unit)) * unit;
    for (let left = tensorBytes(tensor); left > 0; ) {
      const count = Math.min(left, SLICE_BYTES);
      yield pattern.subarray(at, at + count);
      at = (at + count) % periodBytes;
      left -= count;
    }
  }

  /** One period, and as much of its beginning again as a slice needs to run over the end. */
  private pattern(type: SafetensorsType, fill: Fill): Uint8Array {
    const key = `${type} ${fill}`;
    const known = this.made.get(key);
    if (known) return known;
    const encode = ENCODERS[type];
    const draw = fill === 'random' ? normalSource(this.seed) : () => (fill === 'one' ? 1 : 0);
    const elements = fill === 'random' ? PATTERN_ELEMENTS : 1;
    const unit = TYPE_BYTES[type];
    const bytes = Buffer.alloc(elements * unit + SLICE_BYTES);
    for (let index = 0; index < elements; index++) {
      if (unit === 4) bytes.writeUInt32LE(encode(draw()), index * unit);
      else bytes.writeUInt16LE(encode(draw()), index * unit);
    }
    // Copies what is there again and again: doubling for a short period, one partial copy for a long one.
    for (let filled = elements * unit; filled < bytes.length; filled *= 2)
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
 * Nearly normal, mean 0, deviation DEVIATION: a sum of four uniforms, whose variance is 1/3. Bounded, and exact
 * arithmetic only, so that all machines agree, which logarithms and cosines do not promise.
 */
function normalSource(seed: number): () => number {
  const uniform = uniformSource(seed);
  const scale = DEVIATION * Math.sqrt(3);
  return () => (uniform() + uniform() + uniform() + uniform() - 2) * scale;
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

function f32Bits(value: number): number {
  float[0] = value;
  return floatBits[0] as number;
}

/** The upper half of an f32, rounded to nearest, ties to even. */
function bf16Bits(value: number): number {
  const bits = f32Bits(value);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** For |value| < 65504. Rounds to nearest, ties to even. */
function f16Bits(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  // The exponent of an f16 stops at -14; below, the steps stay 2^-24.
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const steps = roundToEven(size * 2 ** (10 - exponent));
  // Adding lets a mantissa that rounds up to 2048 carry into the exponent; 1024 steps are the implicit leading one.
  return sign + (exponent + 14) * 1024 + steps;
}

function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 === 1 ? rounded - 1 : rounded;
}

const ENCODERS: Readonly<Record<SafetensorsType, (value: number) => number>> = {
  F32: f32Bits,
  F16: f16Bits,
  BF16: bf16Bits,
};
