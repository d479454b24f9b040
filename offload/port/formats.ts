// How matrices are stored: the formats, the parts that each has, and what makes a value of them.
//
// The value of row n, input k: with m = n + firstRow, r = ⌊m / rowGroup⌋ and g = groups[k], or ⌊k / inputGroup⌋ where there are no
// groups, it is (code − zero) · scale[r, g], rounded to `product`, times `factor` where that is not 1, rounded to `type`.
// native/ops/operand.h has the same rows, compared when the addon is loaded.

import type { FloatType } from './dtype.js';

/** N outputs (rows), K inputs, G groups of inputs. */
export const FORMATS = [
  /** codes [N, K] of a float type: the values themselves. */
  'dense',
  /** The same, [K, N]. */
  'dense_in',
  /** codes e4m3 [N, K]; scales [⌈N/rowGroup⌉, ⌈K/inputGroup⌉] of f32, bf16, f16 or e8m0. */
  'e4m3',
  /** codes i8 [N, K]; scales as above; zeros i8 like the scales, or none. */
  'int8',
  /** codes i32 [N, ⌈K/4⌉] of bytes that hold q + 128; scales [N, G]; zeros i32 [⌈N/4⌉, G], likewise, or none; groups i32 [K] or none. */
  'packed8',
  /** codes i32 [N, ⌈K/8⌉] of nibbles, lowest first, that hold q + 8; scales [N, G]; zeros i32 [⌈N/8⌉, G]; groups. */
  'packed4',
  /** codes u8 [N, K/2] of e2m1, low nibble first; scales e8m0 [N, K/32], or e4m3 [N, K/16] with global f32 [1]. */
  'fp4',
  /** codes u8 [N·K/2], flat, high nibble first, places in table f32 [16]; scales f32, or u8 with nestedTable f32 [256] and nestedScales f32. */
  'table4',
  /** codes i32 [K, N/8] in the order 0 2 4 6 1 3 5 7; zeros i32 [G, N/8] in that order; scales [G, N]. */
  'awq',
  /** codes i32 [⌈K·bits/32⌉, N], packed along K; zeros i32 [G, ⌈N·bits/32⌉], along N; scales [G, N]; groups i32 [K] or none. */
  'gptq',
  /** codes e4m3 [K, N]; scales [⌈K/inputGroup⌉, N]. */
  'e4m3_in',
] as const;
export type FormatName = (typeof FORMATS)[number];

/** In the order in which a weight's parts are encoded. */
export const PART_NAMES = [
  'codes',
  'scales',
  'zeros',
  'global',
  'groups',
  'table',
  'nestedScales',
  'nestedTable',
] as const;
export type PartName = (typeof PART_NAMES)[number];
export type Parts<T> = { readonly [Name in PartName]?: T };

export interface Format {
  readonly name: FormatName;
  /** Rows and inputs that share a scale; for table4 inputGroup is the flat number of values that do. */
  readonly rowGroup: number;
  readonly inputGroup: number;
  /** What the product of a code and its scale is rounded to first. */
  readonly product: FloatType;
  /** What an expanded weight has. */
  readonly type: FloatType;
  /** The width of a code, where the format has several. */
  readonly bits: number;
  /** Stored zeros are one too small. */
  readonly zeroPlusOne: boolean;
  /** A scale is divided by `global`, not multiplied. */
  readonly globalDivides: boolean;
  readonly factor: number;
  /** Added to nestedTable[scale] · nestedScales[i / 256]. */
  readonly nestedOffset: number;
}

/** The numbers of a format, in the order in which they are encoded. */
export const FORMAT_NUMBERS = [
  'rowGroup',
  'inputGroup',
  'product',
  'type',
  'bits',
  'zeroPlusOne',
  'globalDivides',
  'factor',
  'nestedOffset',
] as const satisfies readonly (keyof Format)[];

const known = new Map<string, Format>();

/** Equal formats are one object, so that they are compared at no cost. */
export function formatOf(
  name: FormatName,
  type: FloatType,
  options: Partial<Omit<Format, 'name' | 'type'>> = {},
): Format {
  const format: Format = {
    name,
    type,
    rowGroup: 1,
    inputGroup: 1,
    product: type,
    bits: 0,
    zeroPlusOne: false,
    globalDivides: false,
    factor: 1,
    nestedOffset: 0,
    ...options,
  };
  const key = `${name} ${FORMAT_NUMBERS.map((number) => format[number]).join(' ')}`;
  const before = known.get(key);
  if (before) return before;
  known.set(key, format);
  return format;
}

/** Whether weights in both go through one product: an expert's scales of scales may have an offset of their own. */
export function isLike(a: Format, b: Format): boolean {
  if (a === b) return true;
  if (a.nestedOffset === b.nestedOffset || a.name !== b.name) return false;
  return FORMAT_NUMBERS.every((number) => number === 'nestedOffset' || a[number] === b[number]);
}

export function isDense({ name }: Format): boolean {
  return name === 'dense' || name === 'dense_in';
}
