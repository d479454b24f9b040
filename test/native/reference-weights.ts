// What a stored weight's values are, in plain loops: each code looked up where its format puts it, and rounded as its format says.
//
// Written from the descriptions of the formats alone, so that kernels and readers are compared with something of another make.

import type { FloatType } from '../../offload/port/dtype.js';
import { type FormatName, PART_NAMES, type PartName } from '../../offload/port/formats.js';
import type { Tensor, Weight } from '../../offload/port/ops.js';
import { Values } from './reference-values.js';
import { toEven } from './short-floats.js';
import type { Bytes } from './tensor-bytes.js';

const WORD_BITS = 32;
/** E2M1 by code; the sign is the highest bit. */
const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];
/** Which of a word's eight columns each nibble of AWQ holds. */
const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7];
const NESTED_BLOCK = 256;

/** The value of row n, input k. */
export type WeightValues = (n: number, k: number) => number;

export function weightValues(weight: Weight, read: (tensor: Tensor) => Values): WeightValues {
  const stored = new StoredParts(weight, read);
  const { format, shape } = weight;
  const value: WeightValues = (n, k) => roundTo(format.type, VALUE[format.name](stored, n, k));
  const [N, K] = shape;
  const values = new Float64Array(N * K);
  for (let n = 0; n < N; n++) for (let k = 0; k < K; k++) values[n * K + k] = value(n, k);
  return (n, k) => values[n * K + k] ?? Number.NaN;
}

/** [N · K], row by row. */
export function expandReference(weight: Weight, bytes: Bytes): Float64Array {
  const [N, K] = weight.shape;
  const value = weightValues(weight, (tensor) => new Values(tensor, bytes));
  return Float64Array.from({ length: N * K }, (_, i) => value(Math.floor(i / K), i % K));
}

/** Before the last rounding. */
const VALUE: Readonly<Record<FormatName, (stored: StoredParts, n: number, k: number) => number>> = {
  dense: (stored, n, k) => stored.at('codes', n, k),
  dense_in: (stored, n, k) => stored.at('codes', k, n),
  e4m3: (stored, n, k) => stored.scaled(stored.at('codes', n, k), n, k),
  int8: (stored, n, k) => {
    const zero = stored.has('zeros') ? stored.at('zeros', stored.row(n), stored.group(k)) : 0;
    return stored.scaled(stored.at('codes', n, k) - zero, n, k);
  },
  packed8: (stored, n, k) => packed(stored, 8, n, k),
  packed4: (stored, n, k) => packed(stored, 4, n, k),
  fp4: (stored, n, k) => {
    const byte = stored.at('codes', n, Math.floor(k / 2));
    return stored.scaled(E2M1[k % 2 === 0 ? byte & 15 : byte >> 4] ?? Number.NaN, n, k);
  },
  table4: (stored, n, k) => {
    const flat = n * (stored.weight.shape[1] ?? 0) + k;
    const byte = stored.at('codes', Math.floor(flat / 2));
    return stored.scaled(stored.at('table', flat % 2 === 0 ? byte >> 4 : byte & 15), n, k);
  },
  awq: (stored, n, k) => {
    const field = (part: PartName, row: number, column: number) =>
      (stored.at(part, row, Math.floor(column / 8)) >>> (4 * AWQ_ORDER.indexOf(column % 8))) & 15;
    const zero = field('zeros', stored.group(k), n + stored.weight.firstRow);
    return stored.scaled(field('codes', k, n) - zero, n, k);
  },
  gptq: (stored, n, k) => {
    const { bits, zeroPlusOne } = stored.weight.format;
    const code = streamField((word) => stored.at('codes', word, n), bits, k);
    const group = stored.group(k);
    const whole = zeroPlusOne && WORD_BITS % bits === 0;
    // Fields that fill words had one taken from each by a subtraction from the whole word.
    const ones = whole ? wordOfOnes(bits) : 0;
    const m = n + stored.weight.firstRow;
    const zero = streamField((word) => (stored.at('zeros', group, word) + ones) >>> 0, bits, m);
    return stored.scaled(code - (zeroPlusOne && !whole ? (zero + 1) % 2 ** bits : zero), n, k);
  },
  e4m3_in: (stored, n, k) => stored.scaled(stored.at('codes', k, n), n, k),
};

function packed(stored: StoredParts, bits: number, n: number, k: number): number {
  const half = 2 ** (bits - 1);
  const code = streamField((word) => stored.at('codes', n, word), bits, k) - half;
  if (!stored.has('zeros')) return stored.scaled(code, n, k);
  const m = n + stored.weight.firstRow;
  const zero = streamField((word) => stored.at('zeros', word, stored.group(k)), bits, m) - half;
  return stored.scaled(code - zero, n, k);
}

/** Field `index` of a little-endian stream of bits that is cut into words of 32. */
function streamField(word: (index: number) => number, bits: number, index: number): number {
  let field = 0;
  for (let bit = 0; bit < bits; bit++) {
    const at = index * bits + bit;
    if ((word(Math.floor(at / WORD_BITS)) >>> (at % WORD_BITS)) & 1) field += 2 ** bit;
  }
  return field;
}

/** 1 in every field. */
function wordOfOnes(bits: number): number {
  let word = 0;
  for (let at = 0; at < WORD_BITS; at += bits) word += 2 ** at;
  return word;
}

class StoredParts {
  readonly weight: Weight;
  readonly #values: Partial<Record<PartName, Values>> = {};

  constructor(weight: Weight, read: (tensor: Tensor) => Values) {
    this.weight = weight;
    for (const name of PART_NAMES) {
      const tensor = weight.parts[name];
      if (tensor) this.#values[name] = read(tensor);
    }
  }

  has(part: PartName): boolean {
    return this.#values[part] !== undefined;
  }

  /** A read beside a part is a fault of the weight, and no value. */
  at(part: PartName, a: number, b = 0): number {
    const values = this.#values[part];
    if (!values) throw new Error(`${this.weight.format.name} needs ${part}`);
    const [rows = 1, columns = 1] = values.shape;
    if (!(a >= 0 && a < rows && b >= 0 && b < columns)) {
      throw new Error(`${part} [${values.shape.join(', ')}] has no element ${a}, ${b}`);
    }
    return values.get(a, b);
  }

  /** Row of the scales that row n has. */
  row(n: number): number {
    return Math.floor((n + this.weight.firstRow) / this.weight.format.rowGroup);
  }

  group(k: number): number {
    return this.has('groups') ? this.at('groups', k) : Math.floor(k / this.weight.format.inputGroup);
  }

  /** The product with the scale of row n, input k. */
  scaled(code: number, n: number, k: number): number {
    const { product, factor } = this.weight.format;
    const value = roundTo(product, Math.fround(code * this.#scale(n, k)));
    return factor === 1 ? value : Math.fround(value * factor);
  }

  #scale(n: number, k: number): number {
    const { format, firstRow, shape } = this.weight;
    switch (format.name) {
      case 'awq':
      case 'gptq':
      case 'e4m3_in':
        return this.at('scales', this.group(k), n + firstRow);
      case 'table4': {
        const index = Math.floor(((n + firstRow) * shape[1] + k) / format.inputGroup);
        if (!this.has('nestedTable')) return this.at('scales', index);
        const outer = this.at('nestedScales', Math.floor(index / NESTED_BLOCK));
        const inner = Math.fround(this.at('nestedTable', this.at('scales', index)) * outer);
        return Math.fround(inner + format.nestedOffset);
      }
      case 'fp4': {
        const scale = this.at('scales', this.row(n), this.group(k));
        if (!this.has('global')) return scale;
        const global = this.at('global', 0);
        return Math.fround(format.globalDivides ? scale / global : scale * global);
      }
      default:
        return this.at('scales', this.row(n), this.group(k));
    }
  }
}

/** To nearest, ties to even. */
export function roundTo(type: FloatType, value: number): number {
  switch (type) {
    case 'f32':
      return Math.fround(value);
    case 'f16':
      return roundedTo(value, { fractionBits: 10, smallestExponent: -14, largest: 65504 });
    case 'bf16':
      return roundedTo(value, { fractionBits: 7, smallestExponent: -126, largest: 2 ** 127 * (2 - 2 ** -7) });
  }
}

interface Precision {
  readonly fractionBits: number;
  readonly smallestExponent: number;
  readonly largest: number;
}

function roundedTo(value: number, { fractionBits, smallestExponent, largest }: Precision): number {
  if (!Number.isFinite(value) || value === 0) return value;
  const magnitude = Math.abs(value);
  const exponent = Math.max(smallestExponent, Math.floor(Math.log2(magnitude)));
  const step = 2 ** (exponent - fractionBits);
  const rounded = toEven(magnitude / step) * step;
  return Math.sign(value) * (rounded > largest ? Number.POSITIVE_INFINITY : rounded);
}
