// In which types keys and values are cached: what they are called, and how many scales a head has.

import { OperatingError } from '../errors.js';
import type { DType } from '../port/dtype.js';
import { type CacheSpec, ownPages } from './cache-spec.js';

/** Floats, or codes beside scales as BlockCache describes them. */
export type KvDType = Exclude<DType, 'i32' | 'e8m0'>;

/** As people call them. */
export const KV_TYPE_NAMES = {
  f32: 'float32',
  f16: 'float16',
  bf16: 'bfloat16',
  e4m3: 'fp8',
  i8: 'int8',
  u8: 'int4',
} as const satisfies Readonly<Record<KvDType, string>>;

/** What may be asked for; `auto` is the type that they are computed in, which loses nothing. */
export const KV_CHOICES = ['auto', 'float16', 'bfloat16', 'fp8', 'int8', 'int4'] as const;
export type KvChoice = (typeof KV_CHOICES)[number];

/** Undefined for `auto`, since what that is depends on device and model. */
export function kvTypeOf(choice: KvChoice | undefined): KvDType | undefined {
  const types = Object.keys(KV_TYPE_NAMES) as (keyof typeof KV_TYPE_NAMES)[];
  return types.find((type) => KV_TYPE_NAMES[type] === choice);
}

/** Values that share a scale where codes have 4 bits; all of a head where its size is no multiple of it. */
const NIBBLE_GROUP = 32;

/** Scales of one token's head; 0 where it is stored as floats. */
export function scaleGroups(type: KvDType, headDim: number): number {
  switch (type) {
    case 'f32':
    case 'f16':
    case 'bf16':
      return 0;
    case 'e4m3':
    case 'i8':
      return 1;
    case 'u8':
      return headDim % NIBBLE_GROUP === 0 ? headDim / NIBBLE_GROUP : 1;
  }
}

/** Elements of one token's head: codes of 4 bits lie two in a byte. */
export function storedColumns(type: KvDType, headDim: number): number {
  return type === 'u8' ? headDim / 2 : headDim;
}

/** Throws BAD_OPTION where heads of a model cannot be stored so. */
export function checkKvType(type: KvDType, caches: readonly CacheSpec[]): void {
  if (type !== 'u8') return;
  for (const { keyDim, valueDim, valuesInKeys } of ownPages(caches)) {
    const odd = [keyDim, valueDim].find((size) => size % 2 !== 0);
    if (odd !== undefined) {
      throw new OperatingError(
        'BAD_OPTION',
        `--kv_dtype is int4, which stores values in pairs, but heads of this model have ${odd}: give int8 or fp8`,
      );
    }
    // The scales of values are the first ones of their key, or the only one.
    const [groups, first] = [scaleGroups(type, keyDim), scaleGroups(type, valueDim)];
    if (!valuesInKeys || (groups === 1 && first === 1) || groups * valueDim === first * keyDim) continue;
    throw new OperatingError(
      'BAD_OPTION',
      `--kv_dtype is int4, whose scales are of ${NIBBLE_GROUP} values each, but this model caches ${keyDim} values a token of which ${valueDim} are read alone: give int8 or fp8`,
    );
  }
}
